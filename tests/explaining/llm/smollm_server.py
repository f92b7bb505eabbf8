"""The embedded SmolLM2 as a chat-completions server: ``python -m tests.explaining.llm.smollm_server [port]``.

Like servers for daily use it keeps to the JSON schema that a request asks for: what the schema leaves open is the model's
most likely choice. With 135 million weights it is too small to explain well; the chain works all the same, offline.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import torch
from transformers import DynamicCache

from saebench.lm.bridge import cache_argument
from saebench.lm.loading import load_pretrained
from tests.explaining.llm.chat_server import serve

MOST_TOKENS, MOST_ITEMS = 40, 12
"""Of a text and of a list: a model this small may never come to an end."""


class SmolLM:
    """Answers one request after the other, greedily."""

    def __init__(self) -> None:
        loaded = load_pretrained("smollm2", "auto", ("cpu",), None)
        self.model: Any = loaded.model.eval()
        self.tokenizer = loaded.tokenizer
        self._lock = threading.Lock()

    def __call__(self, request: dict[str, Any]) -> str:
        turns = "".join(f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in request["messages"])
        asked = request.get("response_format", {}).get("json_schema", {}).get("schema")
        with self._lock, torch.no_grad():
            answer = Guided(self.model, self.tokenizer, f"{turns}<|im_start|>assistant\n")
            if asked is None:
                return answer.text("\n")
            return answer.value(asked, asked.get("$defs", {}))


class Guided:
    """An answer as it grows, read by the model as far as it has come."""

    def __init__(self, model: Any, tokenizer: Any, prompt: str) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.cached = {str(cache_argument(model)): DynamicCache(), "use_cache": True}
        self.read(prompt)

    def read(self, text: str) -> str:
        self._read(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return text

    def _read(self, tokens: list[int]) -> None:
        self.logits = self.model(torch.tensor([tokens]), **self.cached).logits[0, -1]

    @staticmethod
    def _kind(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
        found: str = definitions[schema["$ref"].rpartition("/")[2]]["type"] if "$ref" in schema else schema["type"]
        return found

    def likelier(self, options: list[str], others: list[str]) -> bool:
        """Whether one of ``options`` is likelier to come next than all of ``others``; nothing is read."""
        best = [max(float(self.logits[self.tokenizer(each, add_special_tokens=False)["input_ids"][0]]) for each in group)
                for group in (options, others)]  # fmt: skip
        return best[0] > best[1]

    def choose(self, options: list[str]) -> str:
        """The likelier of some texts, by their first tokens."""
        first = [self.tokenizer(option, add_special_tokens=False)["input_ids"][0] for option in options]
        return self.read(options[int(self.logits[first].argmax())])

    def text(self, stop: str) -> str:
        """Token by token until one holds ``stop``."""
        words = ""
        for _ in range(MOST_TOKENS):
            token = int(self.logits.argmax())
            piece = self.tokenizer.decode([token])
            words += piece.partition(stop)[0]
            if stop in piece or token in self.tokenizer.all_special_ids:
                break
            self._read([token])
        return words

    def value(self, schema: dict[str, Any], definitions: dict[str, Any]) -> str:
        if "$ref" in schema:
            return self.value(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        if schema["type"] == "object":
            written = ""
            for index, (name, part) in enumerate(schema["properties"].items()):
                written += self.read(f'{"{" if index == 0 else ", "}"{name}": ') + self.value(part, definitions)
            return written + self.read("}")
        if schema["type"] == "array":
            items, written = 0, self.read("[")
            first = {"boolean": ["true", "false"], "object": ["{"]}.get(self._kind(schema["items"], definitions), ["1"])
            while items < MOST_ITEMS and (self.choose([",", "]"]) == "," if items else self.likelier(first, ["]"])):
                written += (", " if items else "") + self.value(schema["items"], definitions)
                items += 1
            return written + "]"
        if schema["type"] == "boolean":
            return self.choose(["true", "false"])
        if schema["type"] == "integer":
            return self.choose(list("123456789"))
        self.read('"')
        return json.dumps(self.text('"'))


if __name__ == "__main__":
    with serve(SmolLM(), int(sys.argv[1]) if len(sys.argv) > 1 else 8000) as running:
        print(f"SmolLM2 answers at {running.url}", flush=True)
        threading.Event().wait()
