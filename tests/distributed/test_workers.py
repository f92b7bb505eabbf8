"""How many workers there are, which devices each has, and how much memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from saebench.distributed.memory import worker_memory
from saebench.distributed.pools import _visible, gpus_of
from saebench.distributed.ray_pool import RayPool
from saebench.distributed.worker import EvaluationJob
from saebench.distributed.workers import Workers
from saebench.errors import SaebenchError
from saebench.evaluation.settings import EvaluationSettings


def test_workers_have_their_share_of_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs are divided among the workers with the device ``all``, and shared in turn without."""
    assert gpus_of(None, 2) == gpus_of("all", 2) == [[], []]  # there is none
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(
        "saebench.distributed.memory.free_memory", lambda device: 1200 + int(device[-1:]) if ":" in device else 60
    )
    assert gpus_of(None, 3) == [[0], [1], [2]]
    assert gpus_of("all", 2) == [[0, 1], [2, 3]] and gpus_of("all", 3) == [[0], [1], [2, 3]]
    assert gpus_of("cuda:0,cuda:1", 2) == gpus_of("cpu", 2) == [[], []]
    with pytest.raises(SaebenchError, match="--device all divides 4 GPUs among 5 workers: use at most 4"):
        gpus_of("all", 5)
    assert worker_memory(Workers(count=2), "all") == (1200, 1201)
    assert worker_memory(Workers(count=8), None) == (600,)  # two workers on each
    assert worker_memory(Workers(count=2), "cpu") == (30,)
    assert worker_memory(Workers(on="ray", count=2), "cpu") == (60,)
    assert worker_memory(Workers(memory=7), "cpu") == (7,)
    monkeypatch.setattr("saebench.distributed.memory.pick_devices", lambda device: device.split(","))
    assert worker_memory(Workers(count=2), "cuda:2,cuda:3") == (601, 601)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert _visible([1, 2]) == "5,6" and _visible([]) is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert _visible([1, 2]) == "1,2"


@pytest.mark.parametrize(
    ("device", "workers", "gpus", "count"),
    [("all", None, 4, 3), ("all", 2, 4, 2), (None, None, 1, 12), ("cpu", None, None, 9)],
)
def test_a_worker_on_ray_has_the_gpus_of_a_machine(
    device: str | None, workers: int | None, gpus: int | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a cluster of machines with 8, 4 and no GPUs; one that had a GPU is gone."""
    machines = [(True, {"GPU": 8.0}), (True, {"GPU": 4.0}), (True, {"CPU": 9.0}), (False, {"GPU": 1.0})]
    asked: list[dict[str, Any]] = []
    actor = SimpleNamespace(remote=lambda job: SimpleNamespace(ready=SimpleNamespace(remote=object)))
    ray = SimpleNamespace(
        cluster_resources=lambda: {"GPU": 12.0, "CPU": 9.0},
        nodes=lambda: [{"Alive": alive, "Resources": has} for alive, has in machines],
        remote=lambda **needs: asked.append(needs) or (lambda worker: actor),
        put=lambda job: job,
    )
    monkeypatch.setattr("saebench.distributed.ray_pool.connect", lambda address: (ray, False))
    pool = RayPool(EvaluationJob((), EvaluationSettings(device=device)), workers)
    assert len(pool._starting) == count
    assert asked[0].get("num_gpus") == gpus and asked[0].get("num_cpus") == (None if gpus else 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"on": "slurm"}, "run on local or ray, not on 'slurm'"),
        ({"count": 0}, "--workers is 0"),
        ({"address": "auto"}, "use it with --on ray"),
    ],
)
def test_workers_are_checked(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SaebenchError, match=words):
        Workers(**arguments)
