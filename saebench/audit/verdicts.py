"""From lenses to a verdict, by thresholds that were fixed beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from saebench.audit.lenses import Measure
from saebench.parsing import parse_toml

SOUND, CARE, NO_EVIDENCE, UNKNOWN = "sound", "use with care", "not evidence", "not known"


@dataclass(frozen=True)
class Lenses:
    """The lenses' numbers for one metric.

    Attributes:
        dose: by damage that the metric is meant to see; ``other_doses``: by the remaining damages.
        noise, validity, adds: see ``saebench.audit.lenses``; None where the lens was not run.
        resolution: smallest difference that is detected; ``seconds``: for one autoencoder.
        best_is_oracle: whether no damaged version of the oracle has a better value.
    """

    dose: Mapping[str, float | None]
    other_doses: Mapping[str, float | None]
    noise: Measure | None
    validity: Measure | None
    adds: Measure | None
    resolution: float | None
    seconds: float | None
    best_is_oracle: bool


@dataclass(frozen=True)
class Verdict:
    """A verdict.

    Attributes:
        verdict: ``sound``, ``use with care``, ``not evidence`` or ``not known``.
        lens: that decided it; ``sentence``: why.
    """

    verdict: str
    lens: str
    sentence: str


@cache
def thresholds() -> dict[str, Any]:
    """The content of ``thresholds.toml``."""
    return parse_toml(_text())


def thresholds_sha256() -> str:
    """Hash of ``thresholds.toml``, which verdicts record."""
    return hashlib.sha256(_text().encode()).hexdigest()


def _text() -> str:
    return files("saebench.audit").joinpath("thresholds.toml").read_text(encoding="utf-8")


def decide(found: Lenses) -> Verdict:
    """The verdict on a metric."""
    limits = thresholds()
    for check in (_useless, _unknown, _inverted, _weak_dose, _weak_validity, _noisy):
        verdict = check(found, limits)
        if verdict is not None:
            return verdict
    remark = ""
    if found.adds is not None and found.adds.p is not None and found.adds.p >= limits["adds"]["level"]:
        remark = " Given normalised MSE and L0 it adds nothing that 5 % would notice."
    return Verdict(SOUND, "all", f"It follows every damage it is meant to see, and true recovery.{remark}")


def _useless(found: Lenses, limits: Mapping[str, Any]) -> Verdict | None:
    validity = found.validity
    if validity is not None and (validity.value is None or (validity.high is not None and validity.high <= 0)):
        why = "It does not vary across" if validity.value is None else "It is better for worse"
        return Verdict(NO_EVIDENCE, "validity", f"{why} autoencoders of one width and L0.")
    if validity is not None and validity.low is not None and validity.low <= 0:
        value = validity.value
        return Verdict(NO_EVIDENCE, "validity", f"Its correlation with true recovery, {value:.2f}, is not separated from 0.")
    seen = [value for value in found.dose.values() if value is not None]
    if found.dose and sum(value > limits["dose"]["inverted"] for value in seen) * 2 < len(found.dose):
        return Verdict(NO_EVIDENCE, "dose-response", "It does not get worse with most damages that it is meant to see.")
    return None


def _unknown(found: Lenses, limits: Mapping[str, Any]) -> Verdict | None:
    if not found.dose or found.validity is None:
        return Verdict(UNKNOWN, "none", "Dose-response and validity were not both measured.")
    return None


def _inverted(found: Lenses, limits: Mapping[str, Any]) -> Verdict | None:
    wrong = [kind for kind, value in found.dose.items() if value is None or value <= limits["dose"]["inverted"]]
    return Verdict(CARE, "dose-response", f"It does not get worse with {', '.join(wrong)}.") if wrong else None


def _weak_dose(found: Lenses, limits: Mapping[str, Any]) -> Verdict | None:
    least = limits["dose"]["sound"]
    weak = [f"{kind} ({value:.2f})" for kind, value in found.dose.items() if value is not None and value < least - 1e-9]
    return Verdict(CARE, "dose-response", f"It follows the dose of {', '.join(weak)} only in part.") if weak else None


def _weak_validity(found: Lenses, limits: Mapping[str, Any]) -> Verdict | None:
    value = found.validity.value if found.validity is not None else None
    if value is not None and value < limits["validity"]["sound"]:
        return Verdict(CARE, "validity", f"Its correlation with true recovery is {value:.2f}.")
    return None


def _noisy(found: Lenses, limits: Mapping[str, Any]) -> Verdict | None:
    ratio = found.noise.value if found.noise is not None else None
    if ratio is None:
        return Verdict(CARE, "noise", "Its stated error was not measured, or it states none.")
    if not limits["noise"]["least"] <= ratio <= limits["noise"]["largest"]:
        return Verdict(CARE, "noise", f"Its values spread {ratio:.2f} times as much as its stated error says.")
    return None
