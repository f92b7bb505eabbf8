"""Reading the activating examples of every latent that ``saebench examples`` wrote.

A folder holds ``manifest.json`` (autoencoder, model, text and settings; written last), ``tokens.safetensors`` (the text),
``vocabulary.json`` (each token as text), ``latents.parquet`` (a row of statistics for each latent) and
``shards/00000.safetensors`` and so on (examples and histograms of ``latents_per_shard`` latents each).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.parsing import parse_json

FORMAT, FORMAT_VERSION = "saebench-examples", 1
MANIFEST, TOKENS, VOCABULARY, TABLE, SHARDS = (
    "manifest.json", "tokens.safetensors", "vocabulary.json", "latents.parquet", "shards",
)  # fmt: skip
LARGEST_JSON = 64 * 2**20
KINDS: tuple[Kind, ...] = ("top", "random")
Kind = Literal["top", "random"]


@dataclass(frozen=True)
class Example:
    """A position in the text where a latent is active, and the text around it.

    Attributes:
        tokens: ``[window]`` int64, the text around the position, within its row.
        activations: ``[window]`` float32, this latent's activation at each of these tokens; 0 where it is not active and
            at positions that the corpus excludes.
        position: of the example in the window.
        value: the activation there, ``activations[position]``.
        row: index of the row of the corpus; ``row_position`` is the position in it.
        row_position: see ``row``.
    """

    tokens: Tensor
    activations: Tensor
    position: int
    value: float
    row: int
    row_position: int


@dataclass(frozen=True)
class LatentExamples:
    """The statistics and examples of one latent.

    Attributes:
        latent: its number.
        count: tokens on which it is active; ``density`` is their share of the tokens counted.
        density: see ``count``.
        mean: of its activations where it is active; None if it never is. ``maximum`` is the largest by magnitude.
        maximum: see ``mean``.
        top: the strongest activations, at most one in each row of text, in descending order.
        random: a uniform sample of all its activations without replacement, in random order: the first m of them are a
            uniform sample as well.
        histogram: ``[bins]`` int64, activations by magnitude; the edges are ``ActivatingExamples.histogram_edges``.
    """

    latent: int
    count: int
    density: float
    mean: float | None
    maximum: float | None
    top: list[Example]
    random: list[Example]
    histogram: Tensor

    def quantiles(self, groups: int, each: int) -> list[list[Example]]:
        """The random sample by strength: ``groups`` equal groups from strongest to weakest, up to ``each`` of a group.

        Within a group the examples are in random order. Fewer examples than groups leave the weaker groups empty.
        """
        order = sorted(range(len(self.random)), key=lambda index: -abs(self.random[index].value))
        edges = [round(len(order) * group / groups) for group in range(groups + 1)]
        if len(order) < groups:
            edges = [min(group, len(order)) for group in range(groups + 1)]
        parts = [sorted(order[low:high])[:each] for low, high in pairwise(edges)]
        return [[self.random[index] for index in part] for part in parts]


class ActivatingExamples:
    """A finished folder of examples. Latents are read on demand.

    Attributes:
        folder: its path.
        manifest: autoencoder, model, text and settings.
        n_latents: width of the dictionary.
        tokens: ``[rows, context]`` int32, the corpus.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], tokens: Tensor) -> None:
        self.folder, self.manifest, self.tokens = folder, manifest, tokens
        self.n_latents = int(manifest["n_latents"])
        self.context = tokens.shape[1]
        self._before, self._after = (int(manifest["settings"][side]) for side in ("before", "after"))
        self._read_shard = lru_cache(maxsize=8)(self._load_shard)

    @staticmethod
    def open(folder: str | Path) -> ActivatingExamples:
        """Open a folder that ``saebench examples`` has finished.

        Raises:
            SaebenchError: it is missing, not a folder of examples, unfinished or damaged.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        tokens = _tensors(folder / TOKENS).get("tokens")
        if (
            tokens is None
            or tokens.dim() != 2
            or tokens.is_floating_point()
            or tokens.is_complex()
            or tokens.shape != (manifest["corpus"]["rows"], manifest["corpus"]["context"])
        ):
            raise damaged(folder, f"{TOKENS} does not hold the corpus that {MANIFEST} names")
        return ActivatingExamples(folder, manifest, tokens)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each latent: ``count``, ``density``, ``mean``, ``maximum``, ``top``, ``random``, ``place``.

        ``top`` and ``random`` are numbers of examples; ``place`` is ``row * context + position`` of the strongest
        activation, -1 where there is none.
        """
        try:
            table = pd.read_parquet(self.folder / TABLE)
        except Exception as error:  # damaged files raise many types
            raise damaged(self.folder, f"{TABLE} cannot be read") from error
        needed = {"count", "density", "mean", "maximum", "top", "random", "place"}
        if len(table) != self.n_latents or not needed <= set(table.columns):
            raise damaged(self.folder, f"{TABLE} does not hold one row for each latent")
        if not table["place"].between(-1, self.tokens.numel() - 1).all():
            raise damaged(self.folder, f"{TABLE} has positions outside the text")
        return table

    @cached_property
    def vocabulary(self) -> list[str]:
        """Each token of the language model as text."""
        words = _json(self.folder / VOCABULARY)
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise damaged(self.folder, f"{VOCABULARY} is not a list of texts")
        if len(words) <= int(self.tokens.max()):
            raise damaged(self.folder, f"{VOCABULARY} lacks tokens of the text")
        return words

    @property
    def histogram_edges(self) -> list[float]:
        """The bins' edges, one more than bins; the outermost bins include values outside."""
        of = self.manifest["settings"]["histogram"]
        per_octave, low, high = int(of["bins_per_octave"]), int(of["lowest_exponent"]), int(of["highest_exponent"])
        return [2.0 ** (low + step / per_octave) for step in range((high - low) * per_octave + 1)]

    def latent(self, number: int) -> LatentExamples:
        """One latent's figures and examples.

        Raises:
            SaebenchError: there is no such latent, or the folder is damaged.
        """
        if not 0 <= number < self.n_latents:
            raise SaebenchError(f"There is no latent {number}: they are numbered 0 to {self.n_latents - 1}.")
        shard, within = divmod(number, int(self.manifest["latents_per_shard"]))
        tensors = self._read_shard(shard)
        count = int(tensors["count"][within])
        tokens = max(int(self.manifest["corpus"]["tokens_counted"]), 1)
        return LatentExamples(
            latent=number,
            count=count,
            density=count / tokens,
            mean=float(tensors["sum"][within]) / count if count else None,
            maximum=float(tensors["maximum"][within]) if count else None,
            top=self._examples(tensors, "top", within),
            random=self._examples(tensors, "random", within),
            histogram=tensors["histogram"][within].long(),
        )

    def snippet(self, place: int, before: int, after: int) -> tuple[list[int], int]:
        """``(token ids, position)`` of a few tokens around ``place``, within its row."""
        row, position = divmod(place, self.context)
        first = max(position - before, 0)
        return self.tokens[row, first : position + after + 1].tolist(), position - first

    def _examples(self, tensors: dict[str, Tensor], kind: Kind, within: int) -> list[Example]:
        found = []
        places, ends = tensors[f"{kind}.places"][within], tensors[f"{kind}.ends"][within]
        begin = int(tensors[f"{kind}.ends"].flatten()[within * len(places) - 1]) if within else 0
        for place, end in zip(places.tolist(), ends.tolist(), strict=True):
            if place >= 0:
                offsets, values = tensors[f"{kind}.offsets"][begin:end], tensors[f"{kind}.activations"][begin:end]
                found.append(self._example(place, offsets.long(), values))
            begin = end
        return found

    def _example(self, place: int, offsets: Tensor, values: Tensor) -> Example:
        row, position = divmod(place, self.context)
        first, last = max(position - self._before, 0), min(position + self._after, self.context - 1)
        activations = torch.zeros(last - first + 1)
        activations[offsets + position - first] = values
        tokens = self.tokens[row, first : last + 1].long()
        here = position - first
        return Example(tokens, activations, here, float(activations[here]), row, position)

    def _load_shard(self, shard: int) -> dict[str, Tensor]:
        path = self.folder / SHARDS / shard_name(shard)
        tensors = _tensors(path)
        per_shard = int(self.manifest["latents_per_shard"])
        problem = self._problem(tensors, min(per_shard, self.n_latents - shard * per_shard))
        if problem:
            raise damaged(self.folder, f"{SHARDS}/{path.name}: {problem}")
        return tensors

    def _problem(self, tensors: dict[str, Tensor], latents: int) -> str | None:
        """What is wrong with a shard; a valid one has no position outside the text."""
        bins = len(self.histogram_edges) - 1
        expected: dict[str, tuple[int, ...]] = {
            "count": (latents,),
            "sum": (latents,),
            "maximum": (latents,),
            "histogram": (latents, bins),
        }
        for kind in KINDS:
            slots = (latents, int(self.manifest["settings"][kind]))
            expected |= {f"{kind}.places": slots, f"{kind}.ends": slots}
        for name, shape in expected.items():
            if name not in tensors or tuple(tensors[name].shape) != shape:
                return f"{name} is missing or has another shape than {list(shape)}"
        for name, tensor in tensors.items():
            real = name in ("sum", "maximum") or name.endswith(".activations")
            if tensor.is_complex() or tensor.dtype == torch.bool or tensor.is_floating_point() != real:
                return f"{name} holds numbers of the type {str(tensor.dtype).removeprefix('torch.')}"
        for kind in KINDS:
            places, ends = tensors[f"{kind}.places"].long(), tensors[f"{kind}.ends"].flatten().long()
            offsets, values = tensors.get(f"{kind}.offsets"), tensors.get(f"{kind}.activations")
            if offsets is None or values is None or offsets.shape != values.shape or offsets.dim() != 1:
                return f"{kind}.offsets and {kind}.activations are not two lists of one length"
            offsets = offsets.long()
            if places.numel() and (int(places.max()) >= self.tokens.numel() or int(places.min()) < -1):
                return f"{kind}.places are outside the text"
            counts = ends.diff(prepend=ends.new_zeros(1))
            if ends.numel() and (int(counts.min()) < 0 or int(ends[-1]) != offsets.numel()):
                return f"{kind}.ends do not divide {kind}.activations"
            target = places.flatten().repeat_interleave(counts) % self.context + offsets
            if not _within(target, offsets, self):
                return f"{kind}.offsets are outside their windows"
        return None


