"""Evaluators whose answers cannot be planted: their metrics have the verdict that nothing is known, with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from saebench.audit.lenses.finding import unknown
from saebench.audit.verdicts import ORDER, Audited
from saebench.results.verdicts import Verdict


@dataclass(frozen=True)
class Unplanted:
    """Metrics with a direction, and why none of the lenses can be applied on the planted model."""

    metrics: tuple[str, ...]
    reason: str


UNPLANTED = {
    "absorption": Unplanted(
        ("absorption_fraction", "full_absorption", "main_latents", "main_latents_f1", "main_latents_recall"),
        "Not planted: its choice of a letter's latents takes 50 steps of Adam for each 4,096 words; with the few hundred "
        "words of a planted model it follows the random start.",
    ),
    "ravel": Unplanted(
        ("disentanglement", "cause", "isolation"),
        "Not planted: it changes an entity and reads the answer at a later position, and no position of the planted model "
        "depends on the activations at another.",
    ),
    "unlearning": Unplanted(
        ("unlearning_score", "retained"),
        "Not planted: the answer to a question depends on the order of its options far before it, which no position of the "
        "planted model sees.",
    ),
}


def without_lenses(evaluators: Iterable[str]) -> list[Audited]:
    """The metrics of those of ``evaluators`` that are not planted."""
    found = []
    for name in evaluators:
        if name in UNPLANTED:
            reason = UNPLANTED[name].reason
            for metric in UNPLANTED[name].metrics:
                path = f"{name}.{metric}"
                findings = {lens: unknown(lens, reason) for lens in ORDER}
                found.append(Audited(path, findings, Verdict(path, "not known", "", reason)))
    return found
