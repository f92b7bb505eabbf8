"""The loss of the language model with the reconstruction spliced in.

Source: Gao et al. 2024, section 4.1. Positions excluded from the averages keep their clean activations in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.evaluators.base import CleanBatch, Setup, StreamingEvaluator
from saebench.evaluators.compute_law import ComputeLaw, find_law
from saebench.evaluators.shared import LOGIT_CHUNK
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import Counted
from saebench.results.statistics import Estimate, RowSums, ratio_estimate
from saebench.sae.topk import top_k

_SUMS = ("predictions", "ce_clean", "ce_spliced", "positions", "kl_divergence", "top1_agreement")


class Downstream(StreamingEvaluator):
    """Cross-entropy, KL divergence and agreement of the spliced model with the clean one."""

    name = "downstream"
    version = 1
    description = "Loss of the language model with reconstructions spliced in, against clean and ablated runs"
    needs_logits = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.sums = RowSums(_SUMS)

    @classmethod
    def check(cls, setup: Setup) -> None:
        """Raise ``SaebenchError`` where nothing could be counted, or the requested scaling law is unreadable."""
        if not bool(setup.corpus.loss_mask.any()):
            raise SaebenchError(
                "No prediction in this corpus counts: every target is excluded. Use --no-exclude or more text."
            )
        find_law(setup.options.get("scaling_law"), setup.cut.model.name)

    def splice(self, batch: CleanBatch, logits: Tensor) -> None:
        """Compare the spliced logits (``[rows, context, V]``) with the clean ones, a few positions at a time."""
        assert batch.probabilities is not None and batch.negentropy is not None
        assert batch.cross_entropy is not None and batch.top_token is not None
        divergence = torch.empty_like(batch.negentropy)
        spliced = torch.empty_like(batch.cross_entropy)
        agree = torch.empty_like(batch.top_token, dtype=torch.bool)
        for row, part in chunks(logits):
            chunk = logits[row, part].float()
            log_probabilities = chunk.log_softmax(dim=-1)
            expected = torch.linalg.vecdot(batch.probabilities[row, part], log_probabilities)
            divergence[row, part] = batch.negentropy[row, part] - expected
            store_losses(spliced, log_probabilities, batch.tokens, row, part)
            at_top = chunk.gather(1, batch.top_token[row, part].unsqueeze(1)).squeeze(1)
            agree[row, part] = at_top == chunk.amax(dim=-1)
        counted, mask = batch.counted.to(logits.device), batch.loss_mask.to(logits.device)
        self.sums.add(
            predictions=mask.sum(dim=1),
            ce_clean=(batch.cross_entropy.double() * mask).sum(dim=1),
            ce_spliced=(spliced.double() * mask).sum(dim=1),
            positions=counted.sum(dim=1),
            kl_divergence=(divergence.double() * counted).sum(dim=1),
            top1_agreement=(agree & counted).sum(dim=1),
        )

    def merge(self, other: StreamingEvaluator) -> None:
        """Add another instance's sums."""
        assert isinstance(other, Downstream)
        self.sums.merge(other.sums)

    def compute(self) -> EvaluatorResult:
        """All metrics, with the sums by row that paired comparisons need."""
        law = find_law(self.setup.options.get("scaling_law"), self.setup.cut.model.name)
        return self.result(
            [*self._losses(), *self._differences(), *self._divergence(), self._relative_compute(law)],
            {"by_row": self._by_row()},
            {} if law is None else {"scaling_law": law.source},
        )

    def _by_row(self) -> dict[str, Any]:
        ablated = self.setup.shared.ablated
        columns = {name: self.sums.column(name) for name in _SUMS}
        columns |= {f"ce_{which}_ablated": ablated[which].column("cross_entropy") for which in ("zero", "mean")}
        rounded = {name: [float(f"{value:.7g}") for value in column.tolist()] for name, column in columns.items()}
        return {"rows_per_group": self.sums.rows_per_group, **rounded}

    def _over(self, column: str) -> Counted:
        return Counted(int(self.sums.total(column)))

    def _losses(self) -> list[Metric]:
        over, ablated = self._over("predictions"), self.setup.shared.ablated
        losses = {
            "ce_clean": (self.sums.ratio("ce_clean", "predictions"), "of the unaltered model"),
            "ce_spliced": (self.sums.ratio("ce_spliced", "predictions"), "with the reconstruction spliced in"),
            "ce_zero_ablated": (ablated["zero"].ratio("cross_entropy", "predictions"), "with activations set to 0"),
            "ce_mean_ablated": (ablated["mean"].ratio("cross_entropy", "predictions"), "with activations set to their mean"),
        }
        return [
            over.metric(name, estimate, "nats", "lower" if name == "ce_spliced" else "none", f"Cross-entropy {words}")
            for name, (estimate, words) in losses.items()
        ]

    def _differences(self) -> list[Metric]:
        over = self._over("predictions")
        clean, spliced, count = (self.sums.column(name) for name in ("ce_clean", "ce_spliced", "predictions"))
        difference = ratio_estimate(spliced - clean, count)
        metrics = [over.metric("ce_difference", difference, "nats", "lower", "Spliced minus clean cross-entropy")]
        for name, which in (("loss_recovered", "zero"), ("loss_recovered_mean", "mean")):
            floor = self.setup.shared.ablated[which].column("cross_entropy")
            if which == "zero" or float((floor - clean).sum()) > 0:
                recovered = ratio_estimate(floor - spliced, floor - clean)
            else:
                recovered = Estimate(None, None)
            formula = f"(CE {which}-ablated - CE spliced) / (CE {which}-ablated - CE clean)"
            metrics.append(over.metric(name, recovered, "1", "higher", formula, "ablation does not raise the loss"))
        return metrics

    def _divergence(self) -> list[Metric]:
        over = self._over("positions")
        divergence, agreement = (self.sums.ratio(name, "positions") for name in ("kl_divergence", "top1_agreement"))
        same = "Share of positions where both models' most likely token is the same"
        return [
            over.metric("kl_divergence", divergence, "nats", "lower", "KL(clean || spliced)"),
            over.metric("top1_agreement", agreement, "1", "higher", same),
        ]

    def _relative_compute(self, law: ComputeLaw | None) -> Metric:
        description = "Share of pretraining compute a model with the spliced model's loss would have needed"
        value: float | None = None
        reason: str | None = "no scaling law for this model: give one with --scaling-law"
        if law is not None:
            clean, spliced = self.sums.ratio("ce_clean", "predictions"), self.sums.ratio("ce_spliced", "predictions")
            assert clean.value is not None and spliced.value is not None
            value, reason = law.relative_compute(self.setup.cut.model.n_parameters, spliced.value - clean.value)
        over = self._over("predictions")
        return over.metric("relative_compute", value, "share of compute", "higher", description, reason)


