"""Language models cut at a hook: loading, hooks, the layers below and above, continuation."""

from saebench.lm.model import Cut, LanguageModel
from saebench.lm.prefix import Prefix
from saebench.lm.readout import Readout, RunLosses

__all__ = ["Cut", "LanguageModel", "Prefix", "Readout", "RunLosses"]
