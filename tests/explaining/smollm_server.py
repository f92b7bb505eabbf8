"""The embedded SmolLM2 as a chat-completions server: ``python -m tests.explaining.smollm_server [port]``.

With 135 million weights it is too small to explain anything well; it shows that the whole chain works without a network.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import torch

from saebench.lm_loading import load_pretrained

from .chat_server import serve

MOST_TOKENS = 80
"""Of an answer, whatever the request allows: a model this small may never come to an end."""


class SmolLM:
    """Answers one request after the other, greedily."""

    def __init__(self) -> None:
        loaded = load_pretrained("smollm2", "auto", "cpu", None)
        self.model: Any = loaded.model.eval()
        self.tokenizer = loaded.tokenizer
        self._lock = threading.Lock()

    @torch.no_grad()
    def __call__(self, request: dict[str, Any]) -> str:
        turns = "".join(f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in request["messages"])
        tokens = self.tokenizer(f"{turns}<|im_start|>assistant\n", add_special_tokens=False, return_tensors="pt").input_ids
        most = min(int(request.get("max_tokens", MOST_TOKENS)), MOST_TOKENS)
        end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        with self._lock:
            answer = self.model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=most, do_sample=False, eos_token_id=end,
                pad_token_id=end,
            )  # fmt: skip
        text: str = self.tokenizer.decode(answer[0, tokens.shape[1] :], skip_special_tokens=True)
        return text.strip()


if __name__ == "__main__":
    with serve(SmolLM(), int(sys.argv[1]) if len(sys.argv) > 1 else 8000) as running:
        print(f"SmolLM2 answers at {running.url}", flush=True)
        threading.Event().wait()