def clean_batch(tokens: Tensor, counted: Tensor, loss_mask: Tensor, prefix: Any, logits: Tensor) -> CleanBatch:
    """The clean model's outputs for a batch, from its logits (``[rows, context, V]``), computed once for all autoencoders.

    The logits are overwritten with the probabilities.
    """
    rows, context, _ = logits.shape
    negentropy = torch.empty(rows, context, device=logits.device)
    cross_entropy = torch.empty(rows, context - 1, device=logits.device)
    top_token = torch.empty(rows, context, dtype=torch.int64, device=logits.device)
    probabilities = logits if logits.dtype == torch.float32 else torch.empty(logits.shape, device=logits.device)
    for row, part in chunks(logits):
        log_probabilities = logits[row, part].float().log_softmax(dim=-1)
        top_token[row, part] = top_k(log_probabilities, 1)[1].squeeze(1)  # several times as fast as argmax
        store_losses(cross_entropy, log_probabilities, tokens, row, part)
        share = log_probabilities.exp()
        negentropy[row, part] = torch.linalg.vecdot(share, log_probabilities)
        probabilities[row, part] = share
    return CleanBatch(tokens, counted, loss_mask, prefix, probabilities, negentropy, cross_entropy, top_token)


def chunks(logits: Tensor) -> Iterator[tuple[int, slice]]:
    """``(row, positions)`` of pieces of ``logits`` (``[rows, context, V]``) that stay in the processor's cache."""
    for row in range(logits.shape[0]):
        for start in range(0, logits.shape[1], LOGIT_CHUNK):
            yield row, slice(start, min(start + LOGIT_CHUNK, logits.shape[1]))


def store_losses(losses: Tensor, log_probabilities: Tensor, tokens: Tensor, row: int, part: slice) -> None:
    """Fill ``losses`` (``[rows, context - 1]``, nats) for the positions ``part`` of a row, whose targets come next."""
    targets = tokens[row, part.start + 1 : part.stop + 1].to(log_probabilities.device)
    picked = log_probabilities[: targets.numel()].gather(1, targets.unsqueeze(1)).squeeze(1)
    losses[row, part.start : part.start + targets.numel()] = -picked
