"""Meta-autoencoders (Leask et al. 2025): an autoencoder trained on the decoder directions of another.

If a latent were a unit of its own, its direction would not be a sparse sum of directions that other latents share. A
small BatchTopK autoencoder is trained on all directions, brought to unit norm; what it explains is compared with what
the same training explains of random directions and of directions whose coordinates were permuted among the latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from saebench import checkpoints
from saebench.errors import SaebenchError
from saebench.progress import Progress
from saebench.results.statistics import Estimate, ratio_estimate
from saebench.sae import CheckpointInfo, JumpReLU, SparseAutoencoder, SparseLatents
from saebench.sae.sparse_ops import Entries, sum_rows
from saebench.studies.study import paper_settings
from saebench.training.config import TrainingConfig
from saebench.training.sources import TensorSource
from saebench.training.trainer import Trainer

DEFINITION = "leask2025"
LARGEST_BATCH = 4096
MOST_PRE_ACTIVATIONS = 2**24


@dataclass(frozen=True)
class MetaSettings:
    """How to train a meta-autoencoder.

    Attributes:
        n: meta-latents; the paper's proportion to the latents by default (0).
        active: mean number of active meta-latents per direction; the paper's by default (0).
        steps: of training; ``lr`` the learning rate.
        seed: of initialisation, of the order of the data, and of the controls.
    """

    n: int = 0
    active: int = 0
    steps: int = 1000
    lr: float = 3e-3
    seed: int = 0

    def resolved(self, latents: int) -> MetaSettings:
        """With the paper's settings where none was given, for a dictionary of ``latents``."""
        paper = paper_settings(DEFINITION)["meta"]
        n = self.n or max(int(paper["active"]) + 1, round(latents / paper["latents_per_meta_latent"]))
        return MetaSettings(n, self.active or int(paper["active"]), self.steps, self.lr, self.seed)

    def check(self, latents: int) -> None:
        """Raise ``SaebenchError`` where a dictionary of ``latents`` cannot be studied like this."""
        if self.n >= latents:
            raise SaebenchError(f"{self.n} meta-latents for {latents} latents explain nothing: use fewer.")
        if not 0 < self.active <= self.n:
            raise SaebenchError(f"{self.active} of {self.n} meta-latents cannot be active: use fewer active or more in all.")
        if self.steps < 1 or self.lr <= 0:
            raise SaebenchError("A meta-autoencoder needs at least one step and a positive learning rate.")


@dataclass(frozen=True)
class Explained:
    """How well a meta-autoencoder explains directions.

    Attributes:
        sae: the meta-autoencoder; its threshold gives the requested mean number of active meta-latents on these directions.
        code: of the directions. ``variance``: the share of it that is explained. ``l0``: mean active meta-latents.
    """

    sae: SparseAutoencoder
    code: SparseLatents
    variance: Estimate
    l0: float


@dataclass(frozen=True)
class MetaStudy:
    """A finished study.

    Attributes:
        sae: the autoencoder studied; ``directions``: its decoder directions ``[n, d]``, of unit norm; ``kept``: the indices
            of their latents.
        settings: of the training.
        real: on the directions; ``controls``: on ``random`` and on ``shuffled`` ones.
        against: mean over meta-latents of the largest cosine with another autoencoder's directions, and the same for an
            equal number of random directions; None without another autoencoder.
    """

    sae: SparseAutoencoder
    directions: Tensor
    kept: Tensor
    settings: MetaSettings
    real: Explained
    controls: dict[str, Explained]
    against: tuple[str, Estimate, Estimate] | None

    def decomposition(self) -> pd.DataFrame:
        """A row for each part of each latent: ``latent``, ``meta_latent``, ``value`` (largest first within a latent)."""
        code = self.real.code
        rows, slots = code.active.nonzero(as_tuple=True)
        table = pd.DataFrame({
            "latent": self.kept[rows].numpy(), "meta_latent": code.indices[rows, slots].numpy(),
            "value": code.values[rows, slots].float().numpy(),
        })  # fmt: skip
        return table.sort_values(["latent", "value"], ascending=[True, False], ignore_index=True)


