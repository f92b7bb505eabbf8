"""Sources of training batches: activations in chunks, from the language model or from a cache on disk.

Batch ``i`` depends on the seed and on ``i`` alone, so that a run can be resumed at any step. A chunk of rows is the
shuffling buffer: its tokens are permuted, and so is the order of chunks in each epoch.
"""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.files import put_in_place, write_text
from saebench.lm import Cut, LanguageModel
from saebench.progress import Progress
from saebench.text.corpus import TokenCorpus, load_corpus
from saebench.training.config import TrainingConfig

ROWS_PER_FORWARD = 8
CHUNK_TOKENS = 65_536
MANIFEST = "manifest.json"
MANIFEST_VERSION = 1


class ChunkedSource(ABC):
    """Activations in chunks.

    Attributes:
        counts: tokens in each chunk.
        d: width of the activations.
        identity: what distinguishes these activations from others, as JSON data.
    """

    counts: list[int]
    d: int
    identity: dict[str, Any]

    @abstractmethod
    def chunk(self, index: int) -> Tensor:
        """``[tokens, d]`` float32."""

    @property
    def tokens(self) -> int:
        """Tokens in one epoch."""
        return sum(self.counts)

    def batches(self, batch: int, seed: int, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """``(i, [batch, d])`` without end, from batch ``start`` on. A chunk's tokens beyond whole batches are used in later
        batches.

        Raises:
            SaebenchError: no chunk holds a batch.
        """
        per_chunk = [count // batch for count in self.counts]
        per_epoch = sum(per_chunk)
        if per_epoch == 0:
            raise SaebenchError(
                f"A batch of {batch} tokens is larger than any chunk of activations ({max(self.counts)} tokens): "
                "use a smaller batch or more text."
            )
        number = 0
        for epoch in range(1 << 30):
            if number + per_epoch <= start:
                number += per_epoch
                continue
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            for index in torch.randperm(len(self.counts), generator=generator).tolist():
                order = torch.randperm(self.counts[index], generator=generator)
                if number + per_chunk[index] <= start:
                    number += per_chunk[index]
                    continue
                activations = self.chunk(index)
                for place in range(per_chunk[index]):
                    if number >= start:
                        yield number, activations[order[place * batch : (place + 1) * batch]]
                    number += 1


class TensorSource(ChunkedSource):
    """Activations in memory: ``[tokens, d]``."""

    def __init__(self, activations: Tensor, name: str = "tensor") -> None:
        self._activations = activations
        self.counts, self.d = [activations.shape[0]], activations.shape[1]
        self.identity = {"source": name, "tokens": activations.shape[0]}

    def chunk(self, index: int) -> Tensor:
        """All of it."""
        return self._activations


class LiveSource(ChunkedSource):
    """Activations from the layers below the hook, computed on demand; the last chunks are cached."""

    def __init__(self, cut: Cut, corpus: TokenCorpus, progress: Progress) -> None:
        self._cut, self._corpus, self._progress = cut, corpus, progress
        self._rows = max(1, CHUNK_TOKENS // corpus.context)
        self.counts = [int((~part).sum()) for part in corpus.excluded.split(self._rows)]
        self.d = cut.d_in
        self.identity = {
            "version": MANIFEST_VERSION,
            "model": cut.model.identity,
            "hook": cut.hook_in.name,
            "corpus": corpus.sha256,
            "rows_per_chunk": self._rows,
        }
        self._kept: Callable[[int], Tensor] = lru_cache(maxsize=2)(self._compute)

    def chunk(self, index: int) -> Tensor:
        """Computed, or one of the last two from the cache."""
        return self._kept(index)

    def _compute(self, index: int) -> Tensor:
        start = index * self._rows
        tokens = self._corpus.tokens[start : start + self._rows]
        excluded = self._corpus.excluded[start : start + self._rows]
        parts = []
        with self._progress.task("Activations", total=tokens.numel(), unit="tokens") as advance:
            for rows, left_out in zip(tokens.split(ROWS_PER_FORWARD), excluded.split(ROWS_PER_FORWARD), strict=True):
                parts.append(self._cut.prefix(rows).inputs[~left_out.to(self._cut.model.device)].float().cpu())
                advance(rows.numel())
        return torch.cat(parts)


class StoredSource(ChunkedSource):
    """Activations of a complete cache on disk: one memory-mapped safetensors file for each chunk, with a manifest of origin.

    The language model is not needed.

    Raises:
        SaebenchError: there is no manifest, or it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            there = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            self.counts, self.d = there.pop("counts"), there.pop("d")
        except (OSError, ValueError, KeyError) as error:
            raise SaebenchError(f"There is no cache of activations in {folder} that this process can read.") from error
        self.identity = there

    def chunk(self, index: int) -> Tensor:
        """Memory-mapped."""
        path = self._path(index)
        try:
            with safe_open(path, framework="pt") as file:
                activations: Tensor = file.get_tensor("activations")
        except (SafetensorError, OSError) as error:
            raise SaebenchError(
                f"{path.name} of the activation cache is damaged: delete it, and it is written again."
            ) from error
        return activations.float()

    def _path(self, index: int) -> Path:
        return self._folder / f"activations-{index:05d}.safetensors"


class CachedSource(StoredSource):
    """Activations on disk, of which missing chunks are computed by the live source once; a cache of others is rejected.

    Args:
        folder: of the cache.
        live: computes them.
        stored: the type in which they are kept, from which every chunk is read.
    """

    def __init__(self, folder: Path, live: LiveSource, stored: str = "float32") -> None:
        self._folder, self._live, self._stored = folder, live, getattr(torch, stored)
        self.counts, self.d = live.counts, live.d
        self.identity = live.identity if stored == "float32" else {**live.identity, "stored": stored}
        manifest = folder / MANIFEST
        if manifest.exists():
            self._check(manifest)
        else:
            if folder.is_dir() and any(folder.iterdir()):
                raise SaebenchError(f"{folder} is not empty and holds no manifest: choose a new folder for the cache.")
            write_text(manifest, json.dumps(self.identity | {"counts": self.counts, "d": self.d}, indent=1) + "\n")

    def chunk(self, index: int) -> Tensor:
        """Memory-mapped; computed and written first where it is missing."""
        self._compute(index)
        return super().chunk(index)

    def _compute(self, index: int) -> None:
        path = self._path(index)
        if path.exists():
            return
        temporary = path.with_suffix(f".{os.getpid()}.part")
        try:
            save_file({"activations": self._live.chunk(index).to(self._stored)}, temporary)
            put_in_place(temporary, path)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            raise SaebenchError(f"Cannot write the activation cache {self._folder}: {error}.") from error

    def fill(self, rank: int = 0, ranks: int = 1) -> None:
        """Compute this rank's share of the missing chunks, before all ranks read them."""
        for index in range(rank, len(self.counts), ranks):
            self._compute(index)

    def _check(self, manifest: Path) -> None:
        try:
            there = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SaebenchError(f"{manifest} is not readable: delete the cache, and it is written again.") from error
        different = sorted(key for key in {*self.identity, "stored"} if there.get(key) != self.identity.get(key))
        if different:
            raise SaebenchError(
                f"The activation cache {self._folder} holds other activations ({', '.join(different)} differ)."
            )


def open_source(config: TrainingConfig, cache: Path | None, progress: Progress) -> ChunkedSource:
    """The activations of a configuration.

    Raises:
        SaebenchError: model, hook, text or cache are invalid.
    """
    with progress.step(f"Loading {config.model}"):
        model = LanguageModel.load(config.model, device=config.device or None)
    cut = model.cut(config.hook)
    skipped_rows = math.ceil(config.corpus_skip / config.context)
    wanted = config.corpus_tokens + skipped_rows * config.context if config.corpus_tokens else None
    revision = config.corpus_revision or None
    corpus = load_corpus(config.corpus, model.tokenizer, context=config.context, tokens=wanted, revision=revision)
    if skipped_rows >= corpus.tokens.shape[0]:
        raise SaebenchError(f"{corpus.name} has {corpus.tokens.numel()} tokens, all of which corpus_skip skips.")
    corpus = replace(
        corpus,
        tokens=corpus.tokens[skipped_rows:],
        excluded=corpus.excluded[skipped_rows:],
        loss_mask=corpus.loss_mask[skipped_rows:],
    )
    live = LiveSource(cut, corpus, progress)
    return live if cache is None else CachedSource(cache, live, config.stored)
