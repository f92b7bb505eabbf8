"""Stitching (Leask et al. 2025): which latents of a larger autoencoder are new, and the path from a smaller one to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from saebench import checkpoints
from saebench.errors import SaebenchError
from saebench.evaluation.engine import EvaluatedAutoencoder, stream
from saebench.evaluation.run import prepare_together
from saebench.evaluation.settings import TOKENS_PER_BATCH
from saebench.evaluators.base import Setup
from saebench.evaluators.downstream import Downstream
from saebench.evaluators.shared import Shared, make_shared
from saebench.lm import Cut
from saebench.progress import Progress
from saebench.results import Metric
from saebench.sae import Autoencoder
from saebench.studies.stitching.mixtures import Pair, Stitched, make_pair
from saebench.studies.stitching.path import StitchPath
from saebench.studies.stitching.plan import StitchPlan, make_plan
from saebench.studies.stitching.similarity import Similarity, compare_directions
from saebench.studies.study import paper_settings
from saebench.text.corpus import TokenCorpus

DEFINITION = "leask2025"
LOSSES = ("ce_difference", "kl_divergence")


@dataclass(frozen=True)
class Stitching:
    """A finished study.

    Attributes:
        pair: the autoencoders; ``plan``: the steps between them; ``similarity``: of their directions.
        threshold: of the cosine.
        path: sums along the path; ``shared``: the language model's own figures.
        stops: the steps at which the loss was measured; ``losses``: at each of them, ``ce_difference`` and
            ``kl_divergence``.
        cut, corpus: where and on what it was measured.
    """

    pair: Pair
    plan: StitchPlan
    similarity: Similarity
    threshold: float
    path: StitchPath
    shared: Shared
    stops: list[int]
    losses: list[dict[str, Metric]]
    cut: Cut
    corpus: TokenCorpus

    def latents(self) -> pd.DataFrame:
        """A row for each large latent.

        Columns: ``max_cosine`` with a small latent, which is ``nearest``; ``novel``; ``step`` at which it is inserted;
        ``tokens`` on which it was active; ``effect`` on the smaller autoencoder's normalised error (unit-norm weighting)
        when inserted alone, its standard error ``effect_error``, and ``raw_effect`` in the model's own units.
        """
        inserted, variance = self.path.inserted, self.shared.moments
        return pd.DataFrame({
            "max_cosine": self.similarity.large_best.numpy(),
            "nearest": self.similarity.nearest.numpy(),
            "novel": self.plan.novel.numpy(),
            "step": self.plan.step[self.plan.n_small :].numpy(),
            "tokens": inserted.tokens.numpy(),
            "effect": (inserted.total[1] / variance.unit_variance).numpy(),
            "effect_error": (inserted.standard_errors()[1] / variance.unit_variance).numpy(),
            "raw_effect": (inserted.total[0] / variance.variance).numpy(),
        })  # fmt: skip

    def end_difference(self) -> float | None:
        """Relative difference of the squared error at the end of the path from the larger autoencoder's own."""
        own, reached = self.path.sums.total("end"), self.path.sums.total(f"raw.{self.path.points.numel() - 1}")
        return abs(reached - own) / own if own > 0 else None


