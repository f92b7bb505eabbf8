"""Every adapter against latents and reconstructions that the format's own library computed (`tests/fixtures/make_*.py`)."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saebench import checkpoints
from saebench.errors import SaebenchError
from saebench.lm.hooks import parse_hook
from tests.conftest import FIXTURES

#: folder, format, architecture, what is activated, hooks in and out
CASES: list[tuple[str, str, str, dict[str, Any], str | None, str | None]] = [
    *[
        (f"saelens/{name}", "saelens", architecture, activation, "blocks.3.hook_resid_post", "blocks.3.hook_resid_post")
        for name, architecture, activation in (
            ("standard", "relu", {}),
            ("standard_no_b_dec", "relu", {}),
            ("standard_layer_norm", "relu", {}),
            ("standard_constant_norm", "relu", {}),
            ("gated", "gated", {}),
            ("topk", "topk", {"k": 5}),
            ("topk_rescaled", "topk", {"k": 5}),
            ("abstopk", "topk", {"k": 5}),
            ("jumprelu", "jumprelu", {}),
            ("matching_pursuit", "matching_pursuit", {"threshold": 0.5, "iterations": 12, "stop_on_repeat": True}),
            ("matching_pursuit_steps", "matching_pursuit", {"threshold": 0.0, "iterations": 9, "stop_on_repeat": False}),
            ("matching_pursuit_norm", "matching_pursuit", {"threshold": 0.0, "iterations": 12}),
        )
    ],
    ("saelens/transcoder", "saelens", "relu", {}, "blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out"),
    ("saelens/skip_transcoder", "saelens", "relu", {}, "blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out"),
    *[
        (f"saelens5/{name}", "saelens", architecture, activation, "blocks.3.hook_resid_post", "blocks.3.hook_resid_post")
        for name, architecture, activation in (
            ("standard", "relu", {}),
            ("topk_called_standard", "topk", {"k": 5}),
            ("jumprelu", "jumprelu", {}),
            ("layer_norm", "relu", {}),
            ("gated", "gated", {}),
        )
    ],
    *[
        (f"dictionary_learning/{name}", "dictionary_learning", architecture, activation, *["blocks.3.hook_resid_post"] * 2)
        for name, architecture, activation in (
            ("AutoEncoder", "relu", {}),
            ("AutoEncoderNew", "relu", {}),
            ("GatedAutoEncoder", "gated", {}),
            ("JumpReluAutoEncoder", "jumprelu", {}),
            ("AutoEncoderTopK", "topk", {"k": 5}),
            ("BatchTopKSAE", "batchtopk", {"k": 5}),
            ("MatryoshkaBatchTopKSAE", "matryoshka", {"k": 5}),
        )
    ],
    ("sparsify/topk/layers.3", "sparsify", "topk", {"k": 5}, "blocks.3.hook_resid_post", "blocks.3.hook_resid_post"),
    ("sparsify/factor/layers.3", "sparsify", "topk", {"k": 5}, "blocks.3.hook_resid_post", "blocks.3.hook_resid_post"),
    ("sparsify/groupmax/layers.3", "sparsify", "groupmax", {"k": 5}, "blocks.3.hook_resid_post", "blocks.3.hook_resid_post"),
    ("sparsify/transcoder/layers.3.mlp", "sparsify", "topk", {"k": 5}, "blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out"),
    ("openai/TopK", "openai", "topk", {"k": 5}, None, None),
    ("openai/ReLU", "openai", "relu", {}, None, None),
    (
        "gemma_scope/gemma-scope-2b-pt-res/layer_12/width_16k", "gemma_scope", "jumprelu", {},
        "blocks.12.hook_resid_post", "blocks.12.hook_resid_post",
    ),
    ("gemma_scope/two", "gemma_scope", "jumprelu", {}, None, None),
    ("llama_scope/scope", "llama_scope", "jumprelu", {}, "blocks.3.hook_resid_post", "blocks.3.hook_resid_post"),
    ("llama_scope/openmoss", "llama_scope", "jumprelu", {}, "blocks.3.hook_resid_post", "blocks.3.hook_resid_post"),
    *[
        (f"llamascopium/{name}", "llama_scope", name, {}, "blocks.3.hook_resid_post", "blocks.3.hook_resid_post")
        for name in ("relu", "topk", "jumprelu")
    ],
    ("goodfire", "goodfire", "relu", {}, "blocks.19.hook_resid_post", "blocks.19.hook_resid_post"),
]  # fmt: skip


@pytest.fixture(params=CASES, ids=[case[0] for case in CASES])
def case(request: pytest.FixtureRequest) -> tuple[str, str, str, dict[str, Any], str | None, str | None]:
    return request.param  # type: ignore[no-any-return]


def test_the_library_s_own_numbers(case: tuple[str, str, str, dict[str, Any], str | None, str | None]) -> None:
    folder = FIXTURES / case[0]
    numbers = load_file(folder / "numbers.safetensors")
    sae = checkpoints.load(folder)
    latents = sae.encode(numbers["x"])
    torch.testing.assert_close(latents.to_dense(), numbers["latents"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.decode(latents, numbers["x"]), numbers["reconstruction"], atol=1e-5, rtol=1e-5)
    assert sae.info.weights_sha256 is not None and len(sae.info.weights_sha256) == 64


def test_what_is_said_of_it(case: tuple[str, str, str, dict[str, Any], str | None, str | None]) -> None:
    name, kind, architecture, activation, hook_in, hook_out = case
    info = checkpoints.inspect(FIXTURES / name)
    sae = checkpoints.load(FIXTURES / name)
    assert (info.format, info.architecture) == (kind, architecture)
    assert activation.items() <= info.activation.items()
    assert (info.d_in, info.d_out, info.n_latents) == (sae.d_in, sae.d_out, sae.n_latents)
    assert info.scaling == sae.scaling.kind or name == "llama_scope/scope"  # there the scale is folded into the weights
    found = [None if hook is None else parse_hook(hook).name for hook in (info.hook_in, info.hook_out)]
    assert found == [hook_in, hook_out]


def test_native_files_give_the_same_numbers(
    case: tuple[str, str, str, dict[str, Any], str | None, str | None], tmp_path: Path
) -> None:
    numbers = load_file(FIXTURES / case[0] / "numbers.safetensors")
    sae = checkpoints.load(FIXTURES / case[0])
    again = checkpoints.load(checkpoints.save_native(sae, tmp_path / "sae"))
    latents = again.encode(numbers["x"])
    torch.testing.assert_close(latents.to_dense(), numbers["latents"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.decode(latents, numbers["x"]), numbers["reconstruction"], atol=1e-5, rtol=1e-5)
    assert (again.info.hook_in, again.info.hook_out) == (sae.info.hook_in, sae.info.hook_out)


@pytest.mark.parametrize("name", ["saelens/jumprelu", "sparsify/topk/layers.3", "dictionary_learning/BatchTopKSAE"])
def test_inspecting_reads_no_weights(name: str, tmp_path: Path) -> None:
    """The bytes behind the header are cut off (or, of a .pt file, all of them): inspecting does not notice."""
    folder = tmp_path / Path(name).name
    shutil.copytree(FIXTURES / name, folder)
    for path in folder.glob("*.pt"):
        path.write_bytes(b"")
    for path in folder.glob("*.safetensors"):
        if path.name != "numbers.safetensors":
            tensors = load_file(path)
            blanked = {key: torch.full_like(tensor, torch.nan) for key, tensor in tensors.items()}
            save_file(blanked, path)
    assert checkpoints.inspect(folder).n_latents == 40
    with pytest.raises(SaebenchError):
        checkpoints.load(folder)


def edited(name: str, tmp_path: Path, file: str, **changes: Any) -> Path:
    folder = tmp_path / Path(name).name
    shutil.copytree(FIXTURES / name, folder)
    data = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(data | changes))
    return folder


def test_sparsify_widths_come_from_the_weights_where_the_configuration_says_zero() -> None:
    config = json.loads((FIXTURES / "sparsify/factor/layers.3/cfg.json").read_text())
    assert config["num_latents"] == 0
    assert checkpoints.inspect(FIXTURES / "sparsify/factor/layers.3").n_latents == 48


def test_an_unset_batchtopk_threshold_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    shutil.copytree(FIXTURES / "dictionary_learning/BatchTopKSAE", folder)
    state = torch.load(folder / "ae.pt", weights_only=True)
    torch.save(state | {"threshold": torch.tensor(-1.0)}, folder / "ae.pt")
    with pytest.raises(SaebenchError, match="threshold was never set"):
        checkpoints.load(folder)


def test_an_interrupted_dictionary_learning_run_has_its_biases_scaled(tmp_path: Path) -> None:
    """Its state holds biases in the scale of normalised activations; the finished file has them times the factor."""
    folder = tmp_path / "sae"
    shutil.copytree(FIXTURES / "dictionary_learning/AutoEncoderTopK", folder)
    state = torch.load(folder / "ae.pt", weights_only=True)
    unscaled = state | {"b_dec": state["b_dec"] / 4, "encoder.bias": state["encoder.bias"] / 4}
    torch.save({"step": 3, "ae": unscaled, "optimizer": {}, "config": {}, "norm_factor": 4.0}, folder / "ae.pt")
    numbers = load_file(folder / "numbers.safetensors")
    torch.testing.assert_close(checkpoints.load(folder).encode(numbers["x"]).to_dense(), numbers["latents"])
    torch.save({"step": 3, "ae": unscaled, "optimizer": {}, "config": {}}, folder / "ae.pt")
    with pytest.raises(SaebenchError, match="lacks the norm_factor"):
        checkpoints.load(folder)


def test_a_dataset_scale_that_is_neither_folded_nor_stored_is_refused(tmp_path: Path) -> None:
    folder = edited("saelens/standard", tmp_path, "cfg.json", normalize_activations="expected_average_only_in")
    with pytest.raises(SaebenchError, match="neither"):
        checkpoints.load(folder)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.5}')
    sae = checkpoints.load(folder)
    plain = checkpoints.load(FIXTURES / "saelens/standard")
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sae.encode(2 * x).to_dense(), plain.encode(x).to_dense())
    torch.testing.assert_close(sae.decode(sae.encode(2 * x)), 2 * plain.decode(plain.encode(x)))


def test_a_normalisation_that_is_not_known_is_never_dropped(tmp_path: Path) -> None:
    folder = edited("saelens/standard", tmp_path, "cfg.json", normalize_activations="something_new")
    with pytest.raises(SaebenchError, match="something_new"):
        checkpoints.load(folder)


def test_topk_without_its_k_is_refused_not_read_as_relu(tmp_path: Path) -> None:
    folder = edited("saelens/topk", tmp_path, "cfg.json", k=None)
    with pytest.raises(SaebenchError, match="gives no k"):
        checkpoints.load(folder)


class Payload:
    def __reduce__(self) -> Any:
        return (print, ("code out of a checkpoint",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.pt").write_bytes(pickle.dumps({"pre_bias": Payload()}))
    with pytest.raises(SaebenchError, match="never run"):
        checkpoints.load(tmp_path / "model.pt")
    folder = tmp_path / "dl"
    shutil.copytree(FIXTURES / "dictionary_learning/AutoEncoder", folder)
    torch.save({"bias": Payload()}, folder / "ae.pt")
    with pytest.raises(SaebenchError, match="never run"):
        checkpoints.load(folder)
    assert "code out of" not in capsys.readouterr().out


def test_npz_files_with_pickles_are_refused(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "params.npz", W_enc=np.array([Payload()], dtype=object), W_dec=np.zeros((2, 2)))
    with pytest.raises(SaebenchError):
        checkpoints.load(tmp_path)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "saelens/topk", tmp_path / "real")
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / "cfg.json").symlink_to(tmp_path / "real" / "cfg.json")
    shutil.copy(tmp_path / "real" / "sae_weights.safetensors", tmp_path / "sae")
    with pytest.raises(SaebenchError, match="is outside its folder"):
        checkpoints.load(tmp_path / "sae")


def test_what_is_not_recognised_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"123")
    with pytest.raises(SaebenchError, match=r"weights\.bin.*Looked for: .*saelens: cfg\.json and"):
        checkpoints.inspect(tmp_path)
    with pytest.raises(SaebenchError, match="There is no checkpoint at"):
        checkpoints.inspect(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["saelens/topk", "dictionary_learning/AutoEncoder", "openai/TopK", "goodfire"])
def test_truncated_files_are_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    shutil.copytree(FIXTURES / name, folder)
    for path in folder.iterdir():
        if path.suffix in (".pt", ".pth") or path.name == "sae_weights.safetensors":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SaebenchError):
        checkpoints.load(folder)
