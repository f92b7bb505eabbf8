"""Autoencoders across layers: circuit-tracer's sets and cross-layer transcoders, and crosscoders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import saebench
from saebench import checkpoints
from saebench.errors import SaebenchError
from saebench.evaluators.base import Measured
from saebench.evaluators.reconstruction import Reconstruction
from saebench.lm import LanguageModel
from saebench.sae import LayeredAutoencoder, SparseAutoencoder
from saebench.text.corpus import TokenCorpus
from tests.conftest import FIXTURES

CASES = {
    "set_relu": "transcoder set (relu)",
    "set_jumprelu_skip": "transcoder set (jumprelu)",
    "cross_layer_relu": "cross-layer transcoder (relu)",
    "cross_layer_jumprelu": "cross-layer transcoder (jumprelu)",
}
READS = [f"blocks.{layer}.mlp.hook_in" for layer in range(4)]
WRITES = [f"blocks.{layer}.hook_mlp_out" for layer in range(4)]


@pytest.mark.parametrize("name", CASES)
def test_latents_and_reconstructions_are_those_of_circuit_tracer(name: str) -> None:
    folder = FIXTURES / "circuit_tracer" / name
    numbers = load_file(folder / "numbers.safetensors")
    info, sae = checkpoints.inspect(folder), checkpoints.load(folder)
    assert isinstance(sae, LayeredAutoencoder) and info.format == "circuit_tracer" and info.architecture == CASES[name]
    assert (info.d_in, info.n_latents, info.d_out) == (128, 96, 128) == (sae.d_in, sae.n_latents, sae.d_out)
    assert info.hook_in == ",".join(READS) and info.hook_out == ",".join(WRITES) and info.model == "tiny"
    latents = sae.encode(numbers["x"])
    torch.testing.assert_close(latents.to_dense(), numbers["latents"], atol=1e-5, rtol=0)
    torch.testing.assert_close(sae.decode(latents, numbers["x"]), numbers["reconstruction"], atol=1e-5, rtol=0)
    without = latents.where(latents.indices % 3 != 0)  # latents in any slots, as an ablation leaves them
    dense = numbers["latents"].clone()
    dense[:, ::3] = 0
    torch.testing.assert_close(without.to_dense(), dense, atol=1e-5, rtol=0)


def plain(model: LanguageModel, sae: Any, tokens: torch.Tensor, excluded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The slow way: ``(reconstructions side by side, logits with every MLP's output replaced)``."""
    seen: dict[str, torch.Tensor] = {}

    def keep(activation: torch.Tensor, hook: Any) -> None:
        seen[hook.name] = activation.clone()

    model.bridge.run_with_hooks(tokens, fwd_hooks=[(name, keep) for name in (*READS, *WRITES)])
    assert len(seen) == 8
    x = torch.cat([seen[name] for name in sorted(seen) if name.endswith("mlp.hook_in")], dim=-1)
    written = sae.decode(sae.encode(x.flatten(0, 1)), x.flatten(0, 1)).unflatten(0, tokens.shape)
    hooks = []
    outputs = [seen[name] for name in sorted(seen) if not name.endswith("mlp.hook_in")]
    for layer, (name, clean) in enumerate(zip(WRITES, outputs, strict=True)):
        part = torch.where(excluded.unsqueeze(-1), clean, written[..., 32 * layer : 32 * layer + 32])
        hooks.append((name, lambda activation, hook, part=part: part))
    return written, model.bridge.run_with_hooks(tokens, fwd_hooks=hooks)


