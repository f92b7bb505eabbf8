"""A language model's activations on a task's texts: computed once for all autoencoders on a hook, and cached on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.files import cache_folder, write_safetensors
from saebench.lm import Cut
from saebench.lm.batching import batches_by_length
from saebench.probing.memory import read_tensors
from saebench.probing.protocol import Pooling, TextLimits
from saebench.results import canonical_hash
from saebench.tasks import TaskData

VERSION = 1
"""Version of the cache on disk; raised where the same key would mean other numbers."""

TOKENS_PER_BATCH = 2048

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class TaskActivations:
    """The autoencoder's input on the texts of a task: those of train first, then validation, then test.

    Attributes:
        rows: ``[rows, d_in]`` float32: one row a text where only its last token is pooled, else one for each token.
        owner: ``[rows]`` int64: each row's text.
        labels: ``[texts]`` int64; within each part those of label 0 come first.
        groups: ``[texts]`` int64: texts with the same number came from the same source row.
        sizes: texts of each part.
        truncated: how many texts were longer than the protocol allows.
        key: hash of everything that determines these numbers.
        cached: whether the key identifies them: a model in memory with unknown weights has no key.
    """

    rows: Tensor
    owner: Tensor
    labels: Tensor
    groups: Tensor
    sizes: dict[str, int]
    truncated: int
    key: str
    cached: bool = True

    def span(self, part: str) -> slice:
        """The texts of a part."""
        start = sum(self.sizes[name] for name in PARTS[: PARTS.index(part)])
        return slice(start, start + self.sizes[part])

    @property
    def texts(self) -> int:
        """Number of texts."""
        return self.labels.numel()

    def of_texts(self, part: slice) -> tuple[Tensor, Tensor]:
        """``(rows, owner)`` of some neighbouring texts, which are numbered from 0."""
        mine = (self.owner >= part.start) & (self.owner < part.stop)
        return self.rows[mine], self.owner[mine] - part.start


def task_activations(
    cut: Cut, data: TaskData, limits: TextLimits, pooling: Pooling, bos: bool, advance: Callable[[float], None]
) -> TaskActivations:
    """Run the layers below the hook on a task's texts, or read the activations that an earlier run cached.

    Args:
        cut: the language model, cut at the autoencoder's hook.
        data: the task.
        limits: of the texts' length.
        pooling: ``last`` keeps the last token of each text only.
        bos: whether a BOS token is prepended to each text; it is not pooled.
        advance: called for each text.
    """
    examples = [example for part in PARTS for example in data.parts[part]]
    numbers: dict[str, int] = {}
    texts = [example.text for example in examples]
    found = text_activations(cut, texts, data.sha256, limits, pooling, bos, advance)
    return TaskActivations(
        rows=found.rows,
        owner=found.owner,
        labels=torch.tensor([example.label for example in examples]),
        groups=torch.tensor([numbers.setdefault(example.group, len(numbers)) for example in examples]),
        sizes={part: len(data.parts[part]) for part in PARTS},
        truncated=found.truncated,
        key=found.key,
        cached=found.cached,
    )


@dataclass(frozen=True)
class TextActivations:
    """The autoencoder's input on some texts; see ``TaskActivations``."""

    rows: Tensor
    owner: Tensor
    truncated: int
    key: str
    cached: bool


def text_activations(
    cut: Cut, texts: Sequence[str], sha256: str, limits: TextLimits, pooling: Pooling, bos: bool,
    advance: Callable[[float], None],
) -> TextActivations:  # fmt: skip
    """Run the layers below the hook on texts, or read the activations that an earlier run cached.

    Args:
        cut, limits, pooling, bos, advance: as ``task_activations`` has them.
        texts: the texts; ``sha256``, a hash of them.
        sha256: see ``texts``.
    """
    every, known = pooling != "last", "@unknown/" not in cut.model.identity
    key = activations_key(cut, sha256, limits, pooling, bos)
    folder, name = cache_folder() / "probing" / "activations", f"{key}.safetensors"
    tensors = read_tensors(folder / name) if known else None
    if tensors is None:
        tensors = run_texts(cut, texts, limits, every, bos, advance)
        if known:
            write_safetensors(tensors, folder, name)
    else:
        advance(len(texts))
    return TextActivations(tensors["rows"], tensors["owner"], int(tensors["truncated"]), key, known)


