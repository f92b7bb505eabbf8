"""The sums of an evaluator as named tensors, so that parts of a text can be evaluated by several processes.

An object names the attributes that hold its sums in ``summed``: tensors, ``RowSums``, or mappings and objects of these.
Nothing is pickled: the tensors are written as safetensors, and read into a new object with the same settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from saebench.results.statistics import RowSums


def tensors_of(value: Any, name: str) -> dict[str, Tensor]:
    """The tensors of a value's sums by path, each beginning with ``name``."""
    if isinstance(value, Tensor):
        return {name: value.detach().cpu()}
    if isinstance(value, RowSums):
        return {f"{name}/{key}": tensor for key, tensor in value.tensors().items()}
    parts = value if isinstance(value, Mapping) else {each: getattr(value, each) for each in value.summed}
    return {path: tensor for key, part in parts.items() for path, tensor in tensors_of(part, f"{name}/{key}").items()}


def restored(value: Any, name: str, tensors: Mapping[str, Tensor]) -> Any:
    """The value with its sums replaced by ``tensors``, as ``tensors_of`` made them; what can be changed is changed in place.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(value, Tensor):
        return tensors[name].to(value.device)
    if isinstance(value, RowSums):
        return RowSums.of_tensors(value.names, {key: tensors[f"{name}/{key}"] for key in ("groups", "grouping")})
    if isinstance(value, Mapping):
        return {key: restored(part, f"{name}/{key}", tensors) for key, part in value.items()}
    for key in value.summed:
        setattr(value, key, restored(getattr(value, key), f"{name}/{key}", tensors))
    return value
