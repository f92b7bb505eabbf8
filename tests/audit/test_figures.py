"""The heat map of an audit."""

from __future__ import annotations

from saebench.audit.figures import audit_figures
from saebench.audit.lenses.finding import Finding, unknown
from saebench.audit.verdicts import ORDER, Audited
from saebench.results.verdicts import Standing, Verdict


def audited(metric: str, standing: Standing) -> Audited:
    findings = {lens: unknown(lens, "not run") for lens in ORDER} | {"dose": Finding("dose", "failed", "It misses one.")}
    return Audited(metric, findings, Verdict(metric, standing, "dose", "It misses one."))


def test_the_heat_map_has_marks_blocks_by_evaluator_and_names_on_both_sides() -> None:
    (figure,) = audit_figures(
        [audited("core.mse", "sound"), audited("core.l0", "not evidence"), audited("scr.scr_dir1", "not known")], []
    )
    heat, below = figure.traces
    assert heat["y"] == ["core.mse ✓", "core.l0 ‡", "scr.scr_dir1 ?"] and heat["x"] == below["x"] == list(ORDER)
    assert heat["z"] == [[0 if lens == "dose" else None for lens in ORDER]] * 3
    assert [line["y0"] for line in figure.layout["shapes"]] == [1.5]  # between the two evaluators
    assert figure.layout["yaxis"]["range"] == [2.5, -0.5]
    assert figure.layout["xaxis"]["side"] == "top" and figure.layout["xaxis2"]["side"] == "bottom"
    assert "‡ not evidence" in figure.caption and figure.rows[1][:2] == ["core.l0", "not evidence"]
