"""One autoencoder in training: a step, its record, and the state for resuming."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.lm.loading import pick_device
from saebench.lm.products import use_fast_products
from saebench.sae import CheckpointInfo, InputScaling, SparseAutoencoder
from saebench.training.config import TrainingConfig
from saebench.training.controls import control_kind, project_onto_cones
from saebench.training.mesh import Mesh
from saebench.training.objectives import Objective, Weights, make_objective
from saebench.training.recipe import (
    ALONE,
    Average,
    clip_gradients,
    geometric_median,
    initial_decoder,
    initial_encoder,
    learning_rate_factor,
    normalise_decoder,
    project_out_parallel,
)
from saebench.training.sources import ChunkedSource
from saebench.version import __version__

HISTORY_POINTS = 400
CALIBRATION_TOKENS = 4096


class Trainer:
    """One autoencoder in training.

    Attributes:
        config: of the run; ``objective``: the architecture's loss; ``weights``: the trained weights.
        step: steps done, of which ``first_step`` before resuming.
        history: ``(step, normalised MSE, L0, dead share)`` over the run.
    """

    def __init__(self, config: TrainingConfig, sample: Tensor, mesh: Mesh = ALONE, median: Tensor | None = None) -> None:
        """``sample``: ``[tokens, d]`` activations, from which biases and scales are initialised; ``mesh``: its ranks.

        ``median``: ``[d]``, the geometric median of the scaled sample, where it is known.
        """
        use_fast_products()
        self.config, self.mesh = config, mesh
        self.device = torch.device(pick_device(config.device or None))
        sample = sample.to(self.device)
        self.scaling = InputScaling(config.scaling)
        scaled = self.scaling.apply(sample).activations
        decoder = initial_decoder(config.n, sample.shape[1], config.seed, mesh.latents(config.n)).to(self.device)
        encoder = initial_encoder(decoder, config.k, config.seed, mesh)
        self.weights = Weights(encoder, decoder, geometric_median(scaled) if median is None else median)
        if config.freeze in ("decoder", "encoder"):
            getattr(self.weights, config.freeze).requires_grad_(False)
        self._start = decoder if config.freeze == "soft-decoder" else None
        self.objective: Objective = make_objective(config, self.weights, mesh)
        self._outcome = torch.compile(self.objective.outcome) if config.compile else self.objective.outcome
        self.objective.variance = float((scaled - scaled.mean(dim=0)).square().sum(dim=1).mean())
        if not 0 < self.objective.variance < float("inf"):
            raise SaebenchError("The training activations are constant, NaN or infinite: check the model and the hook.")
        self.objective.calibrate(scaled[:CALIBRATION_TOKENS])
        self.parameters = dict(self.weights.named_parameters()) | dict(self.objective.extra_parameters())
        trained = [parameter for parameter in self.parameters.values() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(
            trained, lr=config.learning_rate, betas=(0.9, config.beta2), eps=6.25e-10, fused=True
        )
        self.average = Average({name: each for name, each in self._tensors().items() if name != config.freeze}, config.ema)
        self.silent_tokens = torch.zeros(self.weights.n, dtype=torch.int64, device=self.device)
        self.step = self.first_step = 0
        self.history: list[tuple[int, float, float, float]] = []

    def train_step(self, activations: Tensor) -> None:
        """One step on ``[batch, d]`` activations in the model's units; each replica uses its part of them.

        Raises:
            SaebenchError: the activations or the loss are not finite; nothing was changed.
        """
        x = self.scaling.apply(self.mesh.part(activations).to(self.device)).activations
        outcome = self._outcome(x)
        if not bool(torch.isfinite(self.mesh.total(outcome.loss))):
            where = "activations hold" if not bool(torch.isfinite(activations).all()) else "loss is"
            raise SaebenchError(f"Batch {self.step}: the {where} NaN or infinite; the state before it is saved.")
        self.optimizer.zero_grad(set_to_none=True)
        outcome.loss.backward()
        self._apply_gradients()
        self.average.update(self._tensors())
        self.silent_tokens += activations.shape[0]
        self.silent_tokens[self.mesh.total(outcome.fired.int(), over_shards=False) > 0] = 0
        self.objective.dead = self.silent_tokens > self.config.dead_after_tokens
        figures = self.mesh.mean_over_replicas(
            torch.tensor([float(outcome.normalised_mse), outcome.l0], device=self.device).double()
        )
        outcome.l0 = float(figures[1])
        self.objective.after_step(outcome)
        self.history.append((self.step, float(figures[0]), outcome.l0, self.dead_share))
        self.step += 1

    @torch.no_grad()
    def _apply_gradients(self) -> None:
        decoder = self.weights.decoder
        for parameter in self.parameters.values():
            if parameter.grad is not None and self.mesh.replicas > 1:
                parameter.grad.copy_(self.mesh.mean_over_replicas(parameter.grad))
        if self.objective.unit_decoder and decoder.grad is not None:
            project_out_parallel(decoder, decoder.grad)
        if self.config.clip:
            clip_gradients(self.parameters, self.config.clip, self.mesh)
        factor = learning_rate_factor(self.step, self.config.steps, self.config.warmup_steps, self.config.decay_share)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor
        self.optimizer.step()
        if self.objective.unit_decoder and decoder.requires_grad:
            normalise_decoder(decoder)
            if self._start is not None:
                project_onto_cones(decoder, self._start, self.config.cone)

    @property
    def dead_share(self) -> float:
        """Share of latents that have not been active for ``dead_after_tokens``."""
        dead = (self.silent_tokens > self.config.dead_after_tokens).sum()
        return float(self.mesh.total(dead, over_replicas=False)) / self.config.n

    def sae(self, averaged: bool = False) -> SparseAutoencoder:
        """The current autoencoder, or with the averaged weights."""
        tensors = {name: each.clone() for name, each in self._tensors().items()}
        tensors |= self.average.value() if averaged else {}
        present = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])
            activation = self.objective.activation()
            for name, parameter in self.parameters.items():
                parameter.copy_(present[name])
        config = self.config
        sizes = getattr(self.objective, "group_sizes", None)
        info = CheckpointInfo(
            origin="training",
            format="saebench",
            architecture="topk" if config.arch == "multitopk" else config.arch,
            d_in=self.weights.d,
            d_out=self.weights.d,
            n_latents=self.weights.n,
            activation=activation.describe(),
            scaling=config.scaling,
            hook_in=config.hook,
            hook_out=config.hook,
            model=config.model,
            context=config.context,
            group_sizes=tuple(sizes) if sizes else None,
        )
        bias = tensors["b_dec"]
        return SparseAutoencoder(
            tensors["encoder"].T,
            tensors["decoder"],
            tensors["b_enc"],
            bias,
            activation,
            info,
            b_pre=bias,
            scaling=self.scaling,
        )

    def state(self) -> dict[str, Any]:
        """Everything that is needed to resume exactly."""
        return {
            "config": self.config.record(),
            "step": self.step,
            "variance": self.objective.variance,
            "tensors": self._tensors(),
            "optimizer": self.optimizer.state_dict(),
            "average": {"sums": self.average.sums, "count": self.average.count},
            "silent_tokens": self.silent_tokens,
            "objective": self.objective.state(),
            "history": torch.tensor(self.history, dtype=torch.float64).reshape(-1, 4),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from ``state``.

        Raises:
            SaebenchError: it was made with other settings (they are named).
        """
        different = self.config.differing(state["config"])
        if different:
            raise SaebenchError(
                f"The run to resume had other settings: {', '.join(different)}. Use the same settings, or start a new run."
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["tensors"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.sums, self.average.count = state["average"]["sums"], state["average"]["count"]
        self.silent_tokens, self.step = state["silent_tokens"].to(self.device), state["step"]
        self.objective.dead = self.silent_tokens > self.config.dead_after_tokens
        self.objective.variance = state["variance"]
        self.objective.load_state(state["objective"])
        self.first_step = self.step
        self.history = [(int(step), mse, l0, dead) for step, mse, l0, dead in state["history"].tolist()]

    def _tensors(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def record(self, source: ChunkedSource, seconds: float) -> dict[str, Any]:
        """The training record that goes into the checkpoint."""
        stride = max(1, len(self.history) // HISTORY_POINTS)
        thinned = self.history[::stride]
        recent = self.history[-max(1, len(self.history) // 20) :]
        names = ("step", "normalised_mse", "l0", "dead_share")
        record: dict[str, Any] = {
            "saebench": __version__,
            "torch": torch.__version__,
            "config": self.config.record(),
            "steps": self.step,
            "complete": self.step >= self.config.steps,
            "tokens": self.step * self.config.batch,
            "epochs": self.step * self.config.batch / max(source.tokens, 1),
            "seconds": seconds,
            "tokens_per_second": (self.step - self.first_step) * self.config.batch / seconds if seconds else 0.0,
            "activations": source.identity,
            "history": {name: [row[place] for row in thinned] for place, name in enumerate(names)},
            "final": {name: sum(row[place] for row in recent) / len(recent) for place, name in enumerate(names) if place},
        }
        if self.config.freeze:
            record["control"] = control_kind(self.config.freeze, self.config.cone)
        if self.config.target_l0:
            reached = record["final"]["l0"]
            record["target_l0"] = {
                "wanted": self.config.target_l0,
                "reached": reached,
                "within_5_percent": abs(reached / self.config.target_l0 - 1) <= 0.05,
            }
        return record
