"""Prompts of different lengths that begin alike, with the activations at a cut replaced.

What prompts begin with (their head, such as the words of a template before a name) goes through the model once, as keys and
values; the rest of each prompt (its tail) runs in one padded batch with others, whatever their lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saebench.lm.batching import batches_by_length
from saebench.lm.bridge import MODEL_ERRORS
from saebench.lm.continuation import TOLERANCE, KeysAndValues, cache_of, empty_cache, layers_of
from saebench.lm.ends import end_logits
from saebench.lm.model import Cut
from saebench.lm.prefix import Prefix
from saebench.notices import notice

TOKENS_PER_BATCH = 4096
ROWS_PER_BATCH = 256
"""Their logits are in memory at once."""
COMPLETION = 64
"""Tokens of the longest completion."""

Take = Callable[[Tensor], tuple[Tensor, list[int]]]
"""Given a step's logits (``[rows, vocabulary]``): the next tokens (``[kept, 1]``, on the CPU), and which rows are kept."""


def in_common(rows: Sequence[tuple[int, ...]]) -> int:
    """The number of leading tokens that all rows share, less than any of them has."""
    same = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return min(sum(1 for _ in same), *(len(row) - 1 for row in rows))


class Prompts:
    """Prompts that can be completed, with other activations at the cut or without.

    Where the model does not support padded batches with a key-value cache, whole prompts run instead, with a notice; the
    numbers are the same.

    Args:
        cut: the language model, cut where activations are replaced.
        ids: tokens of each prompt.
        heads: number of tokens of each prompt's head; at least one token follows it.
    """

    def __init__(self, cut: Cut, ids: Sequence[tuple[int, ...]], heads: Sequence[int]) -> None:
        self.cut, self.ids = cut, ids
        self._starts = list(heads)
        self._heads: Heads | None = None
        trouble = self._join_heads() if ids else ""
        if trouble:
            self._starts, self._heads = [0] * len(ids), None
            notice(
                f"Whole prompts run again for each token, several times slower and with the same numbers: {cut.model.name} "
                f"cannot continue padded batches from a key-value cache ({trouble})."
            )

    def start(self, number: int) -> int:
        """The number of tokens before a prompt's tail: 0 where whole prompts run."""
        return self._starts[number]

    def ends(self, numbers: Sequence[int]) -> Tensor:
        """The last position in each tail."""
        return torch.tensor([len(self.ids[number]) - self.start(number) - 1 for number in numbers])

    def batches(self, numbers: Sequence[int]) -> list[list[int]]:
        """Places in ``numbers`` in batches of tails of similar lengths."""
        lengths = (self.ends(numbers) + 1).tolist()
        batches = batches_by_length(lengths, TOKENS_PER_BATCH, filling=TOKENS_PER_BATCH // 8)
        return [each[start : start + ROWS_PER_BATCH] for each in batches for start in range(0, len(each), ROWS_PER_BATCH)]

    def tails(self, numbers: Sequence[int]) -> Tensor:
        """``[prompts, position]`` on the model's device, padded on the right, where causal attention does not see it."""
        rows = [torch.tensor(self.ids[number][self.start(number) :]) for number in numbers]
        return pad_sequence(rows, batch_first=True).to(self.cut.model.device)

    def logits(self, numbers: Sequence[int], outputs: Tensor, prefix: Prefix) -> Tensor:
        """Logits ``[prompts, vocabulary]`` at the ends, with gradients.

        Args:
            numbers: which prompts.
            outputs: ``[prompts, position, d_out]``, the activations at the cut that replace those of the tails.
            prefix: of the tails.
        """
        seen = self._before(numbers, prefix.tokens.shape[1], self.cut.first_layer_above)
        run = partial(self.cut.differentiable_suffix, outputs, prefix, seen.cache, **seen.inputs)
        return end_logits(self.cut.model, self.ends(numbers), run)

    @torch.no_grad()
    def next_logits(self, numbers: Sequence[int]) -> Tensor:
        """Logits ``[prompts, vocabulary]`` after each prompt, of the model as it is."""
        found: list[Tensor] = []

        def take(logits: Tensor) -> tuple[Tensor, list[int]]:
            found.append(logits)
            return logits[:0], []

        self._run(numbers, 1, take)
        return found[0]

    @torch.no_grad()
    def complete(
        self, numbers: Sequence[int], steps: int, outputs: Tensor | None = None, prefix: Prefix | None = None,
        is_decided: Callable[[int, list[int]], bool] = lambda place, tokens: False,
    ) -> list[list[int]]:  # fmt: skip
        """The most likely tokens after each prompt, one after the other.

        Args:
            numbers: which prompts.
            steps: number of tokens, at most ``COMPLETION``.
            outputs: ``[prompts, position, d_out]``, the activations at the cut that replace those of the tails, if any;
                ``prefix`` is that of the tails.
            prefix: see ``outputs``.
            is_decided: whether a completion may end early: given its place in ``numbers`` and its tokens so far.
        """
        found: list[list[int]] = [[] for _ in numbers]
        left = list(range(len(numbers)))

        def take(logits: Tensor) -> tuple[Tensor, list[int]]:
            nonlocal left
            tokens = logits.argmax(dim=-1).cpu()
            for place, token in zip(left, tokens.tolist(), strict=True):
                found[place].append(token)
            going = [row for row, place in enumerate(left) if not is_decided(place, found[place])]
            left = [left[row] for row in going]
            return tokens[going].unsqueeze(1), going

        self._run(numbers, steps, take, outputs, prefix)
        return found

    def _run(
        self, numbers: Sequence[int], steps: int, take: Take, outputs: Tensor | None = None, prefix: Prefix | None = None
    ) -> None:
        if self._heads is None:
            self._run_whole(numbers, steps, take, outputs)
        else:
            self._run_tails(numbers, steps, take, outputs, prefix)

    def _run_tails(
        self, numbers: Sequence[int], steps: int, take: Take, outputs: Tensor | None = None, prefix: Prefix | None = None
    ) -> None:
        model, tokens, ends = self.cut.model, self.tails(numbers), self.ends(numbers)
        hooks = [] if outputs is None or prefix is None else self.cut.replacing(outputs.to(model.dtype), prefix)
        seen = self._before(numbers, tokens.shape[1])
        for _ in range(steps):
            tokens, going = take(end_logits(model, ends, partial(model.run, tokens, hooks, seen.cache, **seen.inputs)))
            if not going:
                return
            tokens, seen, hooks = tokens.to(model.device), seen.extended(going), []
            ends = torch.zeros(len(going), dtype=torch.int64)

    def _run_whole(self, numbers: Sequence[int], steps: int, take: Take, outputs: Tensor | None = None) -> None:
        """The same with a pass of the whole prompts for each token."""
        cut, rows = self.cut, [torch.tensor(self.ids[number]) for number in numbers]
        lengths = torch.tensor([len(each) for each in rows])
        for step in range(steps):
            prefix = cut.prefix(pad_sequence(rows, batch_first=True))
            inside = prefix.outputs
            if outputs is not None:
                width = outputs.shape[1]
                own = (torch.arange(width) < lengths.unsqueeze(1)).unsqueeze(-1).to(inside.device)
                inside = torch.cat([torch.where(own, outputs.to(inside), inside[:, :width]), inside[:, width:]], dim=1)
            tokens, going = take(end_logits(cut.model, lengths + step - 1, partial(cut.suffix, inside, prefix)))
            if not going:
                return
            rows = [torch.cat([rows[row], new]) for row, new in zip(going, tokens, strict=True)]
            lengths, outputs = lengths[going], None if outputs is None else outputs[going]

    def _before(self, numbers: Sequence[int], width: int, first_layer: int = 0) -> Seen:
        """What tails of these prompts, padded to ``width``, attend to in the layers from ``first_layer`` on."""
        if self._heads is None:
            return Seen()
        heads = [self.ids[number][: self._starts[number]] for number in numbers]
        return self._heads.before(heads, self.ends(numbers) + 1, width, first_layer)

    def _join_heads(self) -> str:
        """Run the heads; why they cannot be used, or nothing."""
        heads = dict.fromkeys(row[:length] for row, length in zip(self.ids, self._starts, strict=True))
        longest = max(map(len, heads)) + int(self.ends(range(len(self.ids))).max()) + COMPLETION
        window = getattr(self.cut.model.config.get_text_config(), "sliding_window", None)
        if window is not None and window < longest:  # it would count the padding
            return f"its attention window of {window} tokens is shorter than a padded prompt"
        try:
            self._heads = Heads(self.cut, list(heads))
            return self._trouble()
        except MODEL_ERRORS as error:
            return f"{type(error).__name__}: {error}"

    @torch.no_grad()
    def _trouble(self) -> str:
        """How logits of prompts of different lengths differ from those of whole passes; empty where they agree."""
        every, found = range(len(self.ids)), list[Tensor]()
        lengths = [len(row) - start for row, start in zip(self.ids, self._starts, strict=True)]
        extremes = [choose(every, key=of.__getitem__) for choose in (min, max) for of in (self._starts, lengths)]
        numbers = list(dict.fromkeys(extremes))

        def take(logits: Tensor) -> tuple[Tensor, list[int]]:
            found.append(logits.float())
            return torch.tensor([self.ids[number][-1:] for number in numbers]), list(range(len(numbers)))

        self._run_whole(numbers, 2, take)
        self._run_tails(numbers, 2, take)
        whole, tails = torch.stack(found[:2]), torch.stack(found[2:])
        difference = float((tails - whole).abs().max() / whole.abs().max())
        tolerance = max(TOLERANCE, 8 * torch.finfo(self.cut.model.dtype).eps)
        return "" if difference <= tolerance else f"its logits differ by {difference:.1e} of the largest"


@dataclass(frozen=True)
class Seen:
    """What a batch of tails attends to.

    Attributes:
        cache: keys and values so far, of heads padded on the left; a pass extends it.
        inputs: the mask and the positions of a pass, by the model's names for them.
    """

    cache: Any = None
    inputs: dict[str, Tensor] = field(default_factory=dict)

    def extended(self, rows: list[int]) -> Seen:
        """For one more token of some of the rows; the cache loses the others."""
        mask, positions = (self.inputs[name][rows] for name in ("attention_mask", "position_ids"))
        if len(rows) < self.inputs["attention_mask"].shape[0]:
            self.cache.batch_select_indices(torch.tensor(rows))
        return Seen(
            self.cache,
            {
                "attention_mask": torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1),
                "position_ids": positions.max(dim=1, keepdim=True).values + 1,
            },
        )


