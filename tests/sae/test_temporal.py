"""Temporal autoencoders: SAELens's own numbers, rows that stay whole, evaluations of a language model's activations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import saebench
from saebench import checkpoints
from saebench.checkpoints.convert import save_saelens
from saebench.errors import SaebenchError
from saebench.evaluation.controls import Control, Sample, measured_l0
from saebench.explaining.n2g.packing import Pack, Texts, run_packed
from saebench.lm import LanguageModel
from saebench.sae import (
    AttentionLayer,
    CheckpointInfo,
    InputScaling,
    SparseAutoencoder,
    TemporalContext,
    TopK,
    temporal,
)
from saebench.text.corpus import TokenCorpus
from tests.checkpoints.test_formats import edited
from tests.conftest import FIXTURES, HOOK

CASES = ("saelens/temporal", "saelens/temporal_untied")


def random_temporal(d: int = 32, n: int = 64, heads: int = 4) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(0)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    W_dec = torch.nn.functional.normalize(made(n, d), dim=1)
    weights = {name: made(*shape) / shape[-1] ** 0.5 for name, shape in AttentionLayer.shapes(n, 8).items()}
    context = TemporalContext(W_dec.T, W_dec, None, InputScaling(), (AttentionLayer(**weights),), heads)
    info = CheckpointInfo("made in a test", "saebench", "temporal", d, d, n, {"name": "topk", "k": 6}, hook_in=HOOK)
    return SparseAutoencoder(
        W_enc=torch.cat([W_dec.T, -W_dec.T]), W_dec=W_dec, b_enc=torch.zeros(n), b_dec=torch.zeros(d), activation=TopK(6),
        info=info, W_skip=torch.cat([torch.zeros(d, d), torch.eye(d)]), context=context,
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("elements", [temporal.ELEMENTS, 1])
def test_the_library_s_own_numbers(
    name: str, native: bool, elements: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporal, "ELEMENTS", elements)  # 1: row by row
    numbers = load_file(FIXTURES / name / "numbers.safetensors")
    sae = checkpoints.load(FIXTURES / name)
    if native:
        sae = checkpoints.load(checkpoints.save_native(sae, tmp_path / "sae"))
    assert sae.context is not None
    pairs = sae.context.read(numbers["x"]).flatten(0, 1)
    torch.testing.assert_close(pairs[:, :12], numbers["x"].flatten(0, 1))
    assert float(pairs[:, 12:].norm() / pairs[:, :12].norm()) > 0.1  # something is predicted
    code = sae.encode(pairs)
    torch.testing.assert_close(code.to_dense(), numbers["latents"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.decode(code, pairs), numbers["reconstruction"], atol=1e-5, rtol=1e-5)
    again = replace(sae.to("cpu"))
    assert again.context is not None and again.context.key == sae.context.key


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_of_it(name: str, tmp_path: Path) -> None:
    info = checkpoints.inspect(FIXTURES / name)
    assert (info.format, info.architecture, info.d_in, info.d_out, info.n_latents) == ("saelens", "temporal", 12, 12, 40)
    assert (info.hook_in, info.hook_out) == ("blocks.3.hook_resid_post",) * 2
    with pytest.raises(SaebenchError, match="temporal autoencoder cannot be written for SAELens"):
        save_saelens(checkpoints.load(FIXTURES / name), tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_heads": 3}, "3 heads, which do not divide 40 latents"),
        ({"n_attn_layers": 2}, r"lacks the tensor attn_layers\.1\.k_ctx\.weight"),
        ({"sae_diff_type": "nmf"}, "'nmf' for sae_diff_type"),
        ({"normalize_activations": "layer_norm"}, "normalises its input by layer_norm"),
    ],
)
def test_settings_that_are_not_read_are_named(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(SaebenchError, match=words):
        checkpoints.load(edited("saelens/temporal", tmp_path, "cfg.json", **changes))


@pytest.mark.parametrize("attention", [[1], {"layers": "one", "heads": 4}, {"layers": 1}, {"layers": 2, "heads": 4}])
def test_malformed_attention_of_a_native_file_is_named(attention: object, tmp_path: Path) -> None:
    folder = checkpoints.save_native(random_temporal(), tmp_path / "sae")
    assert checkpoints.load(folder).context is not None
    config = json.loads((folder / "sae.json").read_text())
    (folder / "sae.json").write_text(json.dumps(config | {"attention": attention}))
    with pytest.raises(SaebenchError, match="attention"):
        checkpoints.load(folder)


def test_several_that_need_the_same_activations_are_refused(tiny_model: LanguageModel, tmp_path: Path) -> None:
    from saebench.evaluation.run import prepare_together
    from saebench.progress import Progress

    with pytest.raises(SaebenchError, match="cannot share activations with others"):
        prepare_together([random_temporal(), random_temporal()], Progress(False), model=tiny_model, hook=HOOK)


def test_attention_of_the_wrong_shape_is_named(tmp_path: Path) -> None:
    folder = edited("saelens/temporal", tmp_path, "cfg.json")
    weights = load_file(folder / "sae_weights.safetensors")
    weights["attn_layers.0.v_ctx.weight"] = weights["attn_layers.0.v_ctx.weight"][:3].clone()
    save_file(weights, folder / "sae_weights.safetensors")
    with pytest.raises(SaebenchError, match=r"value has shape \[3, 40\], not \[40, 40\]"):
        checkpoints.load(folder)


def test_texts_that_share_a_beginning_are_read_as_each_alone() -> None:
    """Two texts, a b c d and a b e f, run as a tree of six tokens, beside a third text in the same row."""
    context = random_temporal().context
    assert context is not None
    x = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(0))
    texts = ([0, 1, 2, 3], [0, 1, 4, 5], [6, 7])
    visible = torch.zeros(1, 8, 8, dtype=torch.bool)
    for text in texts:
        for place, token in enumerate(text):
            visible[0, token, text[: place + 1]] = True
    packed = context.read(x, visible)
    for text in texts:
        torch.testing.assert_close(packed[:, text], context.read(x[:, text]), atol=1e-5, rtol=1e-5)


def test_it_depends_on_earlier_tokens_only() -> None:
    context = random_temporal().context
    assert context is not None
    x = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(0))
    before, changed = context.read(x), x.clone()
    changed[0, 4] += 1
    after = context.read(changed)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert (after[0, 5:] - before[0, 5:]).abs().amax(dim=1).gt(1e-4).all()
    assert not before[0, 0, 32:].equal(torch.zeros(32))  # biases predict the first token too
    with pytest.raises(SaebenchError, match="width 32, but its hook has 31"):
        context.read(x[:, :, :31])


def test_a_cut_reads_whole_rows(tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> None:
    sae = random_temporal()
    assert sae.context is not None
    cut, plain = tiny_model.cut(HOOK, None, sae.context), tiny_model.cut(HOOK)
    tokens = tiny_corpus.tokens[:3]
    prefix = cut.prefix(tokens)
    torch.testing.assert_close(prefix.inputs, sae.context.read(plain.prefix(tokens).inputs))
    assert (cut.d_in, cut.d_out) == (64, 32) and torch.equal(prefix.outputs, plain.prefix(tokens).outputs)
    rows, places = torch.tensor([2, 0]), torch.tensor([9, 4])
    torch.testing.assert_close(cut.inputs_at(tokens, rows, places), prefix.inputs[rows, places])


@pytest.mark.parametrize("way", ["trees", "chains"])
def test_packed_texts_are_read_as_each_alone(tiny_model: LanguageModel, way: str) -> None:
    """As Neuron2Graph runs its texts: those that share a beginning together, several in a row."""
    cut = tiny_model.cut(HOOK, None, random_temporal().context)
    table = torch.randint(3, 6, (40, 5), generator=torch.Generator().manual_seed(0))  # many beginnings in common
    texts = Texts(torch.unique(table, dim=0))
    packs: list[Pack] = getattr(texts, way)()
    alone = [
        cut.prefix(row[: int(length)].unsqueeze(0)).inputs[0, -1]
        for row, length in zip(texts.table, texts.lengths, strict=True)
    ]
    assert (way == "trees") == (len(packs) < len(alone))
    torch.testing.assert_close(run_packed(cut, packs), torch.stack(alone), atol=1e-3, rtol=1e-4)


def test_an_evaluation_is_what_a_plain_loop_computes(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, make_sae: object
) -> None:
    """Tokens that don't count (BOS, EOS) are attended to, whatever the batch, also beside an ordinary autoencoder."""
    sae = random_temporal()
    assert sae.context is not None
    other = make_sae()  # type: ignore[operator]
    settings = {"model": tiny_model, "hook": HOOK, "corpus": tiny_corpus, "evaluators": ["reconstruction", "downstream"]}
    cards = saebench.evaluate([sae, other], batch=5, controls=["random", "pca", "reinitialised"], **settings)
    x = tiny_model.cut(HOOK).prefix(tiny_corpus.tokens).inputs
    counted = ~tiny_corpus.excluded
    pairs = torch.cat([sae.context.read(row.unsqueeze(0))[0] for row in x])[counted.flatten()]
    error = (sae.decode(sae.encode(pairs), pairs) - x[counted]).double().square().sum()
    expected = error / (x[counted] - x[counted].mean(0)).double().square().sum()
    result = cards[0].result
    assert result.failures == {} and result.sae.d_in == 32
    assert result.metric("reconstruction.normalised_mse").value == pytest.approx(float(expected), rel=1e-4)
    assert result.metric("reconstruction.l0").value == pytest.approx(6)
    alone = saebench.evaluate(other, **settings)
    for name in ("reconstruction.normalised_mse", "downstream.loss_recovered"):
        assert cards[1].result.metric(name).value == pytest.approx(alone.result.metric(name).value, rel=1e-4)
    assert set(result.controls) == {"random", "pca", "reinitialised"}


def test_controls_read_the_token_alone() -> None:
    sae = random_temporal()
    assert sae.context is not None
    x = torch.randn(4, 50, 32, generator=torch.Generator().manual_seed(0))
    sample = Sample(sae.context.read(x).flatten(0, 1), x.flatten(0, 1))
    l0 = measured_l0(sae, sample)
    pca = Control.of("pca", sae, l0, sample).make(sample, 0)
    assert (pca.d_in, pca.d_out, pca.n_latents, pca.context) == (32, 32, 6, None)
    centred = (sample.targets - sample.targets.mean(0)).double()
    left = (pca.decode(pca.encode(sample.targets)) - sample.targets).double().square().sum()
    assert float(left) == pytest.approx(float(torch.linalg.svdvals(centred)[6:].square().sum()), rel=1e-4)
    assert Control.of("random", sae, l0, sample).make(sample, 0).d_in == 32
