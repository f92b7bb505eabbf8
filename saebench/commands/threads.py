"""Threads of one process: set before torch is imported, so that processes on one machine do not slow each other down."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from saebench.errors import SaebenchError

QUOTAS = (Path("/sys/fs/cgroup/cpu.max"),)
"""The file in which Linux gives a container's limit of processor time: ``quota period`` in microseconds, or ``max
period``."""


def usable_cores() -> int:
    """Cores that this process may use: by its affinity, and by its container's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for path in QUOTAS:
        try:
            quota, period = path.read_text(encoding="ascii").split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    return cores


def set_threads(threads: int | None) -> None:
    """Set how many threads torch uses, and let waiting threads sleep instead of spin.

    Where several processes share the cores, threads that spin while they wait take the time that the others need. What
    the environment says already (``OMP_NUM_THREADS``, ``OMP_WAIT_POLICY``) stays, unless ``threads`` is given.

    Args:
        threads: by default as many as there are usable cores.

    Raises:
        SaebenchError: the number is not positive.
    """
    if threads is not None and threads < 1:
        raise SaebenchError(f"--threads is {threads}; it must be at least 1.")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    else:
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
