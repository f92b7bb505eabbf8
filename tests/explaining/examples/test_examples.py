"""The one-pass collector against a slow version that looks at everything, and the folder it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from saebench.cli import app
from saebench.errors import SaebenchError
from saebench.explaining.examples.collecting import (
    Collected,
    ExampleCollector,
    ExampleSettings,
    check_target,
    collect,
    write_examples,
)
from saebench.explaining.examples.folder import ActivatingExamples, Example
from saebench.explaining.examples.ranked import Activations, uniform_keys
from saebench.explaining.vocabulary import token_strings
from saebench.lm import LanguageModel
from saebench.progress import Progress
from saebench.sae import JumpReLU, SparseAutoencoder, TopK
from saebench.text.corpus import TokenCorpus
from tests.conftest import HOOK

MakeSae = Callable[..., SparseAutoencoder]
SMALL = {"top": 3, "random": 5, "before": 4, "after": 2}


def run(sae: SparseAutoencoder, model: LanguageModel, corpus: TokenCorpus, rows: int = 5, **changes: int) -> Collected:
    chosen = ExampleSettings.defined(**(SMALL | changes))
    return collect(sae, model.cut(HOOK), corpus, chosen, rows, Progress(False))


def dense_codes(sae: SparseAutoencoder, model: LanguageModel, corpus: TokenCorpus) -> torch.Tensor:
    """``[rows, context, n]``: all activations, 0 at excluded positions."""
    inputs = model.cut(HOOK).prefix(corpus.tokens).inputs
    codes = sae.encode(inputs.flatten(0, 1).float()).to_dense().unflatten(0, corpus.tokens.shape)
    return codes * ~corpus.excluded.unsqueeze(-1)


def obvious_top(code: torch.Tensor, size: int) -> list[tuple[int, int]]:
    """The strongest place of each row, the strongest rows first."""
    best = [(row, int(code[row].abs().argmax())) for row in range(code.shape[0])]
    best = [(row, position) for row, position in best if code[row, position] != 0]
    return sorted(best, key=lambda place: -abs(float(code[place])))[:size]


def obvious_random(code: torch.Tensor, latent: int, size: int, seed: int) -> list[tuple[int, int]]:
    active = code.nonzero().tolist()
    places = torch.tensor([row * code.shape[1] + position for row, position in active], dtype=torch.int64)
    keys = uniform_keys(torch.full_like(places, latent), places, seed).tolist()
    return [tuple(place) for _, place in sorted(zip(keys, active, strict=True), reverse=True)][:size]


def check_window(example: Example, code: torch.Tensor, corpus: TokenCorpus) -> None:
    first = max(example.row_position - SMALL["before"], 0)
    last = example.row_position + SMALL["after"]
    assert example.tokens.equal(corpus.tokens[example.row, first : last + 1])
    torch.testing.assert_close(example.activations, code[example.row, first : last + 1])
    assert example.position == example.row_position - first
    assert example.value == pytest.approx(float(code[example.row, example.row_position]))


@pytest.mark.parametrize("kind", ["topk", "signed", "jumprelu"])
def test_agrees_with_the_obvious_version(
    kind: str, make_sae: MakeSae, tiny_model: LanguageModel, tiny_corpus: TokenCorpus, tmp_path: Path
) -> None:
    activation = {"topk": TopK(8), "signed": TopK(8, signed=True), "jumprelu": JumpReLU(torch.full((64,), 0.3))}[kind]
    sae = make_sae(activation=activation)
    found = write_examples(run(sae, tiny_model, tiny_corpus, seed=7), tmp_path / "examples")
    codes = dense_codes(sae, tiny_model, tiny_corpus)
    counted = int((~tiny_corpus.excluded).sum())
    edges = torch.tensor(found.histogram_edges)
    for latent in range(sae.n_latents):
        code, one = codes[..., latent], found.latent(latent)
        values = code[code != 0]
        assert one.count == values.numel() == found.table["count"][latent]
        assert one.density == pytest.approx(values.numel() / counted)
        assert [(each.row, each.row_position) for each in one.top] == obvious_top(code, 3)
        assert [(each.row, each.row_position) for each in one.random] == obvious_random(code, latent, 5, 7)
        for example in [*one.top, *one.random]:
            check_window(example, code, tiny_corpus)
        if values.numel():
            assert one.mean == pytest.approx(float(values.double().mean()), rel=1e-5)
            assert abs(one.maximum or 0) == pytest.approx(float(values.abs().max()))
            assert one.histogram.equal(torch.histogram(values.abs(), edges).hist.long())
        else:
            assert one.mean is None and one.maximum is None and not one.top and not one.histogram.any()


def test_the_batch_size_changes_nothing(make_sae: MakeSae, tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> None:
    one, other = (run(make_sae(), tiny_model, tiny_corpus, rows=rows).collector.shard(0, 64) for rows in (1, 24))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 7), levels=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_ties_and_batches(seed: int, rows: int, levels: int) -> None:
    """With few distinct values nearly everything is tied: the earliest place must win, however the rows are cut."""
    generator = torch.Generator().manual_seed(seed)
    code = torch.randint(0, levels + 1, (9, 6, 4), generator=generator).float()
    collector = ExampleCollector(4, 6, ExampleSettings.defined(**SMALL))
    for first in range(0, 9, rows):
        row, position, latent = code[first : first + rows].nonzero(as_tuple=True)
        collector.update(
            Activations.sort(latent, (row + first) * 6 + position, code[first : first + rows][row, position, latent])
        )
    for latent in range(4):
        kept = collector.ranked["top"].places[latent]
        assert [divmod(int(place), 6) for place in kept if place >= 0] == obvious_top(code[..., latent], 3)


def test_windows_survive_compaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the slack taken away the lists are compacted after every batch; nothing may be lost or swapped."""
    from saebench.explaining.examples.ranked import Windows

    generator = torch.Generator().manual_seed(0)
    code = torch.rand(50, 8, 5, generator=generator) * (torch.rand(50, 8, 5, generator=generator) < 0.4)

    def stored() -> dict[str, torch.Tensor]:
        collector = ExampleCollector(5, 8, ExampleSettings.defined(**SMALL))
        for first in range(0, 50, 2):
            row, position, latent = code[first : first + 2].nonzero(as_tuple=True)
            values = code[first : first + 2][row, position, latent]
            collector.update(Activations.sort(latent, (row + first) * 8 + position, values))
        return collector.shard(0, 5)

    plain = stored()
    monkeypatch.setattr(Windows, "mostly_unused", property(lambda self: True))
    compacted = stored()
    assert all(plain[name].equal(compacted[name]) for name in plain)


