"""Lenses: each turns the scores of one metric into numbers with intervals and an outcome."""

from saebench.audit.lenses.confounds import confounds
from saebench.audit.lenses.dose import dose_response
from saebench.audit.lenses.finding import Finding
from saebench.audit.lenses.floors import floors
from saebench.audit.lenses.noise import noise
from saebench.audit.lenses.resolution import resolution
from saebench.audit.lenses.trajectory import trajectory
from saebench.audit.lenses.validity import validity

__all__ = ["Finding", "confounds", "dose_response", "floors", "noise", "resolution", "trajectory", "validity"]
