"""Work on a Ray cluster of two nodes on this machine, one of which is killed while it works."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saebench.api import evaluate_on
from saebench.audit.planted_jobs import run_plan
from saebench.distributed.ray_pool import RayPool, connect
from saebench.distributed.workers import Workers
from saebench.errors import SaebenchError
from tests.audit.test_planted_audit import SMALL, values
from tests.distributed.helpers import Inline
from tests.distributed.test_distributed import numbers, saes, settings, words  # noqa: F401

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="ray is not installed: pip install 'saebench[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs for workers, and a second node."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=":")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else its workers wait for all else on the machine
    found = cluster_utils.Cluster(
        initialize_head=True, connect=False, head_node_args={"num_cpus": 1, "object_store_memory": 10**8}
    )
    yield found
    import ray

    ray.shutdown()
    found.shutdown()


def test_a_node_is_killed_and_the_results_are_identical(
    cluster: Any,
    saes: list[str],  # noqa: F811
    settings: dict[str, Any],  # noqa: F811
    tmp_path: Path,
) -> None:
    settings |= {"evaluators": ["reconstruction", "downstream"], "options": {}}
    expected = [numbers(card.result) for card in evaluate_on(saes, Inline(1), out=tmp_path / "a", **settings)]
    second = cluster.add_node(num_cpus=1, object_store_memory=10**8)
    cluster.wait_for_nodes()
    pools: list[RayPool] = []
    events: list[str] = []

    class Killing(Workers):
        def start(self, job: Any) -> RayPool:
            pool = RayPool(job, 2, self.address)
            while pool._starting:  # both nodes have a worker before any unit is given out
                pool.events()
            real = pool.events

            def watched() -> Any:
                if events.count("done") >= 2 and not killed.is_set() and len(pool._running) == 2:
                    killed.set()
                    cluster.remove_node(second, allow_graceful=False)
                found = real()
                events.extend(each.kind for each in found)
                return found

            pool.events = watched  # type: ignore[method-assign]
            pools.append(pool)
            return pool

    killed = threading.Event()
    workers = Killing(on="ray", address=cluster.address, count=2)
    found = evaluate_on(saes, workers, out=tmp_path / "b", **settings)
    assert killed.is_set() and "died" in events
    assert [numbers(card.result) for card in found] == expected


def test_the_planted_audit_gives_the_scores_of_one_process(cluster: Any) -> None:
    cluster.add_node(num_cpus=1, object_store_memory=10**8)
    cluster.wait_for_nodes()
    expected, _ = run_plan(SMALL)
    found, failures = run_plan(SMALL, workers=Workers(on="ray", address=cluster.address, count=2))
    assert values(found) == values(expected) and not failures


def test_without_a_cluster_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refused(**options: Any) -> None:
        raise ConnectionError("no node answers\nmore words")

    monkeypatch.setattr(ray, "init", refused)
    with pytest.raises(SaebenchError, match=r"The Ray cluster 127\.0\.0\.1:1 cannot be reached: no node answers$"):
        connect("127.0.0.1:1")