def test_the_sample_is_uniform() -> None:
    """A latent active at each of 1,000 places: over 400 latents each quarter of the text is drawn as often."""
    latents = torch.arange(400).repeat_interleave(1000)
    places = torch.arange(1000).repeat(400)
    keys = uniform_keys(latents, places, 3).view(400, 1000)
    assert float(keys.min()) >= 0 and float(keys.max()) < 1
    drawn = keys.topk(8, dim=1).indices // 250
    counts = torch.bincount(drawn.flatten(), minlength=4).double()
    assert float(((counts - 800).square() / 800).sum()) < 16.3  # chi-squared, 3 degrees of freedom, p = 0.001
    assert not uniform_keys(latents, places, 4).view(400, 1000).equal(keys)


def test_quantile_groups(make_sae: MakeSae, tiny_model: LanguageModel, tiny_corpus: TokenCorpus, tmp_path: Path) -> None:
    found = write_examples(run(make_sae(), tiny_model, tiny_corpus, random=12), tmp_path / "examples")
    latent = int(found.table["count"].argmax())
    one = found.latent(latent)
    groups = one.quantiles(4, 2)
    assert [len(group) for group in groups] == [2, 2, 2, 2]
    weakest = [min(each.value for each in group) for group in groups]
    strongest = [max(each.value for each in group) for group in groups]
    assert all(low >= high for low, high in zip(weakest, strongest[1:], strict=False))
    assert sum(len(group) for group in one.quantiles(20, 3)) == len(one.random)


