"""Runs in SAELens's environment: trains its TopK autoencoder and prints seconds a step, or saves what it learned.

Arguments: a JSON object with ``activations`` (safetensors), n, k, batch, steps, lr, warmup, and optionally ``out``.
"""

import json
import time

import sae_lens
import torch
from peer_activations import batches, read_settings
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer

settings, activations = read_settings()
batch, steps = settings["batch"], settings["steps"]
torch.manual_seed(0)
sae = TopKTrainingSAE(
    TopKTrainingSAEConfig(
        d_in=activations.shape[1],
        d_sae=settings["n"],
        k=settings["k"],
        apply_b_dec_to_input=True,
        normalize_activations=settings.get("normalise", "none"),
    )
)
config = SAETrainerConfig(
    total_training_samples=steps * batch,
    train_batch_size_samples=batch,
    lr=settings["lr"],
    lr_end=settings["lr"] / 10,  # its own default
    lr_warm_up_steps=settings["warmup"],
    lr_decay_steps=settings["decay"],
)
trainer = SAETrainer(cfg=config, sae=sae, data_provider=batches(activations, batch))
start, timed = time.perf_counter(), 0
if "out" in settings:
    sae = trainer.fit()
    timed = steps
    sae.save_inference_model(settings["out"])
else:
    stream = batches(activations, batch)
    for step in range(steps):
        if step == settings["skip"]:
            start = time.perf_counter()
        trainer.step(next(stream))
        trainer.n_training_steps += 1
    timed = steps - settings["skip"]
print(json.dumps({"seconds": (time.perf_counter() - start) / timed, "version": sae_lens.__version__}))
