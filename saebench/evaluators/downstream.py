"""The loss of the language model with the reconstruction spliced in.

Source: Gao et al. 2024, section 4.1. Positions excluded from the averages keep their clean activations in every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.evaluators.base import CleanBatch, Measured, Setup, StreamingEvaluator
from saebench.evaluators.compute_law import ComputeLaw, find_law
from saebench.evaluators.shared import LOGIT_CHUNK
from saebench.lm import RunLosses
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import Counted
from saebench.results.statistics import Estimate, RowSums, digits, ratio_estimate, read_columns
from saebench.sae.topk import top_k

_SUMS = ("predictions", "ce_clean", "ce_spliced", "positions", "kl_divergence", "top1_agreement")
_ABLATED = {"ce_zero_ablated": "zero", "ce_mean_ablated": "mean"}


class Downstream(StreamingEvaluator):
    """Cross-entropy, KL divergence and agreement of the spliced model with the clean one."""

    name = "downstream"
    version = 1
    description = "Loss of the language model with reconstructions spliced in, against clean and ablated runs"
    needs_losses = True
    row_columns = _SUMS
    summed = ("sums",)

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
        assert batch.top_token is not None and batch.cross_entropy is not None
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
        self.compare(batch, RunLosses(spliced, divergence, agree))

    def compare(self, batch: CleanBatch, losses: RunLosses) -> None:
        """Add a batch's losses to the sums."""
        assert batch.cross_entropy is not None
        device = batch.cross_entropy.device
        counted, mask = batch.counted.to(device), batch.loss_mask.to(device)
        self.sums.add(
            predictions=mask.sum(dim=1),
            ce_clean=(batch.cross_entropy.double() * mask).sum(dim=1),
            ce_spliced=(losses.cross_entropy.double() * mask).sum(dim=1),
            positions=counted.sum(dim=1),
            kl_divergence=(losses.divergence.double() * counted).sum(dim=1),
            top1_agreement=(losses.agrees & counted).sum(dim=1),
        )

    def row_sums(self) -> Mapping[str, Tensor]:
        """The sums by row so far; those of ablated runs are known at the end of the pass."""
        return {name: self.sums.column(name) for name in _SUMS}

    def merge(self, other: StreamingEvaluator) -> None:
        """Add another instance's sums."""
        assert isinstance(other, Downstream)
        self.sums.merge(other.sums)

    def compute(self) -> EvaluatorResult:
        """All metrics, with the sums by row that paired comparisons need."""
        law = find_law(self.setup.options.get("scaling_law"), self.setup.cut.model.name)
        columns = {name: self.sums.column(name) for name in _SUMS}
        columns |= {name: self.setup.shared.ablated[which].column("cross_entropy") for name, which in _ABLATED.items()}
        by_row = {"rows_per_group": self.sums.rows_per_group, **{name: digits(each) for name, each in columns.items()}}
        return self.result(
            metrics_of(columns, law, self.setup.cut.model.n_parameters),
            {"by_row": by_row},
            {} if law is None else {"scaling_law": law.source},
        )

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the sums by row."""
        names = (*_SUMS, *_ABLATED)
        columns = dict(zip(names, read_columns(found.details["by_row"], names).unbind(dim=1), strict=True))
        law = find_law(None, measured.model)
        if found.settings.get("scaling_law") != (None if law is None else law.source):
            raise ValueError("the scaling law is not the one that saebench has for this model")
        return metrics_of(columns, law, measured.n_parameters)


def metrics_of(columns: Mapping[str, Tensor], law: ComputeLaw | None, n_parameters: int) -> list[Metric]:
    """All metrics from sums by row (``[rows]`` each), the scaling law, and the size of the model."""
    return [*_losses(columns), *_differences(columns), *_divergence(columns), _relative_compute(columns, law, n_parameters)]


def _over(columns: Mapping[str, Tensor], counted: str) -> Counted:
    return Counted(int(columns[counted].sum()))


def _losses(columns: Mapping[str, Tensor]) -> list[Metric]:
    over = _over(columns, "predictions")
    words = {
        "ce_clean": "of the unaltered model",
        "ce_spliced": "with the reconstruction spliced in",
        "ce_zero_ablated": "with activations set to 0",
        "ce_mean_ablated": "with activations set to their mean",
    }
    return [
        over.metric(
            name,
            ratio_estimate(columns[name], columns["predictions"]),
            "nats",
            "lower" if name == "ce_spliced" else "none",
            f"Cross-entropy {text}",
        )
        for name, text in words.items()
    ]


def _differences(columns: Mapping[str, Tensor]) -> list[Metric]:
    over, clean, spliced = _over(columns, "predictions"), columns["ce_clean"], columns["ce_spliced"]
    difference = ratio_estimate(spliced - clean, columns["predictions"])
    metrics = [over.metric("ce_difference", difference, "nats", "lower", "Spliced minus clean cross-entropy")]
    for name, which in (("loss_recovered", "zero"), ("loss_recovered_mean", "mean")):
        floor = columns[f"ce_{which}_ablated"]
        if which == "zero" or float((floor - clean).sum()) > 0:
            recovered = ratio_estimate(floor - spliced, floor - clean)
        else:
            recovered = Estimate(None, None)
        formula = f"(CE {which}-ablated - CE spliced) / (CE {which}-ablated - CE clean)"
        metrics.append(over.metric(name, recovered, "1", "higher", formula, "ablation does not raise the loss"))
    return metrics


def _divergence(columns: Mapping[str, Tensor]) -> list[Metric]:
    over = _over(columns, "positions")
    divergence, agreement = (
        ratio_estimate(columns[name], columns["positions"]) for name in ("kl_divergence", "top1_agreement")
    )
    same = "Share of positions where both models' most likely token is the same"
    return [
        over.metric("kl_divergence", divergence, "nats", "lower", "KL(clean || spliced)"),
        over.metric("top1_agreement", agreement, "1", "higher", same),
    ]


def _relative_compute(columns: Mapping[str, Tensor], law: ComputeLaw | None, n_parameters: int) -> Metric:
    description = "Share of pretraining compute a model with the spliced model's loss would have needed"
    value: float | None = None
    reason: str | None = "no scaling law for this model: give one with --scaling-law"
    over = _over(columns, "predictions")
    if law is not None:
        increase = float((columns["ce_spliced"] - columns["ce_clean"]).sum() / columns["predictions"].sum())
        value, reason = law.relative_compute(n_parameters, increase)
    return over.metric("relative_compute", value, "share of compute", "higher", description, reason)


def clean_batch(batch: CleanBatch, logits: Tensor) -> CleanBatch:
    """``batch`` with the clean model's outputs, from its logits (``[rows, context, V]``): once for all autoencoders.

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
        store_losses(cross_entropy, log_probabilities, batch.tokens, row, part)
        share = log_probabilities.exp()
        negentropy[row, part] = torch.linalg.vecdot(share, log_probabilities)
        probabilities[row, part] = share
    return replace(
        batch, probabilities=probabilities, negentropy=negentropy, cross_entropy=cross_entropy, top_token=top_token
    )


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
