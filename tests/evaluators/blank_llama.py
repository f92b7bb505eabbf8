"""A Llama that does nothing until a test writes into its weights."""

from __future__ import annotations

from typing import Any

import torch


def blank_llama(vocabulary: int, width: int, neurons: int, layers: int, head: int) -> Any:
    """One head in each of its ``layers``; every weight but those of norms is 0."""
    from transformers import LlamaConfig, LlamaForCausalLM

    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=neurons, num_hidden_layers=layers,
            num_attention_heads=1, num_key_value_heads=1, head_dim=head, max_position_embeddings=64,
            tie_word_embeddings=False, attn_implementation="eager", bos_token_id=1, eos_token_id=2, pad_token_id=None,
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in llama.named_parameters():
            if "norm" not in name:
                parameter.zero_()
    return llama
