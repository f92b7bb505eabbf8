"""Writes the tables of docs/results/references.md and docs/claims.md again, from the manifest and the leaderboard's entries:
``python -m tests.reference_tables``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saebench.comparison.claims import claims_on
from saebench.comparison.compare import compare
from saebench.comparison.controls import against_controls, summary_frame
from saebench.report.content import ARROWS, format_value
from saebench.results import Result, read_result
from saebench.training.controls import CONTROL_KINDS

ROOT = Path(__file__).parents[1]
PAGE, CLAIMS = ROOT / "docs/results/references.md", ROOT / "docs/claims.md"
MANIFEST = ROOT / "docs/results/references.json"
BOARD = ROOT / "leaderboards/smollm2/blocks.15.hook_resid_post"
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


def written(text: str, heading: str, rows: Sequence[str]) -> str:
    """``text`` with other rows in the table whose first line begins with ``heading``."""
    start = text.index(heading)
    stop = text.index("\n\n", start)
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


def control_rows(results: Sequence[Result]) -> tuple[list[str], int]:
    """Trained against controls, a row for each metric and control, and the number of tests."""
    compared = compare([*results])
    found = against_controls(compared.results, compared.names)
    frame = summary_frame(found).set_index("metric")
    directions = {each.verdict.metric: ARROWS[each.verdict.direction] for each in found}
    rows = []
    for metric, name in HEADLINE.items():
        first = f"{name} {directions[metric]}"
        for row in frame.loc[[metric]].to_dict("records"):
            cells = [first, row["control"].split(" (")[0], row["saes"], f"{row['mean']:.3g}", f"{row['control_mean']:.3g}"]
            cells += [row["better"], row["not separated"], row["worse"], f"{row['largest_p_holm']:.1g}"]
            rows.append(f"| {' | '.join(map(str, cells))} |")
            first = ""
    return rows, len(found)


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
    """The text of both pages."""
    members = json.loads(MANIFEST.read_text())["members"]
    members = dict(sorted(members.items(), key=lambda each: (place(each[1]), each[0])))
    entries = {path.stem.replace("-l0-", "-k"): read_result(path) for path in sorted(BOARD.glob("*-l0-*.json"))}
    rows, tests = control_rows(list(entries.values()))
    text = written(PAGE.read_text(), "| SAE | Normalised MSE | L0 | Dead", trained_rows(members))
    text = written(text, "| SAE | L0 | Normalised MSE | CE difference", held_out_rows(members, entries))
    text = written(text, "| Metric | Control | SAEs | Mean", rows)
    text = re.sub(r"\(\d+ tests;", f"({tests} tests;", text)
    claims = written(CLAIMS.read_text(), "| Claim | Source", claim_rows(list(entries.values())))
    return {PAGE: text, CLAIMS: claims}


def main() -> None:
    """Rewrite both pages."""
    for path, text in pages().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
