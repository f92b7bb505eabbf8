"""Every checkpoint format: described, loaded, run on activations, and recorded as a result would."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.text import Text
from safetensors.torch import load, save
from torch import Tensor

from saebench import checkpoints
from saebench.checkpoints.collection import Collection
from saebench.checkpoints.native import native_config, save_native
from saebench.results import SaeRecord
from saebench.sae import (
    AnyAutoencoder,
    CheckpointInfo,
    Gated,
    JumpReLU,
    ProLU,
    ReLU,
    SparseAutoencoder,
    TopK,
    hook_width,
)
from tests.conftest import FIXTURES
from tests.fuzz.mutations import BYTES
from tests.fuzz.reader import Case, Reader, assert_printed

every_adapter = cache(checkpoints.adapters)
CONTAINERS = (".pt", ".pth", ".npz")


def fixture(*folders: str, open: str = "") -> list[Case]:
    """Checkpoints of other libraries, without the numbers that tests compare with."""
    made = []
    for folder in folders:
        root = FIXTURES / folder
        files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        kept = {f"{folder}/{name}": data for name, data in files.items() if not name.startswith("numbers")}
        made.append(Case(kept, f"{folder}/{open}" if open else folder))
    return made


def named(names: list[str], folder: str) -> Callable[[Path], list[Case]]:
    """Cases of several fixtures of one library."""
    return lambda _: fixture(*(f"{folder}/{name}" for name in names))


def read_checkpoint(path: Path, case: Case, kind: str) -> None:
    """Describe, load, run; bytes changed in a file with checksums must give the same numbers or be refused."""
    checkpoints.adapters = every_adapter  # importing them again for each input would take most of the time
    info = checkpoints.inspect(path, **case.given)
    assert_printed(Text(str(asdict(info))[:2000]))
    sae = checkpoints.load(path, **case.given)
    assert (hook_width(sae), sae.d_out, sae.n_latents) == (info.d_in, info.d_out, info.n_latents), "inspect gave other sizes"
    x = torch.randn(3, sae.d_in, generator=torch.Generator().manual_seed(0))
    code = sae.encode(x)
    y = sae.decode(code, x)
    assert y.shape == (3, sae.d_out) and code.to_dense().shape == (3, sae.n_latents)
    _record(sae)
    if isinstance(sae, SparseAutoencoder) and sae.context is None:
        assert json.loads(native_config(sae))["sae"]["n_latents"] == sae.n_latents
    if kind == BYTES and all(name.endswith(CONTAINERS) for name in case.files):
        torch.testing.assert_close(y, _expected(case), msg="changed bytes were read, with other numbers")


def _expected(case: Case) -> Tensor:
    """The numbers of the unchanged files, kept with the case when it is read for the first time."""
    found: Tensor = _EXPECTED[id(case)]
    return found


_EXPECTED: dict[int, Tensor] = {}


def remember(path: Path, case: Case, kind: str) -> None:
    """``read_checkpoint``, which keeps the numbers of the unchanged files."""
    if not kind:
        checkpoints.adapters = every_adapter
        sae = checkpoints.load(path, **case.given)
        x = torch.randn(3, sae.d_in, generator=torch.Generator().manual_seed(0))
        _EXPECTED[id(case)] = sae.decode(sae.encode(x), x)
    read_checkpoint(path, case, kind)


def _record(sae: AnyAutoencoder) -> None:
    """The autoencoder in a result file."""
    info = sae.info
    record = SaeRecord(
        origin=str(info.origin), format=info.format, architecture=info.architecture, weights_sha256=info.weights_sha256,
        d_in=sae.d_in, d_out=sae.d_out, n_latents=sae.n_latents, activation=info.activation, scaling=info.scaling,
        hook_in=info.hook_in or "", hook_out=info.hook_out or "", training=info.training, assumed=info.assumed,
    )  # fmt: skip
    assert SaeRecord.model_validate_json(record.model_dump_json()) == record


def _state(**tensors: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({key.replace("__", "."): value for key, value in tensors.items()}, buffer)
    return buffer.getvalue()


def _made(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


D, N = 8, 24
ENCODER, DECODER, B_ENC, B_DEC = _made(D, N), _made(N, D), _made(N), _made(D)


def _native(folder: Path) -> list[Case]:
    kinds = [
        TopK(3), ReLU(), JumpReLU(torch.full((N,), 0.1), "batchtopk"), ProLU(_made(N)),
        Gated(_made(N), _made(N), B_ENC),
    ]  # fmt: skip
    made = []
    for place, activation in enumerate(kinds):
        info = CheckpointInfo("made", "saebench", activation.name, D, D, N, activation.describe(), hook_in="blocks.1.hook_resid_post",
                              model="gpt2", context=64, prepend_bos=True, group_sizes=(8, 16), training={"loss": [1.5, 2]})  # fmt: skip
        sae = SparseAutoencoder(ENCODER, DECODER, B_ENC, B_DEC, activation, info, b_pre=B_DEC)
        root = save_native(sae, folder / str(place))
        made.append(Case({path.name: path.read_bytes() for path in root.iterdir()}))
    return made


def _qwen(_: Path) -> list[Case]:
    name = "SAE-Res-Qwen3-1.7B-Base-W32K-L0_3/layer5.sae.pt"
    return [Case({name: _state(W_enc=ENCODER.T.contiguous(), W_dec=DECODER.T.contiguous(), b_enc=B_ENC, b_dec=B_DEC)}, name)]


def _deepseek(_: Path) -> list[Case]:
    name = "DeepSeek-R1-Distill-Llama-8B-SAE-l37.pt"
    state = _state(
        encoder__weight=ENCODER.T.contiguous(),
        encoder__bias=B_ENC,
        decoder__weight=DECODER.T.contiguous(),
        decoder__bias=B_DEC,
    )
    return [Case({name: state}, name)]


def _hook_z(_: Path) -> list[Case]:
    config = {"act_size": D, "dict_size": N, "act_name": "blocks.2.attn.hook_z", "model_name": "gelu-2l", "act": "relu"}
    state = _state(W_enc=ENCODER, W_dec=DECODER, b_enc=B_ENC, b_dec=B_DEC)
    return [Case({"attn_l2.pt": state, "attn_l2_cfg.json": json.dumps(config).encode()}, "attn_l2.pt")]


def _bare_pt(_: Path) -> list[Case]:
    plain = {"W_enc": ENCODER, "W_dec": DECODER, "b_enc": B_ENC, "b_dec": B_DEC}
    return [
        Case({"a.pt": _state(**plain)}, "a.pt", {"activation": "topk:3"}),
        Case({"a.pt": _state(**plain, k=torch.tensor(3), threshold=torch.tensor(0.2))}, "a.pt", {"activation": "batchtopk"}),
        Case({"a.pt": _state(**plain, threshold=torch.full((N,), 0.1))}, "a.pt", {"format": "saelens"}),
        Case({"a.pt": _state(state_dict=plain, cfg={"k": 3, "name": "x"}, step=7)}, "a.pt"),
        Case({"a.pt": _state(encoder__weight=_made(3, D, N), decoder__weight=_made(3, N, D), encoder__bias=B_ENC)}, "a.pt",
             {"activation": "relu"}),
        *(Case({"ae.pt": (FIXTURES / f"dictionary_learning/{name}/ae.pt").read_bytes()}, "ae.pt", given)
          for name, given in (("GatedAutoEncoder", {}), ("AutoEncoder", {"activation": "relu", "scale": "layer_norm"}))),
    ]  # fmt: skip


def _bare_safetensors(_: Path) -> list[Case]:
    plain = {
        "encoder.weight": ENCODER.T.contiguous(),
        "decoder.weight": DECODER.T.contiguous(),
        "encoder.bias": B_ENC,
        "decoder.bias": B_DEC,
    }
    first, second = dict(list(plain.items())[:2]), dict(list(plain.items())[2:])
    index = {
        "metadata": {},
        "weight_map": {**dict.fromkeys(first, "1.safetensors"), **dict.fromkeys(second, "2.safetensors")},
    }
    sharded = {"1.safetensors": save(first), "2.safetensors": save(second)}
    return [
        Case({"a.safetensors": save(plain)}, "a.safetensors", {"activation": "relu"}),
        Case({**sharded, "model.safetensors.index.json": json.dumps(index).encode()}, "", {"activation": "topk:3"}),
        *(Case({"w.safetensors": (FIXTURES / f"saelens/{name}/sae_weights.safetensors").read_bytes()}, "w.safetensors", given)
          for name, given in (("gated", {}), ("jumprelu", {"format": "saelens"}))),
    ]  # fmt: skip


def _collection(folder: Path) -> list[Case]:
    first = next(iter(_native(folder)))
    state = load(first.files["sae.safetensors"])
    files = {f"run/trainer_{n}/{name}": data for n in range(2) for name, data in first.files.items()}
    files |= {"run/b/ae_100.pt": _state(W_enc=state["encoder"], W_dec=state["W_dec"]), "run/cfg.json": b'{"a": 1}'}
    return [Case(files, "run")]


def _list(path: Path, case: Case, kind: str) -> None:
    checkpoints.adapters = every_adapter
    found = Collection.open(path)
    if found is not None:
        assert_printed(found.table())
        assert all(Path(member).exists() for member in found.members)


_SAELENS = [
    "standard",
    "gated",
    "topk_rescaled",
    "abstopk",
    "jumprelu",
    "standard_constant_norm",
    "matching_pursuit",
    "temporal",
    "skip_transcoder",
    "transcoder",
]
_TRAINERS = [
    "AutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "MatryoshkaBatchTopKSAE",
]
_CASES: dict[str, Callable[[Path], list[Case]]] = {
    "saebench": _native,
    "saelens": lambda _: fixture(*(f"saelens/{name}" for name in _SAELENS), "saelens5/topk_called_standard", "saelens5/gated"),
    "dictionary_learning": named(_TRAINERS, "dictionary_learning"),
    "sparsify": named(["factor/layers.3", "groupmax/layers.3", "topk/layers.3", "transcoder/layers.3.mlp"], "sparsify"),
    "openai": named(["ReLU", "TopK"], "openai"),
    "gemma_scope": named(["gemma-scope-2b-pt-res/layer_12/width_16k", "two"], "gemma_scope"),
    "llama_scope": lambda _: fixture("llama_scope/openmoss", "llama_scope/scope", *(f"llamascopium/{kind}" for kind in ("jumprelu", "relu", "topk"))),
    "goodfire": lambda _: fixture("goodfire"),
    "circuit_tracer": named(["set_relu", "set_jumprelu_skip", "cross_layer_relu", "cross_layer_jumprelu"], "circuit_tracer"),
    "qwen_scope": _qwen,
    "deepseek_r1": _deepseek,
    "hook_z": _hook_z,
    "state_dict": _bare_pt,
    "state_dict_safetensors": _bare_safetensors,
}  # fmt: skip

READERS = [Reader(name, cases, remember) for name, cases in _CASES.items()]
READERS.append(Reader("folder_of_checkpoints", _collection, _list))
