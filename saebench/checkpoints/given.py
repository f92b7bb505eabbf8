"""What a user says of a checkpoint whose files leave it open, and how it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import cast, get_args

import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.sae import Activation, GroupMax, InputScaling, JumpReLU, ReLU, TopK
from saebench.sae.scaling import ScalingKind

ACTIVATIONS = "relu, topk:K, abstopk:K, batchtopk:THRESHOLD or jumprelu:THRESHOLD"


@dataclass(frozen=True)
class Given:
    """Answers for what a checkpoint's files leave open; None where the user says nothing.

    Attributes:
        format: the library whose conventions hold, such as ``dictionary_learning``, ``saelens`` or ``plain``.
        activation: ``relu``, ``topk:32``, ``abstopk:32``, ``groupmax:32``, ``batchtopk:0.7`` or ``jumprelu:0.7``; without
            the number, it is taken from the weights.
        scale: the factor that activations are multiplied by before encoding, or a type of input scaling such as
            ``layer_norm``.
    """

    format: str | None = None
    activation: str | None = None
    scale: str | None = None


def parse_activation(text: str, k: int | None, threshold: Tensor | None, n_latents: int) -> Activation:
    """The activation function that ``--activation`` names.

    Args:
        text: see ``Given.activation``.
        k: the weights' own, where they have one; ``threshold`` likewise, ``[]`` or ``[n]``.
        n_latents: width of the dictionary.

    Raises:
        SaebenchError: the text names no activation function, or its number is missing or invalid.
    """
    name, _, number = text.strip().lower().partition(":")
    if name == "relu" and not number:
        return ReLU()
    if name in ("topk", "abstopk", "groupmax"):
        if number and not number.isdecimal():
            raise SaebenchError(f"--activation {text}: k must be a whole number, as in {name}:32.")
        count = int(number) if number else k
        if count is None:
            raise SaebenchError(f"--activation {text}: the weights hold no k; write it as in {name}:32.")
        return GroupMax(count) if name == "groupmax" else TopK(count, signed=name == "abstopk")
    if name in ("jumprelu", "batchtopk"):
        found = torch.tensor(_number(number, text)) if number else threshold
        if found is None:
            raise SaebenchError(f"--activation {text}: the weights hold no threshold; write it as in {name}:0.5.")
        return JumpReLU(found.float().reshape(-1).expand(n_latents).contiguous(), name)
    raise SaebenchError(f"--activation {text} is not an activation function that saebench knows: give {ACTIVATIONS}.")


def parse_scale(text: str | None) -> InputScaling:
    """The input scaling that ``--scale`` names: a factor, or a type of scaling without parameters.

    Raises:
        SaebenchError: it is neither.
    """
    if text is None or text == "none":
        return InputScaling()
    if text in get_args(ScalingKind) and text != "dataset":
        return InputScaling(cast(ScalingKind, text))
    try:
        factor = float(text)
    except ValueError:
        kinds = ", ".join(kind for kind in get_args(ScalingKind) if kind != "dataset")
        raise SaebenchError(f"--scale {text} is neither a number nor one of {kinds}.") from None
    return InputScaling("dataset", input_scale=factor, output_scale=factor)


def open_questions(origin: str, missing: Sequence[str]) -> str:
    """The one sentence that asks for everything that a checkpoint without a configuration leaves open."""
    return f"The weights of {origin} come without a configuration and leave open: {'; '.join(missing)}."


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value) or value < 0:
        raise SaebenchError(f"--activation {option}: the threshold must be a number of at least 0.")
    return value
