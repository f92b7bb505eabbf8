"""TOML that users write: recipes and sweeps of training, tasks, protocols, scaling laws; and the rows of a task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from unittest import mock

from saebench import definitions
from saebench.evaluators.compute_law import find_law
from saebench.explaining.llm.protocol import load_protocol
from saebench.explaining.protocol import read_protocol
from saebench.probing.protocol import read_protocol as read_probes
from saebench.tasks import load_task, read_task
from saebench.training.config import TrainingConfig, make_config, read_recipe, read_sweep
from tests.fuzz.reader import Case, Reader

RECIPES = Path(__file__).parents[2] / "saebench" / "training" / "recipes"
TASK = """title = "capitals"
sets = ["own"]
licence = "MIT"
citation = "none"
local = ["rows.jsonl"]
[rows]
text = "{q} {a.b}"
label = "y"
positive = ["1"]
group = "{q}"
parse = "(?P<first>w)"
parse_from = "q"
remove = "zzz"
"""
CHOICES = """title = "choices"
sets = ["own"]
licence = "MIT"
citation = "none"
local = ["rows.jsonl"]
[rows]
kind = "choices"
text = "{q} {option}"
options = ["o"]
answer = "y"
"""
ROWS = [{"q": f"w{n} is", "a": {"b": f"x{n * n}"}, "y": n % 2, "o": [f"yes{n}", f"no{n}"]} for n in range(240)]


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    with mock.patch.object(definitions, "definition_folder", lambda kind: folder / kind):
        yield


def _recipes(_: Path) -> list[Case]:
    files = [path.read_bytes() for path in sorted(RECIPES.glob("*.toml")) if b"member" not in path.read_bytes()]
    own = b'arch = "jumprelu"\nn = 64\nk = 4\nlr = 0.001\nscaling = "unit_norm"\ntarget_l0 = 8.0\ngroup_sizes = [32, 32]\nbfloat16 = false\n'
    return [Case({"r.toml": data}, "r.toml") for data in [*files, own] if b"grid" not in data]


def _read_recipe(path: Path, case: Case, kind: str) -> None:
    _check(make_config(read_recipe(path)))


def _check(config: TrainingConfig) -> None:
    """Every field of its type and finite, so that training can begin and its record be written."""
    for field in fields(config):
        value = getattr(config, field.name)
        wanted = {"int": int, "float": (int, float), "bool": bool, "str": str, "ScalingKind": str}.get(str(field.type))
        if wanted is not None:
            assert isinstance(value, wanted) and (wanted is bool or type(value) is not bool), f"{field.name} is {value!r}"
    json.dumps(config.record(), allow_nan=False)
    assert config.learning_rate > 0 and config.steps >= 1


def _sweeps(_: Path) -> list[Case]:
    members = b'model = "smollm2"\n[[member]]\nname = "a"\nk = 16\n[[member]]\nname = "b"\nk = 32\nlr = 0.001\n'
    grid = b'tokens = 1000\n[grid]\nk = [16, 32]\nn = [64, 128]\narch = ["topk", "relu"]\n'
    return [Case({"s.toml": data}, "s.toml") for data in (members, grid)]


def _read_sweep(path: Path, case: Case, kind: str) -> None:
    configurations, names = read_sweep(path)
    assert len(configurations) == len(set(names))
    for config in configurations:
        _check(config)


def _tasks(_: Path) -> list[Case]:
    rows = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    return [Case({"tasks/own.toml": task.encode(), "rows.jsonl": rows}) for task in (TASK, CHOICES)]


def _read_task(path: Path, case: Case, kind: str) -> None:
    with kept_in(path):
        task = read_task("own")
        data = load_task(task, {"train": 0.6, "validation": 0.2, "test": 0.2}, 200, data_dir=path)
    texts = [example.text for part in data.parts.values() for example in part]
    assert len(texts) == len(set(texts)) and all(
        {example.label for example in part} == {0, 1} for part in data.parts.values()
    )


def _definitions(_: Path) -> list[Case]:
    kinds = ("explain", "probes")
    files = {
        f"{kind}/{path.name}": path.read_bytes()
        for kind in kinds
        for path in definitions.definition_folder(kind).glob("*.toml")
    }
    return [Case(files)]


def _read_definitions(path: Path, case: Case, kind: str) -> None:
    with kept_in(path):
        _finite([read_protocol().record(), load_protocol().model_dump(), read_probes().model_dump()])


def _finite(data: object) -> None:
    json.dumps(data, allow_nan=False)


def _laws(_: Path) -> list[Case]:
    folder = Path(__file__).parents[2] / "saebench" / "evaluators" / "compute_laws"
    return [Case({"l.toml": path.read_bytes()}, "l.toml") for path in sorted(folder.glob("*.toml"))]


def _read_law(path: Path, case: Case, kind: str) -> None:
    law = find_law(path, "any")
    assert law is not None
    share, reason = law.relative_compute(round(law.parameters[-1]), 0.1)
    assert reason is not None or (share is not None and 0 <= share < float("inf"))


def _reader(name: str, cases: Callable[[Path], list[Case]], read: Callable[[Path, Case, str], None]) -> Reader:
    return Reader(name, cases, read)


READERS = [
    _reader("recipe", _recipes, _read_recipe),
    _reader("sweep", _sweeps, _read_sweep),
    _reader("task", _tasks, _read_task),
    _reader("definitions", _definitions, _read_definitions),
    _reader("scaling_law", _laws, _read_law),
]
