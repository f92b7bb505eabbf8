"""Where work is distributed to, and on how many workers: what ``--on``, ``--workers`` and ``--address`` say."""

from __future__ import annotations

from dataclasses import dataclass

from saebench.distributed.jobs import Job
from saebench.distributed.pools import LocalPool, Pool
from saebench.distributed.ray_pool import RayPool
from saebench.errors import SaebenchError


@dataclass(frozen=True)
class Workers:
    """Where and on how many workers to distribute work.

    Attributes:
        on: ``local`` (processes of this machine) or ``ray``.
        count: of workers; None for one, or on Ray for one on each GPU or CPU.
        address: of a Ray cluster.
        threads: of each worker on a CPU.
        memory: bytes for each worker; None to measure this machine.
    """

    on: str = "local"
    count: int | None = None
    address: str | None = None
    threads: int | None = 1
    memory: int | None = None

    def __post_init__(self) -> None:
        if self.on not in ("local", "ray"):
            raise SaebenchError(f"Workers run on local or ray, not on {self.on!r}.")
        if self.count is not None and self.count < 1:
            raise SaebenchError(f"--workers is {self.count}; it must be at least 1.")
        if self.address is not None and self.on != "ray":
            raise SaebenchError("--address is of a Ray cluster: use it with --on ray.")

    def start(self, job: Job) -> Pool:
        """Start the workers."""
        if self.on == "ray":
            return RayPool(job, self.count, self.address)
        return LocalPool(job, self.count or 1)
