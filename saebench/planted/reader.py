"""A reader in place of a language model: explains a latent by the planted feature that fits its marks best.

It knows the true features and nothing of the autoencoder. It sees windows of text alone, so that it cannot know a topic,
which the first word of a document marks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from saebench.planted.features import Contexts, PlantedFeatures

_TEXT = re.compile(r"^\d+\. (.*)$", flags=re.MULTILINE)
_TOKEN = re.compile(r"<<|>>|w(\d+)")


class FeatureReader:
    """Answers the questions of ``explain/saebench.toml``; see the module.

    Args:
        features: the planted features; an explanation is the number of one.
    """

    def __init__(self, features: PlantedFeatures) -> None:
        self._features = features

    def answer(self, request: dict[str, Any]) -> str:
        """The answer to a chat-completions request, as JSON text."""
        system, user = (message["content"] for message in request["messages"][:2])
        texts = _TEXT.findall(user)
        if "Complete the sentence" in system:
            return json.dumps({"explanation": f"feature {self._explained(texts)}"})
        if "List the numbers" in system:
            feature = int(re.findall(r"active on feature (\d+)", user)[0])
            active = [number for number, each in enumerate(self._active(texts), 1) if bool(each[:, feature].any())]
            return json.dumps({"active": active})
        return '{"intruder": 1}'  # the question with which an endpoint is checked

    def _explained(self, texts: list[str]) -> int:
        """The feature whose places have the highest F1 with the marked ones."""
        active = torch.cat(self._active(texts)).float()
        marked = torch.cat([_marks(text) for text in texts]).float()
        return int((2 * (marked @ active) / (active.sum(dim=0) + marked.sum()).clamp_min(1)).argmax())

    def _active(self, texts: Sequence[str]) -> list[Tensor]:
        """``[words, F]`` bool of each text; all at once, padded on the right, where no feature looks."""
        words = [[int(word) for word in _TOKEN.findall(text) if word] for text in texts]
        width = max(1, *map(len, words)) if words else 1
        table = torch.tensor([each + [0] * (width - len(each)) for each in words], dtype=torch.int64).view(-1, width)
        active = self._features.active(Contexts.of(table))
        return [row[: len(each)] for row, each in zip(active, words, strict=True)]


def _marks(text: str) -> Tensor:
    """``[words]`` bool: whether a word stands between marks."""
    inside, found = False, []
    for token in _TOKEN.finditer(text):
        if token.group(1) is None:
            inside = token.group() == "<<"
        else:
            found.append(inside)
    return torch.tensor(found, dtype=torch.bool)