def test_manifest_says_what_was_run(
    make_sae: MakeSae, tiny_model: LanguageModel, tiny_corpus: TokenCorpus, tmp_path: Path
) -> None:
    found = write_examples(run(make_sae(), tiny_model, tiny_corpus), tmp_path / "examples")
    assert found.manifest["corpus"]["sha256"] == tiny_corpus.sha256
    assert found.manifest["sae"]["hook_in"] == HOOK and len(found.manifest["sae"]["weights_sha256"]) == 64
    assert found.manifest["settings"]["top"] == 3 and found.manifest["seed"] == 0
    assert found.vocabulary == token_strings(tiny_model.tokenizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples"]


def test_unfinished_foreign_and_damaged_folders(
    make_sae: MakeSae, tiny_model: LanguageModel, tiny_corpus: TokenCorpus, tmp_path: Path
) -> None:
    with pytest.raises(SaebenchError, match="There is no folder"):
        ActivatingExamples.open(tmp_path / "nothing")
    folder = tmp_path / "examples"
    write_examples(run(make_sae(), tiny_model, tiny_corpus), folder)
    write_examples(run(make_sae(), tiny_model, tiny_corpus), folder)  # its own kind is replaced
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(SaebenchError, match=r"holds other files \(notes.txt\)"):
        check_target(folder)
    (folder / "notes.txt").unlink()
    shard = folder / "shards" / "00000.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(SaebenchError, match="damaged"):
        ActivatingExamples.open(folder).latent(3)
    shard.write_bytes(whole)
    _retarget(shard)
    with pytest.raises(SaebenchError, match="are outside the text"):
        ActivatingExamples.open(folder).latent(3)
    shard.write_bytes(whole)
    manifest = folder / "manifest.json"
    kept = json.loads(manifest.read_text())
    for change, words in (
        ({"format": "x"}, "is not a folder"),
        ({"version": 9}, "version 9"),
        ({"n_latents": -1}, "sizes"),
        ({"settings": {}}, "lacks"),
    ):
        manifest.write_text(json.dumps(kept | change))
        with pytest.raises(SaebenchError, match=words):
            ActivatingExamples.open(folder)
    manifest.unlink()
    with pytest.raises(SaebenchError, match="holds no finished examples"):
        ActivatingExamples.open(folder)
    with pytest.raises(SaebenchError, match="holds other files"):
        check_target(folder)


def _retarget(shard: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(shard)
    tensors["top.places"][0, 0] = 10**9
    save_file(tensors, shard)


def test_failure_leaves_the_old_folder(
    make_sae: MakeSae, tiny_model: LanguageModel, tiny_corpus: TokenCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(make_sae(), tiny_model, tiny_corpus)
    write_examples(found, tmp_path / "examples")
    before = (tmp_path / "examples" / "manifest.json").read_text()

    def no_space(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ExampleCollector, "shard", no_space)
    with pytest.raises(SaebenchError, match="No space left"):
        write_examples(found, tmp_path / "examples")
    assert (tmp_path / "examples" / "manifest.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["examples"]


def test_command_line(make_sae: MakeSae, tmp_path: Path, tiny_model: LanguageModel) -> None:
    from saebench.checkpoints import save_native

    save_native(make_sae(), tmp_path / "sae")
    (tmp_path / "text.txt").write_text("w5 w6 w7 w8 w9 " * 60)
    arguments = ["examples", str(tmp_path / "sae"), "--model", tiny_model.name, "--corpus", str(tmp_path / "text.txt")]
    done = CliRunner().invoke(
        app, [*arguments, "--context", "16", "--tokens", "0", "-o", str(tmp_path / "out"), "--top", "2"]
    )
    assert done.exit_code == 0, done.output
    assert "latents were active on" in done.output
    assert ActivatingExamples.open(tmp_path / "out").manifest["settings"]["top"] == 2
    refused = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "sae")])
    assert isinstance(refused.exception, SaebenchError) and "choose a new folder" in str(refused.exception)


def test_tokens_as_text(tiny_model: LanguageModel) -> None:
    from saebench.explaining.vocabulary import _readable

    assert _readable("▁the", "the") == " the"
    assert _readable("<0xE2>", "\ufffd") == "\\xe2"
    assert _readable("âĢ", "\ufffd") == "\\xe2\\x80"
    assert _readable("Ġthe", " the") == " the"
    assert len(token_strings(tiny_model.tokenizer)) == len(tiny_model.tokenizer)
