"""Runs in dictionary_learning's environment: trains its TopK autoencoder; arguments as in peer_saelens_training."""

import json
import time
from importlib.metadata import version
from pathlib import Path

import torch
from dictionary_learning.trainers.top_k import TopKTrainer
from peer_activations import batches, read_settings

settings, activations = read_settings()
batch, steps = settings["batch"], settings["steps"]
torch.manual_seed(0)
trainer = TopKTrainer(
    steps=steps,
    activation_dim=activations.shape[1],
    dict_size=settings["n"],
    k=settings["k"],
    layer=0,
    lm_name="",
    lr=settings["lr"],
    warmup_steps=settings["warmup"],
    decay_start=steps - settings["decay"] if settings["decay"] else None,
    threshold_start_step=0,
    seed=0,
    device="cpu",
)
stream, start, skip = batches(activations, batch), time.perf_counter(), settings.get("skip", 0)
for step in range(steps):
    if step == skip:
        start = time.perf_counter()
    trainer.update(step, next(stream))
seconds = (time.perf_counter() - start) / (steps - skip)
if "out" in settings:
    folder = Path(settings["out"])
    folder.mkdir(parents=True)
    torch.save(trainer.ae.state_dict(), folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": trainer.config}))
print(json.dumps({"seconds": seconds, "version": version("dictionary-learning")}))
