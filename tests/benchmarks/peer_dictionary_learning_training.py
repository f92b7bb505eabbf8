"""Runs in dictionary_learning's environment: trains its TopK autoencoder; arguments as in peer_saelens_training."""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from dictionary_learning.trainers.top_k import TopKTrainer
from safetensors.torch import load_file

settings = json.loads(sys.argv[1])
activations = load_file(settings["activations"])["activations"]
batch, steps = settings["batch"], settings["steps"]
torch.manual_seed(0)


def batches():
    while True:
        order = torch.randperm(activations.shape[0])
        for start in range(0, activations.shape[0] - batch + 1, batch):
            yield activations[order[start : start + batch]]


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
stream, start, skip = batches(), time.perf_counter(), settings.get("skip", 0)
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