@pytest.mark.parametrize("name", ["set_jumprelu_skip", "cross_layer_relu"])
@torch.no_grad()
def test_all_layers_are_spliced_in_one_pass(name: str, tiny_model: LanguageModel, tiny_corpus: TokenCorpus) -> None:
    sae = checkpoints.load(FIXTURES / "circuit_tracer" / name)
    (card,) = saebench.evaluate([sae_folder(name)], model=tiny_model, corpus=tiny_corpus, progress=False)
    written, logits = plain(tiny_model, sae, tiny_corpus.tokens, tiny_corpus.excluded)
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), tiny_corpus.tokens[:, 1:].flatten(), reduction="none"
    )
    mask = tiny_corpus.loss_mask.flatten()
    assert card["downstream.ce_spliced"] == pytest.approx(float(losses[mask].mean()), abs=1e-4)
    cut = tiny_model.cut(",".join(READS), ",".join(WRITES))
    prefix = cut.prefix(tiny_corpus.tokens)
    torch.testing.assert_close(cut.suffix(prefix.outputs, prefix), tiny_model.logits(tiny_corpus.tokens), atol=1e-4, rtol=0)
    targets = prefix.outputs[~tiny_corpus.excluded].double()
    errors = (written[~tiny_corpus.excluded].double() - targets).square()
    spread = (targets - targets.mean(dim=0)).square()
    assert card["reconstruction.normalised_mse"] == pytest.approx(float(errors.sum() / spread.sum()), rel=1e-4)
    for layer, place in enumerate(WRITES):
        part = slice(32 * layer, 32 * layer + 32)
        expected = float(errors[:, part].sum() / spread[:, part].sum())
        metric = card.metric(f"reconstruction.normalised_mse {place}")
        assert metric.value == pytest.approx(expected, rel=1e-4) and "over all 4 places together" in metric.description
    found = card.result.evaluators["reconstruction"]
    for metric in Reconstruction.recomputed(found, Measured.of(card.result)):
        stated = found.metrics[metric.name].value
        assert (metric.value is None) == (stated is None), metric.name
        assert stated is None or metric.value == pytest.approx(stated, rel=1e-5), metric.name


def sae_folder(name: str) -> Path:
    return FIXTURES / "circuit_tracer" / name


def test_every_evaluator_that_needs_no_weights_runs_across_layers(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    (card,) = saebench.evaluate(
        [sae_folder("cross_layer_relu")], model=tiny_model, corpus=tiny_corpus, progress=False,
        evaluators=["reconstruction", "downstream", "progressive", "ablation"], controls=("random", "pca"),
        options={"ablation": {"tokens": 3, "horizon": 4, "latents_per_token": 4}, "progressive": {"downstream_rows": 2}},
    )  # fmt: skip
    assert card.result.failures == {} and card.result.complete
    assert 0 < card["ablation.sparsity"] <= 1
    with pytest.raises(SaebenchError, match=r"cross_layer_relu is a cross-layer transcoder .*one encoder and decoder"):
        checkpoints.load_one(sae_folder("cross_layer_relu"))


def altered(tmp_path: Path, name: str, **changes: Any) -> Path:
    folder = tmp_path / name
    shutil.copytree(sae_folder(name), folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(
        yaml.safe_dump({key: value for key, value in {**config, **changes}.items() if value != ""})
    )
    return folder


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("set_relu", {"model_kind": "x"}, "has the model_kind 'x'"),
        ("set_relu", {"feature_input_hook": 3}, "names no feature_input_hook"),
        ("set_relu", {"model_name": 3}, "gives 3 for model_name"),
        ("set_relu", {"transcoders": ["../set_relu/layer_0.safetensors"]}, "which is not in its folder"),
        ("set_relu", {"transcoders": "layer_0.safetensors"}, "names no files of transcoders"),
        ("set_relu", {"transcoders": ["hf://owner"]}, "which is no file on the hub"),
    ],
)
def test_configurations_that_do_not_fit_are_named(tmp_path: Path, name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SaebenchError, match=words):
        checkpoints.load(altered(tmp_path, name, **changes))


def test_missing_layers_and_wrong_decoders_are_named(tmp_path: Path) -> None:
    folder = altered(tmp_path, "cross_layer_relu")
    (folder / "W_dec_2.safetensors").unlink()
    with pytest.raises(SaebenchError, match=r"lacks W_dec_2\.safetensors"):
        checkpoints.inspect(folder)
    save_file({"W_dec_2": torch.zeros(24, 3, 32)}, folder / "W_dec_2.safetensors")
    with pytest.raises(SaebenchError, match=r"W_dec_2 of .* has the shape \[24, 3, 32\]; it must write to 2 layers"):
        checkpoints.load(folder)
    (folder / "config.yaml").write_text("a: &b [1]\nc: *b\nmodel_kind: transcoder_set\n")
    with pytest.raises(SaebenchError, match="aliases"):
        checkpoints.inspect(folder)
    (folder / "config.yaml").write_text("[" * 5000)
    with pytest.raises(SaebenchError, match="not readable YAML"):
        checkpoints.inspect(folder)