def meta_study(
    checkpoint: Any,
    settings: MetaSettings | None = None,
    *,
    against: Any = None,
    progress: Progress | None = None,
) -> MetaStudy:
    """Train meta-autoencoders on the decoder directions of ``checkpoint`` and on both controls.

    Args:
        checkpoint: a path or hub name, or a ``SparseAutoencoder``.
        settings: of the training.
        against: a smaller autoencoder to whose directions the meta-latents are compared.
        progress: where to show progress.

    Raises:
        SaebenchError: the dictionary is too small, or the widths of the two autoencoders differ.
    """
    progress = progress or Progress(shown=False)
    sae, other = _load(checkpoint), None if against is None else _load(against)
    if other is not None and other.d_out != sae.d_out:
        raise SaebenchError(f"{other.info.origin} writes {other.d_out} values, but {sae.info.origin} writes {sae.d_out}.")
    norms = sae.W_dec.float().norm(dim=1)
    kept = (norms > 0).nonzero().flatten()
    settings = (settings or MetaSettings()).resolved(kept.numel())
    settings.check(kept.numel())
    directions = F.normalize(sae.W_dec[kept].float(), dim=1)
    shuffled = shuffle_coordinates(directions, settings.seed)
    inputs = {"real": directions, "random": random_directions(directions, settings.seed), "shuffled": shuffled}
    found: dict[str, Explained] = {}
    with progress.task("Meta-autoencoders", total=len(inputs) * settings.steps, unit="steps") as advance:
        for name, each in inputs.items():
            found[name] = explain(train_meta(each, settings, advance), each, settings.active)
    alike = None if other is None else mean_largest_cosine(found["real"].sae, other, settings.seed)
    return MetaStudy(sae, directions, kept, settings, found.pop("real"), found, alike)


def _load(candidate: Any) -> SparseAutoencoder:
    sae = checkpoints.load_one(candidate) if isinstance(candidate, str | Path) else candidate
    if not isinstance(sae, SparseAutoencoder):
        raise SaebenchError("A meta-autoencoder needs decoder directions: give a checkpoint of a known format.")
    return sae


def random_directions(like: Tensor, seed: int) -> Tensor:
    """Random unit vectors of the same shape as ``like`` (``[n, d]``)."""
    return F.normalize(torch.randn(like.shape, generator=torch.Generator().manual_seed(seed + 1)), dim=1)


def shuffle_coordinates(directions: Tensor, seed: int) -> Tensor:
    """Permute each coordinate independently among the latents and normalise again: the same marginals, no structure."""
    generator = torch.Generator().manual_seed(seed + 2)
    order = torch.rand(directions.shape, generator=generator).argsort(dim=0)
    return F.normalize(directions.gather(0, order), dim=1)