def _within(target: Tensor, offsets: Tensor, examples: ActivatingExamples) -> bool:
    low, high = -int(examples.manifest["settings"]["before"]), int(examples.manifest["settings"]["after"])
    in_window = (offsets >= low) & (offsets <= high)
    return bool((in_window & (target >= 0) & (target < examples.context)).all())


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"{shard:05d}.safetensors"


def damaged(folder: Path, what: str) -> SaebenchError:
    """The error of a folder that cannot be used."""
    return SaebenchError(f"The examples in {folder} are damaged ({what}): write them again with `saebench examples`.")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a finished folder of examples.

    Raises:
        SaebenchError: the folder is missing, not a folder of examples, unfinished or of another version.
    """
    if not folder.is_dir():
        raise SaebenchError(f"There is no folder {folder}: write one with `saebench examples`.")
    if not (folder / MANIFEST).is_file():
        raise SaebenchError(f"{folder} holds no finished examples ({MANIFEST} is missing): run `saebench examples` again.")
    manifest = _json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise SaebenchError(f"{folder} is not a folder that `saebench examples` wrote.")
    if manifest.get("version") != FORMAT_VERSION:
        raise SaebenchError(
            f"{folder} is of version {manifest.get('version')!r} of the examples format; only {FORMAT_VERSION} is read."
        )
    try:
        settings, corpus = manifest["settings"], manifest["corpus"]
        whole = [manifest["n_latents"], manifest["latents_per_shard"], corpus["tokens_counted"], corpus["rows"]]
        whole += [corpus["context"], settings["top"], settings["random"], settings["before"], settings["after"]]
        steps = [settings["histogram"][name] for name in ("lowest_exponent", "highest_exponent", "bins_per_octave")]
        named = manifest["sae"]["hook_in"], manifest["model"]["name"], corpus["name"], corpus["sha256"]
    except KeyError as error:
        raise damaged(folder, f"{MANIFEST} lacks {error}") from error
    except TypeError as error:
        raise damaged(folder, f"a part of {MANIFEST} is no table") from error
    if not all(type(value) is int and 0 <= value < 2**53 for value in whole) or not manifest["latents_per_shard"]:
        raise damaged(folder, f"{MANIFEST} holds sizes that are not whole numbers")
    plausible = all(type(step) is int and abs(step) <= 256 for step in steps) and steps[0] < steps[1] and steps[2] > 0
    if not plausible or not all(isinstance(name, str) for name in named):
        raise damaged(folder, f"{MANIFEST} holds values of the wrong type")
    return manifest


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise damaged(path.parent, f"{path.name} is over {LARGEST_JSON >> 20} MiB")
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path.parent, f"{path.name} cannot be read") from error


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path.parent, f"{path.name} cannot be read") from error