def test_a_set_without_names_has_its_files_in_order_and_the_hubs_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_set = checkpoints.load(altered(tmp_path, "set_relu", transcoders=""))
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(sae_folder("set_relu") / "layer_0.safetensors", other / "a.safetensors")
    asked = []

    def download(repository: str, file: str, revision: str | None = None) -> str:
        asked.append((repository, file, revision))
        return str(other / "a.safetensors")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    names = ["hf://owner/name/folder/a.safetensors?revision=v1", *(f"layer_{layer}.safetensors" for layer in (1, 2, 3))]
    (tmp_path / "set_relu/config.yaml").unlink()
    shutil.rmtree(tmp_path / "set_relu")
    fetched = checkpoints.load(altered(tmp_path, "set_relu", transcoders=names))
    assert set(asked) == {("owner/name", "folder/a.safetensors", "v1")}
    assert isinstance(fetched, LayeredAutoencoder) and isinstance(plain_set, LayeredAutoencoder)
    assert torch.equal(fetched.parts[0].sae.W_enc, plain_set.parts[0].sae.W_enc)
    assert fetched.info.weights_sha256 == plain_set.info.weights_sha256


def crosscoder(path: Path) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"encoder.weight": (3, 32, 40), "encoder.bias": (40,), "decoder.weight": (3, 40, 32), "decoder.bias": (3, 32)}
    state = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    torch.save(state, path)
    return state


def test_a_crosscoder_sums_over_its_places_and_writes_to_each(
    tmp_path: Path, tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    state = crosscoder(tmp_path / "cc.pt")
    sae = checkpoints.load(tmp_path / "cc.pt", activation="relu")
    assert isinstance(sae, SparseAutoencoder) and sae.info.architecture == "crosscoder (relu)"
    x = torch.randn(20, 3, 32, generator=torch.Generator().manual_seed(1))
    code = (torch.einsum("bld,ldn->bn", x, state["encoder.weight"]) + state["encoder.bias"]).relu()
    expected = torch.einsum("bn,lnd->bld", code, state["decoder.weight"]) + state["decoder.bias"]
    latents = sae.encode(x.flatten(1))
    torch.testing.assert_close(latents.to_dense(), code, atol=1e-5, rtol=0)
    torch.testing.assert_close(sae.decode(latents).unflatten(1, (3, 32)), expected, atol=1e-5, rtol=0)
    hooks = ",".join(f"blocks.{layer}.hook_resid_post" for layer in range(3))
    given: dict[str, Any] = {"model": tiny_model, "corpus": tiny_corpus, "progress": False, "activation": "relu"}
    (card,) = saebench.evaluate([tmp_path / "cc.pt"], hook=hooks, **given)
    assert "reconstruction.normalised_mse blocks.2.hook_resid_post" in {
        f"reconstruction.{name}" for name in card.result.evaluators["reconstruction"].metrics
    }
    assert card.result.failures == {} and card["downstream.ce_spliced"] > 0
    with pytest.raises(SaebenchError, match="reads 96 and writes 96 values, but"):
        saebench.evaluate([tmp_path / "cc.pt"], hook="blocks.0.hook_resid_post", **given)
    with pytest.raises(SaebenchError, match="names a place twice"):
        saebench.evaluate([tmp_path / "cc.pt"], hook="layers.0,blocks.0.hook_resid_post", **given)


def test_replacing_the_residual_at_several_layers_leaves_what_the_last_one_gives(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    names = [f"blocks.{layer}.hook_resid_post" for layer in (0, 2)]
    cut, last = tiny_model.cut(",".join(names)), tiny_model.cut(names[1])
    prefix, end = cut.prefix(tiny_corpus.tokens), last.prefix(tiny_corpus.tokens)
    assert cut.parts == {names[0]: slice(0, 32), names[1]: slice(32, 64)}
    torch.testing.assert_close(cut.suffix(prefix.outputs, prefix), tiny_model.logits(tiny_corpus.tokens), atol=1e-4, rtol=0)
    changed = prefix.outputs + 0.3 * torch.randn(prefix.outputs.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cut.suffix(changed, prefix), last.suffix(changed[..., 32:], end), atol=1e-4, rtol=0)


def test_an_encoder_that_is_no_matrix_is_named(tmp_path: Path) -> None:
    folder = altered(tmp_path, "set_relu")
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "layer_1.safetensors").items()}
    save_file({**tensors, "W_enc": torch.zeros(24, 32, 1)}, folder / "layer_1.safetensors")
    with pytest.raises(SaebenchError, match=r"W_enc of .* has the shape \[24, 32, 1\], not that of a matrix"):
        checkpoints.load(folder)
