"""The numbers and figures of a scaling study."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from saebench.report.figures import Figure
from saebench.results import Metric
from saebench.results.metrics import metric
from saebench.results.statistics import Estimate
from saebench.studies.plots import axes, dots, line, number
from saebench.studies.scaling.laws import Fit
from saebench.studies.scaling.rates import REFERENCE_SIZE, RateLaw
from saebench.studies.scaling.run import Law, ScalingStudy
from saebench.studies.study import StudyResult, make_study, paper_settings

DEFINITION = "gao2024"
QUESTION = "How does the loss fall with latents, active latents and compute, and what remains?"
CURVE_POINTS = 60
TRAINER_COEFFICIENT = 2e-4
"""The rate at 16,384 latents that ``saebench train`` uses by default."""


def scaling_result(study: ScalingStudy) -> StudyResult:
    """All fitted coefficients with their intervals, and the published ones where the form is the paper's."""
    details: dict[str, Any] = {
        "points": [{key: value for key, value in asdict(point).items() if key != "curve"} for point in study.points],
        "laws": {key: _law_record(law) for key, law in study.laws.items()},
        "refused": study.refused,
        "published": published(study),
        "metric": study.metric,
    }
    if study.rates is not None:
        details["learning_rates"] = _rate_record(study.rates)
    metrics = [each for law in study.laws.values() for each in _law_metrics(law)]
    return make_study(
        "scaling",
        QUESTION,
        metrics + ([] if study.rates is None else _rate_metrics(study.rates)),
        details=details,
        settings={"metric": study.metric, "bootstraps": study.bootstraps, "seed": study.seed},
        definition=DEFINITION,
    )


def published(study: ScalingStudy) -> list[dict[str, Any]]:
    """Rows of law, coefficient, ours with its interval, and the paper's (for GPT-4 and its own units of compute)."""
    paper = paper_settings(DEFINITION)
    paper["compute"]["log_coefficient"] = math.log(paper["compute"]["coefficient"])
    rows = []
    for key in ("compute", "joint"):
        if key not in study.laws:
            continue
        found = study.laws[key].found.full
        for name, value in found.values.items():
            rows.append({"law": key, "coefficient": name, "value": value, "interval": list(found.intervals[name]),
                         "published": paper[key].get(name), "source": paper[key]["source"]})  # fmt: skip
    return rows


def _fit_record(found: Fit) -> dict[str, Any]:
    return {
        "form": found.form.name,
        "values": found.values,
        "intervals": {name: list(each) for name, each in found.intervals.items()},
        "residual_spread": found.spread,
        "aicc": found.aicc if np.isfinite(found.aicc) else None,
        "bootstraps": found.bootstraps,
    }


def _law_record(law: Law) -> dict[str, Any]:
    found = law.found
    rows = zip(law.names, np.exp(law.features).tolist(), law.losses.tolist(), found.full.residuals.tolist(), strict=True)
    return {
        "points": [dict(zip(("name", "features", "loss", "residual"), row, strict=True)) for row in rows],
        "with_irreducible": _fit_record(found.full),
        "without": _fit_record(found.reduced),
        "f_statistic": found.f_statistic,
        "p_value": found.p_value,
        "aicc_gain": found.aicc_gain if np.isfinite(found.aicc_gain) else None,
        "preferred": found.preferred.form.name,
    }


def _law_metrics(law: Law) -> list[Metric]:
    found, n = law.found, law.losses.size

    def make(name: str, value: float, description: str, unit: str = "1", reason: str | None = None) -> Metric:
        return metric(f"{law.key}.{name}", value, unit=unit, direction="none", n=n, n_unit="points", reason=reason,
                      description=description)  # fmt: skip

    metrics = [
        _with_interval(make(name, value, f"Of {found.full.form.name}"), found.full.intervals[name])
        for name, value in found.full.values.items()
    ]
    name = "exponent" if "exponent" in found.reduced.values else "beta_n"
    alone = make(f"{name}_alone", found.reduced.values[name], f"Of {found.reduced.form.name}")
    few = "too few points for the criterion"
    return [
        *metrics,
        _with_interval(alone, found.reduced.intervals[name]),
        make("irreducible_p", found.p_value, "p-value of the F test of the irreducible term",
             "probability"),
        make("irreducible_aicc_gain", found.aicc_gain, "Positive values favour the irreducible term", reason=few),
        make("residual_spread", found.full.spread, "Robust standard deviation of the losses about the law", "relative"),
    ]  # fmt: skip


