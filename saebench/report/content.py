"""The text of a report on a result: the same lines for the terminal, Markdown and pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from saebench.errors import plain
from saebench.results import Metric, Reached, Result, Source
from saebench.results.verdicts import cautions_on, mark_of

ARROWS = {"lower": "↓", "higher": "↑", "none": ""}
MOST_DECIMALS = 7


@dataclass(frozen=True)
class Line:
    """One metric, formatted for display.

    Attributes:
        value: number and error as text, ``—`` where it is undefined.
        direction: ``lower`` or ``higher`` is better, or ``none``.
        count: the number of units behind the value, such as ``32,512 tokens``.
        controls: the same metric of each control with its error, and ``short_controls`` without; both are empty where not
            measured.
        note: why the value is undefined.
        seconds: duration of its evaluator.
    """

    evaluator: str
    name: str
    value: str
    unit: str
    direction: str
    count: str
    description: str
    controls: tuple[str, ...]
    short_controls: tuple[str, ...]
    note: str | None
    seconds: float

    @property
    def mark(self) -> str:
        """The mark of the audit's verdict, where it is not ``sound``; else empty."""
        return mark_of(f"{self.evaluator}.{self.name}").strip()

    @property
    def arrow(self) -> str:
        """The direction, as an arrow."""
        return ARROWS[self.direction]


def lines(result: Result) -> Iterator[Line]:
    """A result's metrics in order, with those of its controls."""
    for evaluator, found in result.evaluators.items():
        for name, metric in found.metrics.items():
            measured = (control.get(evaluator) for control in result.controls.values())
            controls = [None if each is None else each.metrics.get(name) for each in measured]
            yield Line(
                evaluator=plain(evaluator),
                name=plain(name),
                value=format_value(metric),
                unit="" if metric.unit == "1" else plain(metric.unit),
                direction=metric.direction,
                count=f"{metric.n:,} {plain(metric.n_unit)}",
                description=plain(metric.description),
                controls=tuple("" if each is None else format_value(each) for each in controls),
                short_controls=tuple("" if each is None else format_value(each, with_error=False) for each in controls),
                note=None if metric.reason is None else plain(metric.reason),
                seconds=found.duration_seconds,
            )


def cautions(result: Result) -> list[str]:
    """A sentence for each of the result's metrics that `saebench audit` did not find sound, the failed ones first."""
    return cautions_on(f"{evaluator}.{name}" for evaluator, its in result.evaluators.items() for name in its.metrics)


def format_value(metric: Metric, with_error: bool = True) -> str:
    """The value to the decimals that its standard error supports (two digits of the error), and the error.

    Without a standard error: the 95 % interval where there is one, else four significant digits (all, of an integer).
    """
    if metric.value is None:
        return "—"
    error = metric.standard_error
    if error is None and metric.interval is not None:
        low, high = metric.interval
        decimals = _decimals((high - low) / 4)
        interval = f" [{low:z,.{decimals}f}, {high:z,.{decimals}f}]" if with_error else ""
        return f"{metric.value:z,.{decimals}f}{interval}"
    if not error:
        return _exact(metric.value)
    decimals = _decimals(error)
    if 0 < error < 10**-MOST_DECIMALS:
        return f"{metric.value:.4g} ± {error:.1g}" if with_error else f"{metric.value:.4g}"
    return f"{metric.value:z,.{decimals}f}" + (f" ± {error:,.{decimals}f}" if with_error else "")


def _decimals(error: float) -> int:
    """The number of decimals that show two digits of an error."""
    if error <= 0 or not math.isfinite(error):
        return 4
    return min(MOST_DECIMALS, max(0, 1 - math.floor(math.log10(error))))


def _exact(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def facts(result: Result) -> list[tuple[str, str]]:
    """What was evaluated, on which data: names and values for the head of a report."""
    sae, model, corpus = result.sae, result.model, result.corpus
    kind = ", ".join(f"{key} {value}" for key, value in sae.activation.items() if key not in ("name", "kind"))
    widths = f"d = {sae.d_in}" if sae.d_in == sae.d_out else f"d = {sae.d_in} → {sae.d_out}"
    excluded = corpus.tokens - corpus.tokens_counted
    revision = f" ({corpus.revision})" if corpus.revision else ""
    found = [
        ("Autoencoder", sae.origin),
        ("Architecture", f"{sae.architecture}{f' ({kind})' if kind else ''}, {sae.n_latents:,} latents, {widths}"),
        *((("Trained control", str(sae.training["control"])),) if sae.training.get("control") else ()),
        ("Model", f"{model.name}, {model.dtype}"),
        ("Hook", sae.hook_in if sae.hook_in == sae.hook_out else f"{sae.hook_in} → {sae.hook_out}"),
        ("Text", f"{corpus.name}{revision}: {corpus.rows:,} rows of {corpus.context} tokens"),
        ("Counted", f"{corpus.tokens_counted:,} of {corpus.tokens:,} tokens; left out ({excluded:,}): {corpus.excluded}"),
    ]
    found += [("Precision", _precision(path, each, corpus.tokens)) for path, each in result.precision.items()]
    if not result.complete:
        found.append(("Incomplete", "not every requested evaluator has finished"))
    return [(name, plain(value)) for name, value in found]


def _precision(path: str, found: Reached, tokens: int) -> str:
    """Whether a metric became as precise as requested, and after how many tokens."""
    if found.tokens is not None:
        return f"{path}: a relative error of {found.target:.2%} was reached after {found.tokens:,} tokens"
    error = "undefined" if found.relative_error is None else f"{found.relative_error:.2%}"
    return f"{path}: a relative error of {found.target:.2%} was not reached in {tokens:,} tokens; it is {error}"


def provenance(result: Result) -> list[tuple[str, str]]:
    """What is needed to reproduce a result: hashes, revisions, versions and seed."""
    found = [
        ("Weights, SHA-256", result.sae.weights_sha256 or "unknown"),
        ("Model revision", result.model.revision or "unknown"),
        ("Model weights, SHA-256", result.model.weights_sha256 or "unknown"),
        ("Tokens, SHA-256", result.corpus.sha256),
        ("Text revision", result.corpus.revision or "none"),
        *((f"Definition {name}", sha256) for name, sha256 in result.definitions.items()),
        ("Seed", str(result.seed)),
        *(line for run in result.runs() for line in _run(run, bool(result.sources))),
    ]
    return [(plain(name), plain(value)) for name, value in found]


def _run(run: Source, one_of_several: bool) -> Iterator[tuple[str, str]]:
    """When, with which software and on which machine evaluators were run; which ones, where there are several runs."""
    environment = run.environment
    commit = f" ({environment.commit})" if environment.commit else ""
    libraries = ", ".join(f"{name} {version}" for name, version in environment.libraries.items())
    if one_of_several:
        yield "Evaluators", ", ".join(run.evaluators)
    if run.suite:
        yield "Suite", run.suite
    yield "Created", run.created
    yield "Software", f"saebench {environment.saebench}{commit}, Python {environment.python}, {libraries}"
    yield "Machine", f"{environment.platform}, {environment.device}, {environment.threads} threads"


def differences(results: Sequence[Result]) -> list[str]:
    """The conditions in which results differ, as text."""
    conditions: dict[str, Callable[[Result], Hashable]] = {
        "language models": lambda result: (result.model.name, result.model.revision, result.model.dtype),
        "hooks": lambda result: (result.sae.hook_in, result.sae.hook_out),
        "tokens": lambda result: result.corpus.sha256,
        "seeds": lambda result: result.seed,
    }
    return [words for words, of in conditions.items() if len({of(result) for result in results}) > 1]
