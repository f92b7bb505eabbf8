"""Writes the tables of docs/results/references.md, docs/results/references-gemma.md, docs/claims.md and docs/audit.md ("over
sparsities"), and the README's "better than", again, from the manifests and the leaderboards' entries:
``python -m tests.reference_tables``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.audit.references import result_scores
from saebench.audit.thresholds import read_thresholds
from saebench.audit.verdicts import audit_scores
from saebench.comparison.claims import claims_on
from saebench.comparison.compare import compare
from saebench.comparison.controls import AgainstControl, against_controls, control_result, summary_frame
from saebench.comparison.headline import find_metric
from saebench.report.content import ARROWS, format_value
from saebench.results import Result, read_result
from saebench.training.controls import CONTROL_KINDS

ROOT = Path(__file__).parents[1]
README, CLAIMS, AUDIT = ROOT / "README.md", ROOT / "docs/claims.md", ROOT / "docs/audit.md"


@dataclass(frozen=True)
class Grid:
    """The references of a model: their page, manifest and board, and sections of the pages on claims and on the audit."""

    page: Path
    manifest: Path
    board: Path
    claims: str
    audit: str


RESULTS, BOARDS = ROOT / "docs/results", ROOT / "leaderboards"
GRIDS = (
    Grid(
        RESULTS / "references.md", RESULTS / "references.json", BOARDS / "smollm2/blocks.15.hook_resid_post",
        "# Claims", "### Over sparsities",
    ),
    Grid(
        RESULTS / "references-gemma.md", RESULTS / "references-gemma.json", BOARDS / "gemma3-270m/blocks.9.hook_resid_post",
        "## On Gemma 3 270M", "### On Gemma 3 270M",
    ),
)  # fmt: skip
ARCHITECTURES = ("topk", "batchtopk", "matryoshka", "gated", "jumprelu", "relu")
HEADLINE = {
    "reconstruction.normalised_mse": "Normalised MSE",
    "downstream.ce_difference": "CE difference",
    "downstream.kl_divergence": "KL divergence",
    "progressive.normalised_mse_area": "Normalised MSE with fewer latents (area)",
    "probe_loss.probe_loss_held_out": "Probe loss, held-out, 24 tasks",
    "explainability.f1": "Neuron2Graph F1, 64 latents",
    "ablation.sparsity": "Ablation sparsity (96 tokens)",
    "ablation.sparsity_excess": "Ablation sparsity minus random directions' of equal norm",
    "shrinkage.zeroed": "Share of latents that refining sets to 0",
    "sparse_probing.sae_top_1_test_accuracy": "`sparse_probing`, accuracy with one latent",
    "tpp.tpp_threshold_20_total_metric": "`tpp`, N = 20",
    "core.kl_div_score": "`core`, KL score",
    "absorption.absorption_fraction": "Absorption fraction",
}
SUITE = {
    "downstream.ce_difference": "CE difference, nats",
    "downstream.kl_divergence": "KL divergence, nats",
    "reconstruction.normalised_mse": "Normalised MSE",
    "progressive.normalised_mse_area": "Normalised MSE with fewer latents (area)",
    "progressive.ce_difference_area": "CE difference with fewer latents (area), nats",
    "probe_loss.probe_loss_held_out": "Probe loss, held-out, nats",
    "probe_loss.k_sparse_accuracy_1": "Accuracy with one latent",
    "probe_loss.k_sparse_accuracy_5": "Accuracy with five",
    "explainability.precision": "Neuron2Graph precision",
    "explainability.recall": "recall",
    "explainability.f1": "F1",
    "explainability.f1_balanced": "F1, positions balanced",
    "ablation.sparsity": "Ablation sparsity",
    "ablation.sparsity_excess": "Its excess over random directions",
}
"""Rows of the table of a page's suite; its columns are those of ``COLUMNS`` that its heading names, at L0 32."""
AUDITED = {
    "reconstruction.normalised_mse": "Normalised MSE",
    "reconstruction.normalised_mse_unit_norm": "The same with tokens of norm 1",
    "downstream.ce_difference": "CE difference, nats",
    "downstream.kl_divergence": "KL divergence, nats",
    "progressive.normalised_mse_area": "Normalised MSE with fewer latents (area)",
    "probe_loss.probe_loss_held_out": "Probe loss, held-out, nats",
    "probe_loss.k_sparse_accuracy_5": "Accuracy with five latents",
    "explainability.f1": "Neuron2Graph F1",
    "explainability.f1_balanced": "F1, positions balanced",
    "ablation.sparsity": "Ablation sparsity",
    "ablation.sparsity_excess": "Ablation sparsity minus random directions'",
    "sparse_probing.sae_top_1_test_accuracy": "`sparse_probing`, accuracy with one latent",
    "tpp.tpp_threshold_20_total_metric": "`tpp`, N = 20",
    "absorption.absorption_fraction": "Absorption fraction",
}
README_TABLE = "| Metric | Trained SAE"
README_METRICS = (
    "downstream.ce_difference", "downstream.kl_divergence", "reconstruction.normalised_mse",
    "progressive.normalised_mse_area", "probe_loss.probe_loss_held_out", "explainability.f1", "ablation.sparsity",
    "ablation.sparsity_excess",
)  # fmt: skip
README_CONTROLS = {"random": "random", "pca": "PCA", "soft-frozen decoder": "soft-frozen"}
COLUMNS = {
    "TopK": "topk", "JumpReLU": "jumprelu", "Gated": "gated", "BatchTopK": "batchtopk", "ReLU": "relu",
    "Matryoshka": "matryoshka", "Soft-frozen decoder": "topk-soft-decoder", "Frozen decoder": "topk-decoder",
    "Frozen encoder": "topk-encoder",
}  # fmt: skip


