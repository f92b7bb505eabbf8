"""Text, JSON and TOML of strangers: what is refused or made safe, whatever file it comes from."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from rich.table import Table
from rich.text import Text

from saebench.checkpoints.base import flag, locate
from saebench.errors import LONGEST, SaebenchError
from saebench.parsing import DEEPEST, parse_json, parse_toml
from saebench.terminal import terminal
from saebench.text.sources import open_text
from saebench.training.config import make_config, read_recipe


def test_depth_and_halves_of_surrogate_pairs_are_refused() -> None:
    assert parse_json("[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)) is not None
    for text in ("[" * DEEPEST + "1" + "]" * DEEPEST, "[" * 100_000):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(text)
    for text in (".".join("a" * 3000) + " = 1", "a = " + "[" * 5000 + "]" * 5000):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_toml(text)
    with pytest.raises(ValueError, match="surrogate pair"):
        parse_json(json.dumps({"a": "\ud800"}))
    with pytest.raises(ValueError, match="date or time 1979-05-27"):
        parse_toml("a = 1979-05-27")


def test_a_deep_recipe_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("k = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(SaebenchError, match=r"The recipe .*r\.toml is not TOML: it is nested too deeply\."):
        read_recipe(tmp_path / "r.toml")


@pytest.mark.parametrize(
    "name, value", [("k", "7"), ("k", 2.5), ("k", True), ("lr", float("nan")), ("bfloat16", 1), ("model", 3)]
)
def test_settings_of_the_wrong_type_are_named(name: str, value: object) -> None:
    with pytest.raises(SaebenchError, match=rf"{name} is .*; .* is needed\."):
        make_config({name: value})
    assert make_config({"lr": 1, "group_sizes": [4096, 4096]}).group_sizes == (4096, 4096)


def test_long_messages_keep_their_beginning_and_end() -> None:
    text = str(SaebenchError(f"a.json gives {'x' * 100_000} for k; a whole number is needed."))
    assert len(text) <= LONGEST and text.startswith("a.json gives xxx") and text.endswith("for k; a whole number is needed.")


def test_what_is_printed_does_not_control_the_terminal() -> None:
    buffer = io.StringIO()
    table = Table("name\x1b[2J")
    table.add_row(Text("a\x1b]0;owned\x07\u202eb"))
    terminal(file=buffer, width=60).print(table, Text("x\x9by", style="bold"))
    assert not any(each in buffer.getvalue() for each in "\x1b\x07\u202e\x9b")
    assert "x\ufffdy" in buffer.getvalue() and "]0;owned" in buffer.getvalue()


def test_a_switch_is_true_or_false(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    location = locate(tmp_path)
    assert flag({"on": True}, "on", location) and not flag({"on": None}, "on", location)
    with pytest.raises(SaebenchError, match=r"gives 'false' for on; true or false is needed"):
        flag({"on": "false"}, "on", location)


def test_offsets_outside_an_arrow_file_are_refused(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pydict({"text": ["w5 w6", "w7"]})
    path = tmp_path / "a.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    damaged = path.read_bytes().replace(b"\x05\0\0\0\x07\0\0\0", b"\x05\0\0\0\xff\xff\xff\x7f")
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(SaebenchError, match=r"a\.arrow is not a readable Arrow file"):
        list(open_text(str(tmp_path / "a.arrow")).documents())
