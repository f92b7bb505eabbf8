"""No evaluator of SAEBench's suite makes a dense array of tokens by latents."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GIB = 2**30
BOUND = 1.5 * GIB
"""Beyond the start, for 65,536 latents and 100,000 tokens; a tenth of the tokens, dense, has 2.4 GiB."""


@pytest.mark.slow
def test_memory_of_65536_latents_and_100000_tokens(tmp_path: Path) -> None:
    script = Path(__file__).with_name("wide_suite.py")
    done = subprocess.run(
        [sys.executable, "-m", f"tests.evaluators.{script.stem}", str(tmp_path), "dense"], capture_output=True, text=True,
        cwd=script.parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert {name: beyond for name, beyond in found.items() if name not in ("start", "dense") and beyond > BOUND} == {}
    assert found["dense"] > BOUND  # a dense part of the array would have been seen
