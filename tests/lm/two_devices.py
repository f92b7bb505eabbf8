"""Two devices, each a part of this machine's memory, for tests of models that are divided among devices.

Tensors on ``shard:0`` and ``shard:1`` hold their numbers in ordinary memory, and the processor computes with them. As on
real devices, an operation on tensors of two devices is an error, and only a copy moves one.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

KIND = "shard"
DEVICES = ("shard:0", "shard:1")
COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}
"""Operations whose indices may be on the CPU."""


class OnDevice(Tensor):
    """A tensor of one of the devices: its numbers are in ``content``, an ordinary tensor."""

    content: Tensor

    @staticmethod
    def __new__(cls, content: Tensor, device: torch.device) -> OnDevice:
        made: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls, content.shape, strides=content.stride(), storage_offset=content.storage_offset(), dtype=content.dtype,
            device=device,
        )  # fmt: skip
        made.content = content
        return made

    def data_ptr(self) -> int:
        """By which accelerate recognises tied weights."""
        return self.content.data_ptr()

    def tolist(self) -> Any:
        """Torch has none for tensors of its own kind."""
        return self.content.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.content!r} on {self.device}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {}, Counter())


class TwoDevices(TorchDispatchMode):
    """Within this context both devices exist.

    Attributes:
        copies: how often a tensor was copied, by the devices it came from and went to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {}, self.copies)


class _FromNumbers(TorchFunctionMode):
    """Makes tensors from numbers on the CPU first, which torch would do where no context sees it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return func(*args, **kwargs | {"device": "cpu"}).to(kwargs["device"])
        if func is Tensor.__getitem__ and isinstance(args[1], tuple):
            args = (args[0], tuple(torch.tensor(each) if isinstance(each, list) else each for each in args[1]))
        return func(*args, **kwargs)


def run(func: Any, args: Any, kwargs: Mapping[str, Any], copies: Counter[tuple[str, str]]) -> Any:
    """Run an operation on the contents; its result is on the device of its tensors, or on the one that is asked for."""
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    named = kwargs.get("device")
    if func in COPIES:
        source, goal = (args[1], args[0].device) if func is torch.ops.aten.copy_.default else (args[0], named)
        device = source.device if goal is None else torch.device(goal)
        if device != source.device:
            copies[str(source.device), str(device)] += 1
    else:
        device = device_of(func, tensors) if named is None else torch.device(named)
    if device.type != KIND:
        return func(*tree_map(content, args), **tree_map(content, kwargs))
    here = {"device": torch.device("cpu")} if named is not None else {}
    found = func(*tree_map(content, args), **tree_map(content, kwargs) | here)
    wrapped = tree_map(lambda each: OnDevice(each, device) if type(each) is Tensor else each, found)
    return return_and_correct_aliasing(func, args, dict(kwargs), wrapped)


def content(each: Any) -> Any:
    return each.content if isinstance(each, OnDevice) else each


def device_of(func: Any, tensors: Sequence[Tensor]) -> torch.device:
    """The common device; a single number may be on the CPU."""
    devices = {each.device for each in tensors if each.ndim or each.device.type != "cpu"}
    if func in INDEXING:
        devices = {each for each in devices if each.type != "cpu"} or devices
    if len(devices) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {sorted(map(str, devices))}.")
    return next(iter(devices), torch.device("cpu"))


class _NotHere(torch._C._acc.PrivateUse1Hooks):
    """Says that there is no such accelerator to choose: tests name it."""

    def is_available(self) -> bool:
        return False

    def is_built(self) -> bool:
        return False

    def has_primary_context(self, device: int) -> bool:
        return False


@cache
def _register() -> None:
    """Tell torch of the kind of device, once in a process."""
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as register
    except ImportError:
        pytest.skip("this version of torch knows no devices in Python")
    register(KIND, hook=_NotHere())


@contextlib.contextmanager
def two_devices(monkeypatch: pytest.MonkeyPatch, places: Sequence[int] | None = None) -> Iterator[TwoDevices]:
    """Both devices exist within this context, each with a GiB.

    Args:
        monkeypatch: of the test. By default transformers loads weights in threads, of which the context knows nothing.
        places: the number of the device of each block; by default as memory has it.
    """
    _register()
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    monkeypatch.setattr("saebench.lm.placement.free_memory", lambda device: 2**30)
    if places is not None:
        monkeypatch.setattr("saebench.lm.placement.divided", lambda blocks, fixed, room: places)
    with TwoDevices() as mode, _FromNumbers():
        yield mode