def written(text: str, heading: str, rows: Sequence[str], section: str = "") -> str:
    """``text`` with other rows in the first table of the section whose first line begins with ``heading``."""
    start = text.index(heading, text.index(section))
    stop = start + len(text[start:].split("\n\n")[0].rstrip("\n"))
    return text[:start] + "\n".join([*text[start:stop].split("\n")[:2], *rows]) + text[stop:]


def place(member: dict[str, Any]) -> tuple[Any, ...]:
    """By which rows are sorted: trained controls last, widths other than 4,096 before them, then L0 and architecture."""
    settings = member["settings"]
    wanted = settings["k"] or settings["target_l0"]
    order = ARCHITECTURES.index(settings["arch"])
    return bool(settings["freeze"]), settings["n"] != 4096, settings["n"], wanted, order, settings["seed"]


def label(name: str, member: dict[str, Any]) -> str:
    """The name, and for a trained control its kind."""
    kind = CONTROL_KINDS.get(member["settings"]["freeze"])
    return f"{name} ({kind})" if kind else name


def trained_rows(members: dict[str, Any]) -> list[str]:
    """What came out of training."""
    return [
        f"| {label(name, each)} | {each['final']['normalised_mse']:.4f} | {each['final']['l0']:.1f} "
        f"| {100 * each['final']['dead_share']:.2f} % | {round(each['seconds']):,} |"
        for name, each in members.items()
    ]


def held_out_rows(members: dict[str, Any], entries: dict[str, Result]) -> list[str]:
    """The losses on held-out text of those that are on the board."""
    rows = []
    for name, each in members.items():
        if name in entries:
            result = entries[name]
            paths = ("reconstruction.normalised_mse", "downstream.ce_difference", "downstream.kl_divergence")
            cells = [
                f"{result.metric('reconstruction.l0').value:.4g}",
                *(format_value(result.metric(path)) for path in paths),
            ]
            rows.append(f"| {label(name, each)} | {' | '.join(cells)} |")
    return rows


def control_rows(found: Sequence[AgainstControl]) -> list[str]:
    """Trained against controls, a row for each metric and control."""
    frame = summary_frame(found).set_index("metric")
    directions = {each.verdict.metric: ARROWS[each.verdict.direction] for each in found}
    rows = []
    for metric, name in HEADLINE.items():
        if metric not in frame.index:
            continue
        first = f"{name} {directions[metric]}"
        for row in frame.loc[[metric]].to_dict("records"):
            cells = [first, row["control"].split(" (")[0], row["saes"], f"{row['mean']:.3g}", f"{row['control_mean']:.3g}"]
            cells += [row["better"], row["not separated"], row["worse"], f"{row['largest_p_holm']:.1g}"]
            rows.append(f"| {' | '.join(map(str, cells))} |")
            first = ""
    return rows


def readme_rows(text: str, found: Sequence[AgainstControl]) -> list[str]:
    """The README's table with the controls that one SAE's own tests (``found``) separate it from."""
    rows = []
    table = text[text.index(README_TABLE) :].split("\n\n")[0].split("\n")[2:]
    for row, metric in zip(table, README_METRICS, strict=True):
        better = {
            each.control.split(" (")[0] for each in found if each.verdict.metric == metric and each.outcome == "better"
        }
        names = [word for control, word in README_CONTROLS.items() if control in better]
        words = "all" if len(names) == len(README_CONTROLS) else ", ".join(names) or "none"
        rows.append(row.rpartition(" | ")[0] + f" | {words} |")
    return rows


