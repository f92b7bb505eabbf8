"""Seconds of a TopK training step, against SAELens and dictionary_learning where they are installed here."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from saebench.training.config import TrainingConfig
from saebench.training.trainer import Trainer
from tests.device.sizes import Sizes

SKIPPED = 3


def run(sizes: Sizes) -> dict[str, Any]:
    latents, width, batch = sizes.step
    activations = torch.randn(4 * batch, width, generator=torch.Generator().manual_seed(0)).to(sizes.device)
    config = TrainingConfig(n=latents, k=sizes.k, batch=batch, tokens=batch * 1000, device=sizes.device)
    trainer = Trainer(config, activations)
    found: dict[str, Any] = {"latents": latents, "width": width, "tokens": batch, "k": sizes.k}
    found["seconds_a_step"] = a_step(sizes, trainer.train_step, activations)
    del trainer
    for name, make in (("sae_lens", _saelens), ("dictionary_learning", _dictionary_learning)):
        if find_spec(name) is None:
            found[name] = "not installed: not compared"
            continue
        try:
            theirs = a_step(sizes, make(sizes, activations), activations)
        except Exception as error:  # a peer that fails here costs its own comparison alone
            found[name] = f"failed: {type(error).__name__}: {error}"
            continue
        found[name] = {"seconds_a_step": theirs, "times_ours": theirs / found["seconds_a_step"]}
    return found


def a_step(sizes: Sizes, step: Callable[[Tensor], Any], activations: Tensor) -> float:
    batch = sizes.step[2]
    start = 0.0
    for number in range(SKIPPED + sizes.steps):
        if number == SKIPPED:
            _wait()
            start = time.perf_counter()
        step(activations[(number % 4) * batch :][:batch])
    _wait()
    return (time.perf_counter() - start) / sizes.steps


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _saelens(sizes: Sizes, activations: Tensor) -> Callable[[Tensor], Any]:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    latents, width, batch = sizes.step
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=width, d_sae=latents, k=sizes.k, device=sizes.device))
    config = SAETrainerConfig(
        total_training_samples=1000 * batch, train_batch_size_samples=batch, lr=2e-4, lr_end=2e-5, lr_warm_up_steps=0,
        lr_decay_steps=0, device=sizes.device,
    )  # fmt: skip
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
    return trainer.step


def _dictionary_learning(sizes: Sizes, activations: Tensor) -> Callable[[Tensor], Any]:
    from dictionary_learning.trainers.top_k import TopKTrainer

    latents, width, _ = sizes.step
    trainer = TopKTrainer(
        steps=1000, activation_dim=width, dict_size=latents, k=sizes.k, layer=0, lm_name="none", device=sizes.device,
        warmup_steps=0, decay_start=None,
    )  # fmt: skip
    number = iter(range(10**9))
    return lambda batch: trainer.update(next(number), batch)
