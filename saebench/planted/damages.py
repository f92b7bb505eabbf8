"""Damages of the oracle in known doses, each kind alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.planted.features import PlantedFeatures
from saebench.sae import JumpReLU, SparseAutoencoder

NEVER = 1e9


@dataclass
class _Parts:
    """The oracle's weights, one row for each latent: directions ``[n, d]``, biases and thresholds ``[n]``."""

    encoder: Tensor
    decoder: Tensor
    bias: Tensor
    threshold: Tensor

    def keep(self, rows: Tensor) -> None:
        """Only these latents."""
        self.encoder, self.decoder = self.encoder[rows], self.decoder[rows]
        self.bias, self.threshold = self.bias[rows], self.threshold[rows]


Change = Callable[[_Parts, PlantedFeatures, float, torch.Generator], None]


@dataclass(frozen=True)
class Damage:
    """A kind of damage.

    Attributes:
        words: what it does; ``doses``: of a dose-response curve, beginning with 0; ``most``: the largest dose allowed.
        change: does it.
    """

    words: str
    doses: tuple[float, ...]
    most: float
    change: Change


def damage(oracle: SparseAutoencoder, features: PlantedFeatures, kind: str, dose: float, seed: int) -> SparseAutoencoder:
    """A damaged copy; see ``PlantedWorld.damaged``.

    Raises:
        SaebenchError: there is no such damage, or the dose is outside its range.
    """
    if kind not in DAMAGES:
        raise SaebenchError(f"There is no damage {kind!r}; there are: {', '.join(DAMAGES)}.")
    chosen = DAMAGES[kind]
    if not 0 <= dose <= chosen.most:
        raise SaebenchError(f"The dose of {kind} is {dose}; it is from 0 to {chosen.most:g}.")
    if dose == 0:
        return oracle
    assert isinstance(oracle.activation, JumpReLU)
    parts = _Parts(oracle.W_enc.T.clone(), oracle.W_dec.clone(), oracle.b_enc.clone(), oracle.activation.threshold.clone())
    chosen.change(parts, features, dose, torch.Generator().manual_seed(seed))
    n = parts.encoder.shape[0]
    return replace(
        oracle,
        W_enc=parts.encoder.T.contiguous(),
        W_dec=parts.decoder,
        b_enc=parts.bias,
        activation=JumpReLU(parts.threshold),
        info=replace(oracle.info, origin=f"{kind} {dose:g}", n_latents=n),
    )


def _some(n: int, share: float, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator)[: round(share * n)]


def _rotated(parts: _Parts, features: PlantedFeatures, dose: float, generator: torch.Generator) -> None:
    angle = math.radians(dose)
    for name in ("encoder", "decoder"):
        rows: Tensor = getattr(parts, name)
        size = rows.norm(dim=1, keepdim=True)
        unit = rows / size.clamp_min(1e-12)
        other = torch.randn(rows.shape, generator=generator)
        other = F.normalize(other - (other * unit).sum(dim=1, keepdim=True) * unit, dim=1)
        setattr(parts, name, size * (math.cos(angle) * unit + math.sin(angle) * other))


def _missing(parts: _Parts, features: PlantedFeatures, dose: float, generator: torch.Generator) -> None:
    keep = torch.ones(features.count, dtype=torch.bool)
    keep[_some(features.count, dose, generator)] = False
    parts.keep(keep.nonzero().flatten())


def _dead(parts: _Parts, features: PlantedFeatures, dose: float, generator: torch.Generator) -> None:
    parts.threshold[_some(features.count, dose, generator)] = NEVER


def _merged(parts: _Parts, features: PlantedFeatures, dose: float, generator: torch.Generator) -> None:
    order = torch.randperm(features.count, generator=generator)
    count = round(dose * features.count / 2)
    first, second = order[:count], order[count : 2 * count]
    parts.encoder[first] += parts.encoder[second]
    parts.bias[first] += parts.bias[second]
    parts.decoder[first] = F.normalize(parts.decoder[first] + parts.decoder[second], dim=1)
    parts.threshold[first] = torch.minimum(parts.threshold[first], parts.threshold[second])
    keep = torch.ones(features.count, dtype=torch.bool)
    keep[second] = False
    parts.keep(keep.nonzero().flatten())


