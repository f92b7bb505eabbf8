"""Runs in SAELens's environment: its `run_evals` with everything on; prints seconds and figures as JSON.

Arguments: model folder, autoencoder folder (SAELens format), tokens file, dtype.
"""

import json
import sys
import time
from importlib.metadata import version

import torch
from sae_lens import SAE
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import load_file
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer


class Store:
    """As much of SAELens's activation store as `run_evals` uses: it hands out the rows in order."""

    def __init__(self, tokens, rows):
        self.tokens, self.place, self.context_size, self.store_batch_size_prompts = tokens, 0, tokens.shape[1], rows

    def get_batch_tokens(self, rows):
        self.place += rows
        return self.tokens[self.place - rows : self.place]

    def reset_input_dataset(self):
        self.place = 0


def main():
    model_folder, sae_folder, tokens_file, dtype = sys.argv[1:5]
    torch.set_grad_enabled(False)
    tokens = load_file(tokens_file)["tokens"]
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=getattr(torch, dtype), attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    bridge = TransformerBridge.boot_transformers("model", hf_model=model.eval(), tokenizer=tokenizer, device="cpu").eval()
    sae = SAE.load_from_disk(sae_folder, device="cpu")
    rows = 8
    batches = tokens.shape[0] // rows
    bridge(tokens[:1])
    start = time.perf_counter()
    everything = get_eval_everything_config(rows, batches, batches)
    numbers, _ = run_evals(sae, Store(tokens, rows), bridge, ActivationScaler(), everything, exclude_special_tokens=False)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "numbers": numbers, "version": version("sae-lens")}))


if __name__ == "__main__":
    main()
