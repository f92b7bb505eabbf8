"""What the reconstruction costs the language model: losses with the reconstruction spliced in.

Source: Gao et al. 2024, section 4.1. Positions left out of the averages keep their clean activations in every run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.evaluators.base import CleanBatch, Setup, StreamingEvaluator, metric
from saebench.evaluators.compute_law import ComputeLaw, find_law
from saebench.evaluators.shared import LOGIT_CHUNK
from saebench.results import EvaluatorResult, Metric
from saebench.statistics import Estimate, RowSums, ratio_estimate

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
        """Raise ``SaebenchError`` where nothing could be counted, or the scaling law asked for is unreadable."""
        if not bool(setup.corpus.loss_mask.any()):
            raise SaebenchError(
                "No prediction in this corpus counts: every target is excluded. Use --no-exclude or more text."
            )
        find_law(setup.options.get("scaling_law"), setup.cut.model.name)

    def splice(self, batch: CleanBatch, logits: Tensor) -> None:
        """Compare the spliced logits (``[rows, context, V]``) with the clean ones, a few positions at a time."""
        assert batch.cross_entropy is not None
        log_normaliser, cross = torch.empty_like(batch.counted, dtype=torch.float32), torch.empty(0)
        log_normaliser = log_normaliser.to(logits.device)
        top_token = torch.empty_like(log_normaliser, dtype=torch.int64)
        divergence = torch.empty_like(log_normaliser)
        assert batch.probabilities is not None and batch.expected_logit is not None and batch.log_normaliser is not None
        for row in range(logits.shape[0]):
            for start in range(0, logits.shape[1], LOGIT_CHUNK):
                part = slice(start, start + LOGIT_CHUNK)
                chunk = logits[row, part].float()
                log_normaliser[row, part], top_token[row, part] = log_normaliser_and_top(chunk)
                cross = torch.linalg.vecdot(batch.probabilities[row, part], chunk)
                divergence[row, part] = batch.expected_logit[row, part] - cross
        divergence += log_normaliser - batch.log_normaliser
        spliced = target_losses(logits, log_normaliser, batch.tokens)
        counted, mask = batch.counted.to(logits.device), batch.loss_mask.to(logits.device)
        agree = top_token == batch.top_token
        self.sums.add(
            predictions=mask.sum(dim=1),
            ce_clean=(batch.cross_entropy.double() * mask).sum(dim=1),
            ce_spliced=(spliced.double() * mask).sum(dim=1),
            positions=counted.sum(dim=1),
            kl_divergence=(divergence.double() * counted).sum(dim=1),
            top1_agreement=(agree & counted).sum(dim=1),
        )

    def merge(self, other: StreamingEvaluator) -> None:
        """Take in another instance's sums."""
        assert isinstance(other, Downstream)
        self.sums.merge(other.sums)

    def compute(self) -> EvaluatorResult:
        """All metrics, with the sums by row that paired comparisons need."""
        law = find_law(self.setup.options.get("scaling_law"), self.setup.cut.model.name)
        return self.result(
            [*self._losses(), *self._differences(), *self._divergence(), self._relative_compute(law)],
            {
                "by_row": {
                    "rows_per_group": self.sums.rows_per_group,
                    **{name: [float(f"{value:.7g}") for value in self.sums.column(name).tolist()] for name in _SUMS},
                }
            },
            {} if law is None else {"scaling_law": law.source},
        )

    def _losses(self) -> list[Metric]:
        n = int(self.sums.total("predictions"))
        ablated = self.setup.shared.ablated
        losses = {
            "ce_clean": (self.sums.ratio("ce_clean", "predictions"), "of the unaltered model"),
            "ce_spliced": (self.sums.ratio("ce_spliced", "predictions"), "with the reconstruction spliced in"),
            "ce_zero_ablated": (ablated["zero"].ratio("cross_entropy", "predictions"), "with activations set to 0"),
            "ce_mean_ablated": (ablated["mean"].ratio("cross_entropy", "predictions"), "with activations set to their mean"),
        }
        return [
            metric(
                name,
                estimate,
                unit="nats",
                direction="lower" if name == "ce_spliced" else "none",
                n=n,
                description=f"Cross-entropy {words}",
            )
            for name, (estimate, words) in losses.items()
        ]

    def _differences(self) -> list[Metric]:
        n = int(self.sums.total("predictions"))
        clean, spliced, count = (self.sums.column(name) for name in ("ce_clean", "ce_spliced", "predictions"))
        metrics = [
            metric(
                "ce_difference",
                ratio_estimate(spliced - clean, count),
                unit="nats",
                direction="lower",
                n=n,
                description="Spliced minus clean cross-entropy",
            )
        ]
        for name, which in (("loss_recovered", "zero"), ("loss_recovered_mean", "mean")):
            floor = self.setup.shared.ablated[which].column("cross_entropy")
            if which == "zero" or float((floor - clean).sum()) > 0:
                recovered = ratio_estimate(floor - spliced, floor - clean)
            else:
                recovered = Estimate(None, None)
            metrics.append(
                metric(
                    name,
                    recovered,
                    unit="1",
                    direction="higher",
                    n=n,
                    reason="ablation does not raise the loss",
                    description=f"(CE {which}-ablated - CE spliced) / (CE {which}-ablated - CE clean)",
                )
            )
        return metrics

    def _divergence(self) -> list[Metric]:
        n = int(self.sums.total("positions"))
        return [
            metric(
                "kl_divergence",
                self.sums.ratio("kl_divergence", "positions"),
                unit="nats",
                direction="lower",
                n=n,
                description="KL(clean || spliced)",
            ),
            metric(
                "top1_agreement",
                self.sums.ratio("top1_agreement", "positions"),
                unit="1",
                direction="higher",
                n=n,
                description="Share of positions where both models' most likely token is the same",
            ),
        ]

    def _relative_compute(self, law: ComputeLaw | None) -> Metric:
        n = int(self.sums.total("predictions"))
        description = "Share of pretraining compute a model with the spliced model's loss would have needed"
        value: float | None = None
        reason: str | None = "no scaling law for this model: give one with --scaling-law"
        if law is not None:
            clean, spliced = self.sums.ratio("ce_clean", "predictions"), self.sums.ratio("ce_spliced", "predictions")
            assert clean.value is not None and spliced.value is not None
            value, reason = law.relative_compute(self.setup.cut.model.n_parameters, spliced.value - clean.value)
        return metric(
            "relative_compute",
            value,
            unit="share of compute",
            direction="higher",
            n=n,
            description=description,
            reason=reason,
        )