def stitch(
    small: Any,
    large: Any,
    *,
    threshold: float | None = None,
    points: int = 129,
    stops: int = 7,
    progress: Progress | None = None,
    **settings: Any,
) -> Stitching:
    """Go from ``small`` to ``large`` step by step and measure along the path.

    Each latent acts with the value that its own autoencoder gives it (see
    ``saebench.studies.stitching.mixtures``): TopK latents compete within their own autoencoder only.
    The order of the steps comes from the directions alone (``saebench.studies.stitching.plan``).

    Args:
        small: a checkpoint's path or hub name, or a ``SparseAutoencoder``; ``large`` likewise, on the same hook.
        threshold: decoder cosine above which a latent has a counterpart; the paper's by default.
        points: at how many steps error and L0 are measured (all of them where there are fewer).
        stops: at how many of these the language model's loss is measured; at least the ends and the ends of phases.
        progress: where to show progress.
        **settings: of the text and the model, see ``EvaluationSettings``.

    Raises:
        SaebenchError: an argument is invalid, or the two are not of one hook.
    """
    if threshold is None:
        threshold = float(paper_settings(DEFINITION)["stitching"]["threshold"])
    _check(small, large, threshold, points, stops)
    progress = progress or Progress(shown=False)
    rows = settings.get("batch")
    saes, cut, corpus = prepare_together([small, large], progress, **settings)
    pair = make_pair(saes[0], saes[1])
    similarity = compare_directions(pair.small.W_dec, pair.large.W_dec, threshold)
    plan = make_plan(similarity)
    where = choose_points(plan, points)
    halts = choose_stops(plan, where, stops)
    shared = make_shared(corpus, len(cut.model.tokenizer))
    path, losses = _measure(pair, plan, where, halts, cut, corpus, shared, rows, progress)
    return Stitching(pair, plan, similarity, threshold, path, shared, halts, losses, cut, corpus)


def _check(small: Any, large: Any, threshold: float, points: int, stops: int) -> None:
    if not 0 < threshold < 1:
        raise SaebenchError(f"The threshold is {threshold:g}; a cosine between 0 and 1 is needed.")
    if points < 2 or stops < 2:
        raise SaebenchError("The path needs at least 2 points and 2 stops: its ends.")
    sizes = [_size(each) for each in (small, large)]
    if sizes[0] is not None and sizes[1] is not None and sizes[0] > sizes[1]:
        raise SaebenchError(
            f"The first autoencoder has {sizes[0]} latents and the second {sizes[1]}: give the smaller one first."
        )


def _size(sae: Any) -> int | None:
    if isinstance(sae, str | Path):
        return checkpoints.inspect(sae).n_latents
    return sae.n_latents if isinstance(sae, Autoencoder) else None


def choose_points(plan: StitchPlan, points: int) -> Tensor:
    """``[points]`` int64: steps at equal distances, with both ends and the ends of the phases."""
    even = torch.linspace(0, plan.steps, min(points, plan.steps + 1)).round().long()
    every: Tensor = torch.cat([even, torch.tensor([0, plan.steps, *plan.phase_ends()])]).unique()
    return every


def choose_stops(plan: StitchPlan, points: Tensor, stops: int) -> list[int]:
    """Steps among ``points`` where the loss is measured: the ends, the ends of phases, and others between them."""
    chosen = {0, plan.steps, *plan.phase_ends()}
    for place in torch.linspace(0, points.numel() - 1, stops).round().long().tolist():
        if len(chosen) >= stops:
            break
        chosen.add(int(points[place]))
    return sorted(chosen)


def _measure(
    pair: Pair, plan: StitchPlan, points: Tensor, stops: Sequence[int], cut: Cut, corpus: TokenCorpus, shared: Shared,
    rows: int | None, progress: Progress,
) -> tuple[StitchPath, list[dict[str, Metric]]]:  # fmt: skip
    """One pass over the text: the whole path, and the losses at the stops."""
    start = Setup(Stitched(pair, plan, 0), cut, corpus, shared)
    path = StitchPath(start, points)
    evaluated = [EvaluatedAutoencoder(start.sae, start, {"path": path})]
    for step in stops:
        setup = Setup(Stitched(pair, plan, step), cut, corpus, shared)
        Downstream.check(setup)
        evaluated.append(EvaluatedAutoencoder(setup.sae, setup, {"downstream": Downstream(setup)}))
    stream(evaluated, cut, corpus, shared, rows or max(1, TOKENS_PER_BATCH // corpus.context), progress)
    for one in evaluated:
        for error in one.failures.values():
            raise error
    computed = [one.evaluators["downstream"].compute().metrics for one in evaluated[1:]]
    return path, [{name: metrics[name] for name in LOSSES} for metrics in computed]
