from __future__ import annotations

import json
import random
import string
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from saebench.errors import SaebenchError
from saebench.text import corpus as corpus_module
from saebench.text.corpus import BosPolicy, TokenCorpus, load_corpus, make_corpus
from saebench.text.sources import TextSource
from tests.conftest import SHARED

UNK, BOS, EOS, PAD = range(4)
FIRST_BYTE = 4


def byte_tokenizer(**specials: str) -> Any:
    """One token a byte, in the order of the byte-level alphabet, after four special tokens."""
    vocabulary = {"<unk>": UNK, "<s>": BOS, "</s>": EOS, "<pad>": PAD}
    vocabulary |= {letter: FIRST_BYTE + index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    split = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    split.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=split, unk_token="<unk>", **specials)


TOKENIZER = byte_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
LETTER = {letter: TOKENIZER.convert_tokens_to_ids(letter) for letter in string.ascii_letters}

without_specials = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=40)
documents_strategy = st.lists(without_specials, max_size=6)


def write_jsonl(folder: str | Path, documents: list[str]) -> str:
    path = Path(folder) / "text.jsonl"
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    return str(path)


def corpus_of(*documents: str, context: int = 8, **options: Any) -> TokenCorpus:
    with tempfile.TemporaryDirectory() as folder:
        return load_corpus(write_jsonl(folder, list(documents)), TOKENIZER, context=context, **options)


def joined(documents: list[str]) -> list[int]:
    """The documents' ids, worked out byte by byte, with EOS between those that are not empty."""
    written = [[id_of_byte(byte) for byte in text.encode()] for text in documents if text]
    return [index for place, ids in enumerate(written) for index in ([EOS] if place else []) + ids]