def clean_batch(tokens: Tensor, counted: Tensor, loss_mask: Tensor, prefix: Any, logits: Tensor) -> CleanBatch:
    """What the unaltered model says of a batch, from its logits (``[rows, context, V]``), computed once for all.

    The logits' memory is not kept: probabilities take its place.
    """
    shape = logits.shape[:2]
    log_normaliser, expected = torch.empty(2, *shape, device=logits.device).unbind()
    top_token = torch.empty(shape, dtype=torch.int64, device=logits.device)
    probabilities = logits if logits.dtype == torch.float32 else torch.empty(logits.shape, device=logits.device)
    targets = tokens[:, 1:].to(logits.device)
    target_logits = logits[:, :-1].gather(2, targets.unsqueeze(-1)).squeeze(-1).float()
    for row in range(shape[0]):
        for start in range(0, shape[1], LOGIT_CHUNK):
            part = slice(start, start + LOGIT_CHUNK)
            chunk = logits[row, part].float()
            log_normaliser[row, part], top_token[row, part] = log_normaliser_and_top(chunk)
            share = (chunk - log_normaliser[row, part].unsqueeze(-1)).exp_()
            expected[row, part] = torch.linalg.vecdot(share, chunk)
            probabilities[row, part] = share
    return CleanBatch(
        tokens,
        counted,
        loss_mask,
        prefix,
        probabilities,
        expected,
        log_normaliser,
        log_normaliser[:, :-1] - target_logits,
        top_token,
    )


def log_normaliser_and_top(logits: Tensor) -> tuple[Tensor, Tensor]:
    """``(logsumexp, argmax)`` over the vocabulary of float32 ``logits`` (``[positions, V]``)."""
    largest, top = logits.max(dim=-1)
    return (logits - largest.unsqueeze(-1)).exp_().sum(dim=-1).log() + largest, top


def target_losses(logits: Tensor, log_normaliser: Tensor, tokens: Tensor) -> Tensor:
    """``[rows, context - 1]`` cross-entropy in nats of predicting each next token."""
    targets = tokens[:, 1:].to(logits.device).unsqueeze(-1)
    return log_normaliser[:, :-1] - logits[:, :-1].gather(2, targets).squeeze(-1).float()