def _with_interval(found: Metric, interval: tuple[float, float]) -> Metric:
    return found.model_copy(update={"interval": interval})


def _rate_metrics(rates: RateLaw) -> list[Metric]:
    n = len(rates.best)
    coefficient, exponent = (
        metric(f"rate.{name}", each[0], unit=unit, direction="none", n=n, n_unit="sizes", description=words)
        for name, each, unit, words in (
            ("coefficient", rates.coefficient, "learning rate", f"At {REFERENCE_SIZE:,} latents, falling as 1/sqrt(n); "
             f"`saebench train` uses {TRAINER_COEFFICIENT:g}"),
            ("exponent", rates.exponent, "1", "Fitted without constraint; the paper's is 1/2"),
        )
    )  # fmt: skip
    p_value = metric("rate.half_p", Estimate(rates.p_value, None), unit="probability", direction="none", n=n, n_unit="sizes",
                     description="p-value of the exponent being 1/2")  # fmt: skip
    return [
        _with_interval(coefficient, rates.coefficient[1:]),
        _with_interval(exponent, rates.exponent[1:]),
        p_value,
    ]


def _rate_record(rates: RateLaw) -> dict[str, Any]:
    return {
        "k": rates.k,
        "best": {str(n): rate for n, rate in rates.best.items()},
        "at_edge": rates.at_edge,
        "curves": {str(n): [list(each) for each in curve] for n, curve in rates.curves.items()},
    }


def scaling_figures(study: ScalingStudy, result: StudyResult) -> list[Figure]:
    """Each law with its points and residuals, published and fitted coefficients, and learning rates."""
    figures = []
    sizes = [law for key, law in study.laws.items() if key.startswith("size")]
    if sizes:
        figures += [_line_figure("size", "Loss and number of latents", sizes, "latents n"), _residuals("size", sizes)]
    if "joint" in study.laws:
        figures += [_joint_figure(study.laws["joint"]), _residuals("joint", [study.laws["joint"]])]
    if "compute" in study.laws:
        laws = [study.laws["compute"]]
        figures += [_line_figure("compute", "Loss and compute", laws, "training compute, FLOP"), _residuals("compute", laws)]
    if result.details["published"]:
        figures.append(_published_figure(result.details["published"]))
    if study.rates is not None:
        figures.append(_rate_figure(study.rates))
    return figures


def _line_figure(key: str, title: str, laws: list[Law], x_title: str) -> Figure:
    traces, rows = [], []
    for colour, law in enumerate(laws):
        x = np.exp(law.features[:, 0])
        smooth = np.geomspace(x.min(), x.max(), CURVE_POINTS)
        fitted = law.found.preferred.predict(np.log(smooth)[:, None])
        traces.append(dots(x.tolist(), law.losses.tolist(), law.key, colour, hovertext=law.names))
        traces.append(line(smooth.tolist(), fitted.tolist(), f"{law.key}, fitted", colour))
        predicted = law.found.preferred.predict(law.features)
        rows += [[law.key, f"{each:,.4g}", number(loss), number(guess)]
                 for each, loss, guess in zip(x, law.losses, predicted, strict=True)]  # fmt: skip
    chosen = "; ".join(f"{law.key}: {law.found.preferred.form.name}, p = {law.found.p_value:.2g}" for law in laws)
    return Figure(
        key=key,
        title=title,
        caption=f"Points and the law that the test prefers ({chosen}; p is of the irreducible term).",
        summary=f"Log-log chart of loss against {x_title}.",
        traces=traces,
        layout=axes(x_title, "loss", log="xy"),
        header=["Law", x_title.capitalize(), "Loss", "Fitted"],
        rows=rows,
    )


