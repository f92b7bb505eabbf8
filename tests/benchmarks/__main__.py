"""Run benchmarks: all of them, or those named."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.benchmarks.table import show

names = sys.argv[1:] or sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
for name in names:
    module = importlib.import_module(f".bench_{name}", package=__package__)
    show(module.TITLE, module.run())
