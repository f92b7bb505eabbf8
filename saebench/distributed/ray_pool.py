"""Workers on a Ray cluster (https://docs.ray.io), with the interface of ``pools.Pool``."""

from __future__ import annotations

from typing import Any

from saebench.distributed.jobs import Earlier, Job, attempt, start
from saebench.distributed.pools import Event, Loaded
from saebench.distributed.units import Unit
from saebench.errors import SaebenchError
from saebench.lm.placement import EVERY

MOST_FAILED_STARTS = 32
"""A cluster on which more workers end before they are ready is given up."""


class RayPool:
    """Actors of a Ray cluster, each with one GPU where the cluster has any, else with one CPU.

    With the device ``all`` each has all GPUs of a machine, or as many as the machine with the fewest has.

    Args:
        job: the work.
        workers: how many; None for one on each GPU (with ``all``, each machine), or CPU.
        address: of the cluster; None for the one that ``RAY_ADDRESS`` names, or else a new one on this machine.

    Raises:
        SaebenchError: Ray is not installed, the cluster cannot be reached, or it has no CPU and no GPU.
    """

    def __init__(self, job: Job, workers: int | None, address: str | None = None) -> None:
        self._ray, self._own = connect(address)
        resources = self._ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        each = self._gpus_of_machines() if job.device == EVERY else int(job.device in (None, "cuda"))
        on_gpu = gpus > 0 and each > 0
        count = workers or (gpus // each if on_gpu else cpus)
        if not count or not (gpus if on_gpu else cpus):
            raise SaebenchError(
                "The Ray cluster has no CPU and no GPU for a worker: see ray start --num-cpus and --num-gpus."
            )
        needs: dict[str, Any] = {"num_gpus": each} if on_gpu else {"num_cpus": 1}
        # no restarts by Ray itself: what a dead worker ran is given to another, and counted
        self._actor = self._ray.remote(max_restarts=0, max_task_retries=0, **needs)(_Actor)
        self._job = self._ray.put(job)
        self._failed_starts = 0
        self._waiting: list[tuple[Any, Loaded]] = []
        self._starting: dict[Any, tuple[Any, Loaded]] = {}
        self._running: dict[Any, tuple[Any, Unit]] = {}
        for _ in range(count):
            self._start()

    def _gpus_of_machines(self) -> int:
        """GPUs of the machine that has the fewest, of those that have any."""
        alive = (node["Resources"].get("GPU", 0) for node in self._ray.nodes() if node["Alive"])
        return min((int(each) for each in alive if each), default=0)

    def _start(self) -> None:
        actor = self._actor.remote(self._job)
        self._starting[actor.ready.remote()] = (actor, ())

    def idle(self) -> list[Loaded]:
        """For each worker that waits for a unit, the autoencoders that it has loaded."""
        return [loaded for _, loaded in self._waiting]

    def submit(self, unit: Unit, earlier: Earlier, to: Loaded) -> None:
        """Give a unit to a worker that waits and has loaded ``to``."""
        actor, _ = self._waiting.pop(self.idle().index(to))
        self._running[actor.run.remote(unit, self._ray.put(earlier))] = (actor, unit)

    def events(self) -> list[Event]:
        """Wait until units end, workers are ready, or workers die."""
        ready, _ = self._ray.wait([*self._running, *self._starting], num_returns=1)
        found = []
        for reference in ready:
            if reference in self._starting:
                worker = self._starting.pop(reference)
                try:
                    self._ray.get(reference)
                    self._waiting.append(worker)
                except self._ray.exceptions.RayError as error:
                    self._failed_starts += 1
                    if self._failed_starts > MOST_FAILED_STARTS:
                        raise SaebenchError(f"Workers do not start on the Ray cluster: {str(error).strip()}") from error
                    self._start()
                continue
            actor, unit = self._running.pop(reference)
            try:
                found.append(Event(unit, *self._ray.get(reference)))
                self._waiting.append((actor, unit.saes))
            except self._ray.exceptions.RayError as error:  # the actor, its process or its node is gone
                found.append(Event(unit, "died", str(error).strip().splitlines()[0]))
                self._start()
                self._starting |= {each[0].ready.remote(): each for each in self._waiting}  # are they there still?
                self._waiting.clear()
        return found

    def close(self) -> None:
        """End all workers, and the cluster where it was started here."""
        for actor, _ in [*self._waiting, *self._starting.values(), *self._running.values()]:
            self._ray.kill(actor)
        if self._own:
            self._ray.shutdown()


class _Actor:
    """A worker in a process of the cluster."""

    def __init__(self, job: Job) -> None:
        self._worker = start(job)

    def ready(self) -> bool:
        """Returns once the process has started."""
        return True

    def run(self, unit: Unit, earlier: Earlier) -> tuple[str, Any]:
        """Run a unit."""
        return attempt(self._worker, unit, earlier)


def connect(address: str | None) -> tuple[Any, bool]:
    """``(the ray module, whether a cluster was joined or started here)``.

    Raises:
        SaebenchError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise SaebenchError("Ray is not installed: pip install 'saebench[ray]', or use --on local.") from error
    if ray.is_initialized():
        return ray, False
    try:
        ray.init(address=address, logging_level="error", log_to_driver=False)
    except Exception as error:  # its errors have no common class
        where = "A Ray cluster" if address is None else f"The Ray cluster {address}"
        raise SaebenchError(f"{where} cannot be reached: {str(error).strip().splitlines()[0]}") from error
    return ray, True
