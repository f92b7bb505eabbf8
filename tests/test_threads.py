from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from saebench.commands import threads
from saebench.errors import SaebenchError

SHOW = """
import saebench.cli
from saebench.commands.threads import set_threads
set_threads({})
import torch
print(torch.get_num_threads())
"""


@pytest.mark.parametrize("quota, cores", [("max 100000", 64), ("150000 100000", 2), ("50000 100000", 1), ("nonsense", 64)])
def test_a_quota_of_a_container_bounds_the_cores(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(threads, "QUOTAS", (tmp_path / "cpu.max", tmp_path / "none"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert threads.usable_cores() == cores


@pytest.mark.parametrize("given, environment, expected", [(2, None, 2), (None, "2", 2), (1, "2", 1)])
def test_torch_gets_the_requested_threads(given: int | None, environment: str | None, expected: int) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    if environment is not None:
        kept["OMP_NUM_THREADS"] = environment
    done = subprocess.run([sys.executable, "-c", SHOW.format(given)], capture_output=True, text=True, env=kept)
    assert done.stdout.strip() == str(expected), done.stderr


def test_the_command_line_refuses_no_threads() -> None:
    with pytest.raises(SaebenchError, match="at least 1"):
        threads.set_threads(0)
