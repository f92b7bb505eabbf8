"""The figures of a stitching study: the path, its loss, the cosines, and what the threshold separates."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from saebench.report.figures import Figure
from saebench.studies.plots import axes, bars, dots, line, number
from saebench.studies.stitching.run import Stitching
from saebench.studies.study import StudyResult

MOST_DOTS = 1500
BINS = np.linspace(-0.1, 1.0, 45)


def stitching_figures(study: Stitching, result: StudyResult) -> list[Figure]:
    """All figures of the study."""
    details, latents = result.details, study.latents()
    return [
        _path(details),
        _active(details),
        _losses(details),
        _cosines(latents, study.threshold),
        _effects(latents),
        _thresholds(details),
    ]


def _path(details: dict[str, Any]) -> Figure:
    path, ends = details["path"], details["phase_ends"]
    names = {"normalised_mse": "model units", "normalised_mse_unit_norm": "tokens of unit norm"}
    phases = (
        f"Steps 1 to {ends['insert']:,} insert novel latents, up to {ends['swap']:,} swap groups, "
        f"up to {ends['remove']:,} remove latents that have no counterpart."
    )
    return Figure(
        key="path",
        title="Error along the path",
        caption=f"Normalised MSE from the smaller to the larger autoencoder. {phases}",
        summary="Line chart of normalised mean squared error over the steps from the smaller to the larger autoencoder.",
        traces=[line(path["step"], path[name], words, colour) for colour, (name, words) in enumerate(names.items())],
        layout=axes("step", "normalised MSE"),
        header=["Step", *names.values()],
        rows=[[f"{step:,}", *(number(path[name][place]) for name in names)] for place, step in enumerate(path["step"])],
    )


def _active(details: dict[str, Any]) -> Figure:
    path = details["path"]
    return Figure(
        key="l0",
        title="Active latents along the path",
        caption="Mean active latents per token. Each autoencoder is encoded separately: latents of the two do not compete.",
        summary="Line chart of active latents per token over the steps.",
        traces=[line(path["step"], path["l0"], "L0", 0)],
        layout=axes("step", "latents per token"),
        header=["Step", "L0"],
        rows=[[f"{step:,}", number(value, 2)] for step, value in zip(path["step"], path["l0"], strict=True)],
    )


def _losses(details: dict[str, Any]) -> Figure:
    losses = details["losses"]
    steps = [each["step"] for each in losses]
    names = {"ce_difference": "rise of cross-entropy", "kl_divergence": "KL(clean || spliced)"}
    return Figure(
        key="loss",
        title="Loss of the language model along the path",
        caption="With the mixture's reconstruction spliced in, with 95 % intervals.",
        summary="Line chart of the rise in cross-entropy and the divergence at some steps.",
        traces=[
            line(steps, [each[name][0] for each in losses], words, colour, [each[name][1] for each in losses])
            for colour, (name, words) in enumerate(names.items())
        ],
        layout=axes("step", "nats per token"),
        header=["Step", *names.values()],
        rows=[
            [f"{each['step']:,}", *(f"{number(each[name][0])} ± {number(each[name][1])}" for name in names)]
            for each in losses
        ],
    )


def _cosines(latents: pd.DataFrame, threshold: float) -> Figure:
    shown = {"active": latents[latents.tokens > 0], "never active": latents[latents.tokens == 0]}
    counts = {name: np.histogram(each.max_cosine.clip(-0.0999, 1.0), BINS)[0].tolist() for name, each in shown.items()}
    middles = ((BINS[:-1] + BINS[1:]) / 2).round(4).tolist()
    return Figure(
        key="cosine",
        title="Similarity to the smaller autoencoder",
        caption=f"Latents of the larger autoencoder. Up to {threshold:g} they count as novel.",
        summary="Histogram of the larger autoencoder's latents by their largest cosine with the smaller one's.",
        traces=[bars(middles, counts[name], name, colour) for colour, name in enumerate(shown)],
        layout=axes("largest decoder cosine with the smaller one", "latents", barmode="stack", bargap=0.04),
        header=["Cosine", *shown],
        rows=[
            [f"{low:.3f} to {high:.3f}", *(str(counts[name][place]) for name in shown)]
            for place, (low, high) in enumerate(pairwise(BINS.tolist()))
        ],
    )


def _effects(latents: pd.DataFrame) -> Figure:
    active = latents[latents.tokens > 0].sort_values("max_cosine")
    shown = active.iloc[:: max(1, -(-len(active) // MOST_DOTS))]
    tenth = (active.max_cosine.clip(0, 0.9999) * 10).astype(int)
    rows = []
    for start, part in active.groupby(tenth).effect:
        lowers = f"{(part < 0).mean():.3f}"
        rows.append(
            [
                f"{int(str(start)) / 10:.1f} to {int(str(start)) / 10 + 0.1:.1f}",
                f"{len(part):,}",
                f"{part.mean():.2e}",
                lowers,
            ]
        )
    return Figure(
        key="effect",
        title="Effect of inserting one latent",
        caption="Change of the smaller autoencoder's normalised error (tokens of unit norm) when one latent is inserted, by "
        f"its cosine; {len(shown):,} of {len(active):,} active latents are shown.",
        summary="Scatter plot of the change of error by cosine.",
        traces=[
            dots(
                shown.max_cosine.round(4).tolist(),
                shown.effect.tolist(),
                "latent",
                0,
                marker={"size": 4, "opacity": 0.6},
                hovertext=[f"latent {each}" for each in shown.index],
            )
        ],
        layout=axes("largest decoder cosine with the smaller one", "change of normalised error", from_zero=False),
        header=["Cosine", "Latents", "Mean change", "Share that lower it"],
        rows=rows,
    )


def _thresholds(details: dict[str, Any]) -> Figure:
    rows = details["thresholds"]
    names = {
        "novel_lower": "novel latents that lower the error",
        "known_raise": "the others that raise it",
        "accuracy": "mean of both",
    }
    places = [row["threshold"] for row in rows]
    return Figure(
        key="threshold",
        title="What the threshold separates",
        caption="For each threshold, how often the sign of a latent's effect agrees with its class.",
        summary="Line chart of the shares of correctly classified latents over thresholds.",
        traces=[
            line(places, [row[name] for row in rows], words, colour) for colour, (name, words) in enumerate(names.items())
        ],
        layout=axes("threshold of the cosine", "share of active latents"),
        header=["Threshold", "Novel", *names.values()],
        rows=[[f"{row['threshold']:g}", f"{row['novel']:,}", *(number(row[name], 3) for name in names)] for row in rows],
    )
