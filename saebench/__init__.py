"""saebench: evaluation and benchmarking of sparse autoencoders on language-model activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saebench.version import __version__

if TYPE_CHECKING:
    from saebench.api import evaluate, load
    from saebench.comparison.compare import Comparison, compare
    from saebench.errors import SaebenchError
    from saebench.report.scorecard import Scorecard
    from saebench.results import Result, read_result
    from saebench.sae import SparseAutoencoder

_LAZY = {
    "Comparison": "saebench.comparison.compare",
    "compare": "saebench.comparison.compare",
    "evaluate": "saebench.api",
    "load": "saebench.api",
    "SaebenchError": "saebench.errors",
    "Result": "saebench.results",
    "read_result": "saebench.results",
    "Scorecard": "saebench.report.scorecard",
    "SparseAutoencoder": "saebench.sae",
}

__all__ = [
    "Comparison",
    "Result",
    "SaebenchError",
    "Scorecard",
    "SparseAutoencoder",
    "__version__",
    "compare",
    "evaluate",
    "load",
    "read_result",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use: importing torch takes seconds, and ``saebench --help`` does not need it."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'saebench' has no attribute {name!r}")
