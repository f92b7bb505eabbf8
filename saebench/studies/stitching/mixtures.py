"""Two autoencoders on one hook, and the mixtures of them along the path from one to the other.

Everything is in the model's own units, so that autoencoders of different input scaling can be mixed: a latent's
contribution to the reconstruction is its value times the token's scale times its decoder direction. The part of the
reconstruction without any latent (biases, shifts, a skip connection) is the autoencoder's base. After a step that leaves a
share ``a`` of all latents changed, the base is ``(1 - a)`` times the smaller one's plus ``a`` times the larger one's, so
that both ends are the autoencoders themselves.

Each latent has the value that its own autoencoder gives it. Where latents compete (TopK), they compete within their own
autoencoder only: a mixture is a sum of contributions as encoded and is not encoded again, so its number of active latents
is between, or above, those of its ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.sae import Autoencoder, CheckpointInfo, SparseAutoencoder, SparseLatents
from saebench.studies.stitching.plan import StitchPlan


@dataclass(frozen=True)
class _Encoded:
    x: Tensor
    code: SparseLatents
    base: Tensor
    base_change: Tensor
    end: Tensor


class Pair:
    """A smaller and a larger autoencoder that are encoded together; the code of the last block of tokens is cached.

    In their common code the latents of the larger one are numbered after those of the smaller one.
    """

    def __init__(self, small: SparseAutoencoder, large: SparseAutoencoder) -> None:
        self.small, self.large = small, large
        self._last: _Encoded | None = None

    def encode(self, x: Tensor) -> SparseLatents:
        """The code of activations ``[tokens, d_in]``: all active latents of both, in the model's units."""
        return self._encoded(x).code

    def base(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The smaller one's reconstruction without latents and what the larger one's adds to it, ``[tokens, d_out]``."""
        encoded = self._encoded(x)
        return encoded.base, encoded.base_change

    def end(self, x: Tensor) -> Tensor:
        """The larger one's own reconstruction ``[tokens, d_out]``, by its own ``decode``."""
        return self._encoded(x).end

    def directions(self, numbers: Tensor) -> Tensor:
        """``[count, d_out]`` float32: decoder directions of latents ``[count]``, numbered as in the code."""
        is_small = (numbers < self.small.n_latents).unsqueeze(1)
        of_small = self.small.W_dec[numbers.clamp_max(self.small.n_latents - 1)].float()
        of_large = self.large.W_dec[(numbers - self.small.n_latents).clamp_min(0)].float()
        return torch.where(is_small, of_small, of_large)

    def parts(self, code: SparseLatents) -> tuple[SparseLatents, SparseLatents]:
        """The smaller and the larger one's part of a code, each with its own numbers."""
        is_small = code.indices < self.small.n_latents
        small = replace(code.where(is_small), n_latents=self.small.n_latents)
        moved = replace(code, indices=(code.indices - self.small.n_latents).clamp_min(0), n_latents=self.large.n_latents)
        return small, moved.where(~is_small)

    def _encoded(self, x: Tensor) -> _Encoded:
        if self._last is None or self._last.x.shape != x.shape or not torch.equal(self._last.x, x):
            small, large = self.small.encode(x), self.large.encode(x)
            first, second = _in_model_units(small), _in_model_units(large)
            indices = torch.cat([first.indices, second.indices + self.small.n_latents * second.active], dim=1)
            code = SparseLatents(
                indices, torch.cat([first.values, second.values], dim=1), self.small.n_latents + self.large.n_latents
            )
            base = _base(self.small, small, x)
            change = _base(self.large, large, x) - base
            self._last = _Encoded(x, code, base, change, self.large.decode(large, x).float())
        return self._last


@dataclass(frozen=True)
class Stitched:
    """The mixture after a step of a plan, as an autoencoder that evaluators accept.

    Its code holds the active latents of both autoencoders, at any step; ``decode`` uses those that are in place.
    """

    pair: Pair
    plan: StitchPlan
    step: int

    @property
    def d_in(self) -> int:
        """Width of the activations it reads."""
        return self.pair.small.d_in

    @property
    def d_out(self) -> int:
        """Width of the activations it writes."""
        return self.pair.small.d_out

    @property
    def n_latents(self) -> int:
        """Latents of both."""
        return self.plan.n_small + self.plan.n_large

    @property
    def info(self) -> CheckpointInfo:
        """The smaller one's, renamed."""
        return replace(self.pair.small.info, origin=f"stitched at step {self.step}", n_latents=self.n_latents)

    def encode(self, x: Tensor) -> SparseLatents:
        """The code of activations ``[tokens, d_in]``."""
        return self.pair.encode(x)

    def in_place(self, latents: SparseLatents) -> Tensor:
        """``[tokens, slots]`` bool: the active latents that are part of the mixture at this step."""
        done = self.plan.step.to(latents.indices.device)[latents.indices] <= self.step
        return latents.active & (done == (latents.indices >= self.plan.n_small))

    def decode(self, latents: SparseLatents, x: Tensor) -> Tensor:
        """Reconstructions ``[tokens, d_out]`` of the mixture."""
        small, large = self.pair.parts(latents.where(self.in_place(latents)))
        base, change = self.pair.base(x)
        mixed = base + float(self.plan.share[self.step]) * change
        return mixed + self.pair.small.decode_sparse(small) + self.pair.large.decode_sparse(large)


def make_pair(small: Autoencoder, large: Autoencoder) -> Pair:
    """The pair.

    Raises:
        SaebenchError: one of them has no decoder directions, or their widths differ.
    """
    for sae in (small, large):
        if not isinstance(sae, SparseAutoencoder):
            raise SaebenchError(
                f"{sae.info.origin} has no decoder directions: stitching needs a checkpoint of a known format."
            )
    assert isinstance(small, SparseAutoencoder) and isinstance(large, SparseAutoencoder)
    if (small.d_in, small.d_out) != (large.d_in, large.d_out):
        raise SaebenchError(
            f"{small.info.origin} and {large.info.origin} are of different widths ({small.d_in} and {large.d_in}): "
            "only autoencoders of one hook can be stitched."
        )
    return Pair(small, large)


def _in_model_units(code: SparseLatents) -> SparseLatents:
    values = code.values.float() if code.factor is None else (code.values * code.factor).float()
    return replace(code, values=values, shift=None, factor=None)


def _base(sae: SparseAutoencoder, code: SparseLatents, x: Tensor) -> Tensor:
    """``[tokens, d_out]``: the reconstruction that ``sae`` gives where no latent is active."""
    return sae.decode(replace(code, indices=code.indices[:, :0], values=code.values[:, :0]), x).float()
