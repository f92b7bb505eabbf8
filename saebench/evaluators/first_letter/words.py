"""Words from the tokenizer's vocabulary, their prompts, and the model's activations at each word's last token."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saebench.evaluators.first_letter.protocol import FirstLetterProtocol, PromptSection
from saebench.explaining.n2g.packing import END, Texts, run_texts, tree_trouble
from saebench.lm import Cut
from saebench.lm.positions import last_tokens, tokens_of
from saebench.probing.memory import tensors_cached_or_computed
from saebench.progress import Progress

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VERSION = 1
"""Version of the cached activations; raised where the same key would mean other numbers."""


@dataclass(frozen=True)
class LetterData:
    """Words with the model's activations; the words that probes are fitted to come first.

    Attributes:
        words: as in the prompts, some with a space in front.
        letters: ``[words]``, the number of each word's first letter.
        activations: ``[words, d_in]`` float32, at each word's last token.
        train: number of words that probes are fitted to.
        left_out: words that the tokenizer joins with the text around them, so that they have no last token.
        key: hash of the model, the hook and the prompts; None where the model's weights have no known identity.
    """

    words: list[str]
    letters: Tensor
    activations: Tensor
    train: int
    left_out: int
    key: str | None


def vocabulary_words(tokenizer: Any) -> list[str]:
    """All tokens that are letters of the alphabet alone, after at most one space, in the vocabulary's order."""
    special = set(tokenizer.all_special_ids)
    found = []
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda each: each[1]):
        if number in special:
            continue
        word = tokenizer.convert_tokens_to_string([token])
        if token.startswith("▁") and not word.startswith(" "):
            word = f" {word}"  # some tokenizers drop the space at the start of a text
        bare = word.removeprefix(" ")
        if bare and bare.isascii() and bare.isalpha():
            found.append(word)
    return list(dict.fromkeys(found))


def first_letter(word: str) -> str:
    """The letter, lower case."""
    return word.strip()[0].lower()


def letter_data(cut: Cut, protocol: FirstLetterProtocol, most: int, bos: bool, seed: int, progress: Progress) -> LetterData:
    """Draw words, split them, and run the model on their prompts, or read the activations that an earlier run cached.

    Args:
        cut: the language model at the hook.
        protocol: of the prompts.
        most: number of words drawn from the vocabulary, at most.
        bos: whether a BOS token comes first.
        seed: of the draws.
        progress: where to show progress.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary = vocabulary_words(cut.model.tokenizer)
    order = torch.randperm(len(vocabulary), generator=generator)[:most].tolist()
    drawn = [vocabulary[index] for index in order]
    train = int(len(drawn) * protocol.words.train)
    ids: list[list[int] | None] = []
    for part in (drawn[:train], drawn[train:]):
        ids += _prompts(part, protocol.prompt, cut.model.tokenizer, generator)
    front = [cut.model.tokenizer.bos_token_id] if bos else []
    kept = [index for index, each in enumerate(ids) if each is not None]
    words = [drawn[index] for index in kept]
    texts = [front + (ids[index] or []) for index in kept]
    activations, key = _activations(cut, texts, progress)
    letters = torch.tensor([LETTERS.index(first_letter(word)) for word in words], dtype=torch.int64)
    first = sum(index < train for index in kept)
    return LetterData(words, letters, activations, first, len(drawn) - len(kept), key)


def _prompts(words: Sequence[str], prompt: PromptSection, tokenizer: Any, generator: torch.Generator) -> list[Any]:
    """Token ids of each word's prompt up to the word's last token; None where the word does not end a token."""
    found: list[list[int] | None] = []
    before, after = prompt.template.split("{word}")
    for start in range(0, len(words), prompt.group):
        group = words[start : start + prompt.group]
        taken = set(group)
        order = torch.randperm(len(words), generator=generator).tolist()
        others = [words[index] for index in order if words[index] not in taken][: prompt.examples]
        shown = "".join(f"\n{before}{word}{after} {first_letter(word).upper()}" for word in others)
        context = f"{shown}\n{before}"
        wholes = last_tokens(
            tokenizer, [f"{context}{word}" for word in group], [f"{context}{word}{after}" for word in group]
        )
        shared = tokens_of(tokenizer, [context])[0]
        for whole in wholes:
            end = [] if whole is None else whole[0][: whole[1] + 1]
            found.append(end if end[: len(shared)] == shared and len(end) > len(shared) else None)
    return found


def _activations(cut: Cut, texts: list[list[int]], progress: Progress) -> tuple[Tensor, str | None]:
    """``[texts, d_in]`` float32 at the last token of each text, and the key under which they are cached."""
    width = max((len(each) for each in texts), default=1)
    table = torch.tensor([each + [END] * (width - len(each)) for each in texts], dtype=torch.int64).reshape(-1, width)
    known = "@unknown/" not in cut.model.identity
    key = {
        "version": VERSION, "model": cut.model.identity, "device": cut.model.device.type, "hook": cut.hook_in.name,
        "texts": hashlib.sha256(table.numpy().tobytes()).hexdigest(), "width": width,
    }  # fmt: skip

    def compute() -> dict[str, Tensor]:
        return {"activations": _run(cut, table, progress)}

    tensors, name = tensors_cached_or_computed("first-letter", key if known else None, compute)
    return tensors["activations"], name


def _run(cut: Cut, table: Tensor, progress: Progress) -> Tensor:
    unique, inverse = torch.unique(table, dim=0, return_inverse=True)
    found = torch.zeros(unique.shape[0], cut.d_in)
    trees = unique.shape[0] > 0 and tree_trouble(cut, torch.arange(3, 11)) is None
    with progress.task("Running words", total=unique.shape[0], unit="words") as advance:
        for numbers, x, _ in run_texts(cut, Texts(unique), trees):
            found[numbers] = x.cpu()
            advance(numbers.numel())
    return found[inverse]