def train_meta(directions: Tensor, settings: MetaSettings, advance: Any = None) -> SparseAutoencoder:
    """Train a BatchTopK autoencoder on directions ``[n, d]``; the learning rate decays to 0 over the last half."""
    batch = min(LARGEST_BATCH, directions.shape[0])
    config = TrainingConfig(
        arch="batchtopk", n=settings.n, k=settings.active, tokens=settings.steps * batch, batch=batch, lr=settings.lr,
        warmup_steps=min(50, settings.steps // 4), decay_share=0.5, scaling="none", seed=settings.seed,
        dead_after_tokens=20 * directions.shape[0], model="", hook="", corpus="decoder directions",
    )  # fmt: skip
    trainer = Trainer(config, directions)
    for number, part in TensorSource(directions).batches(batch, settings.seed):
        if number >= settings.steps:
            break
        trainer.train_step(part)
        if advance is not None:
            advance(1)
    return trainer.sae().to("cpu")


def explain(sae: SparseAutoencoder, directions: Tensor, active: int) -> Explained:
    """What a meta-autoencoder explains of directions ``[n, d]``, with ``active`` meta-latents on average.

    In training a batch's largest values are kept; all directions are known here, so the threshold is set at the value
    that keeps exactly the largest of all of them.
    """
    threshold = _threshold(sae, directions, active * directions.shape[0])
    activation = JumpReLU(torch.full((sae.n_latents,), threshold), "batchtopk")
    info = CheckpointInfo(**(vars(sae.info) | {"activation": activation.describe()}))
    fitted = SparseAutoencoder(sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec, activation, info, b_pre=sae.b_pre)
    code = fitted.encode(directions)
    errors = (directions - fitted.decode(code, directions)).double().square().sum(1)
    variances = (directions.double() - directions.double().mean(0)).square().sum(1)
    unexplained = ratio_estimate(errors, variances)
    value = None if unexplained.value is None else 1 - unexplained.value
    return Explained(fitted, code, Estimate(value, unexplained.standard_error), float(code.l0().double().mean()))


def _threshold(sae: SparseAutoencoder, directions: Tensor, wanted: int) -> float:
    """A value that ``wanted`` pre-activations of all directions exceed; 0 where no more are positive.

    It is the midpoint to the next value, so that rounding does not change the count.
    """
    largest = torch.zeros(0)
    for part in directions.split(max(1, MOST_PRE_ACTIVATIONS // sae.n_latents)):
        pre = sae.pre_activations(part, 0, sae.n_latents).flatten()
        largest = torch.cat([largest, pre[pre > 0]])
        if largest.numel() > wanted + 1:
            largest = largest.topk(wanted + 1, sorted=False).values
    return float(largest.topk(2, largest=False).values.double().mean()) if largest.numel() > wanted else 0.0


def mean_largest_cosine(meta: SparseAutoencoder, other: SparseAutoencoder, seed: int) -> tuple[str, Estimate, Estimate]:
    """``other``'s name, and the mean largest cosine with its directions of the meta-latents and of as many random ones."""
    from saebench.results.statistics import mean_estimate
    from saebench.studies.stitching.similarity import compare_directions

    random = random_directions(meta.W_dec, seed + 5)
    of_meta, of_random = (
        mean_estimate(compare_directions(other.W_dec, each, 1.0).large_best) for each in (meta.W_dec, random)
    )
    return other.info.origin, of_meta, of_random


def shared_by(code: SparseLatents, latents: Tensor, limit: int = 20) -> list[tuple[int, list[tuple[int, float]]]]:
    """For each meta-latent that is used, most used first: the ``limit`` latents with the most of it, as (latent, value)."""
    rows, slots = code.active.nonzero(as_tuple=True)
    numbers, values = code.indices[rows, slots], code.values[rows, slots]
    counts = torch.bincount(numbers, minlength=code.n_latents)
    found = []
    for meta in counts.argsort(descending=True, stable=True).tolist():
        if counts[meta] == 0:
            break
        mine = (numbers == meta).nonzero().flatten()
        best = mine[values[mine].argsort(descending=True, stable=True)[:limit]]
        found.append(
            (meta, list(zip(latents[rows[best]].tolist(), [round(v, 4) for v in values[best].tolist()], strict=True)))
        )
    return found


def part_shares(explained: Explained, directions: Tensor) -> Tensor:
    """``[n]``: how much of each direction's squared distance from the bias its meta-latents explain (1 is all)."""
    code, sae = explained.code, explained.sae
    rows, slots = code.active.nonzero(as_tuple=True)
    entries = Entries(rows, code.indices[rows, slots], directions.shape[0])
    parts = sum_rows(entries, code.values[rows, slots], sae.W_dec)
    target = directions - sae.b_dec
    return 1 - (target - parts).square().sum(1) / target.square().sum(1).clamp_min(1e-12)
