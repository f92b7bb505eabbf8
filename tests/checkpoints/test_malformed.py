"""Damaged and forged files: one sentence that names the file and the field, before anything heavy."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import saebench
from saebench import checkpoints
from saebench.api import SomeRejected
from saebench.checkpoints.native import save_native
from saebench.errors import SaebenchError
from saebench.lm import LanguageModel
from saebench.results import read_result, write_result
from saebench.sae import SparseAutoencoder
from saebench.text.corpus import TokenCorpus
from tests.sample_results import sample_result

Make = Callable[..., SparseAutoencoder]


@pytest.fixture
def folder(tmp_path: Path, make_sae: Make) -> Path:
    return save_native(make_sae(), tmp_path / "sae")


def with_field(folder: Path, name: str, value: Any) -> None:
    data = json.loads((folder / "sae.json").read_text())
    place = data["sae"]["activation"] if name == "k" else data["sae"]
    place[name] = value
    (folder / "sae.json").write_text(json.dumps(data))


@pytest.mark.parametrize("value", ["7", 2.5, True, None, -1, 0, [8]])
@pytest.mark.parametrize("name", ["k", "d_in", "n_latents"])
def test_numbers_of_the_wrong_type_are_named(folder: Path, name: str, value: Any) -> None:
    with_field(folder, name, value)
    for read in (checkpoints.inspect, checkpoints.load):
        with pytest.raises(SaebenchError, match=rf"sae gives .* for {name}; a positive whole number"):
            read(folder)


@pytest.mark.parametrize("name", ["model", "hook_in", "architecture"])
def test_texts_of_the_wrong_type_are_named(folder: Path, name: str) -> None:
    with_field(folder, name, ["gpt2"])
    with pytest.raises(SaebenchError, match=rf"gives \['gpt2'\] for {name}; a text is needed"):
        checkpoints.inspect(folder)


@pytest.mark.parametrize("name, words", [("d_in", "its weights have 32"), ("n_latents", "its weights have 64")])
def test_sizes_that_disagree_with_the_weights_are_named(folder: Path, name: str, words: str) -> None:
    with_field(folder, name, 48)
    with pytest.raises(SaebenchError, match=f"gives 48 for {name}, but {words}"):
        checkpoints.load(folder)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_other_types_are_refused(folder: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "sae.safetensors").items()}
    save_file(tensors | {"W_dec": tensors["W_dec"].to(dtype)}, folder / "sae.safetensors")
    with pytest.raises(SaebenchError, match=r"W_dec of .* is of type .*; saebench reads float64, float32, bfloat16"):
        checkpoints.load(folder)


def test_nan_weights_are_refused(folder: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "sae.safetensors").items()}
    tensors["W_dec"][3, 5] = torch.nan
    save_file(tensors, folder / "sae.safetensors")
    with pytest.raises(SaebenchError, match="W_dec holds NaN"):
        checkpoints.load(folder)


def test_numbers_that_json_lacks_are_kept_as_text(folder: Path) -> None:
    data = json.loads((folder / "sae.json").read_text()) | {"training": {"loss": [float("nan"), 1.0], "best": float("-inf")}}
    (folder / "sae.json").write_text(json.dumps(data))
    assert checkpoints.load(folder).info.training == {"loss": ["nan", 1.0], "best": "-inf"}


def state(make_sae: Make) -> dict[str, torch.Tensor]:
    sae = make_sae()
    return {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec}


def test_a_flipped_bit_in_a_tensor_is_found_by_its_checksum(tmp_path: Path, make_sae: Make) -> None:
    path = tmp_path / "sae.pt"
    torch.save(state(make_sae), path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = next(each for each in archive.infolist() if each.filename.endswith("data/1"))
    data[place.header_offset + 2000] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(SaebenchError, match=r"sae\.pt of .* is damaged: the checksum of .*/data/1 is wrong"):
        checkpoints.load(path, activation="topk:8")


def gemma(folder: Path) -> Path:
    path = folder / "layer_1" / "width_1k" / "average_l0_8"
    path.mkdir(parents=True)
    arrays = {name: np.ones(shape, dtype=np.float32) for name, shape in
              {"W_enc": (4, 8), "W_dec": (8, 4), "b_enc": (8,), "b_dec": (4,), "threshold": (8,)}.items()}  # fmt: skip
    np.savez(path / "params.npz", **arrays)
    return path


def rewritten(path: Path, member: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """The archive with another content of one member."""
    with zipfile.ZipFile(path) as archive:
        kept = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in kept.items():
            archive.writestr(name, content if name == member else data)


def test_an_array_that_claims_terabytes_is_refused(tmp_path: Path) -> None:
    folder = gemma(tmp_path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20)})
    rewritten(folder / "params.npz", "W_enc.npy", header.getvalue() + bytes(64))
    with pytest.raises(SaebenchError, match=r"params\.npz .*W_enc\.npy claims the shape \(1048576, 1048576\)"):
        checkpoints.load(folder)


def test_a_compression_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = gemma(tmp_path)
    monkeypatch.setattr("saebench.checkpoints.checked._memory", lambda: 10 << 20)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: pytest.fail("it was unpacked"))
    rewritten(folder / "params.npz", "W_enc.npy", bytes(20 << 20), zipfile.ZIP_DEFLATED)
    with pytest.raises(SaebenchError, match=r"params\.npz .* declares 20,9.*refused as damaged or larger than the memory"):
        checkpoints.load(folder)


def test_a_damaged_stream_is_one_sentence(tmp_path: Path) -> None:
    folder = gemma(tmp_path)
    rewritten(folder / "params.npz", "none", b"", zipfile.ZIP_DEFLATED)
    data = bytearray((folder / "params.npz").read_bytes())
    data[60:90] = bytes(30)
    (folder / "params.npz").write_bytes(bytes(data))
    with pytest.raises(SaebenchError, match=r"params\.npz"):
        checkpoints.load(folder)


def test_names_in_errors_do_not_control_the_terminal(tmp_path: Path) -> None:
    with pytest.raises(SaebenchError) as raised:
        checkpoints.load(tmp_path / "evil\x1b[2J\u202egnp.sae\n")
    assert not any(character in str(raised.value) for character in "\x1b\u202e\n")
    assert "evil\ufffd[2J\ufffdgnp.sae" in str(raised.value)


def test_results_without_numbers_or_with_odd_options_are_refused(tmp_path: Path) -> None:
    write_result(sample_result(), tmp_path / "good.json")
    data = json.loads((tmp_path / "good.json").read_text())
    for changes, words in (
        ({"evaluators": {}, "failures": {}}, "no evaluator"),
        ({"settings": {"options": []}}, "options"),
        ({"settings": {"options": {"ablation": 3}}}, "options"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps(data | changes))
        with pytest.raises(SaebenchError, match=words):
            read_result(tmp_path / "bad.json")


def test_in_a_batch_the_readable_ones_are_evaluated_and_saved(
    tmp_path: Path, make_sae: Make, tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    good = [save_native(make_sae(seed=seed), tmp_path / f"good{seed}") for seed in range(2)]
    bad = save_native(make_sae(), tmp_path / "bad")
    with_field(bad, "k", "7")
    settings: dict[str, Any] = {
        "model": tiny_model,
        "corpus": tiny_corpus,
        "evaluators": ["reconstruction"],
        "progress": False,
    }
    with pytest.raises(SomeRejected, match=r"1 of 3 checkpoints could not be evaluated: .*bad gives '7' for k") as raised:
        saebench.evaluate([good[0], bad, good[1]], out=tmp_path / "out", **settings)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good0.json", "good1.json"]
    assert [card.result for card in raised.value.cards] == [
        read_result(tmp_path / "out" / f"good{n}.json") for n in range(2)
    ]
    alone = saebench.evaluate(good[1], **settings)
    assert (
        raised.value.cards[1].result.evaluators["reconstruction"].metrics
        == alone.result.evaluators["reconstruction"].metrics
    )
    with pytest.raises(SaebenchError, match="bad gives '7' for k"):
        saebench.evaluate([bad, bad], **settings)


def test_a_batch_with_a_wrong_setting_loads_no_weights(
    tmp_path: Path, make_sae: Make, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [save_native(make_sae(seed=seed), tmp_path / f"sae{seed}") for seed in range(2)]
    monkeypatch.setattr(checkpoints, "load", lambda *args, **options: pytest.fail("weights were loaded"))
    for wrong, words in (({"controls": ["none"]}, "no control"), ({"corpus": "none.txt"}, "no file none.txt")):
        with pytest.raises(SaebenchError, match=words):
            saebench.evaluate(folders, model=tiny_model, progress=False, **wrong)
