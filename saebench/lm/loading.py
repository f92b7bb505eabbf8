"""Finding and loading language models: the hub, local folders, GGUF files, the embedded models."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saebench.errors import SaebenchError
from saebench.lm.embedded import EMBEDDED_MODELS, embedded_model_folder, file_sha256, gguf_to_folder
from saebench.lm.placement import device_map, pick_devices
from saebench.lm.quiet import quiet

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Loaded:
    """A model as transformers loads it, with its identity."""

    model: nn.Module
    tokenizer: Any
    revision: str | None
    weights_sha256: str | None


def locate(name: str) -> str | Path:
    """The folder that holds the model, or its name on the hub. No weights are read, except of an unconverted GGUF file.

    Raises:
        SaebenchError: the name looks like a path that does not exist.
    """
    if name in EMBEDDED_MODELS:
        return embedded_model_folder(name)
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return gguf_to_folder(path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise SaebenchError(f"The folder {name} has no config.json: it is not a Hugging Face model.")
        return path
    if path.suffix == ".gguf" or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise SaebenchError(f"There is no model at {name}.")
    return name


def read_config(name: str, revision: str | None = None) -> Any:
    """The model's Hugging Face configuration alone, so that widths and layers can be checked before weights are loaded."""
    from transformers import AutoConfig

    source = locate(name)
    with _plain_errors(name), quiet():
        return AutoConfig.from_pretrained(source, revision=revision or "main", trust_remote_code=False).get_text_config()


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """A model's tokenizer alone; it is read in a moment, and a text can be checked with it before weights are loaded.

    Raises:
        SaebenchError: the model has none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    source = locate(name)
    if isinstance(source, Path) and not any((source / each).is_file() for each in TOKENIZER_FILES):
        raise SaebenchError(
            f"The model folder {name} holds no tokenizer ({', '.join(TOKENIZER_FILES)}): save it there with save_pretrained."
        )
    with _plain_errors(name), quiet():
        return AutoTokenizer.from_pretrained(source, revision=revision or "main", trust_remote_code=False)


def load_pretrained(name: str, dtype: str, devices: Sequence[str], revision: str | None) -> Loaded:
    """Load weights, divided among the devices, and the tokenizer. Remote code is never run.

    Raises:
        SaebenchError: the model cannot be found or read, or does not fit.
    """
    from transformers import AutoModelForCausalLM

    source = locate(name)
    tokenizer = load_tokenizer(name, revision)
    chosen = pick_dtype(dtype, devices[0])
    placed = _divided(name, source, revision, chosen, devices) if len(devices) > 1 else None
    with _plain_errors(name, devices), quiet():
        model = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision or "main",
            dtype=chosen,
            attn_implementation="eager",
            trust_remote_code=False,
            device_map=placed,
        )
        if placed is None:
            model = model.to(devices[0])
    commit = getattr(model.config, "_commit_hash", None)
    return Loaded(model, tokenizer, commit, _hash_weights(source) if isinstance(source, Path) else None)


def _divided(
    name: str, source: str | Path, revision: str | None, dtype: torch.dtype | str, devices: Sequence[str]
) -> dict[str, str]:
    """The device of each part of a model."""
    from transformers import AutoConfig

    with _plain_errors(name), quiet():
        config = AutoConfig.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
    own = dtype if isinstance(dtype, torch.dtype) else getattr(config.get_text_config(), "dtype", None)
    size = own.itemsize if isinstance(own, torch.dtype) else torch.float32.itemsize
    return device_map(name, config, size, devices)


def pick_device(device: str | None) -> str:
    """The device of activations and autoencoders: the first of ``pick_devices``.

    Raises:
        SaebenchError: as ``pick_devices``.
    """
    return pick_devices(device)[0]


def pick_dtype(dtype: str, device: str) -> torch.dtype | str:
    """The given dtype; ``auto`` is resolved for the device."""
    if dtype in DTYPES:
        return DTYPES[dtype]
    if dtype != "auto":
        raise SaebenchError(f"Unknown dtype {dtype!r}: choose float32, bfloat16 or auto.")
    if device != "cpu":
        return "auto"
    fast_bfloat16 = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return "auto" if fast_bfloat16 else torch.float32


@contextlib.contextmanager
def _plain_errors(name: str, devices: Sequence[str] = ()) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SaebenchError(
            f"The model {name} does not fit {', '.join(devices)}: name more devices (--device cuda:0,cuda:1, or all)."
        ) from error
    except (OSError, ValueError, ImportError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        offline = os.environ.get("HF_HUB_OFFLINE") == "1"
        hint = "HF_HUB_OFFLINE is set" if offline else "check the name and the network"
        raise SaebenchError(f"The model {name} could not be loaded ({hint}): {first_line}") from error


def _hash_weights(folder: Path) -> str | None:
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    hashes = [file_sha256(path) for path in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else None
