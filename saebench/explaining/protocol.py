"""The numbers of an explanation protocol, read from ``explain/*.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from saebench.definitions import definition_hash, load_definition
from saebench.errors import SaebenchError, check_at_least

_SECTIONS = ("examples", "graph", "augmentation", "scoring", "sample")


@dataclass(frozen=True)
class Protocol:
    """How latents are explained and scored; the definition files give the meaning and source of each number.

    Attributes:
        definition: name of the file; ``sha256`` is its hash.
    """

    definition: str
    sha256: str
    build: int
    held_out: int
    least: int
    window: int
    activation_kept: float
    saliency: float
    padding: str
    keep_bos: bool
    candidates: int
    candidate_kept: float
    firing: float
    unseen_share: float
    loss_rows: int
    latents: int
    strata: int
    baseline_latents: int
    bootstrap: int
    examples_shown: int

    def __post_init__(self) -> None:
        check_at_least(self, _LEAST, " of the explanation protocol")
        for name in ("activation_kept", "saliency", "candidate_kept", "unseen_share"):
            if not 0 < getattr(self, name) < 1:
                raise SaebenchError(
                    f"{name} of the explanation protocol is {getattr(self, name)}; it must be between 0 and 1."
                )
        if not 0 <= self.firing < 1:
            raise SaebenchError(f"firing of the explanation protocol is {self.firing}; it must be at least 0 and below 1.")

    def record(self) -> dict[str, Any]:
        """Every number, as JSON data."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


_LEAST = {
    "build": 1, "held_out": 1, "least": 2, "window": 2, "candidates": 0, "loss_rows": 1, "latents": 1, "strata": 1,
    "baseline_latents": 1, "bootstrap": 2, "examples_shown": 0,
}  # fmt: skip


def read_protocol(name: str = "n2g", changes: Mapping[str, Any] | None = None) -> Protocol:
    """The protocol ``explain/<name>.toml``, with some of its numbers changed.

    Raises:
        SaebenchError: there is no such file, or it lacks a number, or has one that is unknown or out of range.
    """
    data = load_definition("explain", name)
    sections = {section: data.get(section, {}) for section in _SECTIONS}
    for section, content in sections.items():
        if not isinstance(content, dict):
            raise SaebenchError(f"explain/{name}.toml is not a Neuron2Graph protocol: {section} is not a table.")
    numbers = {key: value for content in sections.values() for key, value in content.items()}
    types = {each.name: each.type for each in fields(Protocol) if each.name not in ("definition", "sha256")}
    missing = sorted(types.keys() - numbers.keys())
    if missing:
        raise SaebenchError(f"explain/{name}.toml is not a Neuron2Graph protocol: it lacks {', '.join(missing)}.")
    numbers |= changes or {}
    unknown = sorted(numbers.keys() - types.keys())
    if unknown:
        raise SaebenchError(f"The explanation protocol has no number {unknown[0]!r}; it has: {', '.join(types)}.")
    for key, value in numbers.items():
        numbers[key] = float(value) if types[key] == "float" and type(value) is int else value
        if type(numbers[key]).__name__ != types[key]:
            raise SaebenchError(f"{key} of the explanation protocol is {value!r}; it must be of type {types[key]}.")
    return Protocol(definition=name, sha256=definition_hash("explain", name), **numbers)
