from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from saebench.errors import SaebenchError
from saebench.files import hub_reachable
from saebench.text.sources import open_text

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def fresh_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Whether the hub can be reached is checked again, in this test and after it."""
    for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    hub_reachable.cache_clear()
    yield monkeypatch
    hub_reachable.cache_clear()


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub with one data set of three rows, whose third breaks off. Gives what was asked of it."""
    asked: dict[str, Any] = {"read": 0}

    def rows() -> Iterator[dict[str, str]]:
        for text in ("one", "two"):
            asked["read"] += 1
            yield {"text": text, "other": text.upper()}
        raise ConnectionError("the line went dead\nand more")

    def dataset_info(self: Any, name: str, *, revision: str | None, timeout: float) -> Any:
        if name != "owner/stories":
            raise ValueError(f"404: there is no {name}\nRequest ID: 1")
        asked.update(info=(name, revision), timeout=timeout)
        return SimpleNamespace(sha=COMMIT)

    def load_dataset(name: str, config: str | None, **options: Any) -> Iterator[dict[str, str]]:
        asked.update(load=(name, config), **options)
        return rows()

    monkeypatch.setattr("saebench.text.sources.require_hub", lambda what: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_python_docs_are_the_topics_in_order_and_name_their_version() -> None:
    source = open_text("python-docs")
    assert (source.name, source.revision) == ("python-docs", f"python-{platform.python_version()}")
    assert list(source.documents()) == [topics.topics[name] for name in sorted(topics.topics)]


def test_the_same_text_from_each_kind_of_file(tmp_path: Path) -> None:
    documents = ["Grüße,\nWelt", "", "日本語 \t text"]
    lines = [json.dumps({"id": index, "story": text}) for index, text in enumerate(documents)]
    (tmp_path / "a.jsonl").write_text("\n\n".join(lines) + "\n")  # empty lines are no documents
    table = pyarrow.table({"id": range(3), "story": documents})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    for name in ("a.jsonl", "a.parquet"):
        source = open_text(str(tmp_path / name), field="story")
        assert (source.name, source.revision) == (name, None)
        assert list(source.documents()) == documents
        assert list(source.documents()) == documents  # it can be read again
    (tmp_path / "a.txt").write_text(documents[0], encoding="utf-8")
    assert list(open_text(str(tmp_path / "a.txt")).documents()) == [documents[0]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n', r"^Line 2 of a\.jsonl is not JSON"),
        ("a.jsonl", b'{"body": "x", "id": 1}\n', r"in the field 'text' of line 1 of a\.jsonl; it has: body, id\. Name"),
        ("a.jsonl", b'{"text": 7}\n', "no text, no token ids and no messages in the field 'text' of line 1"),
        ("a.jsonl", b'["text"]\n', "in the field 'text' of line 1 of a.jsonl; it has: a list"),
        ("a.jsonl", b"null\n", "in the field 'text' of line 1 of a.jsonl; it has: null"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl is not UTF-8 text \(byte 0xff\)"),
        ("a.txt", b"caf\xe9", r"a\.txt is not UTF-8 text \(byte 0xe9\)"),
        ("a.parquet", b"PAR1 but no more", r"a\.parquet is not a readable Parquet file"),
        ("a.parquet", b"", r"a\.parquet is not a readable Parquet file"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SaebenchError, match=message):
        list(open_text(str(tmp_path / name)).documents())


def test_a_parquet_file_without_the_column_says_which_it_has(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(
        SaebenchError, match=r"field 'text' of a\.parquet; it has: body, id\. Name another with --text-field\.$"
    ):
        list(open_text(str(tmp_path / "a.parquet")).documents())
    with pytest.raises(SaebenchError, match="field 'id'"):
        list(open_text(str(tmp_path / "a.parquet"), field="id").documents())


def test_a_truncated_parquet_file_is_not_read_in_part(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"text {index}" for index in range(1000)]}), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes(200) + whole[300:])
    with pytest.raises(SaebenchError, match="not a readable Parquet file"):
        list(open_text(str(path)).documents())


@pytest.mark.parametrize("source", ["nowhere.txt", "./nowhere.jsonl", "folder/sub/nowhere.md", "/nowhere"])
def test_a_missing_file_is_not_looked_for_on_the_hub(source: str) -> None:
    with pytest.raises(SaebenchError, match=f"There is no file {source}"):
        open_text(source)


def test_other_files_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nx\n")
    (tmp_path / "folder.txt").mkdir()
    for name in ("a.csv", "folder.txt"):
        with pytest.raises(SaebenchError, match=r"as text: give a \.txt, \.jsonl, \.parquet or \.arrow file"):
            open_text(str(tmp_path / name))


def test_only_data_sets_on_the_hub_have_revisions(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    for source in ("python-docs", str(tmp_path / "a.txt")):
        with pytest.raises(SaebenchError, match="has no revisions"):
            open_text(source, revision="main")


def test_an_unreachable_hub_is_found_out_in_seconds(fresh_hub: pytest.MonkeyPatch) -> None:
    fresh_hub.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(
        SaebenchError, match="The data set owner/stories is on the Hugging Face hub, which cannot be reached"
    ):
        open_text("owner/stories")
    assert time.monotonic() - began < 10


def test_offline_means_no_connection_is_tried(fresh_hub: pytest.MonkeyPatch) -> None:
    fresh_hub.setenv("HF_HUB_OFFLINE", "1")
    fresh_hub.setattr("socket.create_connection", lambda *_, **__: pytest.fail("a connection was tried"))
    with pytest.raises(SaebenchError, match="HF_HUB_OFFLINE"):
        open_text("owner/stories")


@pytest.mark.parametrize("revision", [None, "v1.0"])
def test_a_data_set_is_pinned_to_a_commit_and_streamed(fake_hub: dict[str, Any], revision: str | None) -> None:
    source = open_text("owner/stories:small", revision=revision)
    assert fake_hub["read"] == 0 and fake_hub["info"] == ("owner/stories", revision) and fake_hub["timeout"] <= 10
    assert (source.name, source.revision) == ("owner/stories:small", COMMIT)
    documents = source.documents()
    assert next(documents) == "one" and fake_hub["read"] == 1
    assert fake_hub["load"] == ("owner/stories", "small")
    assert (fake_hub["split"], fake_hub["streaming"], fake_hub["revision"]) == ("train", True, COMMIT)


def test_what_goes_wrong_on_the_hub_is_one_sentence(fake_hub: dict[str, Any]) -> None:
    with pytest.raises(SaebenchError, match=r"^The data set owner/other could not be read: 404: there is no owner/other$"):
        open_text("owner/other")
    with pytest.raises(SaebenchError, match=r"^The data set owner/stories could not be read: the line went dead$"):
        list(open_text("owner/stories").documents())
    with pytest.raises(SaebenchError, match="field 'story' of owner/stories; it has: other, text"):
        list(open_text("owner/stories", field="story").documents())