def suite_rows(text: str, heading: str, entries: dict[str, Result]) -> list[str]:
    """The suite's headline metrics of the SAEs and controls in the heading of the page's table."""
    names = [each.strip() for each in text[text.index(heading) :].split("\n")[0].split("|")[2:-1]]
    controls = {each: control_result(entries["topk-n4096-k32"], each.lower()) for each in names if each not in COLUMNS}
    results = [controls.get(each) or entries[f"{COLUMNS[each]}-n4096-k32"] for each in names]
    rows = []
    for path, name in SUITE.items():
        found = [each.metric(path) for each in results]
        rows.append(f"| {name} {ARROWS[found[0].direction]} | {' | '.join(map(format_value, found))} |")
    return rows


def audit_rows(results: Sequence[Result]) -> list[str]:
    """Floors of the SAEs taken together, and the share of a metric's variation that L0 and n explain."""
    scores = [score for result in results for score in result_scores(result) if score.metric in AUDITED]
    rows = []
    for each in sorted(audit_scores(scores, read_thresholds()), key=lambda each: list(AUDITED).index(each.metric)):
        controls = each.findings["floors"].details.get("controls", {})
        share = each.findings["confounds"].details.get("share_of_l0_and_n")
        direction = next(found.direction for result in results if (found := find_metric(result, each.metric)) is not None)
        cells = [f"{AUDITED[each.metric]} {ARROWS[direction]}", int(controls["random"]["pairs"])]
        for name in ("random", "pca"):
            found = controls.get(name)
            cells.append(f"{found['difference']:.3f}, {found['p']:.1g}" if found else "—")
        cells.append("—" if share is None else f"{100 * share:.0f} %" if share > 0 else "none")
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows


def claim_rows(results: Sequence[Result]) -> list[str]:
    """The claims that the results allow to test."""
    rows = []
    for each in claims_on(results):
        if each.effect is None or each.interval is None or each.corrected is None:
            continue
        decimals = max(0, 1 - math.floor(math.log10((each.interval[1] - each.interval[0]) / 2)))
        value, low, high = (f"{number:.{decimals}f}" for number in (each.effect, *each.interval))
        saes = f" ({each.saes} SAEs)" if each.saes > 2 else ""
        cells = [each.claim.words, each.claim.source, each.claim.effect + saes, f"{value} [{low}, {high}]"]
        rows.append(f"| {' | '.join(cells)} | {each.corrected:.1g} | {each.verdict} |")
    return rows


def pages() -> dict[Path, str]:
    """The text of all pages."""
    found, claims, audit = {}, CLAIMS.read_text(), AUDIT.read_text()
    for grid in GRIDS:
        members = json.loads(grid.manifest.read_text())["members"]
        members = dict(sorted(members.items(), key=lambda each: (place(each[1]), each[0])))
        entries = {path.stem.replace("-l0-", "-k"): read_result(path) for path in sorted(grid.board.glob("*-l0-*.json"))}
        compared = compare([*entries.values()])
        tested = against_controls(compared.results, compared.names)
        text = written(grid.page.read_text(), "| SAE | Normalised MSE | L0 | Dead", trained_rows(members))
        text = written(text, "| SAE | L0 | Normalised MSE | CE difference", held_out_rows(members, entries))
        text = written(text, "| Suite", suite_rows(text, "| Suite", entries))
        text = written(text, "| Metric | Control | SAEs | Mean", control_rows(tested))
        found[grid.page] = re.sub(r"\([\d,]+ tests;", f"({len(tested):,} tests;", text)
        if grid is GRIDS[0]:
            own = dict(zip(entries, compared.names, strict=True))["topk-n4096-k32"]
            text = README.read_text()
            text = written(text, README_TABLE, readme_rows(text, [each for each in tested if each.name == own]))
            found[README] = re.sub(r"the [\d,]+ comparisons", f"the {len(tested):,} comparisons", text)
        claims = written(claims, "| Claim | Source", claim_rows(list(entries.values())), grid.claims)
        audit = written(audit, "| Metric | SAEs | Against", audit_rows(list(entries.values())), grid.audit)
    return {**found, CLAIMS: claims, AUDIT: audit}


def main() -> None:
    """Rewrite the pages."""
    for path, text in pages().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
