"""Tokens with which Neuron2Graph replaces others: a neutral padding token, and similar tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.lm import LanguageModel


class Padding(NamedTuple):
    """The padding token: its id, its text, and a description of how it was chosen."""

    token: int
    text: str
    rule: str


def find_padding(tokenizer: Any, wanted: str) -> Padding:
    """Find the token of the text ``wanted`` (" _" in the code released with Gao et al. 2024).

    A tokenizer that does not have it as one token gets the underscore without the space; one that lacks this too, the
    ordinary token with the lowest id.

    Raises:
        SaebenchError: the tokenizer has no ordinary token.
    """
    special = set(tokenizer.all_special_ids)
    for text in dict.fromkeys((wanted, wanted.strip())):
        ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if len(ids) == 1 and ids[0] not in special:
            return Padding(ids[0], text, f"{text!r} as one token")
    for token in range(len(tokenizer)):
        if token not in special:
            return Padding(token, tokenizer.decode([token]), f"{wanted!r} is not one token: the first ordinary token")
    raise SaebenchError("This tokenizer has only special tokens: Neuron2Graph needs one to pad with.")


class NearestTokens:
    """The tokens most similar to others by the cosine of the model's own input embeddings.

    Special tokens are excluded, and tokens that the model has but the tokenizer lacks.
    """

    def __init__(self, model: LanguageModel, candidates: int) -> None:
        table: Tensor = model.bridge.original_model.get_input_embeddings().weight.detach()
        allowed = torch.zeros(table.shape[0], dtype=torch.bool)
        allowed[: len(model.tokenizer)] = True
        allowed[[each for each in model.tokenizer.all_special_ids if each < table.shape[0]]] = False
        self._table = F.normalize(table.float(), dim=1)
        self._forbidden = (~allowed).nonzero().squeeze(1).to(table.device)
        self.candidates = min(candidates, int(allowed.sum()) - 1)

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """``[tokens, candidates]``, most similar first, of ``tokens`` (``[tokens]``)."""
        unique, inverse = torch.unique(tokens, return_inverse=True)
        found = []
        for some in unique.to(self._table.device).split(256):
            similarity = self._table[some] @ self._table.T
            similarity[:, self._forbidden] = -torch.inf
            similarity[torch.arange(some.numel()), some] = -torch.inf
            found.append(similarity.topk(self.candidates, dim=1).indices.cpu())
        return torch.cat(found)[inverse]