def id_of_byte(byte: int) -> int:
    """GPT-2's table of bytes: those that do not print are moved to the code points from 256 on."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [each for each in range(256) if each not in prints]
    letter = chr(byte) if byte in prints else chr(256 + moved.index(byte))
    return FIRST_BYTE + sorted([chr(each) for each in prints] + [chr(256 + place) for place in range(len(moved))]).index(
        letter
    )


@settings(max_examples=60, deadline=None)
@given(documents_strategy, st.integers(2, 9), st.sampled_from(["row", "text", "none"]))
def test_every_token_of_the_text_is_in_the_rows_once_and_in_order(
    documents: list[str], context: int, bos: BosPolicy
) -> None:
    expected = ([BOS] if bos == "text" else []) + joined(documents)
    body = context - 1 if bos == "row" else context
    if len(joined(documents)) == 0 or len(expected) < body:
        with pytest.raises(SaebenchError, match=r"is empty|fewer than one context"):
            corpus_of(*documents, context=context, bos=bos, exclude=False)
        return
    corpus = corpus_of(*documents, context=context, bos=bos, exclude=False)
    assert corpus.tokens.dtype == torch.int64 and corpus.context == context
    if bos == "row":
        assert corpus.tokens[:, 0].eq(BOS).all()
    found = corpus.tokens[:, context - body :].flatten().tolist()
    assert found == expected[: len(found)]
    assert corpus.tokens_dropped == len(expected) - len(found) < body
    assert corpus.documents == sum(1 for document in documents if document)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 120), st.integers(2, 9), st.sampled_from(["row", "text", "none"]))
def test_a_limit_takes_whole_rows_from_the_start(tokens: int, context: int, bos: BosPolicy) -> None:
    text = "".join(random.Random(0).choices(string.ascii_letters, k=60))
    everything = corpus_of(text, context=context, bos=bos)
    limited = corpus_of(text, context=context, bos=bos, tokens=tokens)
    rows = min(-(-tokens // context), len(everything.tokens))
    assert torch.equal(limited.tokens, everything.tokens[:rows])
    assert limited.tokens_requested == tokens
    assert limited.tokens.numel() >= tokens or rows == len(everything.tokens)  # a short text is not repeated


@given(
    st.lists(st.lists(st.integers(0, 12), min_size=5, max_size=5), min_size=1, max_size=4),
    st.booleans(),
)
def test_masks_are_those_of_a_slow_loop(rows: list[list[int]], exclude: bool) -> None:
    special = {UNK, BOS, EOS, PAD}
    excluded = [[exclude and (place == 0 or token in special) for place, token in enumerate(row)] for row in rows]
    counted = [
        [not exclude or (not left_out[place] and row[place + 1] not in special) for place in range(4)]
        for row, left_out in zip(rows, excluded, strict=True)
    ]
    if all(map(all, excluded)):
        with pytest.raises(SaebenchError, match="Every position of words is excluded"):
            make_corpus(torch.tensor(rows), TOKENIZER, name="words", exclude=exclude)
        return
    corpus = make_corpus(torch.tensor(rows), TOKENIZER, name="words", exclude=exclude)
    assert corpus.excluded.tolist() == excluded
    assert corpus.loss_mask.tolist() == counted
    assert corpus.tokens_counted == sum(not each for row in excluded for each in row)


def test_masks_by_hand() -> None:
    rows = torch.tensor([[BOS, 5, 6, EOS, 7, 8], [9, 10, 11, BOS, 12, PAD]])
    corpus = make_corpus(rows, TOKENIZER, name="by hand")
    assert corpus.excluded.int().tolist() == [[1, 0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 1]]
    # 5 -> 6 and 7 -> 8; 10 -> 11. Not 6 -> EOS, 11 -> BOS, 12 -> PAD, nor what special tokens and first positions predict
    assert corpus.loss_mask.int().tolist() == [[0, 1, 0, 0, 1], [0, 1, 0, 0, 0]]
    assert corpus.tokens_counted == 7
    assert corpus.rule == "special tokens and the first position of each row; predictions of special tokens"


def test_one_text_with_one_bos_and_nothing_left_out(tmp_path: Path) -> None:
    path = tmp_path / "plain.txt"
    path.write_text("abcdefghij" * 3 + "\n", encoding="utf-8")
    corpus = load_corpus(str(path), TOKENIZER, context=8, bos="text", exclude=False)
    assert (corpus.tokens == BOS).sum() == 1 and corpus.tokens[0, 0] == BOS
    assert corpus.tokens.flatten().tolist() == [BOS, *TOKENIZER(path.read_text())["input_ids"]][: 4 * 8]
    assert corpus.tokens_dropped == 0 and corpus.tokens_counted == 32
    assert bool(corpus.loss_mask.all()) and corpus.rule == "nothing"
    assert corpus.name == "plain.txt"  # no folder of this machine


def test_bos_policy_follows_the_tokenizer(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path, ["abcdef", "gh"])
    no_bos = byte_tokenizer(eos_token="</s>")
    assert load_corpus(source, TOKENIZER, context=4).bos == "row"
    assert load_corpus(source, no_bos, context=4).bos == "none"
    for bos in ("row", "text"):
        with pytest.raises(SaebenchError, match="has no BOS token"):
            load_corpus(source, no_bos, context=4, bos=bos)


@pytest.mark.parametrize(
    ("specials", "kind", "separator"),
    [
        ({"bos_token": "<s>", "eos_token": "</s>"}, "auto", EOS),
        ({"bos_token": "<s>"}, "auto", BOS),
        ({}, "auto", None),
        ({"bos_token": "<s>", "eos_token": "</s>"}, "bos", BOS),
        ({"bos_token": "<s>", "eos_token": "</s>"}, "none", None),
    ],
)
def test_documents_are_joined_as_requested(
    tmp_path: Path, specials: dict[str, str], kind: Any, separator: int | None
) -> None:
    source = write_jsonl(tmp_path, ["ab", "", "cd"])
    corpus = load_corpus(source, byte_tokenizer(**specials), context=2, bos="none", exclude=False, document_separator=kind)
    a, b, c, d = (LETTER[letter] for letter in "abcd")
    assert corpus.tokens.flatten().tolist() == ([a, b, c, d] if separator is None else [a, b, separator, c])
    assert corpus.separator == separator
    with pytest.raises(SaebenchError, match="no EOS token to put between documents"):
        load_corpus(source, byte_tokenizer(bos_token="<s>"), context=2, document_separator="eos")


def test_a_special_token_spelt_in_a_text_is_left_out_like_any_other() -> None:
    corpus = corpus_of("abc</s>def", context=8, bos="row")
    assert corpus.tokens[0].tolist() == [BOS, *(LETTER[x] for x in "abc"), EOS, *(LETTER[x] for x in "def")]
    assert corpus.excluded[0].int().tolist() == [1, 0, 0, 0, 1, 0, 0, 0]


def test_no_more_of_a_stream_is_read_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "abcdefghi"

    monkeypatch.setattr(corpus_module, "open_text", lambda *_, **__: TextSource("endless", "1", endless))
    corpus = load_corpus("endless", TOKENIZER, context=5, tokens=46, bos="none")
    assert (
        corpus.tokens.shape == (10, 5) and read == corpus.documents == 6
    )  # 9 tokens, then 10 with each separator: 49 after five


def test_a_seeded_draw_of_rows_keeps_their_order_and_repeats() -> None:
    text = "".join(random.Random(1).choices(string.ascii_letters, k=400))
    everything, drawn = corpus_of(text), corpus_of(text, tokens=80, shuffle_seed=3)
    where = [next(place for place, row in enumerate(everything.tokens) if torch.equal(row, one)) for one in drawn.tokens]
    assert len(where) == 10 and where == sorted(set(where)) and where != list(range(10))
    assert drawn.shuffle_seed == 3 and drawn.tokens_requested == 80
    assert corpus_of(text, tokens=80, shuffle_seed=3).sha256 == drawn.sha256
    assert corpus_of(text, tokens=80, shuffle_seed=4).sha256 != drawn.sha256
    assert corpus_of(text, tokens=10_000, shuffle_seed=3).sha256 == everything.sha256


def test_the_hash_changes_with_the_ids_the_rows_and_the_positions_that_count() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    base: dict[str, Any] = {"context": 8, "bos": "row"}
    changed: list[dict[str, Any]] = [{}, {"context": 9}, {"bos": "text"}, {"bos": "none"}, {"exclude": False}, {"tokens": 8}]
    hashes = [corpus_of(text, **(base | change)).sha256 for change in changed]
    hashes.append(corpus_of(text.replace("quick", "quack"), **base).sha256)
    assert len(set(hashes)) == len(hashes)
    assert corpus_of(text, **base).sha256 == hashes[0]
    rows = torch.arange(10, 22)
    tall, wide = (make_corpus(rows.view(shape), TOKENIZER, name="x", exclude=False) for shape in ((6, 2), (2, 6)))
    assert tall.sha256 != wide.sha256
    assert make_corpus(rows.view(6, 2), TOKENIZER, name="another name", exclude=False).sha256 == tall.sha256


@given(st.integers(0, 23), st.integers(0, 200))
def test_the_hash_changes_with_any_one_token(place: int, token: int) -> None:
    rows = torch.arange(10, 34).view(4, 6)
    other = rows.clone()
    other.view(-1)[place] = token
    one, two = (make_corpus(each, TOKENIZER, name="x", exclude=False).sha256 for each in (rows, other))
    assert (one == two) == (token == 10 + place)


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(SaebenchError, match="A context of 1 holds no prediction"):
        corpus_of("abc", context=1)
    with pytest.raises(SaebenchError, match="--tokens is 0: use 1 or more"):
        corpus_of("abc", tokens=0)
    with pytest.raises(SaebenchError, match="has 3 tokens, fewer than one context of 8: use a smaller --context"):
        corpus_of("abc")
    for documents in ([], ["", ""]):
        with pytest.raises(SaebenchError, match=r"The text text\.jsonl is empty"):
            corpus_of(*documents)


def test_the_documentation_of_python_is_packed() -> None:
    corpus = load_corpus("python-docs", TOKENIZER, context=64, tokens=64 * 40)
    assert corpus.name == "python-docs" and corpus.revision is not None and corpus.revision.startswith("python-3.")
    text = TOKENIZER.decode(corpus.tokens[:, 1:].flatten())
    assert text.startswith('The "assert" statement')


def test_a_real_tokenizer_adds_no_special_tokens_of_its_own(tmp_path: Path) -> None:
    folder = SHARED / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("the shared models are not beside the repository")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    documents = ["Once upon a time, there was a little girl.", "One day, a big dog came."]
    corpus = load_corpus(write_jsonl(tmp_path, documents), tokenizer, context=6, bos="text", exclude=False)
    first, second = (tokenizer.encode(document, add_special_tokens=False) for document in documents)
    expected = [tokenizer.bos_token_id, *first, tokenizer.eos_token_id, *second]
    assert corpus.tokens.flatten().tolist() == expected[: corpus.tokens.numel()]
    assert corpus.tokens_dropped == len(expected) % 6
