"""A language model that knows three attributes of some entities, with data in RAVEL's format and autoencoders of its facts.

The activation of an entity has one axis for each value of each attribute. Attention tells the last position which attribute
is asked for, and a gated MLP lets that attribute's value through to the answer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
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
ASKED = ("country", "continent", "language")
CLASSES = {"city": ("Country", "Continent", "Language"), "nobel_prize_winner": ("Country of Birth", "Field", "Gender")}
FILLERS = ("a", "b", "c", "e")
COMBINATIONS = list(product(range(3), repeat=3))
VALUES, ASK, ANSWER, OWN = 0, 9, 12, 21  # axes: 9 values, 3 of what is asked, 9 answers, one for each entity


def value_axis(attribute: int, value: int) -> int:
    return VALUES + 3 * attribute + value


@dataclass(frozen=True)
class EntityWorld:
    model: LanguageModel
    corpus: TokenCorpus
    width: int

    def sae(self, rows: Tensor, threshold: float = 0.5) -> SparseAutoencoder:
        """Latents of these directions (``[n, d]``, of values 0 and 1), of value 1 where all of their axes are present."""
        n, d = rows.shape
        info = CheckpointInfo("facts", "saebench", "jumprelu", d, d, n, {}, hook_in=HOOK, hook_out=HOOK)
        sizes = rows.sum(dim=1)
        return SparseAutoencoder(
            W_enc=rows.T.contiguous(), W_dec=rows.contiguous(), b_enc=1 - sizes, b_dec=torch.zeros(d),
            activation=JumpReLU(torch.full((n,), threshold)), info=info,
        )  # fmt: skip

    def facts(self) -> SparseAutoencoder:
        """One latent for each value."""
        return self.sae(torch.eye(9, self.width))

    def mixed(self) -> SparseAutoencoder:
        """One latent for each pair of a country and a continent, and one for each language."""
        rows = torch.zeros(12, self.width)
        for number, (country, continent) in enumerate(product(range(3), repeat=2)):
            rows[number, [value_axis(0, country), value_axis(1, continent)]] = 1.0
        for language in range(3):
            rows[9 + language, value_axis(2, language)] = 1.0
        return self.sae(rows)

    def blind(self) -> SparseAutoencoder:
        """Latents of the entities' own axes, which hold no fact."""
        return self.sae(torch.eye(self.width)[OWN:])


def entity_world(folder: Path, knows: bool = True) -> EntityWorld:
    """The model, and its data in ``folder``."""
    names = {name: [f"{name[0]}ent{number}" for number in range(27)] for name in CLASSES}
    answers = [f"land{attribute}{value}" for attribute in range(3) for value in range(3)]
    words = ["<unk>", "<s>", "</s>", *ASKED, "of", *FILLERS, *answers, *names["city"], *names["nobel_prize_winner"]]
    numbers = {word: index for index, word in enumerate(words)}
    write_data(folder, names)
    width = OWN + 54
    model = LanguageModel(
        _llama(numbers, names, answers, width, knows), word_tokenizer(numbers, "facts"), f"facts-{knows}", revision="1"
    )
    rows = torch.randint(3, len(words), (8, 16), generator=torch.Generator().manual_seed(0))
    rows[:, 0] = 1
    return EntityWorld(model, make_corpus(rows, model.tokenizer, name="words", bos="row"), width)


def write_data(folder: Path, names: dict[str, list[str]]) -> None:
    (folder / "ravel").mkdir(exist_ok=True)
    for name, attributes in CLASSES.items():
        templates = {
            attribute: [f"{filler} {ask} of %s" for filler in FILLERS]
            for attribute, ask in zip(attributes, ASKED, strict=True)
        }
        (folder / "ravel" / f"{name}_attribute_to_prompts.json").write_text(json.dumps(templates))
        rows = []
        for entity, values in zip(names[name], COMBINATIONS, strict=True):
            facts = {attribute: f"land{index}{values[index]}" for index, attribute in enumerate(attributes)}
            rows.append(json.dumps({"entity": entity, **facts}))
        (folder / "ravel" / f"{name}.jsonl").write_text("\n".join(rows) + "\n")


def _llama(numbers: dict[str, int], names: dict[str, list[str]], answers: list[str], width: int, knows: bool) -> Any:
    llama = blank_llama(len(numbers), width, neurons=9, layers=2, head=4)
    with torch.no_grad():
        embedded = llama.model.embed_tokens.weight
        for index, word in enumerate(ASKED):
            embedded[numbers[word], ASK + index] = 1.0
        for which, entities in enumerate(names.values()):
            for index, (entity, values) in enumerate(zip(entities, COMBINATIONS, strict=True)):
                embedded[numbers[entity], OWN + 27 * which + index] = 1.0
                for attribute, value in enumerate(values):
                    embedded[numbers[entity], value_axis(attribute, value)] = 1.0 if knows else 0.0
        layer = llama.model.layers[1]
        for index in range(3):
            layer.self_attn.v_proj.weight[index, ASK + index] = 1.0  # attention is uniform: queries and keys are 0
            layer.self_attn.o_proj.weight[ASK + index, index] = 1.0
            for value in range(3):
                neuron = 3 * index + value
                layer.mlp.gate_proj.weight[neuron, ASK + index] = 5.0
                layer.mlp.up_proj.weight[neuron, value_axis(index, value)] = 1.0
                layer.mlp.down_proj.weight[ANSWER + neuron, neuron] = 1.0
        for index, answer in enumerate(answers):
            llama.lm_head.weight[numbers[answer], ANSWER + index] = 1.0
    return llama
