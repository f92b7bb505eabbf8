"""One pass over a text that collects every latent's activating examples, in bounded memory.

Memory grows with the number of latents and the size of their lists, not with the text. Each row of text is in one batch
as a whole, and random choices depend on latent and position alone, so the result does not depend on the batch size.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from saebench.definitions import definition_hash, load_definition
from saebench.errors import SaebenchError, check_at_least
from saebench.explaining.examples.folder import (
    FORMAT,
    FORMAT_VERSION,
    KINDS,
    MANIFEST,
    SHARDS,
    TABLE,
    TOKENS,
    VOCABULARY,
    ActivatingExamples,
    read_manifest,
    shard_name,
)
from saebench.explaining.examples.ranked import Activations, Ranked, uniform_keys
from saebench.explaining.vocabulary import token_strings
from saebench.lm import Cut
from saebench.progress import Progress
from saebench.provenance import corpus_record, environment, model_record, sae_record
from saebench.sae import Autoencoder
from saebench.text.corpus import TokenCorpus

LATENTS_PER_SHARD = 1024
LATENT_BUDGET = 2**26
"""Maximum number of tokens times latents encoded at once."""


@dataclass(frozen=True)
class ExampleSettings:
    """Which examples to keep; the defaults are in ``explain/examples.toml``.

    Attributes:
        top: number of strongest activations of each latent.
        random: size of the uniform sample of its activations.
        before: tokens of context before an example; ``after`` after it.
        after: see ``before``.
        histogram: exponents and bins, see the definition.
        seed: of the uniform sample.
    """

    top: int
    random: int
    before: int
    after: int
    histogram: dict[str, int]
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, {"top": 1, "random": 1, "before": 0, "after": 0})

    @property
    def bytes_per_latent(self) -> int:
        """Of what is kept: key, place, value and number of each example, and the histogram."""
        bins = (self.histogram["highest_exponent"] - self.histogram["lowest_exponent"]) * self.histogram["bins_per_octave"]
        return 28 * (self.top + self.random) + 4 * bins

    @staticmethod
    def defined(**changes: int | None) -> ExampleSettings:
        """The definition's settings, with ``changes``."""
        kept = {name: value for name, value in load_definition("explain", "examples").items() if name != "version"}
        return ExampleSettings(**(kept | {name: value for name, value in changes.items() if value is not None}))