def _joint_figure(law: Law) -> Figure:
    k, n = np.exp(law.features[:, 0]), np.exp(law.features[:, 1])
    traces, rows = [], []
    for colour, each in enumerate(np.unique(law.features[:, 0])):
        mine = law.features[:, 0] == each
        smooth = np.geomspace(n.min(), n.max(), CURVE_POINTS)
        fitted = law.found.preferred.predict(np.column_stack([np.full(CURVE_POINTS, each), np.log(smooth)]))
        traces.append(dots(n[mine].tolist(), law.losses[mine].tolist(), f"k = {np.exp(each):g}", colour))
        traces.append(line(smooth.tolist(), fitted.tolist(), f"k = {np.exp(each):g}, fitted", colour))
    for place, guess in enumerate(law.found.preferred.predict(law.features)):
        rows.append([f"{n[place]:,.0f}", f"{k[place]:g}", number(float(law.losses[place])), number(float(guess))])
    return Figure(
        key="joint",
        title="Loss, latents and active latents together",
        caption=f"Points and the law {law.found.preferred.form.name}; p = {law.found.p_value:.2g} of the irreducible term.",
        summary="Log-log chart of loss against latents, a line for each number of active latents.",
        traces=traces,
        layout=axes("latents n", "loss", log="xy"),
        header=["Latents", "Active", "Loss", "Fitted"],
        rows=rows,
    )


def _residuals(key: str, laws: list[Law]) -> Figure:
    traces, rows = [], []
    for colour, law in enumerate(laws):
        fitted = law.found.full.predict(law.features)
        traces.append(dots(fitted.tolist(), law.found.full.residuals.tolist(), law.key, colour, hovertext=law.names))
        rows += [[name, number(float(guess)), f"{each:+.2%}"]
                 for name, guess, each in zip(law.names, fitted, law.found.full.residuals, strict=True)]  # fmt: skip
    return Figure(
        key=f"{key}-residuals",
        title="Residuals",
        caption="Relative distance of each point from the law with the irreducible term.",
        summary="Scatter plot of residuals against fitted losses.",
        traces=traces,
        layout=axes("fitted loss", "log residual", log="x", from_zero=False),
        header=["Point", "Fitted", "Residual"],
        rows=rows,
    )


def _published_figure(rows: list[dict[str, Any]]) -> Figure:
    names = [f"{row['law']}: {row['coefficient']}" for row in rows]
    spread = {"type": "data", "symmetric": False, "array": [row["interval"][1] - row["value"] for row in rows],
              "arrayminus": [row["value"] - row["interval"][0] for row in rows], "thickness": 1}  # fmt: skip
    ours = dots(names, [row["value"] for row in rows], "ours", 0, error_y=spread)
    paper = dots(names, [row["published"] for row in rows], "published", 1)
    return Figure(
        key="published",
        title="Fitted and published coefficients",
        caption="Ours with 95 % bootstrap intervals; the paper's are of GPT-4 activations, of other sizes, and of compute "
        "in its own units, so that exponents can be compared and levels cannot. Sources: "
        + "; ".join(sorted({row["source"] for row in rows}))
        + ".",
        summary="Fitted coefficients with intervals, and the published ones.",
        traces=[ours, paper],
        layout=axes("", "value", from_zero=False),
        header=["Coefficient", "Ours", "95 % interval", "Published"],
        rows=[
            [name, f"{row['value']:.4g}", f"{row['interval'][0]:.4g} to {row['interval'][1]:.4g}",
             "" if row["published"] is None else f"{row['published']:.4g}"]
            for name, row in zip(names, rows, strict=True)
        ],
    )  # fmt: skip


def _rate_figure(rates: RateLaw) -> Figure:
    traces = [
        line([rate for rate, _ in curve], [loss for _, loss in curve], f"n = {n:,}", colour, mode="lines+markers")
        for colour, (n, curve) in enumerate(rates.curves.items())
    ]
    value, low, high = rates.exponent
    edge = ", ".join(f"{n:,}" for n in rates.at_edge)
    left = f" Excluded, because the best rate is the smallest or largest tried: {edge}." if edge else ""
    return Figure(
        key="rates",
        title="Learning rates",
        caption=f"Loss by learning rate at k = {rates.k:g}. Best rates fall as n^-{value:.2f} ({low:.2f} to {high:.2f}); "
        f"the paper's law is n^-0.5.{left}",
        summary="Chart of loss against learning rate, a line for each number of latents.",
        traces=traces,
        layout=axes("learning rate", "loss", log="x", from_zero=False),
        header=["Latents", "Best learning rate", "1/sqrt(n) law"],
        rows=[
            [f"{n:,}", f"{rate:.2e}", f"{rates.coefficient[0] * (REFERENCE_SIZE / n) ** 0.5:.2e}"]
            for n, rate in rates.best.items()
        ],
    )