def _split(parts: _Parts, features: PlantedFeatures, dose: float, generator: torch.Generator) -> None:
    """A feature becomes two latents of its direction; a random side of the activations decides which one is active."""
    some = _some(features.count, dose, generator)
    side = F.normalize(torch.randn(some.numel(), parts.encoder.shape[1], generator=generator), dim=1)
    side = side * parts.encoder[some].norm(dim=1, keepdim=True)
    halves = _Parts(parts.encoder[some] - side, parts.decoder[some], parts.bias[some], parts.threshold[some])
    parts.encoder[some] += side
    for name in ("encoder", "decoder", "bias", "threshold"):
        setattr(parts, name, torch.cat([getattr(parts, name), getattr(halves, name)]))


def _absorbed(parts: _Parts, features: PlantedFeatures, dose: float, generator: torch.Generator) -> None:
    """A parent is inactive on the tokens of its children, whose latents write its direction as well."""
    token_of = {features.patterns[index][0]: index for index in features.of_kind("token")}
    parents = features.of_kind("parent")
    chosen = [parents[index] for index in _some(len(parents), dose, generator).tolist()]
    for parent in chosen:
        for child in (token_of[word] for word in features.patterns[parent] if word in token_of):
            ratio = float(features.scale[parent] / features.scale[child])
            parts.decoder[child] += ratio * features.directions[parent]
            parts.encoder[parent] -= 2 * ratio * parts.encoder[child]
            parts.bias[parent] -= 2 * ratio * parts.bias[child]


def _random(parts: _Parts, features: PlantedFeatures, dose: float, generator: torch.Generator) -> None:
    some = _some(features.count, dose, generator)
    directions = F.normalize(torch.randn(some.numel(), parts.decoder.shape[1], generator=generator), dim=1)
    parts.decoder[some] = directions
    parts.encoder[some] = directions * parts.encoder[some].norm(dim=1, keepdim=True)


def _shrunk(parts: _Parts, features: PlantedFeatures, dose: float, generator: torch.Generator) -> None:
    parts.decoder *= 1 - dose


def _encoder_noise(parts: _Parts, features: PlantedFeatures, dose: float, generator: torch.Generator) -> None:
    size = parts.encoder.norm(dim=1, keepdim=True) / parts.encoder.shape[1] ** 0.5
    parts.encoder += dose * size * torch.randn(parts.encoder.shape, generator=generator)


def _threshold_low(parts: _Parts, features: PlantedFeatures, dose: float, generator: torch.Generator) -> None:
    parts.threshold *= 1 - dose


def _threshold_high(parts: _Parts, features: PlantedFeatures, dose: float, generator: torch.Generator) -> None:
    parts.threshold *= 1 + dose


SHARES = (0.0, 0.1, 0.25, 0.5, 0.75)
DAMAGES: dict[str, Damage] = {
    "rotated": Damage("Directions are turned by an angle, in degrees", (0, 10, 20, 35, 50), 90, _rotated),
    "missing": Damage("A share of the features has no latent", SHARES, 0.95, _missing),
    "merged": Damage("A share of the features is merged in pairs", SHARES, 1.0, _merged),
    "split": Damage("A share of the features is split in two", SHARES, 1.0, _split),
    "absorbed": Damage("A share of the parents is absorbed by their children", (0.0, 0.25, 0.5, 0.75, 1.0), 1.0, _absorbed),
    "random": Damage("A share of the latents has random directions", SHARES, 1.0, _random),
    "dead": Damage("A share of the latents is never active", SHARES, 0.95, _dead),
    "shrunk": Damage("Decoded values are smaller by a share", (0.0, 0.1, 0.2, 0.3, 0.5), 0.95, _shrunk),
    "encoder_noise": Damage("Noise in the encoder, relative to its weights", (0.0, 0.2, 0.4, 0.7, 1.0), 10, _encoder_noise),
    "threshold_low": Damage("Thresholds are lower by a share", (0.0, 0.2, 0.4, 0.6, 0.8), 1.0, _threshold_low),
    "threshold_high": Damage("Thresholds are higher by a share", (0.0, 0.2, 0.4, 0.7, 1.0), 10.0, _threshold_high),
}  # fmt: skip
