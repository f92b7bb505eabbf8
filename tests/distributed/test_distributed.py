"""Evaluation on many workers: the same numbers as one process's, whatever happens to the workers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saebench.api import SomeRejected, evaluate, evaluate_on
from saebench.checkpoints.native import save_native
from saebench.distributed import units
from saebench.distributed.driver import MOST_DEATHS
from saebench.distributed.memory import Need, need
from saebench.distributed.store import open_store
from saebench.distributed.units import Unit
from saebench.distributed.workers import Workers
from saebench.errors import SaebenchError
from saebench.evaluation.controls import CONTROLS, Control
from saebench.lm import LanguageModel
from saebench.lm.loading import read_config
from saebench.lm.placement import GIB, outline_of
from saebench.results import Result, read_result
from saebench.sae import ReLU, SparseAutoencoder, TopK
from tests.conftest import FIXTURES
from tests.distributed.helpers import Inline, files_in

MODEL = str(FIXTURES / "saelens_evals" / "model")
STREAMING = ["reconstruction", "downstream", "core", "shrinkage", "progressive"]
CONTEXT = 16


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    numbers = torch.randint(3, 200, (40 * (CONTEXT - 1),), generator=torch.Generator().manual_seed(0)).tolist()
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(f"w{number}" for number in numbers))
    return path


@pytest.fixture
def saes(tmp_path: Path, make_sae: Callable[..., SparseAutoencoder]) -> list[str]:
    made = {
        "relu": make_sae(activation=ReLU(), seed=1),
        "topk": make_sae(activation=TopK(8), seed=2),
        "wide": make_sae(n=96),
    }
    return [str(save_native(sae, tmp_path / name)) for name, sae in made.items()]


@pytest.fixture
def settings(words: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Ten shards of four rows, in batches of two."""
    monkeypatch.setattr(units, "SHARD_TOKENS", 4 * CONTEXT)
    return {
        "model": MODEL, "corpus": str(words), "context": CONTEXT, "tokens": 40 * CONTEXT, "batch": 2, "dtype": "float32",
        "device": "cpu", "evaluators": STREAMING, "progress": False,
        "options": {"progressive": {"calibration_rows": 1, "downstream_rows": 2}, "shrinkage": {"downstream_rows": 6}},
    }  # fmt: skip


def numbers(result: Result) -> dict[str, Any]:
    """Everything measured: metrics, details and settings."""
    return {
        name: each.model_dump(exclude={"duration_seconds"}) for name, each in [*result.evaluators.items(), *controls(result)]
    }


def controls(result: Result) -> list[tuple[str, Any]]:
    return [(f"{control} {name}", each) for control, its in result.controls.items() for name, each in its.items()]


