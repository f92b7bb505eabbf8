"""Claims on results made by formula: effects and slopes by hand, pairing, and the three verdicts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import t, ttest_rel
from typer.testing import CliRunner

from saebench.cli import app
from saebench.comparison.claims import CLAIMS, MSE, ClaimResult, claims_on, difference, slope
from saebench.comparison.headline import L0
from saebench.errors import SaebenchError
from saebench.results import Result, write_result
from tests.sample_results import evaluator, metric, sample_result

ROWS = 40


def made(architecture: str, n: int, k: float, level: float, noise: float = 0.01, seed: int = 0) -> Result:
    """A result whose error is about ``level`` with a part common to all results, and ``ce_difference`` its 1.5th power."""
    common = torch.randn(ROWS, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    own = torch.randn(ROWS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    error = level * (1 + 0.3 * (common - common.mean()) + noise * (own - own.mean()))
    ones = [1.0] * ROWS
    mse = float(error.mean())
    reconstruction = evaluator(
        "reconstruction", [metric("normalised_mse", mse, direction="lower"), metric("l0", k)],
        {"by_row": {"squared_error": error.tolist(), "variance": ones, "l0": [k] * ROWS, "tokens": ones,
                    "rows_per_group": 1}},
    )  # fmt: skip
    loss = error.abs().pow(1.5)
    downstream = evaluator(
        "downstream", [metric("ce_difference", float(loss.mean()), direction="lower", unit="nats")],
        {"by_row": {"ce_spliced": loss.tolist(), "ce_clean": [0.0] * ROWS, "predictions": ones, "rows_per_group": 1}},
    )  # fmt: skip
    base = sample_result(f"{architecture}-{n}-{k}-{seed}")
    sae = base.sae.model_copy(update={"architecture": architecture, "n_latents": n, "activation": {"name": architecture}})
    return base.model_copy(update={"sae": sae, "evaluators": {"reconstruction": reconstruction, "downstream": downstream}})


def test_a_difference_is_the_paired_one_over_pairs_of_equal_width_and_sparsity() -> None:
    a, b = made("topk", 64, 8, 0.2, seed=1), made("relu", 64, 8.3, 0.25, seed=2)
    far = [made("relu", 64, 16, 0.1), made("relu", 128, 8, 0.1)]
    found = difference(MSE, "topk", "relu")([a, b, *far])
    assert found is not None and found[1] == 2
    rows = [np.array(each.evaluators["reconstruction"].details["by_row"]["squared_error"]) for each in (a, b)]
    assert found[0].value == pytest.approx(rows[0].mean() - rows[1].mean())
    (tested,) = [each for each in claims_on([a, b, *far]) if each.claim == CLAIMS[0]]
    assert tested.p == pytest.approx(float(ttest_rel(*rows).pvalue), rel=1e-6)
    assert tested.verdict == "reproduced"
    assert difference(MSE, "topk", "gated")([a, b]) is None


def test_a_slope_is_that_of_least_squares_within_groups() -> None:
    results = [made("topk", n, k, 2.0 * k**-0.5 * n**-0.25, seed=k + n) for n in (64, 128) for k in (4, 8, 16)]
    over_k = slope(MSE, lambda each: each.metric(L0).value or 0, lambda each: each.sae.n_latents)(results)
    assert over_k is not None and over_k[1] == 6
    x = np.array([math.log(k) for _ in (64, 128) for k in (4, 8, 16)])
    y = np.array([math.log(each.metric(MSE).value or 1) for each in results])
    group = np.repeat([0, 1], 3)
    centred = x - np.array([x[group == g].mean() for g in group])
    assert over_k[0].value == pytest.approx(float((centred * y).sum() / (centred**2).sum()), rel=1e-9)
    assert over_k[0].value == pytest.approx(-0.5, abs=0.01)
    over_n = slope(MSE, lambda each: float(each.sae.n_latents), lambda each: each.metric(L0).value)(results)
    assert over_n is not None and over_n[0].value == pytest.approx(-0.25, abs=0.01)


def test_verdicts() -> None:
    results = [made("topk", n, k, 2.0 * k**-0.5, seed=k + n) for n in (64, 128) for k in (4, 8, 16)]
    results += [made("batchtopk", 64, 8, results[1].metric(MSE).value or 0, noise=0.2, seed=7), made("relu", 64, 8, 0.4)]
    found = {each.claim.words: each for each in claims_on(results)}
    assert found["TopK reconstructs better than ReLU at equal L0"].verdict == "contradicted"
    assert found["The error falls as k grows"].verdict == "reproduced"
    assert found["The downstream loss falls faster than the error as k grows"].verdict == "reproduced"
    assert found["BatchTopK reconstructs better than TopK at equal L0"].verdict == "cannot tell"
    assert found["Explanations have a higher recall as n grows"] == ClaimResult(CLAIMS[12], None, 0, None, None, None)
    low, high = found["The error falls as k grows"].interval or (0, 0)
    assert low < -0.5 < high and high - low < 2 * t.ppf(0.975, ROWS - 1) * 0.05
    with pytest.raises(SaebenchError, match="No claim can be tested"):
        claims_on([results[0]])


@pytest.mark.parametrize("level", [0.2, 0.4])
def test_any_difference_contradicts_equality(level: float) -> None:
    found = {
        each.claim.words: each for each in claims_on([made("batchtopk", 64, 8, level), made("jumprelu", 64, 8, 0.3, seed=5)])
    }
    assert found["BatchTopK and JumpReLU reconstruct equally well"].verdict == "contradicted"


def test_trained_controls_are_not_part_of_a_claim() -> None:
    good, bad = made("topk", 64, 8, 0.2), made("topk", 64, 8, 0.9)
    frozen = bad.model_copy(update={"sae": bad.sae.model_copy(update={"training": {"control": "frozen decoder"}})})
    relu = made("relu", 64, 8, 0.3, seed=5)
    assert claims_on([good, frozen, relu])[0].effect == claims_on([good, relu])[0].effect


def test_the_command(tmp_path: Path) -> None:
    files = []
    for index, result in enumerate([made("topk", 64, 8, 0.2), made("relu", 64, 8, 0.3, seed=5)]):
        files.append(str(tmp_path / f"{index}.json"))
        write_result(result, files[-1])
    done = CliRunner().invoke(app, ["compare", *files, "--claims", "--format", "markdown"])
    assert done.exit_code == 0, done.output
    first = done.output.splitlines()[2]
    assert first.startswith("| TopK reconstructs better than ReLU at equal L0 |") and first.endswith("reproduced |")
