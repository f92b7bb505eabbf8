"""A language model that answers multiple-choice questions by a mark on the right option, with data of an unlearning pair.

Block 1 tells every position which letters stand before it; block 2 reads that, at the last position, from the marked option.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.lm import LanguageModel
from saebench.planted.world import word_tokenizer
from saebench.sae import CheckpointInfo, JumpReLU, SparseAutoencoder
from saebench.text.corpus import TokenCorpus, make_corpus
from tests.evaluators.blank_llama import blank_llama

HOOK = "blocks.0.hook_resid_post"
CONSTANT, MARK, SCIENCE, SENSE, LETTER, SEEN, READ, WIDTH = 0, 1, 2, 3, 4, 8, 12, 24
"""Axes: always 1; on right options; on those of either side; letters in the prompt; letters before; what block 2 read."""
QUESTIONS = 24
PER_SIDE = {"science": "s", "sense": "c"}


@dataclass(frozen=True)
class QuestionWorld:
    model: LanguageModel
    corpus: TokenCorpus

    def sae(self, *latents: tuple[int, tuple[int, ...]]) -> SparseAutoencoder:
        """Latents that read one axis each and write others."""
        encoder, decoder = torch.zeros(len(latents), WIDTH), torch.zeros(len(latents), WIDTH)
        for number, (reads, writes) in enumerate(latents):
            encoder[number, reads] = 1.0
            decoder[number, list(writes)] = 1.0
        n = len(latents)
        info = CheckpointInfo("marks", "saebench", "jumprelu", WIDTH, WIDTH, n, {}, hook_in=HOOK, hook_out=HOOK)
        return SparseAutoencoder(
            W_enc=encoder.T.contiguous(), W_dec=decoder, b_enc=torch.zeros(n), b_dec=torch.zeros(WIDTH),
            activation=JumpReLU(torch.full((n,), 0.5)), info=info,
        )  # fmt: skip


def question_world(folder: Path, knows: bool = True, marks_in_retained_text: bool = True) -> QuestionWorld:
    """The model, and the files of the pair sciq-openbookqa in ``folder``."""
    options = [f"{side}{kind}{number}" for side in PER_SIDE.values() for kind in ("yes", "no") for number in range(3)]
    letters = "ABCD"
    words = ["<unk>", "<s>", "</s>", *(f"{letter}." for letter in letters), *letters, "(", "Answer:", "word", *options]
    numbers = {word: index for index, word in enumerate(words)}
    _write(folder, marks_in_retained_text)
    model = LanguageModel(_llama(numbers, knows), word_tokenizer(numbers, "questions"), f"questions-{knows}", revision="1")
    rows = torch.randint(3, len(words), (8, 16), generator=torch.Generator().manual_seed(0))
    rows[:, 0] = 1
    return QuestionWorld(model, make_corpus(rows, model.tokenizer, name="words", bos="row"))


def _write(folder: Path, marks_in_retained_text: bool) -> None:
    for name in ("sciq", "openbookqa", "text_wikitext2"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    text = [json.dumps({"support": f"word syes{number % 3} word sno1 word cno2"}) for number in range(200)]
    (folder / "sciq" / "train.jsonl").write_text("\n".join(text))
    mark = "cyes0" if marks_in_retained_text else "cno0"
    (folder / "text_wikitext2" / "wiki.test.txt").write_text(f"word {mark} word sno2 " * 300)
    science, sense = [], []
    for number in range(QUESTIONS):
        wrong = [f"sno{(number + each) % 3}" for each in range(3)]
        row = {"question": f"word word{number}", "correct_answer": f"syes{number % 3}"}
        science.append(json.dumps(row | {f"distractor{each + 1}": word for each, word in enumerate(wrong)}))
        choices = [f"cno{each}" for each in range(3)]
        choices.insert(number % 4, f"cyes{number % 3}")
        sense.append(json.dumps({"question_stem": "word", "choices": {"text": choices}, "answerKey": "ABCD"[number % 4]}))
    (folder / "sciq" / "validation.jsonl").write_text("\n".join(science))
    (folder / "openbookqa" / "train.jsonl").write_text("\n".join(sense))


def _llama(numbers: dict[str, int], knows: bool) -> Any:
    llama = blank_llama(len(numbers), WIDTH, neurons=4, layers=3, head=8)
    with torch.no_grad():
        embedded: Tensor = llama.model.embed_tokens.weight
        embedded[:, CONSTANT] = 1.0
        for word, number in numbers.items():
            for axis, side in ((SCIENCE, "s"), (SENSE, "c")):
                if word.startswith(f"{side}yes"):
                    embedded[number, [MARK, axis]] = 1.0 if knows else 0.0
        one, two = llama.model.layers[1].self_attn, llama.model.layers[2].self_attn
        for index, letter in enumerate("ABCD"):
            embedded[numbers[f"{letter}."], LETTER + index] = 1.0
            one.v_proj.weight[index, LETTER + index] = 1.0  # queries and keys are 0: a mean over all positions before
            one.o_proj.weight[SEEN + index, index] = 10.0
            two.v_proj.weight[index, SEEN + index] = 1.0
            two.o_proj.weight[READ + index, index] = 1.0
            llama.lm_head.weight[numbers[letter], READ + index] = 10.0  # the last letter before the mark
            if index < 3:
                llama.lm_head.weight[numbers[letter], READ + index + 1] = -10.0
        two.q_proj.weight[3, CONSTANT] = 20.0  # the slowest rotation: nearly independent of the position
        two.k_proj.weight[3, MARK] = 20.0
    return llama