def activations_key(cut: Cut, sha256: str, limits: TextLimits, pooling: Pooling, bos: bool) -> str:
    """Hash of everything that determines the activations on texts; arguments as ``text_activations`` has them."""
    context = {} if cut.context is None else {"context": cut.context.key}
    return canonical_hash(
        {
            "version": VERSION, "model": cut.model.identity, "device": cut.model.device.type, "hook": cut.hook_in.name,
            "texts": sha256, "limits": limits.model_dump(), "every_token": pooling != "last", "bos": bos,
            **context,
        }
    )  # fmt: skip


def run_texts(
    cut: Cut, texts: Sequence[str], limits: TextLimits, every: bool, bos: bool, advance: Callable[[float], None]
) -> dict[str, Tensor]:
    """``rows``, ``owner`` and ``truncated`` of ``TaskActivations``. Texts of similar length are batched, padded on the
    right, where causal attention cannot see the padding."""
    tokenizer = cut.model.tokenizer
    front = [tokenizer.bos_token_id] if bos else []
    ids, truncated = [], 0
    for found in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else ():
        own = list(found)
        truncated += len(own) > limits.most_tokens
        own = own[-limits.most_tokens :] if limits.drop == "start" else own[: limits.most_tokens]
        ids.append(front + (own or [_any_token(tokenizer)]))
    kept: dict[int, Tensor] = {} if every else _at_ends(cut, ids, advance)
    kept = kept or _in_batches(cut, ids, len(front) if every else -1, advance)
    lengths = torch.tensor([kept[index].shape[0] for index in range(len(ids))])
    return {
        "rows": torch.cat([kept[index] for index in range(len(ids))]),
        "owner": torch.arange(len(ids)).repeat_interleave(lengths),
        "truncated": torch.tensor(truncated),
    }


def _at_ends(cut: Cut, ids: Sequence[list[int]], advance: Callable[[float], None]) -> dict[int, Tensor]:
    """``[1, d_in]`` of each text's last token, where the model can compute it without the others; else empty."""
    width = max(map(len, ids), default=1)
    table = torch.tensor([each + [0] * (width - len(each)) for each in ids], dtype=torch.int64).view(-1, width)
    found = cut.at_ends(table, torch.tensor([len(each) for each in ids], dtype=torch.int64))
    if found is None:
        return {}
    advance(len(ids))
    return dict(enumerate(found.float().cpu().unsqueeze(1)))


def _in_batches(cut: Cut, ids: Sequence[list[int]], first: int, advance: Callable[[float], None]) -> dict[int, Tensor]:
    """``[tokens, d_in]`` of each text from its token ``first`` on, -1 for the last one alone."""
    kept: dict[int, Tensor] = {}
    for batch in batches_by_length([len(each) for each in ids], TOKENS_PER_BATCH):
        width = max(len(ids[index]) for index in batch)
        tokens = torch.tensor([ids[index] + [0] * (width - len(ids[index])) for index in batch])
        inputs = cut.prefix(tokens).inputs
        for row, index in zip(inputs, batch, strict=True):
            last = len(ids[index])
            kept[index] = row[first if first >= 0 else last - 1 : last].float().cpu().clone()
            advance(1)
    return kept


def _any_token(tokenizer: object) -> int:
    """For a text that the tokenizer turns into no token: the end-of-text token, else the first of the vocabulary."""
    end = getattr(tokenizer, "eos_token_id", None)
    return end if isinstance(end, int) else 0
