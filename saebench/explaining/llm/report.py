"""The result of explaining with a language model: means over latents, with chance level and a control, and every latent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import torch

from saebench.explaining.llm.protocol import definitions_used
from saebench.explaining.llm.run import UNUSABLE, ExplanationRun, Outcome, spent_record
from saebench.explaining.llm.scorers import Score, Test
from saebench.explaining.llm.statistics import Interval, mean, wilson
from saebench.provenance import environment
from saebench.results import CorpusRecord, EvaluatorResult, Metric, ModelRecord, Result, SaeRecord
from saebench.results.metrics import metric

EVALUATOR, VERSION = "llm_explanations", 1


def evaluator_result(run: ExplanationRun, outcomes: Sequence[Outcome]) -> EvaluatorResult:
    """Metrics over all latents, and each latent's explanation and scores in ``details["latents"]``."""
    metrics = [_explained(outcomes)]
    for test in run.tests:
        metrics += _test_metrics(test, outcomes)
    metrics += _answer_metrics(run, outcomes)
    return EvaluatorResult(
        name=EVALUATOR,
        version=VERSION,
        metrics={each.name: each for each in metrics},
        details={
            "latents": {str(outcome.latent): _latent(outcome) for outcome in outcomes},
            "skipped": {str(latent): reason for latent, reason in sorted(run.skipped.items())},
            "dictionary": _dictionary(run),
            "chance": {test.name: test.chance for test in run.tests},
            "calls": {
                "explainer": spent_record(run.spent["explainer"], run.explainer.endpoint),
                "scorer": spent_record(run.spent["scorer"], run.scorer.endpoint),
            },
        },
        settings={
            "explainer": run.explainer.endpoint.identity,
            "scorer": run.scorer.endpoint.identity,
            "protocol": run.protocol.model_dump(mode="json"),
        },
        duration_seconds=sum(run.stages.values()),
    )


def make_result(run: ExplanationRun, outcomes: Sequence[Outcome], device: torch.device) -> Result:
    """The result file: autoencoder, model and text are those that the examples were collected from."""
    manifest, evaluator = run.examples.manifest, evaluator_result(run, outcomes)
    return Result(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        complete=True,
        sae=SaeRecord(**manifest["sae"]),
        model=ModelRecord(**manifest["model"]),
        corpus=CorpusRecord(**manifest["corpus"]),
        seed=run.seed,
        settings={"options": {EVALUATOR: evaluator.settings}, "examples_seed": manifest.get("seed")},
        definitions={**manifest.get("definitions", {}), **definitions_used()},
        evaluators={EVALUATOR: evaluator},
        stages={name: round(seconds, 3) for name, seconds in run.stages.items()},
        environment=environment(device),
    )


def _dictionary(run: ExplanationRun) -> dict[str, int]:
    """The number of latents, and of those that can never be in the sample."""
    dead = run.examples.table["count"] == 0
    too_few = ~run.enough & ~dead
    return {"latents": len(dead), "never_active": int(dead.sum()), "too_few_activations": int(too_few.sum())}


def _explained(outcomes: Sequence[Outcome]) -> Metric:
    n, found = len(outcomes), sum(outcome.explanation is not None for outcome in outcomes)
    share = metric(
        "explained", found / n, unit="share", direction="higher", n=n, n_unit="latents",
        description="Latents for which the explainer gave a usable explanation.",
    )  # fmt: skip
    return Metric(**(share.model_dump() | {"interval": wilson(found, n)}))


def _test_metrics(test: Test, outcomes: Sequence[Outcome]) -> list[Metric]:
    """A test's mean score; the same with another latent's explanation; and the difference."""
    bounds, chance = test.bounds, f"chance {test.chance:g}"
    own = {each.latent: value for each in outcomes if (value := _value(each.scores, test)) is not None}
    metrics = [_mean(test.name, list(own.values()), bounds, test.unit, f"Mean over latents; {chance}.")]
    if not test.needs_explanation:
        return metrics
    control = {each.latent: value for each in outcomes if (value := _value(each.controls, test)) is not None}
    gains = [own[latent] - control[latent] for latent in own.keys() & control.keys()]
    reach = bounds[1] - bounds[0]
    words = "The same windows scored with another latent's explanation"
    metrics.append(_mean(f"{test.name}_control", list(control.values()), bounds, test.unit, f"{words}; {chance}.", "none"))
    metrics.append(
        _mean(
            f"{test.name}_gain", gains, (-reach, reach), test.unit, "Score less the control's, latent by latent; chance 0."
        )
    )
    return metrics


def _answer_metrics(run: ExplanationRun, outcomes: Sequence[Outcome]) -> list[Metric]:
    """Shares of questions without a usable answer, and without any answer."""
    lost = [sum(each.troubles.values()) for each in run.spent.values()]
    asked = sum(each.asked + each.cached for each in run.spent.values())
    unusable = sum(score.unusable for each in outcomes for score in [*each.scores.values(), *each.controls.values()])
    unusable += sum(outcome.reason == UNUSABLE for outcome in outcomes)
    none = "nothing was asked"
    return [
        metric("unusable_answers", unusable / asked if asked else None, unit="share", direction="lower", n=asked,
               n_unit="questions", description="Answers of another form than requested; in no score.", reason=none),
        metric("unanswered", sum(lost) / asked if asked else None, unit="share", direction="lower", n=asked,
               n_unit="questions", description="Questions without an answer after all attempts.", reason=none),
    ]  # fmt: skip


def _mean(
    name: str,
    values: Sequence[float],
    bounds: Interval,
    unit: str,
    description: str,
    direction: Literal["lower", "higher", "none"] = "higher",
) -> Metric:
    estimate, interval = mean(sorted(values), bounds)
    found = metric(
        name, estimate, unit=unit, direction=direction, n=len(values), n_unit="latents", version=VERSION,
        description=description, reason="no latent has this score",
    )  # fmt: skip
    return Metric(**(found.model_dump() | {"interval": interval}))


def _value(scores: dict[str, Score], test: Test) -> float | None:
    return scores[test.name].value if test.name in scores else None


def _latent(outcome: Outcome) -> dict[str, Any]:
    """The record of one latent; the viewer shows ``explanation`` and ``scores``."""
    every = outcome.scores | {f"{name}_control": score for name, score in outcome.controls.items()}
    kept: dict[str, Any] = {
        "explanation": outcome.explanation,
        "scores": {name: score.value for name, score in every.items()},
        "intervals": {name: list(score.interval) for name, score in every.items() if score.interval is not None},
        "n": {name: score.n for name, score in every.items()},
        "unusable": {name: score.unusable for name, score in every.items() if score.unusable},
        "unanswered": {name: count for name, count in outcome.unanswered.items() if count},
        "undefined": {name: score.reason for name, score in every.items() if score.reason is not None},
        "control": outcome.control,
    }
    return kept if outcome.reason is None else kept | {"reason": outcome.reason}