class Heads:
    """Keys and values of what prompts begin with.

    Args:
        cut: the language model, cut.
        heads: tokens of each, all different; one may be empty.

    Raises:
        NoCache: the model accepts no cache, or leaves a layer of it empty.
    """

    def __init__(self, cut: Cut, heads: Sequence[tuple[int, ...]]) -> None:
        self._model = cut.model
        self._row = {head: row for row, head in enumerate(heads)}
        self._lengths = torch.tensor([len(head) for head in heads])
        self._longest = int(self._lengths.max())
        self._held: list[KeysAndValues] = []
        for some in batches_by_length(self._lengths.tolist(), TOKENS_PER_BATCH, filling=TOKENS_PER_BATCH // 8):
            if int(self._lengths[some].max()):
                self._fill(some, [torch.tensor(heads[row], dtype=torch.int64) for row in some])

    @torch.no_grad()
    def _fill(self, rows: list[int], tokens: list[Tensor]) -> None:
        """Run some heads; in what is held they end at the last place."""
        cache, padded = empty_cache(), pad_sequence(tokens, batch_first=True).to(self._model.device)
        end_logits(self._model, -1, partial(self._model.run, padded, [], cache))
        for layer, found in enumerate(layers_of(cache, 0, self._model.n_layers)):
            if layer == len(self._held):
                heads, width = len(self._lengths), self._longest
                keys, values = (x.new_zeros(heads, x.shape[1], width, x.shape[3]) for x in found)
                self._held.append((keys, values))
            for held, new in zip(self._held[layer], found, strict=True):
                for at, (row, own) in enumerate(zip(rows, tokens, strict=True)):
                    held[row, :, self._longest - len(own) :] = new[at, :, : len(own)]

    def before(self, heads: Sequence[tuple[int, ...]], tails: Tensor, width: int, first_layer: int) -> Seen:
        """What tails of these heads attend to.

        Args:
            heads: of each row.
            tails: ``[rows]``, lengths of the tails; ``width``: to which they are padded.
            first_layer: layers below it are skipped, and hold as many empty entries.
        """
        device, rows = self._model.device, torch.tensor([self._row[head] for head in heads])
        lengths = self._lengths[rows]
        longest = int(lengths.max())
        held = self._held[first_layer:] if longest else []
        cache = cache_of(held, lambda of: of[rows.to(of.device), :, self._longest - longest :], first_layer)
        before = torch.arange(longest) >= longest - lengths.unsqueeze(1)
        own = torch.arange(width) < tails.unsqueeze(1)
        positions = lengths.unsqueeze(1) + torch.minimum(torch.arange(width), tails.unsqueeze(1) - 1)
        mask = torch.cat([before, own], dim=1).long()
        return Seen(cache, {"attention_mask": mask.to(device), "position_ids": positions.to(device)})
