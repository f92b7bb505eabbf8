"""Checkpoints whose paths, configurations or weights invite a silent misreading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saebench import checkpoints
from saebench.errors import SaebenchError
from saebench.sae import InputScaling
from tests.conftest import FIXTURES

GEMMA = FIXTURES / "gemma_scope/gemma-scope-2b-pt-res/layer_12/width_16k"


@pytest.mark.parametrize(
    ("path", "hook"),
    [
        ("resid_post_mlp_v5_32k/autoencoders/8.pt", "resid_post_mlp.8"),
        ("resid_delta_attn_v5_128k/autoencoders/11.pt", "resid_delta_attn.11"),
        ("v5_32k/layer_7/resid_post_attn.pt", "resid_post_attn.7"),
        ("resid_post_mlp_layer_8.pt", "resid_post_mlp.8"),
        ("resid_post_mlp/8/autoencoder.pt", "resid_post_mlp.8"),
        ("2024/resid_post_mlp/autoencoder.pt", None),
        ("somewhere/model.pt", None),
    ],
)
def test_the_version_in_openai_s_paths_is_not_the_layer(path: str, hook: str | None, tmp_path: Path) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(FIXTURES / "openai/TopK/autoencoder.pt", file)
    assert checkpoints.inspect(file).hook_in == hook


def test_folders_above_gemma_scope_do_not_decide_the_hook_or_the_scale(tmp_path: Path) -> None:
    folder = tmp_path / "my-results" / "embeddings-study" / "gemma-scope-2b-pt-mlp" / "layer_3"
    shutil.copytree(GEMMA, folder)
    numbers = load_file(folder / "numbers.safetensors")
    sae = checkpoints.load(folder)
    assert sae.info.hook_in == "blocks.3.hook_mlp_out"
    torch.testing.assert_close(sae.encode(numbers["x"]).to_dense(), numbers["latents"], atol=1e-5, rtol=1e-5)


def test_embedding_autoencoders_of_gemma_scope_read_embeddings_times_the_root_of_their_width(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k"
    shutil.copytree(GEMMA, folder)
    numbers = load_file(folder / "numbers.safetensors")
    sae = checkpoints.load(folder)
    x = numbers["x"] * 12**0.5
    torch.testing.assert_close(sae.encode(x).to_dense(), numbers["latents"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.W_dec, checkpoints.load(GEMMA).W_dec * 12**0.5)


@pytest.mark.parametrize("key", ["finetuning_scaling_factor", "scaling_factor"])
def test_a_finetuned_scale_of_latents_is_kept(key: str, tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    shutil.copytree(FIXTURES / "saelens5/standard", folder)
    factor = torch.linspace(0.5, 2, 40)
    mapped = load_file(folder / "sae_weights.safetensors")
    weights = {name: tensor.clone() for name, tensor in mapped.items()}  # the file is overwritten below
    save_file(weights | {key: factor}, folder / "sae_weights.safetensors")
    with pytest.raises(SaebenchError, match="scaling_factor"):
        checkpoints.load(folder)
    changed(folder / "cfg.json", finetuning_scaling_factor=True)
    numbers = load_file(folder / "numbers.safetensors")
    sae = checkpoints.load(folder)
    expected = numbers["latents"] * factor @ weights["W_dec"] + weights["b_dec"]
    torch.testing.assert_close(sae.decode(sae.encode(numbers["x"])), expected, atol=1e-5, rtol=1e-5)
    save_file(weights | {key: torch.ones(40)}, folder / "sae_weights.safetensors")
    assert torch.equal(checkpoints.load(folder).W_dec, weights["W_dec"])


def test_llama_scope_norms_count_only_in_the_mode_that_uses_them(tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    shutil.copytree(FIXTURES / "llama_scope/scope", folder)
    weights = load_file(folder / "checkpoints/final.safetensors")
    changed(folder / "hyperparams.json", norm_activation="inference")
    sae = checkpoints.load(folder)
    assert torch.equal(sae.b_dec, weights["decoder.bias"]) and sae.scaling.kind == "none"
    changed(folder / "hyperparams.json", norm_activation="batch-wise")
    with pytest.raises(SaebenchError, match="batch-wise"):
        checkpoints.load(folder)
    for norm in (0.0, -1.0):
        norms = {"in": 9.0, "out": norm}
        changed(folder / "hyperparams.json", norm_activation="dataset-wise", dataset_average_activation_norm=norms)
        with pytest.raises(SaebenchError, match=f"gives {norm:g} for the average norm at its output"):
            checkpoints.load(folder)


def test_an_unknown_scaling_is_refused_not_taken_for_layer_norm() -> None:
    with pytest.raises(SaebenchError, match="no input scaling 'bogus'"):
        InputScaling("bogus")  # type: ignore[arg-type]


def changed(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "file", "changes"),
    [
        ("saelens/topk", "cfg.json", {"k": float("inf")}),
        ("saelens/topk", "cfg.json", {"k": float("nan")}),
        ("saelens/topk", "cfg.json", {"normalize_activations": ["none"]}),
        ("saelens5/topk_called_standard", "cfg.json", {"activation_fn_kwargs": "k"}),
        ("sparsify/topk/layers.3", "cfg.json", {"activation": ["topk"]}),
        ("dictionary_learning/AutoEncoderTopK", "config.json", {"trainer": {"dict_class": "AutoEncoder"}}),
    ],
)
def test_fields_of_the_wrong_kind_give_one_sentence(name: str, file: str, changes: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    shutil.copytree(FIXTURES / name, folder)
    changed(folder / file, **changes)
    with pytest.raises(SaebenchError) as caught:
        checkpoints.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "value"),
    [("scaling", {"kind": "bogus"}), ("scaling", {"unknown": 1}), ("scaling", [1]), ("sae", {"activation": [1]})],
)
def test_a_malformed_sae_json_gives_one_sentence(section: str, value: Any, tmp_path: Path) -> None:
    folder = checkpoints.save_native(checkpoints.load(FIXTURES / "saelens/topk"), tmp_path / "sae")
    config = json.loads((folder / "sae.json").read_text())
    config[section] = config[section] | value if isinstance(value, dict) else value
    (folder / "sae.json").write_text(json.dumps(config))
    with pytest.raises(SaebenchError):
        checkpoints.load(folder)


@pytest.mark.parametrize(
    ("read", "name", "size", "sentence"),
    [
        (checkpoints.inspect, "W_enc", 3, r"W_enc of .* has shape \[3\]; a matrix is needed"),
        (checkpoints.load, "b_enc", 39, r"b_enc has shape \[39\]"),
    ],
)
def test_weights_of_the_wrong_shape_give_one_sentence(
    read: Callable[[Path], Any], name: str, size: int, sentence: str, tmp_path: Path
) -> None:
    folder = tmp_path / "sae"
    shutil.copytree(FIXTURES / "saelens/topk", folder)
    weights = load_file(folder / "sae_weights.safetensors")
    save_file(weights | {name: torch.zeros(size)}, folder / "sae_weights.safetensors")
    with pytest.raises(SaebenchError, match=sentence):
        read(folder)


def test_an_adapter_of_another_package_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    entry = EntryPoint("theirs", f"{__name__}:Theirs", checkpoints.GROUP)
    known = list(checkpoints.entry_points(group=checkpoints.GROUP))
    monkeypatch.setattr(checkpoints, "entry_points", lambda group: [*known, entry])
    (tmp_path / "theirs.bin").write_bytes(b"1")
    assert checkpoints.inspect(tmp_path).n_latents == 7


class Theirs(checkpoints.Adapter):
    name = "theirs"
    looks_for = "theirs.bin"

    def recognise(self, location: checkpoints.Location) -> bool:
        return location.has("theirs.bin")

    def describe(self, location: checkpoints.Location) -> Any:
        from saebench.sae import CheckpointInfo

        return CheckpointInfo(location.origin, self.name, "relu", 3, 3, 7, {"name": "relu"})

    def load(self, location: checkpoints.Location) -> Any:
        raise NotImplementedError

    def weights_file(self, location: checkpoints.Location) -> str:
        return "theirs.bin"


@pytest.mark.parametrize("name", ["openai/TopK", "goodfire"])
def test_another_file_beside_a_single_weight_file_does_not_hide_it(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    shutil.copytree(FIXTURES / name, folder)
    (folder / "config.json").write_text("{}")
    assert checkpoints.inspect(folder).format == name.split("/")[0]
