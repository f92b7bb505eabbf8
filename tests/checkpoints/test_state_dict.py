"""Weights without a configuration: the libraries' own files, stripped of everything but the state dict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from saebench import checkpoints
from saebench.cli import app
from saebench.errors import SaebenchError
from saebench.evaluation import preflight
from saebench.lm.embedded import Embedded
from saebench.results import read_result
from saebench.sae import SparseAutoencoder
from tests.conftest import FIXTURES, HOOK

#: fixture, its weights, what the user has to say, architecture
CASES: list[tuple[str, str, dict[str, str], str]] = [
    ("dictionary_learning/AutoEncoder", "ae.pt", {"activation": "relu"}, "relu"),
    ("dictionary_learning/AutoEncoderNew", "ae.pt", {"activation": "relu"}, "relu"),
    ("dictionary_learning/GatedAutoEncoder", "ae.pt", {}, "gated"),
    ("dictionary_learning/AutoEncoderTopK", "ae.pt", {"activation": "topk"}, "topk"),
    ("dictionary_learning/BatchTopKSAE", "ae.pt", {"activation": "batchtopk"}, "batchtopk"),
    ("dictionary_learning/MatryoshkaBatchTopKSAE", "ae.pt", {"activation": "batchtopk"}, "batchtopk"),
    ("dictionary_learning/JumpReluAutoEncoder", "ae.pt", {"format": "dictionary_learning"}, "jumprelu"),
    ("saelens/standard", "sae_weights.safetensors", {"activation": "relu"}, "relu"),
    ("saelens/standard_no_b_dec", "sae_weights.safetensors", {"activation": "relu", "format": "plain"}, "relu"),
    ("saelens/standard_layer_norm", "sae_weights.safetensors", {"activation": "relu", "scale": "layer_norm"}, "relu"),
    ("saelens/gated", "sae_weights.safetensors", {}, "gated"),
    ("saelens/topk", "sae_weights.safetensors", {"activation": "topk:5"}, "topk"),
    ("saelens/abstopk", "sae_weights.safetensors", {"activation": "abstopk:5"}, "topk"),
    ("saelens/jumprelu", "sae_weights.safetensors", {"format": "saelens"}, "jumprelu"),
    ("sparsify/topk/layers.3", "sae.safetensors", {"activation": "topk:5"}, "topk"),
    ("sparsify/groupmax/layers.3", "sae.safetensors", {"activation": "groupmax:5"}, "groupmax"),
    ("gemma_scope/two", "params.safetensors", {"format": "gemma_scope"}, "jumprelu"),
]


def bare(name: str, file: str, folder: Path) -> Path:
    """The weights alone, under a name that says nothing."""
    target = folder / f"whatever{Path(file).suffix}"
    shutil.copy(FIXTURES / name / file, target)
    return target


def agrees(sae: SparseAutoencoder, numbers: dict[str, Tensor]) -> None:
    latents = sae.encode(numbers["x"])
    torch.testing.assert_close(latents.to_dense(), numbers["latents"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.decode(latents, numbers["x"]), numbers["reconstruction"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "file", "given", "architecture"), CASES, ids=[case[0] for case in CASES])
def test_the_library_s_numbers_from_its_weights_alone(
    name: str, file: str, given: dict[str, str], architecture: str, tmp_path: Path
) -> None:
    path = bare(name, file, tmp_path)
    if name == "gemma_scope/two":  # its skip connection has a name of its own, [d_in, d_out]
        tensors = load_file(path)
        tensors["W_skip"] = tensors.pop("affine_skip_connection").T.contiguous()
        save_file(tensors, path)
    sae = checkpoints.load(path, **given)  # type: ignore[arg-type]
    agrees(sae, load_file(FIXTURES / name / "numbers.safetensors"))
    info = checkpoints.inspect(path, **given)  # type: ignore[arg-type]
    assert (info.format, info.architecture, info.missing) == ("state_dict", architecture, ())
    assert all(info.assumed[key] == f"{value} (--{key})" for key, value in given.items())


@pytest.mark.parametrize(
    ("name", "file", "asked"),
    [
        ("dictionary_learning/AutoEncoder", "ae.pt", r"the activation \(--activation relu, topk:K"),
        ("dictionary_learning/BatchTopKSAE", "ae.pt", r"--activation topk or batchtopk"),
        ("saelens/jumprelu", "sae_weights.safetensors", r"whether b_dec is subtracted"),
    ],
)
def test_what_is_open_is_asked_for_in_one_sentence(name: str, file: str, asked: str, tmp_path: Path) -> None:
    path = bare(name, file, tmp_path)
    assert len(checkpoints.inspect(path).missing) == 1
    with pytest.raises(SaebenchError, match=asked) as caught:
        checkpoints.load(path)
    assert str(caught.value).count(". ") == 0


@pytest.mark.parametrize("prefix", ["module.", "model.sae.", "_orig_mod."])
@pytest.mark.parametrize("inside", [None, "state_dict", "model_state_dict"])
def test_prefixes_and_wrappings_change_nothing(prefix: str, inside: str | None, tmp_path: Path) -> None:
    state = torch.load(FIXTURES / "dictionary_learning/AutoEncoder/ae.pt", weights_only=True)
    named: dict[str, Any] = {f"{prefix}{key}": value for key, value in state.items()}
    torch.save({inside: named, "step": 7} if inside else named, tmp_path / "sae.pt")
    numbers = load_file(FIXTURES / "dictionary_learning/AutoEncoder/numbers.safetensors")
    agrees(checkpoints.load(tmp_path / "sae.pt", activation="relu"), numbers)


def test_two_linear_layers_of_plain_pytorch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
    torch.save(model.state_dict(), tmp_path / "mine.pt")
    x = torch.randn(20, 8)
    sae = checkpoints.load(tmp_path / "mine.pt", activation="relu")
    with torch.no_grad():
        torch.testing.assert_close(sae.decode(sae.encode(x)), model(x))
        torch.testing.assert_close(sae.encode(x).to_dense(), model[:2](x))
    assert "not subtracted" in sae.info.assumed["decoder bias"]


def test_a_square_encoder_needs_the_library_and_a_linear_layer_does_not(tmp_path: Path) -> None:
    torch.manual_seed(0)
    W_enc, W_dec = torch.randn(6, 6), torch.randn(6, 6)
    x = torch.randn(9, 6)
    save_file({"W_enc": W_enc, "W_dec": W_dec}, tmp_path / "a.safetensors")
    with pytest.raises(SaebenchError, match="which axis of W_enc is the latents"):
        checkpoints.load(tmp_path / "a.safetensors", activation="relu")
    lens = checkpoints.load(tmp_path / "a.safetensors", activation="relu", format="saelens")
    torch.testing.assert_close(lens.encode(x).to_dense(), (x @ W_enc).relu())
    torch.testing.assert_close(lens.decode(lens.encode(x)), (x @ W_enc).relu() @ W_dec)
    qwen = checkpoints.load(tmp_path / "a.safetensors", activation="relu", format="qwen_scope")
    torch.testing.assert_close(qwen.decode(qwen.encode(x)), (x @ W_enc.T).relu() @ W_dec.T)
    save_file({"encoder.weight": W_enc, "decoder.weight": W_dec}, tmp_path / "b.safetensors")
    for given in ({}, {"format": "saelens"}):
        linear = checkpoints.load(tmp_path / "b.safetensors", activation="relu", **given)  # type: ignore[arg-type]
        torch.testing.assert_close(linear.decode(linear.encode(x)), (x @ W_enc.T).relu() @ W_dec.T)


def test_k_is_enough_for_topk_and_a_factor_scales_the_input(tmp_path: Path) -> None:
    state = torch.load(FIXTURES / "dictionary_learning/AutoEncoderTopK/ae.pt", weights_only=True)
    state.pop("threshold", None)
    torch.save(state | {"act_mean": torch.ones(3), "step": 12}, tmp_path / "sae_k4_50ksteps.pt")
    numbers = load_file(FIXTURES / "dictionary_learning/AutoEncoderTopK/numbers.safetensors")
    sae = checkpoints.load(tmp_path / "sae_k4_50ksteps.pt")
    agrees(sae, numbers)
    assert sae.info.assumed["activation"].startswith("topk:5, as the weights hold k")
    assert sae.info.assumed["not used"] == "act_mean, step (kept by training)"
    halved = checkpoints.load(tmp_path / "sae_k4_50ksteps.pt", scale="0.5")
    torch.testing.assert_close(halved.encode(2 * numbers["x"]).to_dense(), numbers["latents"])
    torch.testing.assert_close(halved.decode(halved.encode(2 * numbers["x"])), 2 * numbers["reconstruction"])


def test_unknown_tensors_are_refused_until_the_library_is_named(tmp_path: Path) -> None:
    state = torch.load(FIXTURES / "dictionary_learning/AutoEncoder/ae.pt", weights_only=True)
    torch.save(state | {"rescale": torch.ones(40)}, tmp_path / "sae.pt")
    with pytest.raises(SaebenchError, match=r"does not know \(rescale\)"):
        checkpoints.load(tmp_path / "sae.pt", activation="relu")
    sae = checkpoints.load(tmp_path / "sae.pt", activation="relu", format="dictionary_learning")
    assert sae.info.assumed["tensors left out"] == "rescale (--format)"


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    tensors = load_file(FIXTURES / "saelens/standard/sae_weights.safetensors")
    names = {key: f"model-0000{1 + (key == 'W_dec')}-of-00002.safetensors" for key in tensors}
    for shard in set(names.values()):
        save_file({key: value for key, value in tensors.items() if names[key] == shard}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    sae = checkpoints.load(tmp_path, activation="relu")
    agrees(sae, load_file(FIXTURES / "saelens/standard/numbers.safetensors"))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SaebenchError, match="has no file model-00002"):
        checkpoints.load(tmp_path, activation="relu")


@pytest.mark.parametrize("given", [{"activation": "relu"}, {"scale": "2"}, {"format": "saelens"}])
def test_what_a_configuration_says_is_not_overruled(given: dict[str, str]) -> None:
    with pytest.raises(SaebenchError, match="leave out --"):
        checkpoints.load(FIXTURES / "dictionary_learning/AutoEncoderTopK", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ["tanh", "topk:0", "topk:x", "topk:9999", "jumprelu:-1", "batchtopk:nan", "topk"])
def test_activations_that_cannot_be(activation: str, tmp_path: Path) -> None:
    with pytest.raises(SaebenchError):
        checkpoints.load(bare("dictionary_learning/AutoEncoder", "ae.pt", tmp_path), activation=activation)


def test_a_native_copy_keeps_what_was_assumed(tmp_path: Path) -> None:
    path = bare("dictionary_learning/AutoEncoder", "ae.pt", tmp_path)
    done = CliRunner().invoke(
        app, ["convert", str(path), str(tmp_path / "out"), "--activation", "relu", "--model", "m", "--hook", "layers.3"]
    )
    assert done.exit_code == 0, done.output
    info = checkpoints.inspect(tmp_path / "out")
    assert (info.model, info.hook_in, info.format) == ("m", "layers.3", "saebench")
    assert info.assumed["activation"] == "relu (--activation)"
    agrees(checkpoints.load(tmp_path / "out"), load_file(FIXTURES / "dictionary_learning/AutoEncoder/numbers.safetensors"))


def test_weights_alone_are_evaluated_at_the_hook_of_an_embedded_model(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    state = {"W_enc": torch.randn(32, 64), "W_dec": torch.randn(64, 32), "b_enc": torch.zeros(64), "b_dec": torch.zeros(32)}
    torch.save(state | {"k": torch.tensor(4)}, tmp_path / "mine.pt")
    model, out = str(FIXTURES / "saelens_evals" / "model"), tmp_path / "result.json"
    command = [
        "evaluate",
        str(tmp_path / "mine.pt"),
        "--model",
        model,
        "--text",
        str(text),
        "--context",
        "20",
        "--out",
        str(out),
    ]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code != 0 and not out.exists()
    monkeypatch.setattr(preflight, "EMBEDDED_MODELS", {model: Embedded((), "", "", HOOK)})
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert f"hook: {HOOK}, the default of" in done.output
    sae = read_result(out).sae
    assert sae.hook_in == HOOK and sae.assumed["hook"].startswith(HOOK)
