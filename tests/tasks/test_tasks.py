"""Definitions, sources and rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from saebench import definitions
from saebench.errors import SaebenchError
from saebench.tasks import find_tasks, load_task, read_task, sources, task_names
from saebench.tasks.classes import Cell, load_class_texts, read_class_set
from saebench.tasks.definition import Rule, Task
from saebench.tasks.rules import make_examples

SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}


def made(**content: Any) -> Task:
    base = {"name": "made", "sha256": "0", "title": "t", "sets": ("s",), "licence": "l", "citation": "c"}
    return Task(**(base | content))


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "hub_reachable", lambda: False)


def test_every_definition_is_right_and_says_where_its_data_comes_from() -> None:
    tasks = find_tasks("all")
    assert len(tasks) == len(task_names()) >= 150
    for task in tasks:
        assert task.title and task.licence and task.citation and task.sets
    assert len(find_tasks("gao2024")) == 68


def test_pinned_revisions_are_commits_or_branches() -> None:
    for task in find_tasks("all"):
        for part in task.hub:
            known = part.revision in ("main", "refs/convert/parquet")
            assert known or (len(part.revision) == 40 and int(part.revision, 16)), task.name


def test_names_and_sets_are_found_and_wrong_ones_are_errors() -> None:
    assert [task.name for task in find_tasks("sciq, piqa,sciq")] == ["sciq", "piqa"]
    with pytest.raises(SaebenchError, match=r"no probing task or set of tasks 'scqi'.*gao2024"):
        find_tasks("scqi")
    with pytest.raises(SaebenchError, match="No probing task is given"):
        find_tasks(" , ")


@pytest.mark.parametrize("name", ["é" * 101, r"a\u0000.jsonl", r"folder/b\u202e.jsonl"])
def test_a_name_that_no_file_can_have_is_an_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.toml").write_text(f'title = "t"\nsets = []\nlicence = "l"\ncitation = "c"\nlocal = ["{name}"]\n')
    monkeypatch.setattr(definitions, "definition_folder", lambda kind: tmp_path)
    with pytest.raises(SaebenchError, match=r"tasks/odd.toml is invalid: local.0: .* is no name of a file"):
        find_tasks("odd")


def test_a_misspelt_key_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.toml").write_text(
        'title = "t"\nsets = []\nlicence = "l"\ncitation = "c"\nlable = 1\nlocal = ["a.jsonl"]\n'
    )
    monkeypatch.setattr(definitions, "definition_folder", lambda kind: tmp_path)
    with pytest.raises(SaebenchError, match=r"tasks/odd.toml is invalid: lable"):
        read_task("odd")


def test_a_right_and_a_wrong_answer_share_a_group() -> None:
    rule = Rule(kind="choices", text="{q} {option}", right="good", wrong=("bad", "worse"), group="{q}")
    examples, unused = make_examples(
        [{"q": "Q", "good": "g", "bad": "b", "worse": ""}, {"q": "P", "good": "g", "bad": "g", "worse": " "}], rule
    )
    assert [(each.text, each.label, each.group) for each in examples] == [("Q g", 1, "Q"), ("Q b", 0, "Q")]
    assert unused == 1


@pytest.mark.parametrize(("answer", "first", "right"), [("B", 0, "two"), (1, 0, "two"), ("2", 1, "two"), ("a", 0, "one")])
def test_answers_by_letter_and_by_number(answer: Any, first: int, right: str) -> None:
    rule = Rule(kind="choices", text="{option}", options=("choices.text",), answer="key", first=first)
    examples, _ = make_examples([{"choices": {"text": ["one", "two"]}, "key": answer}], rule)
    assert examples[0].text == right and examples[0].label == 1 and examples[1].label == 0


def test_the_wrong_answer_drawn_does_not_depend_on_the_order_of_rows() -> None:
    rule = Rule(kind="choices", text="{q} {option}", options=("a", "b", "c"), answer="k")
    rows = [{"q": str(i), "a": f"a{i}", "b": f"b{i}", "c": f"c{i}", "k": i % 3} for i in range(60)]
    forward, backward = make_examples(rows, rule)[0], make_examples(rows[::-1], rule)[0]
    assert set(forward) == set(backward)
    assert len({each.text[-2] for each in forward if each.label == 0}) > 1


def test_ordered_pairs_have_both_orders() -> None:
    rule = Rule(kind="ordered_pair", text="{first}|{second}", better="x", worse="y")
    examples, unused = make_examples([*({"x": f"x{i}", "y": f"y{i}"} for i in range(100)), {"x": "a", "y": "a"}], rule)
    assert all((each.text[0] == "x") == bool(each.label) for each in examples)
    assert 30 < sum(each.label for each in examples) < 70 and unused == 1


def test_parse_and_remove_and_labels_of_many_kinds() -> None:
    rule = Rule(
        text="{prompt}",
        label="t",
        positive=("True", "1"),
        negative=("False",),
        parse=r"^(?P<who>\w+)",
        group="{who}",
        remove=r"^\(BG\) ",
    )
    rows = [
        {"prompt": "ann x", "t": True},
        {"prompt": "bob", "t": False},
        {"prompt": "cy", "t": "?"},
        {"prompt": "(BG) x", "t": 1},
    ]
    examples, unused = make_examples(rows, rule)
    assert [(each.text, each.label, each.group) for each in examples] == [("ann x", 1, "ann"), ("bob", 0, "bob")]
    assert unused == 2  # an unknown label, and a prompt that the expression does not fit
    loose = rule.model_copy(update={"parse": "", "group": ""})
    assert make_examples(rows[3:], loose)[0][0].text == "x"


def test_a_missing_column_is_an_error() -> None:
    with pytest.raises(SaebenchError, match="no 'label'; it has text"):
        make_examples([{"text": "a"}], Rule(text="{text}", positive=("1",)))


def write_rows(folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    rows = [{"text": f"text number {i}", "label": i % 2} for i in range(count)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_a_local_folder_is_read_when_the_hub_is_away(tmp_path: Path, no_hub: None) -> None:
    write_rows(tmp_path / "set", 300)
    task = made(hub=({"dataset": "a/b"},), local=("set/rows.jsonl",), rows=Rule(text="{text}", positive=("1",)))
    data = load_task(task, SHARES, 200, 0, tmp_path)
    assert data.record["source"] == "data folder: set/rows.jsonl"
    assert data.record["tried_before"] == ["the hub, for a/b, cannot be reached"]
    assert data.record["used"] == {"train": 120, "validation": 30, "test": 50}


def test_what_cannot_be_had_says_what_was_tried(tmp_path: Path, no_hub: None) -> None:
    task = made(
        hub=({"dataset": "a/b"},),
        local=("set/rows.jsonl",),
        sae_probes=({"file": "absent"},),
        rows=Rule(text="{text}", positive=("1",)),
    )
    with pytest.raises(SaebenchError, match=r"a/b, cannot be reached.*lacks set/rows.jsonl.*--data-dir"):
        load_task(task, SHARES, 200, 0, tmp_path)


def test_files_outside_the_data_folder_are_not_read(tmp_path: Path, no_hub: None) -> None:
    write_rows(tmp_path / "secret", 300)
    (tmp_path / "data").mkdir()
    task = made(local=("../secret/rows.jsonl",), rows=Rule(text="{text}", positive=("1",)))
    with pytest.raises(SaebenchError, match="outside the data folder"):
        load_task(task, SHARES, 200, 0, tmp_path / "data")


def test_the_hub_is_tried_first_at_its_pinned_commit_and_without_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    class Api:
        def dataset_info(self, name: str, revision: str, timeout: float) -> Any:
            return type("Info", (), {"sha": f"commit of {revision}"})

    def load_dataset(name: str, config: str | None, **options: Any) -> Any:
        calls.append((name, config, options))
        return ({"body": {"en": f"text {i}"}, "label": i % 2} for i in range(1000))

    monkeypatch.setattr(sources, "hub_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    write_rows(tmp_path / "set", 300)
    part = {
        "dataset": "a/b",
        "config": "c",
        "revision": "r",
        "most_rows": 300,
        "columns": {"text": "body.en"},
        "constants": {"lang": "en"},
    }
    task = made(hub=(part,), local=("set/rows.jsonl",), rows=Rule(text="{lang} {text}", positive=("1",)))
    data = load_task(task, SHARES, 200, 0, tmp_path)
    assert data.record["source"] == "hub a/b:c@commit of r" and data.record["rows"] == 300
    assert data.parts["train"][0].text.startswith("en text ")
    assert calls == [("a/b", "c", {"split": "train", "streaming": True, "revision": "commit of r"})]


def test_a_hub_that_fails_falls_back_to_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("Dataset scripts are no longer supported")

    monkeypatch.setattr(sources, "hub_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fails)
    write_rows(tmp_path / "set", 300)
    task = made(hub=({"dataset": "a/b"},), local=("set/rows.jsonl",), rows=Rule(text="{text}", positive=("1",)))
    assert "scripts are no longer supported" in load_task(task, SHARES, 200, 0, tmp_path).record["tried_before"][0]


@pytest.mark.parametrize(
    "name",
    ["sciq", "truthfulqa", "piqa", "ag_news_sports", "amazon", "jigsaw", "europarl_de", "ethics_utilitarianism", "quail"],
)
def test_real_local_data_divide_without_leaks(name: str, shared_data: Path, no_hub: None) -> None:
    data = load_task(read_task(name), SHARES, 400, 0, shared_data)
    assert data.record["used"] == {"train": 240, "validation": 60, "test": 100}
    groups = [{each.group.casefold() for each in part} for part in data.parts.values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_the_sae_probes_copies_are_found_without_importing_the_package(no_hub: None) -> None:
    if sources.package_folder() is None:
        pytest.skip("sae-probes is not installed")
    data = load_task(read_task("sciq"), SHARES, 400, 0)
    assert data.record["source"] == "sae-probes: 36_sciq_tf" and data.record["rows"] == 5000
    assert data.record["exact_duplicates"] >= 900
    phrase = load_task(read_task("phrase_prime-factors"), SHARES, 400, 0)
    assert 0.2 < phrase.record["exact_duplicates"] / phrase.record["rows"] < 0.3
    conflicting = load_task(read_task("disease_class_digestive_system_diseases"), SHARES, 400, 0).record
    assert conflicting["conflicting_labels"] > 20


def test_every_packaged_binary_set_is_available() -> None:
    if sources.package_folder() is None:
        pytest.skip("sae-probes is not installed")
    for task in find_tasks("sae-probes"):
        assert sources.availability(task, None)["sae_probes"] == "", task.name


def test_two_attributes_come_from_the_sae_probes_copies() -> None:
    if sources.package_folder() is None:
        pytest.skip("sae-probes is not installed: pip install --no-deps sae-probes")
    found = load_class_texts(read_class_set("reviews_by_subject"), 0.8, 0, None)
    assert found.record["source"] == "sae-probes: 157_amazon_5star, 113_movie_sent, 111_yelp_data"
    sizes = {cell: len(texts) for cell, texts in found.quadrants(("film", "business"), 400, 200)["train"].items()}
    assert sizes == {
        ("film", "negative"): 200, ("film", "positive"): 100, ("business", "negative"): 100, ("business", "positive"): 200
    }  # fmt: skip
    text = next(each for each in found.parts["train"][Cell("product", "positive")] if "\n" in each)
    assert "Title:" not in text and "Review:" not in text
