"""Text as users have it: named fields, token ids, chats, empty rows; and what does not fit the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

import saebench
from saebench.errors import SaebenchError
from saebench.lm import LanguageModel
from saebench.notices import collect_notices
from saebench.sae import SparseAutoencoder
from saebench.text.corpus import load_corpus
from tests.conftest import FIXTURES, HOOK

MODEL = FIXTURES / "saelens_evals" / "model"


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """The rows in the format of the file's suffix."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        table = pa.Table.from_pylist(rows)
        opened = pa.ipc.new_stream if path.stem == "stream" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as sink, opened(sink, table.schema) as writer:
            writer.write_table(table)
    return str(path)


def ids_of(corpus: Any) -> list[int]:
    found: list[int] = corpus.tokens.flatten().tolist()
    return found


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "stream.arrow", "file.arrow"])
def test_a_named_field_is_read_and_null_rows_are_counted(name: str, tmp_path: Path, tiny_model: LanguageModel) -> None:
    rows = [{"body": "w5 w6 w7"}, {"body": None}, {"body": "w8 w9"}]
    source = write(tmp_path / name, rows)
    with collect_notices() as said:
        corpus = load_corpus(source, tiny_model.tokenizer, context=6, bos="none", field="body", document_separator="eos")
    assert ids_of(corpus) == [5, 6, 7, 2, 8, 9] and (corpus.documents, corpus.documents_null) == (2, 1)
    assert said == [f"1 rows of {name} hold no text and were skipped."]
    with pytest.raises(SaebenchError, match=r"no text.* in the field 'text' of .*; it has: body\. Name another"):
        load_corpus(source, tiny_model.tokenizer, context=6)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "stream.arrow"])
def test_token_ids_are_taken_as_they_are_and_must_fit(name: str, tmp_path: Path, tiny_model: LanguageModel) -> None:
    source = write(tmp_path / name, [{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9]}])
    corpus = load_corpus(source, tiny_model.tokenizer, context=3, bos="none", document_separator="none")
    assert ids_of(corpus) == [5, 6, 7] and corpus.tokens_dropped == 2
    source = write(tmp_path / name, [{"input_ids": [5, 50_000]}])
    with pytest.raises(SaebenchError, match=r"token ids from 5 to 50,000, but .* has 200 tokens: .* another model"):
        load_corpus(source, tiny_model.tokenizer, context=2)


def test_chats_go_through_the_tokenizer_s_template(tmp_path: Path) -> None:
    tokenizer = LanguageModel.load(str(MODEL)).tokenizer
    chat = [{"role": "user", "content": "w5 w6"}, {"role": "assistant", "content": "w7"}]
    source = write(tmp_path / "a.jsonl", [{"messages": chat}])
    with pytest.raises(SaebenchError, match=r"holds chats, but .* no chat template"):
        load_corpus(source, tokenizer, context=2)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    assert ids_of(load_corpus(source, tokenizer, context=3, bos="none")) == [5, 6, 7]
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(SaebenchError, match=r"cannot be applied to a row of a\.jsonl: roles must alternate"):
        load_corpus(source, tokenizer, context=3)


def test_a_request_below_a_row_says_what_is_read(tmp_path: Path, tiny_model: LanguageModel) -> None:
    source = write(tmp_path / "a.jsonl", [{"text": " ".join(f"w{number}" for number in range(3, 60))}])
    with collect_notices() as said:
        corpus = load_corpus(source, tiny_model.tokenizer, context=20, tokens=10)
    assert corpus.tokens.shape == (1, 20) and "10 tokens are requested and rows have 20: one whole row is read" in said[0]


def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saebench.lm.model.load_pretrained", lambda *args: pytest.fail("the model was loaded"))


def test_rows_beyond_the_model_s_window_are_refused_before_it_is_loaded(
    make_sae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_weights(monkeypatch)
    window = json.loads((MODEL / "config.json").read_text())["max_position_embeddings"]
    with pytest.raises(SaebenchError, match=rf"longer than the {window:,} positions of .*: use --context {window}\."):
        saebench.evaluate(make_sae(), model=str(MODEL), hook=HOOK, context=window + 1, progress=False)


def test_a_text_is_checked_before_the_model_is_loaded(
    make_sae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_weights(monkeypatch)
    (tmp_path / "short.txt").write_text("w5 w6")
    with pytest.raises(SaebenchError, match="fewer than one context"):
        saebench.evaluate(
            make_sae(), model=str(MODEL), hook=HOOK, corpus=str(tmp_path / "short.txt"), context=16, progress=False
        )


def test_a_model_folder_without_a_tokenizer_says_so(make_sae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_weights(monkeypatch)
    shutil.copytree(MODEL, tmp_path / "model", ignore=shutil.ignore_patterns("token*"))
    with pytest.raises(SaebenchError, match=r"model folder .* holds no tokenizer \(tokenizer\.json"):
        saebench.evaluate(make_sae(), model=str(tmp_path / "model"), hook=HOOK, context=16, progress=False)


def test_null_rows_are_recorded_in_the_result(make_sae: Any, tmp_path: Path, tiny_model: LanguageModel) -> None:
    sae: SparseAutoencoder = make_sae()
    rows = [{"body": None}, {"body": " ".join(f"w{number}" for number in range(3, 60))}]
    source = write(tmp_path / "a.jsonl", rows)
    settings = {"text_field": "body", "context": 8, "evaluators": ["reconstruction"], "progress": False}
    card = saebench.evaluate(sae, model=tiny_model, corpus=source, **settings)
    assert card.result.corpus.documents_null == 1 and "skipped" in card.result.notices[0]
