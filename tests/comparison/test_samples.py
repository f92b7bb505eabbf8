"""Errors of differences and of interpolated values: against plain formulas and against simulation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.comparison.samples import Sample, combine, sample
from saebench.comparison.verdicts import compare_metric, compare_samples
from saebench.results import EvaluatorResult, Result
from saebench.results.ratios import RATIOS
from saebench.results.statistics import influence_error, ratio_estimate, ratio_influence
from tests.sample_results import evaluator, metric, sample_result

MSE = "reconstruction.normalised_mse"


def exact(values: list[float]) -> torch.Tensor:
    """As float64 from the start: ``torch.tensor`` alone rounds to float32."""
    return torch.tensor(values, dtype=torch.float64)


def result_of_rows(errors: list[float], variances: list[float], corpus: str = "b7" * 32, **details: Any) -> Result:
    """A result whose normalised MSE rests on these sums by row."""
    estimate = ratio_estimate(exact(errors), exact(variances))
    found = evaluator(
        "reconstruction",
        [metric("normalised_mse", estimate.value, estimate.standard_error, direction="lower")],
        {"by_row": {"rows_per_group": 1, "squared_error": errors, "variance": variances}, **details},
    )
    base = sample_result()
    return base.model_copy(
        update={"evaluators": {"reconstruction": found}, "corpus": base.corpus.model_copy(update={"sha256": corpus})}
    )


positive = st.floats(0.1, 10)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(positive, positive, positive), min_size=3, max_size=30))
def test_a_paired_difference_is_the_ratio_estimate_of_the_differences(rows: list[tuple[float, float, float]]) -> None:
    one, other, variance = (list(column) for column in zip(*rows, strict=True))
    verdict = compare_metric(result_of_rows(one, variance), result_of_rows(other, variance), MSE)
    assert verdict is not None and verdict.paired == "rows of text"
    difference = exact(other) - exact(one)
    expected = ratio_estimate(difference, exact(variance))
    assert verdict.difference == pytest.approx(expected.value, abs=1e-9)
    assert verdict.error == pytest.approx(expected.standard_error, rel=1e-6, abs=1e-12)


def test_pairing_sees_a_small_difference_on_rows_that_vary_much() -> None:
    generator = torch.Generator().manual_seed(0)
    hard = (1 + 5 * torch.rand(40, generator=generator)).tolist()
    ones = [1.0] * 40
    better = [0.99 * value for value in hard]
    paired = compare_metric(result_of_rows(hard, ones), result_of_rows(better, ones), MSE)
    assert paired is not None and paired.outcome == "better" and paired.interval is not None
    apart = compare_metric(result_of_rows(hard, ones), result_of_rows(better, ones, corpus="c8" * 32), MSE)
    assert apart is not None and apart.paired == "" and apart.outcome == "within"
    assert apart.error == pytest.approx(math.sqrt(1 + 0.99**2) * (apart.error or 0) / math.sqrt(1 + 0.99**2))
    assert (apart.error or 0) > 20 * (paired.error or 0)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator = torch.Generator().manual_seed(1)
    held = 0
    for _ in range(400):
        shared = torch.rand(12, generator=generator, dtype=torch.float64)
        noise = 0.1 * torch.randn(12, generator=generator, dtype=torch.float64)
        one, other = (1 + shared).tolist(), (1.2 + shared + noise).tolist()
        verdict = compare_metric(result_of_rows(one, [1.0] * 12), result_of_rows(other, [1.0] * 12), MSE)
        assert verdict is not None and verdict.interval is not None
        held += verdict.interval[0] <= 0.2 <= verdict.interval[1]
    assert 0.92 <= held / 400 <= 0.98  # with 1.96 in the place of Student's t it would be about 0.925


def test_verdicts_follow_the_direction_of_the_metric() -> None:
    low, high = result_of_rows([1.0, 1.1, 0.9, 1.0], [4.0] * 4), result_of_rows([2.0, 2.1, 1.9, 2.0], [4.0] * 4)
    words = {outcome.outcome for outcome in (compare_metric(low, high, MSE), compare_metric(high, low, MSE)) if outcome}
    assert words == {"worse", "better"}
    upward = sample_result(scale=0.5), sample_result(scale=1.5)
    verdict = compare_metric(*upward, "downstream.top1_agreement")
    assert verdict is not None and verdict.outcome == "within" and verdict.difference == 0
    verdict = compare_metric(*upward, "downstream.loss_recovered")
    assert verdict is not None and verdict.outcome == "worse" and verdict.paired == ""
    assert compare_metric(*upward, "reconstruction.l0") is None  # it has no direction
    assert compare_metric(*upward, "downstream.relative_compute") is None  # undefined


def test_without_any_error_there_is_no_verdict() -> None:
    verdict = compare_metric(sample_result(), sample_result(scale=2.0), "reconstruction.dead_latents")
    assert verdict is not None and verdict.outcome == "equal"
    one = evaluator("e", [metric("m", 1.0, direction="lower")])
    other = evaluator("e", [metric("m", 2.0, direction="lower")])
    verdict = compare_metric(sample_result(evaluators={"e": one}), sample_result(evaluators={"e": other}), "e.m")
    assert verdict is not None and verdict.outcome == "unknown" and verdict.words == "no verdict: the interval is unknown"


def with_units(values: list[float], keys: list[str], **changes: Any) -> Result:
    units = {"unit": "tasks", "keys": keys, "values": values, **changes}
    mean = sum(values) / len(values)
    return sample_result(
        evaluators={
            "probe": evaluator("probe", [metric("loss", mean, 0.1, direction="lower")], {"by_unit": {"loss": units}})
        }
    )


def test_metrics_over_tasks_are_paired_by_task() -> None:
    one = with_units([0.1, 0.5, 0.9], ["a", "b", "c"])
    other = with_units([0.2, 0.61, 0.99], ["a", "b", "c"])
    verdict = compare_metric(one, other, "probe.loss")
    assert verdict is not None and verdict.paired == "tasks" and verdict.outcome == "worse"
    assert verdict.error == pytest.approx(exact([0.1, 0.11, 0.09]).std().item() / math.sqrt(3), rel=1e-6)
    renamed = compare_metric(one, with_units([0.2, 0.61, 0.99], ["a", "b", "d"]), "probe.loss")
    assert renamed is not None and renamed.paired == "" and renamed.outcome == "within"


@pytest.mark.parametrize(
    "units",
    [
        {"values": [0.1, 0.5, 0.3]},  # its mean is another number
        {"keys": ["a", "b"]},
        {"values": "abc"},
        {"weights": [0.0, 0.0, 0.0]},
        {"more": 1},
    ],
)
def test_units_that_do_not_fit_are_not_used(units: dict[str, Any]) -> None:
    found = sample(with_units([0.1, 0.5, 0.9], ["a", "b", "c"]), "probe.loss")
    assert found is not None and found.influence is not None
    base = with_units([0.1, 0.5, 0.9], ["a", "b", "c"])
    given = {**base.evaluators["probe"].details["by_unit"]["loss"], **units}
    changed = base.evaluators["probe"].model_copy(update={"details": {"by_unit": {"loss": given}}})
    found = sample(base.model_copy(update={"evaluators": {"probe": changed}}), "probe.loss")
    assert found is not None and found.influence is None and found.error == 0.1


@pytest.mark.parametrize("column", [[], "text", [1.0, None, 2.0], [True, False, True], [1.0]])
def test_sums_by_row_that_do_not_fit_are_not_used(column: Any) -> None:
    result = result_of_rows([1.0, 2.0, 3.0], [4.0, 4.0, 4.0])
    details = {"by_row": {"rows_per_group": 1, "squared_error": column, "variance": [4.0, 4.0, 4.0]}}
    changed = result.evaluators["reconstruction"].model_copy(update={"details": details})
    found = sample(result.model_copy(update={"evaluators": {"reconstruction": changed}}), MSE)
    assert found is not None and found.influence is None


def test_logarithms_and_sums_carry_their_errors() -> None:
    influence = torch.tensor([0.1, -0.2, 0.1], dtype=torch.float64)
    one = Sample(2.0, influence_error(influence), influence, ("g",), "rows")
    log = one.log()
    assert log.value == pytest.approx(math.log(2)) and log.error == pytest.approx((one.error or 0) / 2)
    back = log.exp()
    assert back.value == pytest.approx(2.0) and back.error == pytest.approx(one.error)
    assert combine([(1.0, one), (-1.0, one)]).error == 0.0
    alone = Sample(2.0, 0.3)
    assert combine([(1.0, alone), (-1.0, alone)]).error == pytest.approx(0.3 * math.sqrt(2))
    assert combine([(1.0, alone), (1.0, Sample(1.0, None))]).error is None


def test_ratio_influences_give_the_ratio_estimators_error() -> None:
    a, b = torch.rand(2, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = a.sum() / b.sum()
    residuals = a - value * b
    expected = math.sqrt(20 / 19 * float(residuals.square().sum())) / float(b.sum())
    assert influence_error(ratio_influence(a, b)) == pytest.approx(expected, rel=1e-12)
    assert ratio_estimate(a, b).standard_error == pytest.approx(expected, rel=1e-12)


def test_every_metric_of_the_one_pass_is_its_ratio_of_sums(real_result: Result) -> None:
    """Real results: values and errors recomputed from the sums by row agree with those that the evaluators state."""
    checked = 0
    assert {path.partition(".")[0] for path in RATIOS} == set(real_result.evaluators)
    for path, ratio in RATIOS.items():
        stated = real_result.metric(path)
        if stated.value is None:
            continue
        found = sample(real_result, path)
        assert found is not None and found.influence is not None, path
        assert found.error == pytest.approx(influence_error(found.influence), rel=2e-3, abs=1e-9), path
        if ratio.kind != "scaled":
            evaluator_name = path.partition(".")[0]
            value = ratio_value(real_result.evaluators[evaluator_name], path)
            assert value == pytest.approx(stated.value, rel=1e-4, abs=1e-6), path
            checked += 1
    assert checked >= len(RATIOS) - 3  # two are scaled, one is undefined on a model that knows nothing


def ratio_value(found: EvaluatorResult, path: str) -> float:
    ratio = RATIOS[path]

    def of(table: str) -> float:
        rows = found.details
        for key in table.split("."):
            rows = rows[key]

        def total(words: str) -> float:
            first, *rest = words.split(" - ")
            return float(sum(rows[first]) - sum(sum(rows[name]) for name in rest))

        return total(ratio.numerator) / total(ratio.denominator)

    value = of(ratio.table) - (of(ratio.minus) if ratio.minus else 0.0)
    return 1 - value if ratio.kind == "complement" else value


def test_numbers_that_nothing_measures_are_not_summed(real_result: Result) -> None:
    """A result file may hold whole numbers beyond any float, and metrics whose difference is beyond it."""
    found = real_result.evaluators["reconstruction"]
    for huge in (10**400, 1e308):
        rows = found.details["by_row"] | {"cosine": [huge] * len(found.details["by_row"]["tokens"])}
        changed = found.model_copy(update={"details": found.details | {"by_row": rows}})
        result = real_result.model_copy(update={"evaluators": {"reconstruction": changed}})
        its = sample(result, "reconstruction.cosine_similarity")
        assert its is not None and its.influence is None
    verdict = compare_samples(Sample(1e308, 1e308), Sample(-1e308, 1e308), "a.b", "1", "lower")
    assert verdict.interval is None and verdict.outcome == "unknown"
