"""Which prompts the model answers, and pairs of prompts for interventions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saebench.evaluators.entities.answers import ask
from saebench.evaluators.entities.data import Prompt
from saebench.lm.batching import batches_by_length
from saebench.lm.prompts import TOKENS_PER_BATCH, Prompts


@dataclass(frozen=True)
class Answers:
    """The model's own answers to prompts.

    Attributes:
        first: ``[prompts]``, the first generated token.
        right: ``[prompts]`` bool.
        inputs: ``[prompts, d_in]`` float32, activations at the entity's last token; 0 for prompts that are answered wrong.
    """

    first: Tensor
    right: Tensor
    inputs: Tensor


@dataclass(frozen=True)
class Pairs:
    """Pairs of prompts: latents of the source's entity are put into the base's.

    Attributes:
        base, source: ``[pairs]``, numbers of prompts.
        cause: ``[pairs]`` bool: both ask for the attribute, with different answers, and the answer should become the
            source's; the others ask for another attribute, and the answer should stay.
        target: ``[pairs]``, the first token of the answer that is right after the intervention.
    """

    base: Tensor
    source: Tensor
    cause: Tensor
    target: Tensor

    @classmethod
    def together(cls, several: Sequence[Pairs]) -> Pairs:
        """Several after another."""
        columns = zip(*((each.base, each.source, each.cause, each.target) for each in several), strict=True)
        return cls(*(torch.cat(each) for each in columns))

    def rows(self, selection: Tensor | slice) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.base[selection], self.source[selection], self.cause[selection], self.target[selection])


def answer(rows: Prompts, prompts: Sequence[Prompt], steps: int, advance: Callable[[float], None]) -> Answers:
    """Let the model complete every prompt, and read the activations of those that it completes right.

    ``rows``: the prompts' tokens.
    """
    count, cut = len(prompts), rows.cut
    first, right = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.bool)
    inputs = torch.zeros(count, cut.d_in)
    for batch in rows.batches(range(count)):
        asked = [(prompts[number].text, prompts[number].label) for number in batch]
        first[batch], right[batch] = map(torch.tensor, ask(rows, batch, asked, steps))
        advance(len(batch))
    numbers = right.nonzero().flatten().tolist()
    lengths = [prompts[number].position + 1 for number in numbers]  # later tokens do not change the activation
    for batch in batches_by_length(lengths, TOKENS_PER_BATCH):
        some = [numbers[place] for place in batch]
        tokens = pad_sequence([torch.tensor(prompts[i].ids[: prompts[i].position + 1]) for i in some], batch_first=True)
        places = torch.tensor([prompts[i].position for i in some])
        inputs[some] = cut.inputs_at(tokens, torch.arange(len(some)), places).float().cpu()
    return Answers(first, right, inputs)


def known_prompts(prompts: Sequence[Prompt], right: Tensor, entities: int) -> list[int]:
    """Numbers of the prompts answered right, of the entities with the most right answers."""
    kept = right.nonzero().flatten().tolist()
    counts = Counter(prompts[index].entity for index in kept)
    best = {entity for entity, _ in counts.most_common(entities)}
    return [index for index in kept if prompts[index].entity in best]


def make_pairs(
    prompts: Sequence[Prompt], known: Sequence[int], first: Tensor, attribute: str, count: int, seed: int
) -> Pairs | str:
    """Pairs for one attribute in random order, or why there are none.

    As many pairs ask for the other attributes as for this one; both prompts of a pair ask for the same attribute and
    differ in its value.
    """
    generator = torch.Generator().manual_seed(seed)
    others = sorted({prompts[index].attribute for index in known} - {attribute})
    cause = _pairs_of(prompts, known, attribute, count, generator)
    isolation = [pair for other in others for pair in _pairs_of(prompts, known, other, count, generator)]
    if not cause or not isolation:
        return f"no two prompts with different answers are known about {attribute if not cause else 'the other attributes'}"
    order = torch.randperm(len(isolation), generator=generator)[: len(cause)].tolist()
    pairs = [(*pair, True) for pair in cause] + [(*isolation[index], False) for index in order]
    shuffled = torch.tensor(pairs)[torch.randperm(len(pairs), generator=generator)]
    base, source, kind = shuffled[:, 0], shuffled[:, 1], shuffled[:, 2].bool()
    return Pairs(base, source, kind, torch.where(kind, first[source], first[base]))


def _pairs_of(
    prompts: Sequence[Prompt], known: Sequence[int], attribute: str, count: int, generator: torch.Generator
) -> list[tuple[int, int]]:
    mine = [index for index in known if prompts[index].attribute == attribute]
    by_label: dict[str, list[int]] = {}
    for index in mine:
        by_label.setdefault(prompts[index].label, []).append(index)
    if len(by_label) < 2:
        return []
    found = []
    for place in torch.randperm(len(mine), generator=generator)[:count].tolist():
        base = mine[place]
        while True:  # some prompt has another label, so this ends
            source = mine[int(torch.randint(len(mine), (1,), generator=generator))]
            if prompts[source].label != prompts[base].label:
                break
        found.append((base, source))
    return found
