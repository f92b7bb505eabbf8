"""Useless and good metrics through the same lenses as real ones, and the lenses on tables with known answers."""

import numpy as np
import pytest

from saebench.audit.lenses import confounds, dose_response, floors, noise, resolution, trajectory, validity
from saebench.audit.lenses.finding import partial_spearman, row_spearman, spearman
from saebench.audit.scores import Score, Subject
from saebench.audit.thresholds import Thresholds, read_thresholds
from saebench.audit.verdicts import audit_scores

METRICS = ("constant", "coin", "minus_l0", "mse_renamed", "recovery")
KINDS = ("missing", "random")


@pytest.fixture(scope="module")
def thresholds() -> Thresholds:
    read = read_thresholds()
    return Thresholds(read.of, read.required, read.fatal, {"planted": KINDS}, read.sha256, read.sees_sha256)


def made_table(seed: int = 0) -> list[Score]:
    """Scores of five metrics: 40 trained autoencoders of one cell whose error is only partly their recovery."""
    rng = np.random.default_rng(seed)
    subjects: list[tuple[Subject, float]] = []
    for kind in KINDS:
        subjects += [
            (
                Subject(f"{kind} {d}", "damaged", damage=kind, dose=d, recovery=1 - d, normalised_mse=0.1 + d, l0=8.0, n=64),
                0.01,
            )
            for d in (0.0, 0.1, 0.25, 0.5, 0.75)
        ]
    subjects += [
        (Subject("again", "repeat", sample=i, recovery=0.5, normalised_mse=0.3, l0=8.0, n=64), 0.01) for i in range(40)
    ]
    for seed_of_run in range(40):
        recovery = float(rng.uniform(0.2, 0.8))
        mse = 0.6 - 0.4 * recovery + float(rng.normal(0, 0.05))
        shared = {"l0": 8.0, "n": 64, "architecture": "topk", "seed": seed_of_run, "cell": "topk"}
        subjects.append((Subject(f"t{seed_of_run}", "trained", recovery=recovery, normalised_mse=mse, **shared), 0.01))
        control = Subject(f"c{seed_of_run}", "control", recovery=0.0, normalised_mse=0.9, control="random", **shared)
        subjects.append((control, 0.01))
    found = []
    for subject, error in subjects:
        assert subject.recovery is not None and subject.normalised_mse is not None and subject.l0 is not None
        jitter = float(rng.normal(0, error)) if subject.role != "damaged" else 0.0
        coin = float(rng.normal())
        goods = {
            "constant": (0.5, 0.01), "coin": (coin, 1.0), "minus_l0": (-subject.l0, 0.01),
            "mse_renamed": (-subject.normalised_mse + (jitter if subject.role == "repeat" else 0.0), error),
            "recovery": (subject.recovery + jitter, error),
        }  # fmt: skip
        found += [Score(subject, f"planted.{name}", good, good, its) for name, (good, its) in goods.items()]
    return found


def test_useless_metrics_get_the_verdicts_that_they_deserve(thresholds):
    verdicts = {each.metric.removeprefix("planted."): each.verdict for each in audit_scores(made_table(), thresholds)}
    assert set(verdicts) == set(METRICS)
    for useless in ("constant", "coin", "minus_l0"):
        assert verdicts[useless].standing == "not evidence", useless
        assert verdicts[useless].lens in thresholds.fatal
    assert (verdicts["mse_renamed"].standing, verdicts["mse_renamed"].lens) == ("use with care", "confounds")
    assert "adds little" in verdicts["mse_renamed"].sentence
    assert verdicts["recovery"].standing == "sound"


def test_a_lens_that_was_not_run_is_never_passed(thresholds):
    without = [each for each in made_table() if each.subject.role != "control"]
    found = {each.metric: each for each in audit_scores(without, thresholds)}["planted.recovery"]
    assert found.findings["floors"].outcome == "not known"
    assert (found.verdict.standing, found.verdict.lens) == ("use with care", "floors")
    none = [each for each in made_table() if each.subject.role == "trained"][: 5 * 10]  # ten autoencoders: too few
    assert {each.verdict.standing for each in audit_scores(none, thresholds)} <= {"not known"}


def test_noise_finds_errors_that_are_stated_too_small(thresholds):
    asked, rng = thresholds.of["noise"], np.random.default_rng(0)
    values = rng.normal(5.0, 1.0, size=400)
    for stated, outcome in ((1.0, "passed"), (0.5, "failed"), (2.0, "failed")):
        repeats = [Score(Subject("a", "repeat"), "m", float(v), float(v), stated) for v in values]
        found = noise(repeats, asked)
        assert found.outcome == outcome
        assert found.value == pytest.approx(values.std(ddof=1) / stated)
        assert found.low is not None and found.high is not None and found.low < found.value < found.high
    assert found.details["coefficient_of_variation"] == pytest.approx(values.std(ddof=1) / abs(values.mean()))
    assert noise(repeats[:7], asked).outcome == "not known"


