"""Corpora: text, JSON lines, Parquet and Arrow; text, token ids and chats."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from transformers import AutoTokenizer

from saebench.text.corpus import load_corpus
from tests.conftest import FIXTURES
from tests.fuzz.hostile import changed_data
from tests.fuzz.mutations import STRUCTURE, Files, mutate
from tests.fuzz.reader import Case, Reader, assert_plain

TEXTS = [{"text": " ".join(f"w{3 + (n * 7 + m) % 190}" for m in range(12))} for n in range(8)]
IDS = [{"input_ids": [3 + (n * 5 + m) % 190 for m in range(10)]} for n in range(8)]
CHATS = [
    {"messages": [{"role": "user", "content": "w5 w6 w7 w8"}, {"role": "assistant", "content": "w9 w10"}]} for _ in range(8)
]
MIXED: list[dict[str, Any]] = [*TEXTS[:4], {"text": None}, {"text": "é w5 ✓"}]
CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}"


@cache
def tokenizer() -> Any:
    """The tiny model's, with a chat template."""
    made = AutoTokenizer.from_pretrained(FIXTURES / "saelens_evals" / "model")
    made.chat_template = CHAT_TEMPLATE
    return made


def _read(path: Path, case: Case, kind: str) -> None:
    corpus = load_corpus(str(path), tokenizer(), context=8, **case.given)
    assert corpus.tokens.dim() == 2 and corpus.tokens.shape[1] == 8 and corpus.tokens.shape[0] >= 1
    assert 0 <= int(corpus.tokens.min()) <= int(corpus.tokens.max()) < len(tokenizer())
    assert corpus.excluded.shape == corpus.tokens.shape and len(corpus.sha256) == 64
    assert_plain(corpus.name)


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), buffer, **options)
    return buffer.getvalue()


def _arrow(rows: list[dict[str, Any]], stream: bool) -> bytes:
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def _rebuilt(suffix: str, every: list[list[dict[str, Any]]]) -> Callable[[Files, random.Random], tuple[Files, str]]:
    """Bytes changed; or a sound file of changed rows, where Arrow has a type for them."""

    def change(files: Files, rng: random.Random) -> tuple[Files, str]:
        if rng.random() < 0.6:
            return mutate(files, rng)
        rows = changed_data(rng.choice(every), rng)
        try:
            data = _parquet(rows) if suffix == "parquet" else _arrow(rows, rng.random() < 0.5)
        except Exception:  # Arrow has no type for these rows
            return mutate(files, rng)
        return {name: data for name in files}, STRUCTURE

    return change


def _cases(name: str, contents: list[bytes]) -> Callable[[Path], list[Case]]:
    return lambda _: [Case({name: content}, name, {"document_separator": "eos"}) for content in contents]


_EVERY = [TEXTS, IDS, CHATS, MIXED]
_TOKENISED = [_lines(IDS)], [_parquet(IDS)], [_arrow(IDS, True), _arrow(IDS, False)]

READERS = [
    Reader("text", _cases("a.txt", ["\n".join(row["text"] for row in TEXTS).encode()]), _read),
    Reader("jsonl", _cases("a.jsonl", [_lines(TEXTS), _lines(CHATS), _lines(MIXED)]), _read),
    Reader("parquet", _cases("a.parquet", [_parquet(TEXTS), _parquet(CHATS), _parquet(MIXED, compression="gzip")]), _read,
           _rebuilt("parquet", _EVERY)),
    Reader("arrow", _cases("a.arrow", [_arrow(TEXTS, True), _arrow(CHATS, False), _arrow(MIXED, True)]), _read,
           _rebuilt("arrow", _EVERY)),
    Reader("tokenised_jsonl", _cases("a.jsonl", _TOKENISED[0]), _read),
    Reader("tokenised_parquet", _cases("a.parquet", _TOKENISED[1]), _read, _rebuilt("parquet", [IDS])),
    Reader("tokenised_arrow", _cases("a.arrow", _TOKENISED[2]), _read, _rebuilt("arrow", [IDS])),
]  # fmt: skip
