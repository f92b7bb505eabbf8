"""The data for scaling laws: losses with their sizes, read from training records and result files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saebench.checkpoints.native import CONFIG
from saebench.errors import SaebenchError
from saebench.parsing import parse_json
from saebench.provenance import portable_name
from saebench.results import LARGEST_FILE, Result, read_result
from saebench.studies.scaling.laws import Array
from saebench.training.saving import AVERAGE

BINS_PER_DECADE = 8
"""Width of the bins of compute over which losses along a training run are averaged, because single batches are noisy."""
FLOPS_PER_WEIGHT = 6


@dataclass(frozen=True)
class ScalingPoint:
    """One autoencoder.

    Attributes:
        name: where it was read; ``arch``: its architecture.
        n: latents; ``k``: active latents (as trained for, else as measured); ``d``: width of the activations.
        loss: normalised MSE or the requested metric; ``standard_error`` where known.
        tokens: trained on; ``lr``: learning rate; None where not recorded.
        curve: ``(tokens so far, loss)`` along the run, bins of compute averaged.
    """

    name: str
    arch: str
    n: int
    k: float
    d: int
    loss: float
    standard_error: float | None = None
    tokens: int | None = None
    lr: float | None = None
    curve: tuple[tuple[float, float], ...] = ()

    def compute(self, tokens: float) -> float:
        """Training compute in FLOP: 6 for each token and each of the ``2 n d`` weights, counted as dense products."""
        return FLOPS_PER_WEIGHT * 2.0 * self.n * self.d * tokens


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _Config(_Record):
    arch: str
    n: int = Field(gt=0)
    k: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    target_l0: float = 0.0


class _Final(_Record):
    normalised_mse: float = Field(gt=0)
    l0: float = Field(ge=0)


class _History(_Record):
    step: list[int] = Field(default_factory=list)
    normalised_mse: list[float] = Field(default_factory=list)


class _Training(_Record):
    config: _Config
    tokens: int = Field(gt=0)
    complete: bool = True
    final: _Final
    history: _History = Field(default_factory=_History)


TOPK_FAMILY = ("topk", "multitopk", "batchtopk", "matryoshka")
DEFAULT_METRIC = "reconstruction.normalised_mse"


def read_points(paths: Sequence[Path], metric: str = DEFAULT_METRIC) -> list[ScalingPoint]:
    """Read result files, checkpoints of ``saebench train``, and folders of either (a sweep's, say).

    Args:
        paths: files or folders; in a folder with checkpoints, those are read and averaged weights are skipped.
        metric: of result files, as ``evaluator.name``; a training record has its own normalised MSE.

    Raises:
        SaebenchError: something is missing or not readable, or runs are unfinished.
    """
    points: list[ScalingPoint] = []
    for path in paths:
        if path.is_dir():
            records = sorted(each for each in path.rglob(CONFIG) if each.parent.name != AVERAGE)
            found = records or sorted(path.glob("*.json"))
            if not found:
                raise SaebenchError(f"{path} holds neither checkpoints ({CONFIG}) nor result files.")
            points += [_read(each, metric) for each in found]
        else:
            points.append(_read(path, metric))
    if not points:
        raise SaebenchError("There is nothing to fit: give result files, or a sweep's folder.")
    return points


def _read(path: Path, metric: str) -> ScalingPoint:
    return from_record(path) if path.name == CONFIG else from_result(read_result(path), metric, portable_name(str(path)))


def from_record(path: Path) -> ScalingPoint:
    """The point of a training record, ``sae.json``.

    Raises:
        SaebenchError: it cannot be read, holds no training record, or the run is unfinished.
    """
    name = path.parent.name
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise SaebenchError(f"{path} is larger than {LARGEST_FILE >> 20} MiB: it is not a checkpoint's description.")
        data = parse_json(path.read_text(encoding="utf-8"))
        record = _Training.model_validate(data["training"])
        d = int(data["sae"]["d_in"])
    except OSError as error:
        raise SaebenchError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        what = error.errors()[0]["loc"] if isinstance(error, ValidationError) else error
        raise SaebenchError(f"{path} holds no training record of saebench ({what}).") from error
    if not record.complete:
        raise SaebenchError(f"The run {name} is not finished: resume it (--resume), or leave it out.")
    config = record.config
    k = float(config.k) if config.arch in TOPK_FAMILY else config.target_l0 or record.final.l0
    point = ScalingPoint(
        name, config.arch, config.n, k, d, record.final.normalised_mse, None, record.tokens, config.learning_rate
    )
    return replace(point, curve=_curve(record))


def _curve(record: _Training) -> tuple[tuple[float, float], ...]:
    """Means over bins of equal width in log tokens, each at its tokens' geometric mean."""
    steps, losses = np.array(record.history.step, dtype=float), np.array(record.history.normalised_mse, dtype=float)
    if steps.size == 0 or steps.size != losses.size:
        return ()
    tokens = (steps + 1) * record.config.batch
    bins = np.floor(np.log10(tokens) * BINS_PER_DECADE)
    groups = [bins == each for each in np.unique(bins)]
    return tuple((float(np.exp(np.log(tokens[part]).mean())), float(losses[part].mean())) for part in groups)


def from_result(result: Result, metric: str, name: str) -> ScalingPoint:
    """The point of a result file.

    Raises:
        SaebenchError: the result lacks the metric, or its value is undefined or not positive.
    """
    found = result.metric(metric)
    if found.value is None or found.value <= 0:
        raise SaebenchError(f"{name}: {metric} is {found.value}; a law needs positive losses.")
    config: dict[str, Any] = result.sae.training.get("config", {}) if isinstance(result.sae.training, dict) else {}
    k = result.sae.activation.get("k") or config.get("k")
    if not isinstance(k, int | float):
        k = result.metric("reconstruction.l0").value
    if not k or k <= 0:
        raise SaebenchError(f"{name} does not say how many latents are active: evaluate it with `reconstruction`.")
    tokens, lr = result.sae.training.get("tokens"), config.get("learning_rate")
    return ScalingPoint(
        name,
        result.sae.architecture,
        result.sae.n_latents,
        float(k),
        result.sae.d_in,
        found.value,
        found.standard_error,
        tokens if isinstance(tokens, int) and tokens > 0 else None,
        float(lr) if isinstance(lr, int | float) and lr > 0 else None,
    )


def one_architecture(points: Sequence[ScalingPoint], arch: str | None) -> list[ScalingPoint]:
    """The points of an architecture.

    Raises:
        SaebenchError: there are several and none was named, or there is none of the one named.
    """
    there = sorted({point.arch for point in points})
    if arch is None and len(there) > 1:
        raise SaebenchError(f"There are several architectures ({', '.join(there)}): choose one with --arch.")
    chosen = [point for point in points if arch is None or point.arch == arch]
    if not chosen:
        raise SaebenchError(f"There is no {arch} among the architectures: {', '.join(there)}.")
    return chosen


def best_of_each(points: Sequence[ScalingPoint]) -> list[ScalingPoint]:
    """The best point of each ``(n, k)``: where learning rates were swept, the law is fitted to the best one."""
    best: dict[tuple[int, float], ScalingPoint] = {}
    for point in points:
        there = best.get((point.n, point.k))
        if there is None or point.loss < there.loss:
            best[point.n, point.k] = point
    return [best[key] for key in sorted(best)]


def frontier(points: Sequence[ScalingPoint]) -> tuple[Array, Array, list[int]]:
    """The Pareto frontier of loss against compute, over the curves and ends of all runs, in order of compute.

    Returns:
        ``(compute [m], loss [m], which point [m])``.
    """
    rows = [
        (point.compute(tokens), loss, place)
        for place, point in enumerate(points)
        for tokens, loss in (*point.curve, *(((float(point.tokens), point.loss),) if point.tokens else ()))
        if loss > 0
    ]
    kept: list[tuple[float, float, int]] = []
    for row in sorted(rows):
        if not kept or row[1] < kept[-1][1]:
            kept.append(row)
    return np.array([row[0] for row in kept]), np.array([row[1] for row in kept]), [row[2] for row in kept]