def same_to_rounding(found: Any, expected: Any, path: str = "") -> None:
    if isinstance(expected, Mapping):
        assert found.keys() == expected.keys(), path
        for key, value in expected.items():
            same_to_rounding(found[key], value, f"{path}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), path
        for place, value in enumerate(expected):
            same_to_rounding(found[place], value, f"{path}[{place}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=2e-6, abs=1e-9), path
    else:
        assert found == expected, path


def test_results_are_those_of_one_process_for_any_number_of_workers(
    saes: list[str], settings: dict[str, Any], tmp_path: Path
) -> None:
    """By-row values are equal in every stored digit, and all else is up to the last one of sums in another order."""
    settings |= {"tokens": 24 * CONTEXT}
    alone = evaluate(saes, **settings)
    by_workers = {}
    for count in (1, 2, 4):
        workers = Inline(count)
        cards = evaluate_on(saes, workers, out=tmp_path / str(count), **settings)
        by_workers[count] = [numbers(card.result) for card in cards]
        assert len(workers.pool.log) == 6 + 1  # six shards of all three, and the end
        for card, name in zip(cards, ("relu", "topk", "wide"), strict=True):
            assert read_result(tmp_path / str(count) / f"{name}.json") == card.result
            assert card.result.complete and card.result.failures == {}
        assert not list((tmp_path / str(count)).rglob("*.safetensors"))  # shards are removed at the end
    assert by_workers[1] == by_workers[2] == by_workers[4]
    for found, card in zip(by_workers[4], alone, strict=True):
        expected = numbers(card.result)
        for name in STREAMING:
            rows, its = found[name]["details"]["by_row"], expected[name]["details"]["by_row"]
            exact = [column for column in its if column != "variance" and not column.endswith("mean_ablated")]
            assert {column: rows[column] for column in exact} == {column: its[column] for column in exact}, name
        same_to_rounding(found, expected)


def test_standalone_evaluators_end_one_by_one_and_controls_are_shared(
    saes: list[str],
    make_sae: Callable[..., SparseAutoencoder],
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two of three have the same width and L0: six controls for three, in one process and on workers."""
    again = str(save_native(make_sae(activation=TopK(8), seed=5), tmp_path / "again"))
    given = [saes[1], again, saes[2]]
    settings |= {"evaluators": ["reconstruction", "dictionary"], "controls": list(CONTROLS), "options": {}}
    made: list[Control] = []
    actual = Control.make
    monkeypatch.setattr(Control, "make", lambda self, *rest: made.append(self) or actual(self, *rest))
    alone = evaluate(given, **settings)
    names = sorted((each.name, each.n) for each in made)
    assert names == [("pca", 8), ("random", 64), ("random", 96)]  # PCA does not depend on the width
    made.clear()
    workers = Inline(2)
    cards = evaluate_on(given, workers, out=tmp_path / "out", **settings)
    assert sorted((each.name, each.n) for each in made) == names
    ends = [unit for unit in workers.pool.log if unit.rows is None]
    assert sorted(unit.saes for unit in ends if not unit.control) == [(0,), (1,), (2,)]
    assert len(ends) == 3 + 3
    for card, other, name in zip(cards, alone, ("topk", "again", "wide"), strict=True):
        assert read_result(tmp_path / "out" / f"{name}.json") == card.result
        assert card.result.complete and card.result.failures == {}
        assert list(card.result.controls) == list(CONTROLS) == list(other.result.controls)
        assert card.result.controls == ignoring_time(other.result.controls, card.result.controls)
        assert card.result.settings == other.result.settings
        same_to_rounding(numbers(card.result), numbers(other.result))


def ignoring_time(controls: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Controls with the durations of others."""
    return {
        name: {
            each: found.model_copy(update={"duration_seconds": other[name][each].duration_seconds})
            for each, found in its.items()
        }
        for name, its in controls.items()
    }


def test_a_control_that_ends_workers_is_a_failure_of_those_that_share_it(
    saes: list[str], settings: dict[str, Any], tmp_path: Path
) -> None:
    settings |= {"evaluators": ["reconstruction"], "controls": ["random"], "options": {}}
    deadly = Inline(2, dies=lambda unit, number: '"n": 96' in unit.control)
    relu, topk, wide = evaluate_on(saes, deadly, out=tmp_path / "out", **settings)
    assert wide.result.failures == {"reconstruction (random control)": f"it ended {MOST_DEATHS} workers (killed)"}
    assert not wide.result.complete and wide.result.controls == {} and list(wide.result.evaluators) == ["reconstruction"]
    assert relu.result.complete and topk.result.complete


def test_a_finished_control_is_resumed(
    saes: list[str], make_sae: Callable[..., SparseAutoencoder], settings: dict[str, Any], tmp_path: Path
) -> None:
    """The first run stops after a control, which the second finds."""
    again = str(save_native(make_sae(activation=TopK(8), seed=5), tmp_path / "again"))
    settings |= {"evaluators": ["reconstruction"], "controls": ["random"], "options": {}}

    def stop(unit: Unit, number: int) -> bool:
        if unit.rows is None and unit.control == "":
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        evaluate_on([saes[1], again], Inline(1, dies=stop), out=tmp_path / "out", **settings)
    stored = [path.name for path in (tmp_path / "out").rglob("control-*.safetensors")]
    resumed = Inline(1)
    found = evaluate_on([saes[1], again], resumed, out=tmp_path / "out", resume=True, **settings)
    assert len(stored) == 1 and [unit.control for unit in resumed.pool.log] == ["", ""]
    assert found[0].result.controls == found[1].result.controls != {}


def test_a_control_needs_any_autoencoder_that_shares_it(
    saes: list[str], make_sae: Callable[..., SparseAutoencoder], settings: dict[str, Any], tmp_path: Path
) -> None:
    """The first one is gone when its control begins, and so is the worker that had it in memory."""
    again = str(save_native(make_sae(activation=TopK(8), seed=5), tmp_path / "again"))
    settings |= {"evaluators": ["reconstruction"], "controls": ["random"], "options": {}}

    def gone(unit: Unit, number: int) -> bool:
        first = bool(unit.control) and Path(saes[1]).exists()
        if first:
            shutil.rmtree(saes[1])
        return first

    with pytest.raises(SomeRejected, match=r"1 of 2 .*topk") as caught:
        evaluate_on([saes[1], again], Inline(1, dies=gone), out=tmp_path / "out", **settings)
    (card,) = caught.value.cards
    assert card.result.complete and list(card.result.controls) == ["random"] and "again" in card.result.sae.origin


def test_a_dead_worker_is_replaced_and_nothing_is_lost(saes: list[str], settings: dict[str, Any], tmp_path: Path) -> None:
    settings |= {"evaluators": ["reconstruction", "downstream"], "options": {}}
    expected = [numbers(card.result) for card in evaluate_on(saes, Inline(2), out=tmp_path / "a", **settings)]
    deadly = Inline(2, dies=lambda unit, number: number in (2, 5, 6))
    found = evaluate_on(saes, deadly, out=tmp_path / "b", **settings)
    assert [numbers(card.result) for card in found] == expected
    assert len(deadly.pool.log) == 11 + 3


def test_an_autoencoder_that_kills_workers_fails_alone(saes: list[str], settings: dict[str, Any], tmp_path: Path) -> None:
    settings |= {"evaluators": ["reconstruction"], "options": {}}
    poison = Inline(2, dies=lambda unit, number: 1 in unit.saes)
    with pytest.raises(SomeRejected, match=rf"1 of 3 .*topk: it ended {MOST_DEATHS} workers \(killed\)\.") as caught:
        evaluate_on(saes, poison, out=tmp_path / "out", **settings)
    others = evaluate([saes[0], saes[2]], **settings)
    for card, other in zip(caught.value.cards, others, strict=True):
        same_to_rounding(numbers(card.result), numbers(other.result))
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["relu.json", "wide.json"]


def test_damaged_weights_and_errors_reject_one_autoencoder(
    saes: list[str], settings: dict[str, Any], tmp_path: Path
) -> None:
    """One cannot be read at all; one has a decoder of another width, which is seen when it is loaded."""
    settings |= {"evaluators": ["reconstruction"], "options": {}}
    shutil.copytree(saes[0], tmp_path / "cut")
    (weights,) = (tmp_path / "cut").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-200])
    shutil.copytree(saes[0], tmp_path / "nan")
    (weights,) = (tmp_path / "nan").glob("*.safetensors")
    tensors = load_file(weights)
    save_file({**tensors, "b_enc": torch.zeros(3)}, weights)
    given = [saes[0], str(tmp_path / "cut"), str(tmp_path / "none"), str(tmp_path / "nan"), saes[1]]
    with pytest.raises(SomeRejected, match="3 of 5") as caught:
        evaluate_on(given, Inline(2), out=tmp_path / "out", **settings)
    assert [card.result.sae.origin.rpartition("/")[2] for card in caught.value.cards] == ["relu", "topk"]
    for name in ("cut", "none", "nan"):
        assert name in caught.value.args[0], caught.value.args[0]


def test_resuming_goes_on_from_finished_shards(saes: list[str], settings: dict[str, Any], tmp_path: Path) -> None:
    settings |= {"evaluators": ["reconstruction", "downstream"], "options": {}}
    expected = [numbers(card.result) for card in evaluate_on(saes, Inline(2), out=tmp_path / "a", **settings)]

    def stop(unit: Unit, number: int) -> bool:
        if number == 7:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        evaluate_on(saes, Inline(2, dies=stop), out=tmp_path / "b", **settings)
    assert len(list((tmp_path / "b").rglob("*.safetensors"))) == 6
    again = Inline(2)
    found = evaluate_on(saes, again, out=tmp_path / "b", resume=True, **settings)
    assert [numbers(card.result) for card in found] == expected
    assert len(again.pool.log) == 4 + 1
    finished = Inline(2)
    found = evaluate_on(saes, finished, out=tmp_path / "b", resume=True, **settings)
    assert [numbers(card.result) for card in found] == expected and not hasattr(finished, "pool")  # nothing was left to do
    other = Inline(2)  # another seed is another evaluation: nothing of it is there
    evaluate_on(saes, other, out=tmp_path / "b", resume=True, seed=1, **settings)
    assert len(other.pool.log) == 11


def test_addresses_of_fsspec_get_the_same_files(saes: list[str], settings: dict[str, Any], tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    settings |= {"evaluators": ["reconstruction"], "options": {}}
    evaluate_on(saes[:1], Inline(1), out="memory://bucket/results", **settings)
    files = fsspec.filesystem("memory")
    found = Result.model_validate_json(files.cat_file("/bucket/results/relu.json"))
    (expected,) = evaluate_on(saes[:1], Inline(1), out=tmp_path / "out", **settings)
    assert numbers(found) == numbers(expected.result)
    assert not [name for name in files.find("/bucket") if name.endswith(".part")]
    assert open_store("memory://bucket/results").read("none.json") is None
    with pytest.raises(SaebenchError, match="Cannot open nowhere://x"):
        open_store("nowhere://x")
    with pytest.raises(SaebenchError, match="is no local folder: add --on local"):
        evaluate(saes[0], out="s3://bucket/x", progress=False)


def test_an_evaluation_that_does_not_fit_is_refused_with_the_sum(
    saes: list[str], settings: dict[str, Any], tmp_path: Path
) -> None:
    words = (
        r"A worker needs \(model 0\.00 \+ batch 0\.00 \+ SAE 0\.00\) x 1\.25 = 0\.00 GiB, but has 0\.00: use fewer workers"
    )
    with pytest.raises(SaebenchError, match=words):
        evaluate_on(saes, Inline(1, memory=1000), out=tmp_path, **settings)
    config = read_config(MODEL)
    model = LanguageModel.load(MODEL)
    assert outline_of(config).weights == model.n_parameters
    found = need(config, "float32", 100, [(32, 64), (32, 96)], available=[GIB])
    assert (found.model, found.batch, found.sae) == (4 * model.n_parameters, 3 * 100 * 200 * 4, 8 * 32 * 96)
    assert Need(model=10, batch=5, sae=4, available=25).together() == 1
    assert Need(model=10, batch=5, sae=2, available=30).together() == 4
    # on two devices: the autoencoders, the batch and what is not in blocks must fit into the first
    assert Need(model=100, batch=5, sae=2, available=200, first=100, rest=10).together() == 27
    assert Need(model=100, batch=5, sae=2, available=200, first=25, rest=10).together() == 2
    with pytest.raises(SaebenchError, match=r"on the first device 0\.00, for embeddings 0\.00, batch and SAE\): use fewer"):
        Need(model=100, batch=5, sae=2, available=200, first=20, rest=10).together()
    two = need(config, "float32", 100, [(32, 96)], available=[GIB, 2 * GIB])
    assert (two.model, two.available, two.first, two.rest) == (found.model, 3 * GIB, GIB, 4 * outline_of(config).rest)
    # as many are evaluated together as fit: here two of three
    total = need(config, "float32", 2 * CONTEXT, [(32, 96)], [0])
    room = int(1.25 * (total.model + total.batch + 2.5 * total.sae))
    workers = Inline(1, memory=room)
    evaluate_on(saes, workers, out=tmp_path / "b", **(settings | {"evaluators": ["reconstruction"], "options": {}}))
    assert {unit.saes for unit in workers.pool.log} == {(0, 1), (2,)}


def test_precision_and_loaded_models_are_for_one_process(saes: list[str], settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SaebenchError, match="use it without --on"):
        evaluate_on(saes, Inline(1), out=tmp_path, precision="2%", **settings)
    with pytest.raises(SaebenchError, match="Workers load the language model themselves"):
        evaluate_on(saes, Inline(1), out=tmp_path, **(settings | {"model": LanguageModel.load(MODEL)}))


@pytest.mark.slow
def test_processes_one_of_which_is_killed(saes: list[str], settings: dict[str, Any], tmp_path: Path) -> None:
    """Real processes; one is killed in its first unit."""
    import os
    import signal
    import threading

    from saebench.distributed.pools import LocalPool

    settings |= {"evaluators": ["reconstruction", "downstream"], "options": {}}
    expected = [numbers(card.result) for card in evaluate_on(saes, Inline(1), out=tmp_path / "a", **settings)]

    class Killing(Workers):
        def start(self, job: Any) -> LocalPool:
            pool = LocalPool(job, 2)
            threading.Timer(3.0, os.kill, (pool.pids[0], signal.SIGKILL)).start()
            return pool

    found = evaluate_on(saes, Killing(count=2), out=tmp_path / "b", **settings)
    assert [numbers(card.result) for card in found] == expected
    assert files_in(tmp_path / "b").keys() >= {"relu.json", "topk.json", "wide.json"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "2"], "add --on local or --on ray"),
        (["--on", "slurm"], "not on 'slurm'"),
        (["--on", "local", "--precision", "2%"], "use it without --on"),
    ],
)
def test_the_command_line_says_what_does_not_go_together(saes: list[str], arguments: list[str], words: str) -> None:
    from typer.testing import CliRunner

    from saebench.cli import app

    found = CliRunner().invoke(app, ["evaluate", saes[0], "--model", MODEL, *arguments])
    assert isinstance(found.exception, SaebenchError) and words in str(found.exception)


def test_a_worker_goes_on_with_what_it_has_loaded() -> None:
    """Two packs of two shards on two workers: each is loaded once."""
    from collections import Counter

    from saebench.distributed.driver import Driver
    from saebench.progress import Progress

    class Nothing:
        def read(self, name: str) -> bytes | None:
            return None

        def write(self, name: str, content: bytes) -> None:
            raise AssertionError

        def remove(self, name: str) -> None:
            raise AssertionError

    driver = Driver([(0, 1), (2,)], [(0, 4), (4, 8)], False, ["a", "b", "c"], Nothing(), lambda *_: None, Progress(False))
    driver._queue.extend(Unit(saes, rows) for saes in ((0, 1), (2,)) for rows in ((0, 4), (4, 8)))
    first, _ = driver._next([(), ()], {})
    second, _ = driver._next([()], Counter([first]))
    assert (first.saes, second.saes) == ((0, 1), (2,))  # not two workers with the same
    driver._queue.remove(first)
    driver._queue.remove(second)
    assert driver._next([(), (2,)], {}) == (Unit((2,), (4, 8)), (2,))
    assert driver._next([()], Counter([first, second]))[0] == Unit((0, 1), (4, 8))  # all are begun: help
