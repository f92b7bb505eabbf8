"""The end of a language model: losses straight from the input of the unembedding, without the logits of a whole batch.

The logits of a few positions and a block of the vocabulary are made for all runs of the model together, and used while they
are in the processor's cache: nothing of the size of the vocabulary is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saebench.notices import notice

HOOK = "unembed.hook_in"

BLOCK, CELLS = 1024, 2**20
"""Tokens of the vocabulary in a block, and logits made at once: 4 MiB, and as much again for their exponentials."""

ACCELERATOR_BLOCK, ACCELERATOR_CELLS = 2**14, 2**26

TRIAL_TOKENS = 8


@dataclass(frozen=True)
class RunLosses:
    """A run of the model, compared with the clean one.

    Attributes:
        cross_entropy: ``[rows, context - 1]`` nats.
        divergence: ``[rows, context]`` nats, KL(clean || this run).
        agrees: ``[rows, context]`` bool, whether the most likely next token is the clean run's.
    """

    cross_entropy: Tensor
    divergence: Tensor
    agrees: Tensor


@dataclass(frozen=True)
class Readout:
    """How a model makes logits of the input ``h`` of its unembedding: ``h @ weight.T + bias``, perhaps capped.

    Attributes:
        unembedding: the linear layer.
        cap: logits are ``cap * tanh(logits / cap)`` where given (Gemma 2).
    """

    unembedding: nn.Linear
    cap: float | None = None

    @classmethod
    def of(cls, model: Any) -> Readout | str:
        """The readout of a ``LanguageModel``, or why it has none: its logits on a few tokens are compared.

        Some architectures scale their logits, or have no single unembedding: their logits must be made by the model itself.
        """
        unembedding = getattr(getattr(model.bridge, "unembed", None), "original_component", None)
        if not isinstance(unembedding, nn.Linear) or HOOK not in model.bridge.hook_dict:
            return "its unembedding is not one linear layer"
        text_config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
        readout = cls(unembedding, getattr(text_config, "final_logit_softcapping", None))
        seen: list[Tensor] = []
        tokens = torch.arange(TRIAL_TOKENS, device=model.device).unsqueeze(0) % unembedding.out_features
        with torch.no_grad():
            logits = model.run(tokens, [(HOOK, lambda activation, hook: seen.append(activation))]).float()
            own = readout.logits(seen[0].flatten(0, -2), 0, unembedding.out_features)
        same = own.shape == logits.shape[1:]
        error = float((own - logits[0]).abs().max() / logits.abs().max()) if same else torch.inf
        return readout if error < max(1e-4, 2 * torch.finfo(model.dtype).eps) else "its logits are not its unembedding's"

    def logits(self, inputs: Tensor, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Logits ``[positions, stop - start]`` float32 of a block of the vocabulary.

        Args:
            inputs: ``[positions, d_model]``.
            start, stop: of the block.
            out: float32 memory to write them to, which is used where the model computes in float32.
        """
        weight, bias = self.unembedding.weight[start:stop], self.unembedding.bias
        found = torch.mm(inputs, weight.T, out=out if weight.dtype == torch.float32 else None)
        if bias is not None and bool(bias[start:stop].any()):  # TransformerLens adds a bias of zeros
            found += bias[start:stop]
        found = found.float()
        return found if self.cap is None else found.div_(self.cap).tanh_().mul_(self.cap)

    @torch.no_grad()
    def compare(self, clean: Tensor, others: Sequence[Tensor], tokens: Tensor) -> tuple[Tensor, list[RunLosses]]:
        """The clean run's cross-entropy (``[rows, context - 1]`` nats), and the losses of other runs on the same tokens.

        Args:
            clean, others: ``[rows, context, d_model]``, inputs of the unembedding.
            tokens: ``[rows, context]``.
        """
        rows, context = tokens.shape
        inputs = torch.stack([clean, *others]).flatten(1, 2)
        targets = tokens.to(clean.device).roll(-1, dims=1).flatten()  # the last position's is not used
        on_cpu = clean.device.type == "cpu"
        block, cells = (BLOCK, CELLS) if on_cpu else (ACCELERATOR_BLOCK, ACCELERATOR_CELLS)
        size = max(1, cells // (block * inputs.shape[0]))
        parts = zip(inputs.split(size, dim=1), targets.split(size), strict=True)
        sums = [self._sweep(part.contiguous(), target, block) for part, target in parts]
        whole = [torch.cat(each, dim=1).unflatten(1, (rows, context)) for each in zip(*sums, strict=True)]
        entropies, divergences, agree = whole[0][:, :, :-1], whole[1], whole[2]
        return entropies[0], [RunLosses(*each) for each in zip(entropies[1:], divergences, agree, strict=True)]

    def _sweep(self, inputs: Tensor, targets: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
        """One sweep over the vocabulary for some positions of all runs, the clean one first.

        Args:
            inputs: ``[runs, positions, d_model]``.
            targets: ``[positions]``, the next tokens.
            block: tokens of the vocabulary taken at once.

        Returns:
            Float64 cross-entropies ``[runs, positions]``, and for all runs but the first, divergences and agreement.
        """
        runs, positions, _ = inputs.shape
        flat, vocabulary = inputs.flatten(0, 1), self.unembedding.out_features
        memory = inputs.new_empty(2, runs * positions * min(block, vocabulary), dtype=torch.float32)
        sums = _Sums(runs, positions, inputs.device)
        for start in range(0, vocabulary, block):
            stop = min(start + block, vocabulary)
            out, scratch = (each[: runs * positions * (stop - start)].view(runs, positions, -1) for each in memory)
            logits = self.logits(flat, start, stop, out.flatten(0, 1)).view_as(out)
            sums.add(logits, targets - start, scratch)
        return sums.finish()


def readout_or_notice(found: Readout | str, name: str) -> Readout | None:
    """What ``Readout.of`` found for a model of this name; a notice says so where it is no readout."""
    if isinstance(found, Readout):
        return found
    notice(
        "Losses are computed from all logits of a batch, more slowly and with the same numbers: "
        f"those of {name} cannot be made in parts ({found})."
    )
    return None


class _Sums:
    """Running sums over blocks of the vocabulary; exponentials are relative to the largest logit so far."""

    def __init__(self, runs: int, positions: int, device: torch.device) -> None:
        shape = (runs, positions)
        self.largest = torch.full(shape, -torch.inf, device=device)
        self.total = torch.zeros(shape, device=device)
        self.of_target = torch.zeros(shape, device=device)
        self.change = torch.zeros(runs - 1, positions, device=device)  # sum over the clean distribution, unnormalised
        self.at_clean_top = torch.zeros(runs - 1, positions, device=device)

    def add(self, logits: Tensor, targets: Tensor, scratch: Tensor) -> None:
        """Add a block of logits (``[runs, positions, block]``), which are overwritten; ``targets`` count from its start."""
        block_largest = logits.amax(dim=2)
        here = ((targets >= 0) & (targets < logits.shape[2])).nonzero().flatten()
        self.of_target[:, here] = logits[:, here, targets[here]]
        higher = (block_largest[0] > self.largest[0]).nonzero().flatten()
        if higher.numel():
            top = logits[0, higher].topk(1, dim=1).indices.squeeze(1)  # faster than argmax
            self.at_clean_top[:, higher] = logits[1:, higher, top]
        largest = torch.maximum(self.largest, block_largest)
        rescale = (self.largest - largest).exp_()
        exponentials = torch.sub(logits, largest.unsqueeze(2), out=scratch).exp_()
        self.total.mul_(rescale).add_(exponentials.sum(dim=2))
        change = logits[1:].sub_(logits[0]).mul_(exponentials[0])
        self.change.mul_(rescale[0]).add_(change.sum(dim=2))
        self.largest = largest

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Readout._sweep``."""
        log_total = self.largest.double() + self.total.double().log()
        divergence = log_total[1:] - log_total[0] - self.change.double() / self.total[0]
        return log_total - self.of_target, divergence, self.at_clean_top == self.largest[1:]
