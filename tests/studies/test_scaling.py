"""Reading points, which laws are fitted to which, refusals that say how much is needed, learning rates, the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saebench.errors import SaebenchError
from saebench.results import write_result
from saebench.studies.scaling.data import (
    ScalingPoint,
    best_of_each,
    from_record,
    frontier,
    one_architecture,
    read_points,
)
from saebench.studies.scaling.rates import fit_rates, lowest
from saebench.studies.scaling.report import scaling_figures, scaling_result
from saebench.studies.scaling.run import fit_points, scaling_study
from saebench.studies.study import write_study
from tests.sample_results import sample_result


def point(n: int, k: float = 32, loss: float | None = None, **more: object) -> ScalingPoint:
    base = ScalingPoint(f"n{n}-k{k:g}", "topk", n, k, 64, 0.08 + 0.9 * n**-0.25 if loss is None else loss)
    return replace(base, **more)  # type: ignore[arg-type]


def record(
    folder: Path, n: int, loss: float, k: int = 32, complete: bool = True, arch: str = "topk", lr: float = 1e-3
) -> Path:
    """A training record with the fields that `saebench train` writes."""
    steps = list(range(100))
    training = {
        "config": {"arch": "topk", "n": n, "k": k, "batch": 512, "learning_rate": 1e-3, "target_l0": 0.0},
        "tokens": 51_200,
        "complete": complete,
        "final": {"normalised_mse": loss, "l0": float(k), "dead_share": 0.0},
        "history": {"step": steps, "normalised_mse": [loss + 0.5 / (1 + step) for step in steps]},
    }
    folder.mkdir(parents=True)
    path = folder / "sae.json"
    path.write_text(json.dumps({"sae": {"d_in": 64}, "training": training}))
    return path


def sweep(folder: Path) -> Path:
    noise = np.random.default_rng(0)
    for n in 2 ** np.arange(8, 15):
        for k in (8, 32, 128):
            loss = (0.05 + 0.9 * n**-0.25) * (k / 32) ** -0.2 * float(np.exp(0.003 * noise.standard_normal()))
            record(folder / f"n{n}-k{k}", int(n), loss, k)
            record(folder / f"n{n}-k{k}" / "average", int(n), loss / 2, k)
    return folder


def test_a_sweeps_folder_is_read_without_its_averages(tmp_path: Path) -> None:
    points = read_points([sweep(tmp_path)])
    assert len(points) == 21 and {each.k for each in points} == {8, 32, 128}
    first = points[0]
    assert (first.tokens, first.d, first.lr) == (51_200, 64, 1e-3)
    assert first.compute(1000) == 6 * 2 * first.n * 64 * 1000


def test_curves_are_means_over_bins(tmp_path: Path) -> None:
    read = from_record(record(tmp_path / "one", 256, 0.3))
    assert 10 < len(read.curve) < 20
    tokens = 512 * (1 + np.arange(100))
    last = np.floor(np.log10(tokens) * 8) == np.floor(np.log10(51_200) * 8)
    assert read.curve[-1][1] == pytest.approx(float(np.mean(0.3 + 0.5 / (1 + np.arange(100)[last]))))
    assert read.curve[-1][0] == pytest.approx(float(np.exp(np.log(tokens[last]).mean())))


def test_results_are_points_too(tmp_path: Path) -> None:
    result = sample_result()
    write_result(result, tmp_path / "one.json")
    (read,) = read_points([tmp_path])
    assert read.loss == result.metric("reconstruction.normalised_mse").value
    assert read.n == result.sae.n_latents and read.k == result.sae.activation.get("k", read.k)
    with pytest.raises(SaebenchError, match="no metric"):
        read_points([tmp_path / "one.json"], "downstream.nothing")


def test_all_laws_are_fitted_to_a_sweep(tmp_path: Path) -> None:
    study = scaling_study([sweep(tmp_path / "runs")], bootstraps=40)
    assert set(study.laws) == {"size_k8", "size_k32", "size_k128", "joint", "compute"}
    found = study.laws["size_k32"].found
    for name, value in {"irreducible": 0.05, "exponent": 0.25}.items():
        low, high = found.full.intervals[name]
        assert low <= value <= high
    assert set(study.refused) == {"rate"} and "at least 3 sizes" in study.refused["rate"]
    result = scaling_result(study)
    assert result.metrics["size_k32.exponent"].interval == found.full.intervals["exponent"]
    by_name = {(row["law"], row["coefficient"]): row["published"] for row in result.details["published"]}
    assert by_name["joint", "gamma"] == -0.042 and by_name["compute", "exponent"] == 0.084
    assert by_name["compute", "log_coefficient"] == pytest.approx(np.log(0.056))
    figures = scaling_figures(study, result)
    assert len({figure.key for figure in figures}) == len(figures) == 7
    numbers, page = write_study(result, figures, tmp_path / "out")
    assert json.loads(numbers.read_text())["study"] == "scaling" and "plot-published" in page.read_text()


def test_too_few_points_are_refused_with_what_is_needed() -> None:
    few = [point(n) for n in (256, 512, 1024, 2048)]
    with pytest.raises(SaebenchError, match=r"at least 6 sizes.*there are at most 4"):
        fit_points(few, "m", fits=["size"])
    with pytest.raises(SaebenchError, match=r"at least 9 points with 3 sizes and 3 numbers.*there are 4 with 4 and 1"):
        fit_points(few, "m", fits=["joint"])
    with pytest.raises(SaebenchError, match=r"at least 6 points of 2 or more runs"):
        fit_points(few, "m", fits=["compute"])
    with pytest.raises(SaebenchError, match=r"Nothing can be fitted to 4 points.*at least 6 sizes"):
        fit_points(few, "m")


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(SaebenchError, match="neither checkpoints"):
        read_points([tmp_path])
    with pytest.raises(SaebenchError, match="not finished"):
        from_record(record(tmp_path / "a", 256, 0.3, complete=False))
    broken = tmp_path / "b" / "sae.json"
    broken.parent.mkdir()
    broken.write_text('{"sae": {"d_in": 4}, "training": {}}')
    with pytest.raises(SaebenchError, match="no training record"):
        from_record(broken)
    with pytest.raises(SaebenchError, match="There is no fit size_of"):
        scaling_study([tmp_path], fits=["size_of"])
    with pytest.raises(SaebenchError, match="several architectures"):
        one_architecture([point(1), replace(point(2), arch="relu")], None)


def test_the_best_of_a_learning_rate_sweep_counts() -> None:
    points = [point(256, loss=0.4, lr=1e-3), point(256, loss=0.3, lr=2e-3), point(512, loss=0.25)]
    assert [(each.n, each.loss) for each in best_of_each(points)] == [(256, 0.3), (512, 0.25)]


def test_the_frontier_is_what_no_cheaper_run_reaches() -> None:
    small = point(10, loss=0.5, tokens=1000, curve=((100.0, 0.9), (500.0, 0.6)))
    large = point(100, loss=0.4, tokens=1000, curve=((100.0, 0.7), (500.0, 0.45)))
    compute, losses, which = frontier([small, large])
    assert losses.tolist() == [0.9, 0.6, 0.5, 0.45, 0.4] and which == [0, 0, 0, 1, 1]
    assert compute.tolist() == sorted(compute.tolist())
    assert compute[0] == 6 * 2 * 10 * 64 * 100


def test_planted_learning_rates_are_found() -> None:
    """Parabolas in log rate whose lowest point falls as the inverse root of n."""
    rates = np.geomspace(1e-4, 1e-1, 13)
    points = [
        point(n, loss=float(0.3 + 0.02 * np.log(rate / (3e-4 * (2**14 / n) ** 0.5)) ** 2), lr=float(rate))
        for n in (256, 512, 1024, 4096)
        for rate in rates
    ]
    law = fit_rates(points)
    assert law.best[1024] == pytest.approx(3e-4 * 4, rel=1e-6)
    assert law.coefficient[0] == pytest.approx(3e-4, rel=1e-6)
    assert law.exponent[0] == pytest.approx(0.5, abs=1e-6)
    edge = [*points, *(point(64, loss=float(1 - rate), lr=float(rate)) for rate in rates)]
    assert fit_rates(edge).at_edge == [64] and fit_rates(edge).best == law.best
    assert lowest([(1e-3, 0.3), (2e-3, 0.4)]) is None
    with pytest.raises(SaebenchError, match="at least 3 sizes"):
        fit_rates([each for each in points if each.n < 1024])