def test_dose_response_knows_direction_and_what_counts(thresholds):
    def curve(kind: str, goods: list[float]) -> list[Score]:
        return [Score(Subject("", "damaged", damage=kind, dose=d), "m", g, g, 0.0) for d, g in enumerate(goods)]

    scores = curve("missing", [5, 4, 3, 2, 1]) + curve("random", [1, 2, 3, 4, 5])
    asked = thresholds.of["dose"]
    assert dose_response(scores, ["missing"], asked).outcome == "passed"
    inverted = dose_response(scores, ["missing", "random"], asked)
    assert (inverted.outcome, inverted.value) == ("failed", -1.0)
    assert dose_response(scores, [], asked).outcome == "not known"
    partly = scores[:5] + curve("random", [5, 5, 5, 4, 5])
    assert dose_response(partly, ["missing", "random"], asked).outcome == "care"


def test_floors_are_paired_and_corrected(thresholds):
    def pairs(control: str, shift: float) -> list[Score]:
        noise_of = np.random.default_rng(1).normal(0, 0.1, size=8)
        return [
            Score(Subject("", "control", control=control, seed=s, cell="c"), "m", 0, s - shift + float(noise_of[s]), None)
            for s in range(8)
        ]

    trained = [Score(Subject("", "trained", seed=s, cell="c"), "m", 0, float(s), None) for s in range(8)]
    asked = thresholds.of["floors"]
    assert floors(trained, pairs("random", 1.0), asked).outcome == "passed"  # seeds differ by more than the effect
    both = floors(trained, pairs("random", 1.0) + pairs("pca", 0.0), asked)
    assert both.outcome == "failed" and "pca" in both.sentence and "random" not in both.sentence
    assert both.details["controls"]["random"]["p_holm"] == pytest.approx(2 * both.details["controls"]["random"]["p"])
    assert floors(trained[:3], pairs("random", 1.0), asked).outcome == "not known"


def test_validity_needs_enough_autoencoders_of_one_cell(thresholds):
    asked = thresholds.of["validity"]
    scores = [Score(Subject("", "trained", recovery=i / 40, cell="a"), "m", 0, float(i**2), None) for i in range(30)]
    found = validity(scores, asked)
    assert (found.outcome, found.value) == ("passed", pytest.approx(1.0))
    assert validity(scores[:29], asked).outcome == "not known"


def test_confounds_find_a_function_of_l0_and_width(thresholds):
    grid = [
        Score(Subject("", "trained", l0=k, n=n), "m", 0.3 * np.log(k) - 0.1 * np.log(n), 0.0, None)
        for k in (4.0, 8.0, 16.0, 32.0) for n in (64, 128, 256)
    ]  # fmt: skip
    found = confounds(grid, [], thresholds.of["confounds"])
    assert (found.outcome, found.value) == ("failed", pytest.approx(1.0))


def test_trajectory_and_resolution(thresholds):
    scores = [
        Score(Subject("", "trained", architecture="topk", seed=s, cell="c", tokens=t), "m", -t, -float(t), None)
        for s in range(3) for t in (1, 2, 3)
    ]  # fmt: skip
    assert trajectory(scores, thresholds.of["trajectory"]).outcome == "failed"
    ends = {"topk": (1.0, 2.0), "jumprelu": (5.0, 6.0), "gated": (9.0,)}  # by seed
    there = [
        Score(Subject("", "trained", architecture=arch, seed=s, cell=f"{arch} n=8 k=2", tokens=9), "m", v, v, None)
        for arch, values in ends.items() for s, v in enumerate(values)
    ]  # fmt: skip
    earlier = [
        Score(Subject("", "trained", architecture="topk", cell="topk n=8 k=2", tokens=t), "m", t, t, None) for t in (0, 1)
    ]
    other = [
        Score(Subject("", "trained", architecture="topk", seed=s, cell="topk n=9 k=2", tokens=9), "m", 7 * s, 7 * s, None)
        for s in range(2)
    ]
    found = trajectory([*earlier, *there, *other], thresholds.of["trajectory"])
    assert found.details == {"runs": 1, "signal_to_noise": pytest.approx((8 - 0.25) / 0.5)}
    repeats = [Score(Subject("a", "repeat"), "m", v, v, 1.0, seconds=2.0) for v in (1.0, 3.0)]
    found = resolution(repeats, 1000)
    assert found.value == pytest.approx(2.802 * 2**0.5 * 2**0.5, rel=1e-3)
    assert found.details == {"seconds": 2.0, "tokens": 1000, "tokens_for_half": 4000}


def test_rank_statistics_against_scipy():
    from scipy.stats import spearmanr

    a, b = np.random.default_rng(0).normal(size=(2, 50))
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(a, np.ones(50)) == 0.0
    assert row_spearman(np.stack([a, b, np.ones(50)]), b) == pytest.approx([spearman(a, b), 1.0, 0.0])
    assert partial_spearman(a, b, [a]) == 0.0
    r, s, t = spearman(a, b), spearman(a, a + b), spearman(b, a + b)
    expected = (r - s * t) / ((1 - s**2) * (1 - t**2)) ** 0.5
    assert partial_spearman(a, b, [a + b]) == pytest.approx(expected)
