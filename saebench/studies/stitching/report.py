"""The numbers of a stitching study."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from saebench.provenance import corpus_record, model_record, sae_record
from saebench.results import Metric
from saebench.results.metrics import metric
from saebench.results.statistics import Estimate, ratio_estimate
from saebench.studies.stitching.plan import PHASES, SWAP
from saebench.studies.stitching.run import DEFINITION, Stitching
from saebench.studies.study import StudyResult, make_study

QUESTION = "Does the larger autoencoder add to what the smaller one finds, or describe the same more finely?"
THRESHOLDS = [round(0.05 * step, 2) for step in range(1, 20)]
CLEAR = 2.0
"""Standard errors beyond which an effect's sign counts as clear."""


def stitching_result(study: Stitching) -> StudyResult:
    """All metrics, with the path and the curve over thresholds in ``details``."""
    latents = study.latents()
    curve = path_curve(study)
    active = latents[latents.tokens > 0]
    groups = study.plan.leaving + study.plan.arriving
    swaps = study.plan.kind == SWAP
    details = {
        "path": curve,
        "losses": [_loss_record(study, place) for place in range(len(study.stops))],
        "thresholds": threshold_curve(active),
        "phase_ends": dict(zip(PHASES, study.plan.phase_ends(), strict=True)),
        "swap_groups": {"count": int(swaps.sum()), "sizes": _size_table(groups[swaps])},
    }
    info = [study.pair.small, study.pair.large]
    return make_study(
        "stitching",
        QUESTION,
        [*_shares(study, latents, active), *_signs(active), *_ends(study, curve), *_loss_metrics(study), _exactness(study)],
        details=details,
        settings={"threshold": study.threshold, "points": study.path.points.numel(), "stops": study.stops},
        definition=DEFINITION,
        saes=[sae_record(sae, study.cut) for sae in info],
        model=model_record(study.cut.model),
        corpus=corpus_record(study.corpus),
        device=study.cut.model.device,
    )


def path_curve(study: Stitching) -> dict[str, list[Any]]:
    """The measured points: step, share of latents changed, both normalised errors and L0 with standard errors."""
    sums, moments = study.path.sums, study.shared.moments
    count, tokens = study.path.points.numel(), moments.count
    curve: dict[str, list[Any]] = {"step": study.path.points.tolist(), "share": _digits(study.path.share)}
    for unit, name in (("raw", "normalised_mse"), ("unit_norm", "normalised_mse_unit_norm")):
        estimates = [_error(study, unit, place) for place in range(count)]
        curve[name] = [each.value for each in estimates]
        curve[f"{name}_error"] = [each.standard_error for each in estimates]
    curve["l0"] = [sums.total(f"l0.{place}") / max(tokens, 1) for place in range(count)]
    return curve


def _error(study: Stitching, unit: str, place: int) -> Estimate:
    column = study.path.sums.column(f"{unit}.{place}")
    by_row = study.shared.moments.variance_by_row()
    if unit == "raw":
        return ratio_estimate(column, by_row)
    value, error = ratio_estimate(column, study.path.sums.column("tokens"))
    scale = study.shared.moments.count / study.shared.moments.unit_variance
    return Estimate(None if value is None else value * scale, None if error is None else error * scale)


def threshold_curve(active: pd.DataFrame) -> list[dict[str, Any]]:
    """For thresholds of the cosine: how many active latents are novel, and how often the effect's sign agrees.

    A latent below the threshold should lower the error when inserted, one above should raise it. ``accuracy`` is the mean
    of the two shares; null where one side is empty.
    """
    rows = []
    for threshold in THRESHOLDS:
        novel = active[active.max_cosine <= threshold]
        known = active[active.max_cosine > threshold]
        lowers = float((novel.effect < 0).mean()) if len(novel) else None
        raises = float((known.effect > 0).mean()) if len(known) else None
        accuracy = None if lowers is None or raises is None else (lowers + raises) / 2
        rows.append({"threshold": threshold, "novel": len(novel), "novel_lower": lowers, "known_raise": raises,
                     "accuracy": accuracy})  # fmt: skip
    return rows


def _shares(study: Stitching, latents: pd.DataFrame, active: pd.DataFrame) -> list[Metric]:
    plan, swaps = study.plan, study.plan.kind == SWAP
    sizes = (plan.leaving + plan.arriving)[swaps]

    def share(name: str, count: int, n: int, description: str) -> Metric:
        return metric(name, count / n if n else None, unit="share of latents", direction="none", n=n, n_unit="latents",
                      description=description)  # fmt: skip

    return [
        share("novel_latents", int(latents.novel.sum()), len(latents), "Latents of the larger one without a counterpart"),
        share("novel_active_latents", int(active.novel.sum()), len(active), "The same of those active on this text"),
        share("orphaned_latents", int(plan.orphaned.sum()), plan.n_small, "Latents of the smaller without a counterpart"),
        metric("swap_groups", float(swaps.sum()), unit="groups", direction="none", n=plan.steps, n_unit="steps",
               description="Groups that are swapped together"),
        metric("largest_swap_group", float(sizes.max()) if sizes.numel() else None, unit="latents", direction="none",
               n=int(swaps.sum()), n_unit="groups", reason="there is no group to swap",
               description="Latents of both in the largest group"),
    ]  # fmt: skip


