"""Packing text into rows of tokens, and the rule for which positions count.

Documents are tokenised without special tokens, joined by a separator token, and cut into rows of one length. Activations
at special tokens and at the first position of a row (where attention sinks have norms tens of times the rest) are
excluded by default; the exclusions are the same for clean, spliced and ablated runs, and are recorded in the result.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.notices import notice
from saebench.text.sources import Document, TextSource, open_text

BosPolicy = Literal["row", "text", "none"]
Separator = Literal["auto", "eos", "bos", "none"]


class Tokenizer(Protocol):
    """The required interface of a Hugging Face tokenizer."""

    bos_token_id: int | None
    eos_token_id: int | None
    all_special_ids: list[int]

    def __call__(self, text: str, **options: Any) -> Any:
        """Encode."""

    def __len__(self) -> int:
        """Number of tokens."""

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        """A chat as text."""


@dataclass(frozen=True)
class TokenCorpus:
    """Rows of tokens and the positions that count.

    Attributes:
        tokens: ``[rows, context]`` int64.
        excluded: ``[rows, context]`` bool: excluded from every average; these positions keep their clean activations in
            spliced and ablated runs.
        loss_mask: ``[rows, context - 1]`` bool: the predictions that count in cross-entropies. The prediction at position
            ``p`` counts where ``p`` is not excluded and the token it predicts, at ``p + 1``, is not a special one.
        name: of the text; ``revision`` pins it where it can change.
        bos: ``row`` (each row begins with BOS), ``text`` (one BOS at the start of the text) or ``none``.
        rule: in words, what is excluded.
        documents: number of documents read, the last one possibly in part.
        separator: the token between two documents, if any.
        tokens_requested: the requested number, if any; the corpus has fewer where the text has fewer.
        tokens_dropped: tokens after the last complete row.
        shuffle_seed: of the sampling, where the rows are a random sample of the text's rows.
        documents_null: rows of the source without text, which were skipped.
    """

    tokens: Tensor
    excluded: Tensor
    loss_mask: Tensor
    name: str
    revision: str | None
    bos: BosPolicy
    rule: str
    documents: int
    separator: int | None = None
    tokens_requested: int | None = None
    tokens_dropped: int = 0
    shuffle_seed: int | None = None
    documents_null: int = 0

    @property
    def context(self) -> int:
        """Length of a row."""
        return self.tokens.shape[1]

    @property
    def tokens_counted(self) -> int:
        """Number of positions that are not excluded."""
        return int((~self.excluded).sum())

    def only(self, rows: Tensor) -> TokenCorpus:
        """Some of the rows (``rows``: their numbers)."""
        return replace(self, tokens=self.tokens[rows], excluded=self.excluded[rows], loss_mask=self.loss_mask[rows])

    def first(self, rows: int) -> TokenCorpus:
        """The first ``rows`` rows."""
        return self.only(torch.arange(rows))

    @property
    def sha256(self) -> str:
        """Hash of the token ids, the shape of the rows and the positions that count."""
        digest = hashlib.sha256(f"{tuple(self.tokens.shape)}".encode())
        digest.update(self.tokens.numpy().astype("<i8").tobytes())
        digest.update(self.excluded.numpy().tobytes())
        digest.update(self.loss_mask.numpy().tobytes())
        return digest.hexdigest()


def load_corpus(
    source: str,
    tokenizer: Tokenizer,
    *,
    context: int,
    tokens: int | None = None,
    bos: BosPolicy | None = None,
    exclude: bool = True,
    revision: str | None = None,
    field: str = "text",
    document_separator: Separator = "auto",
    shuffle_seed: int | None = None,
) -> TokenCorpus:
    """Read, tokenise and pack a text.

    Args:
        source: ``python-docs`` (the documentation in Python's library), a ``.txt``, ``.jsonl``, ``.parquet`` or ``.arrow``
            file, or a data set on the hub, as ``owner/name`` or ``owner/name:config``.
        tokenizer: the language model's.
        context: length of a row.
        tokens: stop after this many tokens, rounded up to whole rows; all of the text by default. A shorter text is not
            repeated: the corpus then has fewer than ``tokens_requested``.
        bos: BOS policy; ``row`` where the tokenizer has a BOS token, else ``none``.
        exclude: False excludes no position.
        revision: pins a data set on the hub.
        field: the column that holds the text; see ``open_text`` for token ids and chats.
        document_separator: the token between two documents: ``auto`` is EOS, or BOS where the tokenizer has no EOS.
        shuffle_seed: sample the ``tokens`` from all rows of the text, which is then read to its end, instead of taking the
            first ones; the sampled rows keep their order.

    Raises:
        SaebenchError: the text is not available, is empty, or is shorter than one row.
    """
    if context < 2:
        raise SaebenchError(f"A context of {context} holds no prediction: use --context 2 or more.")
    if tokens is not None and tokens < 1:
        raise SaebenchError(f"--tokens is {tokens}: use 1 or more.")
    if bos is None:
        bos = "row" if tokenizer.bos_token_id is not None else "none"
    if bos != "none":
        _bos(tokenizer)
    text = open_text(source, revision=revision, field=field)
    separator = _separator(tokenizer, document_separator)
    wanted = None if tokens is None else -(-tokens // context)
    if tokens is not None and tokens < context:
        notice(
            f"{tokens} tokens are requested and rows have {context}: one whole row is read; --context makes rows shorter."
        )
    read = None if shuffle_seed is not None else wanted
    reading = _Documents(text, tokenizer, separator)
    rows, documents, dropped = _pack(iter(reading), text.name, tokenizer, context, read, bos)
    if reading.null:
        notice(f"{reading.null:,} rows of {text.name} hold no text and were skipped.")
    if shuffle_seed is not None:
        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(shuffle_seed))[:wanted]
        rows = rows[drawn.sort().values]
    corpus = make_corpus(
        rows, tokenizer, name=text.name, revision=text.revision, bos=bos, exclude=exclude, documents=documents
    )
    return replace(
        corpus,
        separator=separator,
        tokens_requested=tokens,
        tokens_dropped=dropped,
        shuffle_seed=shuffle_seed,
        documents_null=reading.null,
    )


def make_corpus(
    rows: Tensor,
    tokenizer: Tokenizer,
    *,
    name: str,
    revision: str | None = None,
    bos: BosPolicy = "none",
    exclude: bool = True,
    documents: int = 1,
) -> TokenCorpus:
    """A corpus of given rows of tokens (``[rows, context]``), with the positions that count.

    Args:
        rows: the tokens.
        tokenizer: says which tokens are special.
        exclude: False excludes no position.
        name, revision, bos, documents: metadata of the rows; see ``TokenCorpus``.

    Raises:
        SaebenchError: no position is left.
    """
    if exclude:
        special = torch.isin(rows, torch.tensor(sorted(set(tokenizer.all_special_ids)), dtype=rows.dtype))
        excluded = special.clone()
        excluded[:, 0] = True
        loss_mask = ~excluded[:, :-1] & ~special[:, 1:]
        rule = "special tokens and the first position of each row; predictions of special tokens"
    else:
        excluded = torch.zeros_like(rows, dtype=torch.bool)
        loss_mask = torch.ones(rows.shape[0], rows.shape[1] - 1, dtype=torch.bool)
        rule = "nothing"
    if bool(excluded.all()):
        raise SaebenchError(f"Every position of {name} is excluded ({rule}): use --no-exclude or a longer --context.")
    return TokenCorpus(rows, excluded, loss_mask, name, revision, bos, rule, documents)


def _pack(
    documents: Iterator[list[int]], name: str, tokenizer: Tokenizer, context: int, rows_wanted: int | None, bos: BosPolicy
) -> tuple[Tensor, int, int]:
    """``(rows [rows, context], documents used, tokens dropped at the end)``; reads only as many documents as needed."""
    body = context - 1 if bos == "row" else context
    wanted = None if rows_wanted is None else rows_wanted * body
    stream = array("q", [_bos(tokenizer)] if bos == "text" else [])  # 8 bytes a token, a list has 40
    overhead, used = len(stream), 0
    for ids in documents:
        stream.extend(ids)
        used += 1
        if wanted is not None and len(stream) >= wanted:
            del stream[wanted:]
            break
    if len(stream) == overhead:
        raise SaebenchError(f"The text {name} is empty.")
    n_rows = len(stream) // body
    if n_rows == 0:
        raise SaebenchError(
            f"The text {name} has {len(stream)} tokens, fewer than one context of {context}: use a smaller --context "
            "or more text."
        )
    rows = torch.frombuffer(stream, dtype=torch.int64)[: n_rows * body].clone().view(n_rows, body)
    if bos == "row":
        rows = torch.cat([torch.full((n_rows, 1), _bos(tokenizer)), rows], dim=1)
    return rows, used, len(stream) - n_rows * body


class _Documents:
    """Each document's token ids; all but the first start with the separator. Counts the rows without a text."""

    def __init__(self, text: TextSource, tokenizer: Tokenizer, separator: int | None) -> None:
        self._text, self._tokenizer, self._separator = text, tokenizer, separator
        self.null = 0

    def __iter__(self) -> Iterator[list[int]]:
        first = True
        for document in self._text.documents():
            if document is None:
                self.null += 1
                continue
            ids = self._ids(document)
            if not ids:
                continue
            yield ids if first or self._separator is None else [self._separator, *ids]
            first = False

    def _ids(self, document: Document) -> list[int]:
        if isinstance(document, list) and document and isinstance(document[0], int):
            return self._checked(document)
        text = document if isinstance(document, str) else self._chat(document)
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []

    def _checked(self, ids: list[int]) -> list[int]:
        """Token ids that the data set holds already."""
        if not 0 <= min(ids) <= max(ids) < len(self._tokenizer):
            raise SaebenchError(
                f"{self._text.name} holds token ids from {min(ids):,} to {max(ids):,}, but the language model's tokenizer "
                f"has {len(self._tokenizer):,} tokens: the text was tokenised for another model."
            )
        return ids

    def _chat(self, messages: Document) -> str:
        """A chat as text, by the tokenizer's template."""
        if not messages:
            return ""
        if not getattr(self._tokenizer, "chat_template", None):
            raise SaebenchError(
                f"{self._text.name} holds chats, but the language model's tokenizer has no chat template: use a chat model, "
                "or name a field of text with --text-field."
            )
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception as error:  # templates are programs of the model's authors and raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise SaebenchError(f"The chat template cannot be applied to a row of {self._text.name}: {reason}.") from error


def _bos(tokenizer: Tokenizer) -> int:
    if tokenizer.bos_token_id is None:
        raise SaebenchError("This tokenizer has no BOS token: use --bos none.")
    return tokenizer.bos_token_id


def _separator(tokenizer: Tokenizer, kind: Separator) -> int | None:
    if kind == "auto":
        return tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    found = {"eos": tokenizer.eos_token_id, "bos": tokenizer.bos_token_id, "none": None}[kind]
    if found is None and kind != "none":
        raise SaebenchError(f"This tokenizer has no {kind.upper()} token to put between documents: use none.")
    return found
