"""Suites of evaluations with pinned settings, so that results of one suite are comparable."""

from saebench.suites.suite import SUITES, Suite, read_suite

__all__ = ["SUITES", "Suite", "read_suite"]