def _signs(active: pd.DataFrame) -> list[Metric]:
    """How well the cosine predicts a latent's effect."""

    def share(name: str, of: pd.DataFrame, sign: int, description: str) -> Metric:
        clear = (sign * of.effect > CLEAR * of.effect_error).mean() if len(of) else None
        value = float((sign * of.effect > 0).mean()) if len(of) else None
        error = (value * (1 - value) / len(of)) ** 0.5 if value is not None else None
        words = description if clear is None else f"{description}; beyond {CLEAR:g} standard errors: {float(clear):.3f}"
        return metric(name, Estimate(value, error), unit="share of latents", direction="none", n=len(of), n_unit="latents",
                      reason="there are none that are active", description=words)  # fmt: skip

    return [
        share("novel_that_lower", active[active.novel], -1, "Novel latents that lower the error when inserted alone"),
        share("known_that_raise", active[~active.novel], 1, "Reconstruction latents that raise it"),
        metric("cosine_auc", _auc(active), unit="1", direction="higher", n=len(active), n_unit="latents",
               reason="all latents have an effect of the same sign",
               description="Chance that the cosine ranks a latent that raises the error above one that lowers it"),
    ]  # fmt: skip


def _auc(active: pd.DataFrame) -> float | None:
    from sklearn.metrics import roc_auc_score

    raises = (active.effect > 0).to_numpy()
    return float(roc_auc_score(raises, active.max_cosine)) if raises.any() and not raises.all() else None


def _ends(study: Stitching, curve: dict[str, list[Any]]) -> list[Metric]:
    """Error and L0 at the start, after all insertions, and at the end; and how steadily the error falls."""
    n = study.shared.moments.count
    after = curve["step"].index(study.plan.phase_ends()[0])
    metrics = []
    ways: tuple[tuple[str, str, Literal["lower", "none"]], ...] = (
        ("normalised_mse", "1", "lower"),
        ("normalised_mse_unit_norm", "1", "lower"),
        ("l0", "latents", "none"),
    )
    words = {
        "small": "Of the smaller autoencoder",
        "after_inserts": "With all novel latents inserted, before any swap",
        "large": "Of the larger autoencoder",
    }
    for name, unit, direction in ways:
        for where, place in (("small", 0), ("after_inserts", after), ("large", -1)):
            error = curve[f"{name}_error"][place] if f"{name}_error" in curve else None
            estimate = Estimate(curve[name][place], error)
            metrics.append(
                metric(f"{name}_{where}", estimate, unit=unit, direction=direction, n=n, description=words[where])
            )
    errors = np.array(curve["normalised_mse_unit_norm"], dtype=float)
    falls = np.diff(errors) <= 0
    metrics.append(
        metric(
            "path_that_falls",
            float(falls.mean()),
            unit="share of points",
            direction="none",
            n=len(falls),
            n_unit="points",
            description="Share of the measured intervals of the path on which the error does not rise",
        )
    )
    return metrics


def _loss_metrics(study: Stitching) -> list[Metric]:
    names = {0: "small", study.plan.phase_ends()[0]: "after_inserts", study.plan.steps: "large"}
    return [
        found.model_copy(update={"name": f"{name}_{names[step]}"})
        for step, losses in zip(study.stops, study.losses, strict=True)
        if step in names
        for name, found in losses.items()
    ]


def _exactness(study: Stitching) -> Metric:
    """The last point of the path against the larger autoencoder's own error, which is computed separately."""
    return metric(
        "end_point_difference",
        study.end_difference(),
        unit="relative",
        direction="lower",
        n=study.corpus.tokens_counted,
        reason="the larger autoencoder makes no error",
        description="Squared error at the end of the path against the larger autoencoder's own, relative difference",
    )


def _loss_record(study: Stitching, place: int) -> dict[str, Any]:
    step = study.stops[place]
    found = {name: [each.value, each.standard_error] for name, each in study.losses[place].items()}
    return {"step": step, "share": float(study.plan.share[step]), **found}


def _size_table(sizes: Tensor) -> dict[str, int]:
    counts = torch.bincount(sizes) if sizes.numel() else sizes
    return {str(size): int(count) for size, count in enumerate(counts.tolist()) if count}


def _digits(values: Tensor) -> list[float]:
    return [float(f"{value:.7g}") for value in values.tolist()]
