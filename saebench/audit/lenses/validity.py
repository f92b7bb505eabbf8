"""Validity: does a metric follow true recovery where L0 and width are the same?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saebench.audit.lenses.finding import Finding, Outcome, array, bootstrap, spearman, unknown
from saebench.audit.scores import Score, grouped


def validity(trained: Sequence[Score], asked: Mapping[str, float]) -> Finding:
    """Rank correlation with true recovery within cells of one width and L0; the smallest of the cells decides.

    Args:
        trained: scores of trained autoencoders whose recovery is known.
        asked: ``saes_least``, ``right``, ``useless``.

    Returns:
        The correlation, its interval by bootstrap over autoencoders.
    """
    known = [each for each in trained if each.subject.recovery is not None]
    cells = {name: its for name, its in grouped(known, lambda each: each.subject.cell).items() if name}
    large = {name: its for name, its in cells.items() if len(its) >= asked["saes_least"]}
    if not large:
        most = max((len(its) for its in cells.values()), default=0)
        return unknown(
            "validity", f"{asked['saes_least']:.0f} autoencoders of one width and L0 are needed; there are {most}."
        )
    found = {}
    for name, its in large.items():
        good, truth = array([each.good for each in its]), array([each.subject.recovery for each in its])
        low, high = bootstrap(len(its), lambda take, g=good, t=truth: spearman(g[take], t[take]))  # type: ignore[misc]
        found[name] = {"correlation": spearman(good, truth), "low": low, "high": high, "saes": len(its)}
    worst = min(found.values(), key=lambda each: each["correlation"])
    outcome: Outcome = "care"
    if worst["correlation"] >= asked["right"] and worst["low"] > 0:
        outcome = "passed"
    elif worst["high"] < asked["useless"]:
        outcome = "failed"
    words = f"Correlates by {worst['correlation']:.2f} with true recovery at fixed L0 and width."
    return Finding("validity", outcome, words, worst["correlation"], worst["low"], worst["high"], {"cells": found})


def largest_cell(trained: Sequence[Score]) -> list[Score]:
    """The scores of the cell with most autoencoders."""
    return max(grouped(trained, lambda each: each.subject.cell).values(), key=len, default=[])
