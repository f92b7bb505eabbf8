"""Where a language model's weights are: on one device, or, where it is too large for one, on several.

On several, the blocks are divided in runs. All else (embeddings, final norm, unembedding) is on the first device, as are
autoencoders and all activations that leave the model. transformers loads each block straight to its device.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saebench.errors import SaebenchError

EVERY = "all"
"""The device that stands for every GPU of the machine."""
RESERVE = 1.25
"""Factor for what is not counted: the libraries' own memory, activations inside layers, fragmentation."""
BATCH_TOKENS = 1024
"""Tokens for whose logits the first device keeps room, three times in float32."""
GIB = 2**30


def pick_devices(device: str | None) -> tuple[str, ...]:
    """The devices that a text names: one, several separated by commas, or every GPU (``all``). None: a GPU if there is one.

    Raises:
        SaebenchError: torch cannot use one of them, or several are not different accelerators.
    """
    if device is None:
        return ("cuda" if torch.cuda.is_available() else "cpu",)
    names = tuple(each.strip() for each in device.split(","))
    if names == (EVERY,):
        names = tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
        if not names:
            raise SaebenchError("The device all means every GPU, and torch finds none here.")
    for name in names:
        try:
            torch.empty(1, device=name)
        except (RuntimeError, AssertionError) as error:
            raise SaebenchError(f"torch cannot use the device {name!r} here: {str(error).splitlines()[0]}") from error
    if len(names) > 1 and (len(set(names)) < len(names) or any(torch.device(name).index is None for name in names)):
        raise SaebenchError(f"Several devices are GPUs, each named once by its number, such as cuda:0,cuda:1, not {device}.")
    return names


def free_memory(device: str) -> int:
    """Free bytes of a device: of the GPU, or of this machine; 0 for a GPU that is not here."""
    if device != "cpu":
        return int(torch.cuda.mem_get_info(device)[0]) if torch.cuda.is_available() else 0
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = {name: value for name, _, value in (line.partition(":") for line in lines)}
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


@dataclass(frozen=True)
class Outline:
    """The parts of a language model that can be on different devices.

    Attributes:
        blocks: weights of each block, by its name in the model.
        others: names of all other modules and weights.
        rest: weights of the others, tied ones counted once.
    """

    blocks: dict[str, int]
    others: tuple[str, ...]
    rest: int

    @property
    def weights(self) -> int:
        """Of the whole model."""
        return sum(self.blocks.values()) + self.rest


def outline_of(config: Any) -> Outline:
    """The outline of a model with this Hugging Face configuration; nothing is allocated.

    Raises:
        SaebenchError: it has no plain stack of blocks.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    depth = config.get_text_config().num_hidden_layers
    inside = set(model.get_decoder().modules())
    stacks = ((name, each) for name, each in model.named_modules() if isinstance(each, nn.ModuleList) and each in inside)
    path, stack = next(((name, each) for name, each in stacks if len(each) == depth), ("", nn.ModuleList()))
    if not path:
        raise SaebenchError(f"{type(model).__name__} has no plain stack of blocks, which saebench needs.")
    blocks = {f"{path}.{number}": _weights(block) for number, block in enumerate(stack)}
    return Outline(blocks, tuple(_beside(model, path)), _weights(model) - sum(blocks.values()))


def _weights(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def _beside(module: nn.Module, path: str) -> list[str]:
    """Names of all modules and weights that are not on the way to the module at ``path``."""
    found, before = [], ""
    for part in path.split("."):
        names = [name for name, _ in module.named_children()] + [name for name, _ in module.named_parameters(recurse=False)]
        found += [before + name for name in names if name != part]
        module, before = getattr(module, part), f"{before}{part}."
    return found


def device_map(name: str, config: Any, bytes_per_weight: int, devices: Sequence[str]) -> dict[str, str]:
    """The device of each part of a model, by the memory that is free now; all devices are filled to the same share.

    Args:
        name: of the model, for the message.
        config: its Hugging Face configuration.
        bytes_per_weight: of the type in which it is loaded.
        devices: the first gets all but the blocks, and keeps room for a batch's logits.

    Raises:
        SaebenchError: it does not fit; the sum is in the message.
    """
    outline = outline_of(config)
    logits = 3 * 4 * BATCH_TOKENS * config.get_text_config().vocab_size
    room = [int(free_memory(device) / RESERVE) for device in devices]
    places = divided(
        [bytes_per_weight * each for each in outline.blocks.values()],
        [bytes_per_weight * outline.rest + logits, *[0] * (len(devices) - 1)],
        room,
    )
    if places is None:
        has = ", ".join(f"{device} {RESERVE * each / GIB:.2f}" for device, each in zip(devices, room, strict=True))
        size = bytes_per_weight * outline.weights / GIB
        raise SaebenchError(
            f"{name} does not fit: it needs (model {size:.2f} + batch {logits / GIB:.2f}) x {RESERVE} = "
            f"{RESERVE * (size + logits / GIB):.2f} GiB in whole blocks, and free are {has}: "
            "name more devices, or use --dtype bfloat16."
        )
    blocks = zip(outline.blocks, places, strict=True)
    return dict.fromkeys(outline.others, devices[0]) | {block: devices[place] for block, place in blocks}


def divided(blocks: Sequence[int], fixed: Sequence[int], room: Sequence[int]) -> list[int] | None:
    """The number of the device for each block: runs of blocks that fill all devices to the smallest common share.

    Args:
        blocks: bytes of each.
        fixed: bytes that each device holds besides.
        room: bytes of each device.

    Returns:
        None where they do not fit.
    """
    for percent in range(1, 101):
        limits = [each * percent // 100 for each in room]
        if any(held > limit for held, limit in zip(fixed, limits, strict=True)):
            continue
        places, device, used = list[int](), 0, list(fixed)
        for block in blocks:
            while device < len(room) and used[device] + block > limits[device]:
                device += 1
            if device == len(room):
                break
            used[device] += block
            places.append(device)
        if len(places) == len(blocks):
            return places
    return None


def follow_devices(bridge: Any) -> None:
    """Make a bridge's parts take what they read to the device of their own weights, where these are on several devices.

    Parts of TransformerLens compute with weights themselves, past the hooks that accelerate gives to transformers' modules.
    """
    model = bridge.original_model
    if len(set(map(str, getattr(model, "hf_device_map", {}).values()))) < 2:
        return
    home = model.get_input_embeddings().weight.device
    model._hf_hook.execution_device = home  # accelerate takes any of the devices
    parts = [each for name, each in bridge.named_children() if name != "blocks" and each is not model]
    for part in (*parts, *bridge.blocks):
        weight = next(part.parameters(), None)
        part.register_forward_pre_hook(_Mover(home if weight is None else weight.device), with_kwargs=True)


@dataclass(frozen=True)
class _Mover:
    """A hook that moves all tensors of a module's arguments to a device."""

    device: torch.device

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return self._moved(args), self._moved(kwargs)

    def _moved(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(self.device)
        if isinstance(value, tuple | list):
            return type(value)(map(self._moved, value))
        return {name: self._moved(each) for name, each in value.items()} if isinstance(value, dict) else value
