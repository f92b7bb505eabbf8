"""Input scaling: from activations to the autoencoder's scale, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from saebench.errors import SaebenchError

ScalingKind = Literal["none", "layer_norm", "unit_norm", "constant_norm", "dataset", "centred"]


class Scaled(NamedTuple):
    """Scaled activations and the inverse: ``model units = decoded * factor + shift``."""

    activations: Tensor  # [tokens, d]
    shift: Tensor | None  # [tokens, 1]
    factor: Tensor | None  # [tokens, 1]


@dataclass(frozen=True)
class InputScaling:
    """A part of the autoencoder, undone on decoding, so that reconstructions are in the model's own units.

    Types, for an activation ``x`` of width ``d``:

        - ``none``: ``x`` itself.
        - ``layer_norm``: ``(x - mean) / (std + epsilon)`` with the unbiased standard deviation over ``d``; undone by
          ``y * std + mean`` (OpenAI's ``sparse_autoencoder``; the epsilon is not undone).
        - ``unit_norm``: ``(x - mean) / |x - mean|`` (Gao et al. 2024, section 2.1).
        - ``constant_norm``: ``x * sqrt(d) / |x|`` (SAELens ``constant_norm_rescale``).
        - ``dataset``: ``x * input_scale``, one number for every token; undone by dividing by ``output_scale``.
        - ``centred``: ``(x - mean) * input_scale``; undone by dividing by ``output_scale`` and adding the mean (a model with
          layer norm whose writing weights were centred, as TransformerLens does).
    """

    kind: ScalingKind = "none"
    input_scale: float = 1.0
    output_scale: float = 1.0
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScalingKind):
            raise SaebenchError(f"There is no input scaling {self.kind!r}; there are: {', '.join(get_args(ScalingKind))}.")
        for name, scale in (("input", self.input_scale), ("output", self.output_scale)):
            if not (0 < scale < float("inf")):
                raise SaebenchError(f"The {name} scale of the autoencoder is {scale}; it must be a positive number.")

    def apply(self, x: Tensor) -> Scaled:
        """Scale activations ``x`` of shape ``[tokens, d]``."""
        if self.kind == "none":
            return Scaled(x, None, None)
        if self.kind == "dataset":
            factor = x.new_full((x.shape[0], 1), 1.0 / self.output_scale)
            return Scaled(x * self.input_scale, None, factor)
        if self.kind == "constant_norm":
            norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
            factor = norm / x.shape[-1] ** 0.5
            return Scaled(x / factor, None, factor)
        mean = x.mean(dim=-1, keepdim=True)
        centred = x - mean
        if self.kind == "centred":
            return Scaled(centred * self.input_scale, mean, torch.full_like(mean, 1.0 / self.output_scale))
        if self.kind == "unit_norm":
            norm = torch.linalg.vector_norm(centred, dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
            return Scaled(centred / norm, mean, norm)
        std = centred.std(dim=-1, keepdim=True)
        return Scaled(centred / (std + self.epsilon), mean, std)