class ExampleCollector:
    """Collects each latent's examples and statistics from batches of whole rows, in order.

    Attributes:
        count: ``[n]`` int64, tokens on which each latent was active.
        sum: ``[n]`` float64, of its activations. ``maximum``: ``[n]`` float32, the one of largest magnitude.
        histogram: ``[n, bins]`` int32.
    """

    def __init__(self, n_latents: int, context: int, settings: ExampleSettings, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        self.settings, self.context = settings, context
        window = (settings.before, settings.after)
        self.ranked = {kind: Ranked(n_latents, getattr(settings, kind), context, window, device) for kind in KINDS}
        shape = settings.histogram
        self._bins = (shape["highest_exponent"] - shape["lowest_exponent"]) * shape["bins_per_octave"]
        self.count = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.sum = torch.zeros(n_latents, dtype=torch.float64, device=device)
        self.histogram = torch.zeros(n_latents, self._bins, dtype=torch.int32, device=device)

    def update(self, batch: Activations) -> None:
        """Add all activations of some whole rows that follow those of earlier calls."""
        if batch.values.numel() == 0:
            return
        ones = torch.ones_like(batch.latents)
        self.count.index_add_(0, batch.latents, ones)
        self.sum.index_add_(0, batch.latents, batch.values.double())
        flat = batch.latents * self._bins + self._bin(batch.values)
        self.histogram.view(-1).index_add_(0, flat, ones.int())
        self.ranked["top"].update(batch, batch.values.abs().double(), one_per_row=True)
        keys = uniform_keys(batch.latents, batch.places, self.settings.seed)
        self.ranked["random"].update(batch, keys, one_per_row=False)

    def _bin(self, values: Tensor) -> Tensor:
        shape = self.settings.histogram
        steps = (values.abs().double().log2() - shape["lowest_exponent"]) * shape["bins_per_octave"]
        return steps.floor().long().clamp(0, self._bins - 1)

    def shard(self, start: int, stop: int) -> dict[str, Tensor]:
        """The stored tensors of latents ``start`` to ``stop``."""
        top = self.ranked["top"]
        tensors = {
            "count": self.count[start:stop],
            "sum": self.sum[start:stop],
            "maximum": top.values[start:stop, 0],
            "histogram": self.histogram[start:stop],
        }
        for kind, ranked in self.ranked.items():
            counts, offsets, values = ranked.windows(start, stop)
            tensors[f"{kind}.places"] = ranked.places[start:stop]
            tensors[f"{kind}.ends"] = counts.flatten().cumsum(0).view(counts.shape)
            tensors[f"{kind}.offsets"] = offsets
            tensors[f"{kind}.activations"] = values
        return {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}

    def table(self, tokens: int) -> pd.DataFrame:
        """A row of statistics for each latent, over ``tokens`` counted tokens."""
        count = self.count.cpu()
        mean = torch.where(count > 0, self.sum.cpu() / count.clamp_min(1), torch.nan)
        maximum = torch.where(count > 0, self.ranked["top"].values[:, 0].cpu(), torch.nan)
        columns = {"count": count, "density": count.double() / max(tokens, 1), "mean": mean, "maximum": maximum}
        columns |= {kind: (ranked.places >= 0).sum(dim=1).cpu() for kind, ranked in self.ranked.items()}
        columns["place"] = self.ranked["top"].places[:, 0].cpu()
        return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


@dataclass
class Collected:
    """A finished pass: the collector, its autoencoder and text, and the seconds of each stage."""

    collector: ExampleCollector
    sae: Autoencoder
    cut: Cut
    corpus: TokenCorpus
    seconds: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def collect(
    sae: Autoencoder, cut: Cut, corpus: TokenCorpus, settings: ExampleSettings, rows_per_batch: int, progress: Progress
) -> Collected:
    """Run the text through the layers below the hook and the encoder, once, and collect examples."""
    collector = ExampleCollector(sae.n_latents, corpus.context, settings, cut.model.device)
    seconds = {"layers below the hook": 0.0, "encoder": 0.0, "collecting": 0.0}
    with progress.task("Collecting examples", total=corpus.tokens.numel(), unit="tokens") as advance:
        first = 0
        for tokens, excluded in zip(corpus.tokens.split(rows_per_batch), corpus.excluded.split(rows_per_batch), strict=True):
            times = [time.perf_counter()]
            inputs = cut.prefix(tokens).inputs
            rows, positions = (~excluded).to(inputs.device).nonzero(as_tuple=True)
            inputs = inputs[rows, positions].float()
            times.append(time.perf_counter())
            entries = encode_entries(sae, inputs, (rows + first) * corpus.context + positions)
            times.append(time.perf_counter())
            collector.update(Activations.sort(*entries))
            times.append(time.perf_counter())
            for name, begin, end in zip(seconds, times, times[1:], strict=False):
                seconds[name] += end - begin
            first += tokens.shape[0]
            advance(tokens.numel())
    return Collected(collector, sae, cut, corpus, {name: round(spent, 3) for name, spent in seconds.items()})


def encode_entries(sae: Autoencoder, inputs: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(latents, places, values)``, ``[entries]`` each, of activations ``[tokens, d_in]`` at ``places`` ``[tokens]``."""
    parts = []
    size = max(64, LATENT_BUDGET // sae.n_latents)
    for start in range(0, inputs.shape[0], size):
        code = sae.encode(inputs[start : start + size])
        token, slot = code.active.nonzero(as_tuple=True)
        parts.append((code.indices[token, slot], places[start : start + size][token], code.values[token, slot].float()))
    if not parts:
        empty = torch.zeros(0, dtype=torch.int64, device=inputs.device)
        return empty, empty, empty.float()
    latents, where, values = (torch.cat(part) for part in zip(*parts, strict=True))
    return latents, where, values


def check_target(folder: Path) -> None:
    """Raise ``SaebenchError`` unless ``folder`` is new, empty, or holds finished examples and nothing else."""
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        if not os.access(folder.absolute().parent, os.W_OK):
            raise SaebenchError(f"Cannot write {folder}: its parent folder cannot be written to.")
        if not folder.exists():
            return
        there = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise SaebenchError(f"Cannot write {folder}: {error.strerror}.") from error
    if not there:
        return
    try:
        read_manifest(folder)
        foreign = sorted(there - {MANIFEST, TOKENS, VOCABULARY, TABLE, SHARDS})
    except SaebenchError:
        foreign = sorted(there)
    if foreign:
        raise SaebenchError(f"{folder} holds other files ({', '.join(foreign[:3])}): choose a new folder for the examples.")


def holds_examples(folder: Path, sae: Autoencoder, cut: Cut, corpus: TokenCorpus, settings: ExampleSettings) -> bool:
    """Whether a folder holds the finished examples of this autoencoder, model, text and settings."""
    if not (folder / MANIFEST).is_file():
        return False
    there = read_manifest(folder)
    return all(there.get(name) == value for name, value in _origin(sae, cut, corpus, settings).items())


def write_examples(found: Collected, folder: str | Path) -> ActivatingExamples:
    """Write a folder of examples: built next to its path and moved there atomically, so that no reader sees a partial one.

    Raises:
        SaebenchError: the path cannot be written, or holds other files.
    """
    folder = Path(folder)
    check_target(folder)
    place = folder.absolute()
    scratch = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.", suffix=".part"))
    try:
        built = scratch / "new"
        _write_files(found, built)
        if place.exists():
            os.replace(place, scratch / "old")
        os.replace(built, place)
    except OSError as error:
        raise SaebenchError(f"Cannot write {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return ActivatingExamples.open(folder)


def _write_files(found: Collected, folder: Path) -> None:
    from safetensors.torch import save_file

    (folder / SHARDS).mkdir(parents=True)
    n = found.sae.n_latents
    for shard, start in enumerate(range(0, n, LATENTS_PER_SHARD)):
        tensors = found.collector.shard(start, min(start + LATENTS_PER_SHARD, n))
        save_file(tensors, folder / SHARDS / shard_name(shard))
    save_file({"tokens": found.corpus.tokens.int().contiguous()}, folder / TOKENS)
    found.collector.table(found.corpus.tokens_counted).to_parquet(folder / TABLE, index=False)
    words = json.dumps(token_strings(found.cut.model.tokenizer), ensure_ascii=False)
    (folder / VOCABULARY).write_text(words, encoding="utf-8")
    (folder / MANIFEST).write_text(json.dumps(_manifest(found), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def _manifest(found: Collected) -> dict[str, Any]:
    """The record of autoencoder, model, text and settings, and of this collection."""
    return _origin(found.sae, found.cut, found.corpus, found.collector.settings) | {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "stages": found.seconds,
        "environment": environment(*found.cut.model.devices).model_dump(mode="json"),
    }


def _origin(sae: Autoencoder, cut: Cut, corpus: TokenCorpus, settings: ExampleSettings) -> dict[str, Any]:
    """What examples depend on: equal for equal examples."""
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "n_latents": sae.n_latents,
        "latents_per_shard": LATENTS_PER_SHARD,
        "sae": sae_record(sae, cut).model_dump(mode="json"),
        "model": model_record(cut.model).model_dump(mode="json"),
        "corpus": corpus_record(corpus).model_dump(mode="json"),
        "settings": asdict(settings),
        "seed": settings.seed,
        "definitions": {"explain/examples": definition_hash("explain", "examples")},
    }
