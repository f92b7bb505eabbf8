"""SAEBench's core evaluation: its names and definitions, next to corrected ones where its own are known to be wrong.

Source: SAEBench 0.6 (Karvonen et al. 2025, arXiv 2503.09532), ``sae_bench/evals/core``. Three of its numbers are not what
their names say; the corrected value has the plain name, SAEBench's the suffix ``_saebench``:

- ``explained_variance``: its total variance is ``E|x|^2 - (E|x|^2 / d)^2``, not the squared distance from the mean;
- ``mse``: the squared error of a token is divided by the number of tokens, and then averaged over tokens once more;
- ``kl_div_*``: NaN where a probability underflows; the same number elsewhere.

Positions that the corpus excludes are left out and keep their clean activations (``--no-exclude`` counts all, as SAEBench).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from saebench.evaluators.base import CleanBatch, Measured, Setup, StreamingEvaluator, TokenBlock
from saebench.evaluators.downstream import Downstream, chunks
from saebench.evaluators.geometry import max_similarity, sampled_latents
from saebench.evaluators.shared import rows_ablated_alike
from saebench.lm import Prefix, RunLosses
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import Counted
from saebench.results.statistics import (
    Estimate,
    RowSums,
    digits,
    mean_by_groups,
    mean_from_groups,
    ratio_estimate,
    read_columns,
)
from saebench.sae import SparseAutoencoder

COLUMNS = ("tokens", "squared_error", "squares", "norm_in", "norm_out", "ratio", "out_squares", "dot", "cosine", "l0", "l1")
LOSSES = ("predictions", "ce_clean", "ce_spliced", "positions", "kl_divergence")
FREQUENCIES = {"over_1_percent": 0.01, "over_10_percent": 0.1}
ZERO_KL = "KL divergence of the zero-ablated model"


class Core(StreamingEvaluator):
    """Reconstruction, sparsity and preservation of the model under SAEBench's names."""

    name = "core"
    description = "SAEBench's core metrics under its own names, with corrected values where its definitions are wrong"
    needs_losses = True
    samples = ("by_row", "frequency", "similarity", "variance")
    summed = ("downstream", "sums", "zero", "active_counts")

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.downstream = Downstream(setup)
        self.sums = RowSums(COLUMNS)
        self.zero = RowSums(("kl_ablated",))
        self.active_counts = torch.zeros(setup.sae.n_latents, dtype=torch.int64)

    @classmethod
    def check(cls, setup: Setup) -> None:
        """Raise ``SaebenchError`` where nothing could be counted or there is an option: it has none."""
        super().check(setup)
        Downstream.check(setup)

    def start_batch(self, batch: CleanBatch) -> None:
        """Start a batch."""
        self.sums.start_batch(batch.tokens.shape[0])

    def observe(self, block: TokenBlock) -> None:
        """Add a block of tokens to the sums."""
        tiny = torch.finfo(torch.float32).tiny
        norm_in, norm_out = block.targets.norm(dim=1), block.reconstruction.norm(dim=1)
        dot = (block.targets * block.reconstruction).sum(dim=1)
        self.sums.scatter(
            block.rows,
            tokens=torch.ones_like(dot),
            squared_error=(block.reconstruction - block.targets).square().sum(dim=1),
            squares=norm_in.square(),
            norm_in=norm_in,
            norm_out=norm_out,
            ratio=norm_out / torch.where(norm_in < 1e-4, torch.ones_like(norm_in), norm_in),
            out_squares=norm_out.square(),
            dot=dot,
            cosine=dot / (norm_in * norm_out).clamp_min(tiny),
            l0=block.latents.l0(),
            l1=block.latents.l1(),
        )
        active = block.latents.indices[block.latents.active]
        self.active_counts += torch.bincount(active, minlength=self.active_counts.numel()).cpu()

    def splice(self, batch: CleanBatch, logits: Tensor) -> None:
        """Compare the spliced logits with the clean ones; the zero-ablated ones are compared once for all autoencoders."""
        self.downstream.splice(batch, logits)
        if ZERO_KL not in batch.shared:
            batch.shared[ZERO_KL] = self._zero_divergence(batch)
        self.zero.add(kl_ablated=batch.shared[ZERO_KL])

    def further_ends(self, batch: CleanBatch) -> Mapping[str, Tensor]:
        """The zero-ablated model, once for all autoencoders."""
        cut = self.setup.cut
        if ZERO_KL not in batch.shared:
            groups = [(rows, end.expand(len(rows), -1, -1)) for rows, end in self._zero_ablated(batch, cut.suffix_end)]
            order = torch.cat([rows for rows, _ in groups]).argsort()
            batch.shared[ZERO_KL] = torch.cat([ends for _, ends in groups])[order]
        return {ZERO_KL: batch.shared[ZERO_KL]}

    def compare(self, batch: CleanBatch, losses: RunLosses) -> None:
        """Add a batch's losses, of the spliced and of the zero-ablated model."""
        self.downstream.compare(batch, losses)
        divergence = batch.further[ZERO_KL].divergence
        self.zero.add(kl_ablated=(divergence.double() * batch.counted.to(divergence.device)).sum(dim=1))

    def end_batch(self) -> None:
        """Finish a batch."""
        self.sums.end_batch()

    def merge(self, other: StreamingEvaluator) -> None:
        """Add another instance's sums."""
        assert isinstance(other, Core)
        self.downstream.merge(other.downstream)
        self.sums.merge(other.sums)
        self.zero.merge(other.zero)
        self.active_counts += other.active_counts

    def compute(self) -> EvaluatorResult:
        """All metrics, with the sums by row."""
        ablated = self.setup.shared.ablated["zero"].column("cross_entropy")
        columns = {name: self.sums.column(name) for name in COLUMNS}
        columns |= {name: self.downstream.sums.column(name) for name in LOSSES}
        columns |= {"ce_ablated": ablated, "kl_ablated": self.zero.column("kl_ablated")}
        columns["variance"] = self.setup.shared.moments.variance_by_row()
        sae = self.setup.sae
        similarity: dict[str, Any] = {"encoder": None, "decoder": None}
        if isinstance(sae, SparseAutoencoder) and sae.n_latents > 1:
            some = sampled_latents(sae.n_latents, self.setup.seed)
            for side, weights in (("encoder", sae.W_enc.T), ("decoder", sae.W_dec)):
                similarity[side] = mean_by_groups(max_similarity(weights, some))
        details = {
            "by_row": {"rows_per_group": self.sums.rows_per_group, **{name: digits(each) for name, each in columns.items()}},
            "frequency": _frequency(self.active_counts, int(self.sums.total("tokens"))),
            "similarity": similarity,
        }
        return self.result(_metrics(columns, details, sae.n_latents, sae.d_out), details)

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the sums by row and the details on latents."""
        names = (*COLUMNS, *LOSSES, "ce_ablated", "kl_ablated", "variance")
        columns = dict(zip(names, read_columns(found.details["by_row"], names).unbind(dim=1), strict=True))
        return _metrics(columns, found.details, measured.n_latents, measured.d_out)

    def _zero_divergence(self, batch: CleanBatch) -> Tensor:
        """``[rows]`` float64: KL(clean || zero-ablated), summed over each row's counted positions."""
        assert batch.probabilities is not None and batch.negentropy is not None
        found = torch.zeros(batch.tokens.shape[0], dtype=torch.float64)
        for rows, logits in self._zero_ablated(batch, self.setup.cut.suffix):
            for _, part in chunks(logits):
                ablated = logits[0, part].float().log_softmax(dim=-1)
                for row in rows.tolist():
                    expected = torch.linalg.vecdot(batch.probabilities[row, part], ablated)
                    divergence = (batch.negentropy[row, part] - expected).double().cpu()
                    found[row] += (divergence * batch.counted[row, part]).sum()
        return found

    def _zero_ablated(self, batch: CleanBatch, run: Callable[[Tensor, Prefix], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """What ``run``, the layers above, gives with activations set to 0: ``[1, context, ...]`` for rows that share it."""
        cut = self.setup.cut
        for rows in rows_ablated_alike(cut, batch.tokens, ~batch.counted):
            prefix = cut.prefix(batch.tokens[rows[:1]])
            keep = ~batch.counted[rows[:1]].to(prefix.outputs.device).unsqueeze(-1)
            yield rows, run(torch.where(keep, prefix.outputs, torch.zeros_like(prefix.outputs)), prefix)


def _frequency(active_counts: Tensor, tokens: int) -> dict[str, Any]:
    """Latents that are active more often than on 1 % and 10 % of tokens, their share of all activations, live latents."""
    share, total = active_counts.double() / max(tokens, 1), int(active_counts.sum())
    found: dict[str, Any] = {"alive": int((active_counts > 0).sum()), "activations": total}
    for name, least in FREQUENCIES.items():
        found[name] = {"latents": int((share > least).sum()), "activations": int(active_counts[share > least].sum())}
    return found


def _metrics(columns: Mapping[str, Tensor], details: Mapping[str, Any], n_latents: int, width: int) -> list[Metric]:
    return [*_preservation(columns), *_reconstruction(columns, width), *_sparsity(columns), *_latents(details, n_latents)]


def _preservation(columns: Mapping[str, Tensor]) -> list[Metric]:
    of_kl = Counted(int(columns["positions"].sum())).metric
    of_ce = Counted(int(columns["predictions"].sum())).metric
    kl, kl_ablated, positions = columns["kl_divergence"], columns["kl_ablated"], columns["positions"]
    clean, spliced, ablated = columns["ce_clean"], columns["ce_spliced"], columns["ce_ablated"]
    predictions, no_gap = columns["predictions"], "ablation does not change the model"
    return [
        of_kl("kl_div_score", ratio_estimate(kl_ablated - kl, kl_ablated), "1", "higher", "1 - KL over ablation's", no_gap),
        of_kl("kl_div_with_ablation", ratio_estimate(kl_ablated, positions), "nats", "none", "KL(clean || zero-ablated)"),
        of_kl("kl_div_with_sae", ratio_estimate(kl, positions), "nats", "lower", "KL(clean || spliced)"),
        of_ce("ce_loss_score", ratio_estimate(ablated - spliced, ablated - clean), "1", "higher",
              "Share of the loss of zero-ablation that is recovered", no_gap),
        of_ce("ce_loss_with_ablation", ratio_estimate(ablated, predictions), "nats", "none", "Cross-entropy, zero-ablated"),
        of_ce("ce_loss_with_sae", ratio_estimate(spliced, predictions), "nats", "lower", "Cross-entropy, spliced"),
        of_ce("ce_loss_without_sae", ratio_estimate(clean, predictions), "nats", "none", "Cross-entropy of the model"),
    ]  # fmt: skip


def _reconstruction(columns: Mapping[str, Tensor], width: int) -> list[Metric]:
    tokens, error = columns["tokens"], columns["squared_error"]
    n = int(tokens.sum())
    make, constant, norm = Counted(n).metric, "the activations are constant", "Norm of the"
    normalised = ratio_estimate(error, columns["variance"])
    corrected = Estimate(None if normalised.value is None else 1 - normalised.value, normalised.standard_error)
    per_token = ratio_estimate(error, tokens)
    squares = float(columns["squares"].sum()) / max(n, 1)
    total = squares - (squares / width) ** 2
    theirs = None if per_token.value is None or total == 0 else 1 - per_token.value / total
    twice = None if per_token.value is None else per_token.value / n
    ratio = ratio_estimate(columns["out_squares"], columns["dot"])
    return [
        make("explained_variance", corrected, "1", "higher", "1 - squared error over that of the mean", constant),
        make("explained_variance_saebench", theirs, "1", "none", "With E|x|^2 - (E|x|^2 / d)^2 as variance", constant),
        make("mse", per_token, "activation²", "lower", "Squared error per token, summed over channels"),
        make("mse_saebench", twice, "activation²", "none", "mse, divided by the number of tokens"),
        make("cossim", ratio_estimate(columns["cosine"], tokens), "cosine", "higher", "Cosine of target and reconstruction"),
        make("l2_norm_in", ratio_estimate(columns["norm_in"], tokens), "activation", "none", f"{norm} activations"),
        make("l2_norm_out", ratio_estimate(columns["norm_out"], tokens), "activation", "none", f"{norm} reconstructions"),
        make("l2_ratio", ratio_estimate(columns["ratio"], tokens), "1", "none", "Mean over tokens of the ratio of norms"),
        make("relative_reconstruction_bias", ratio, "1", "none", "E|x̂|² / E[x̂·x]", "it is orthogonal to the target"),
    ]  # fmt: skip


def _sparsity(columns: Mapping[str, Tensor]) -> list[Metric]:
    make = Counted(int(columns["tokens"].sum())).metric
    return [
        make("l0", ratio_estimate(columns["l0"], columns["tokens"]), "latents", "none", "Active latents per token"),
        make("l1", ratio_estimate(columns["l1"], columns["tokens"]), "activation", "none", "Sum of activations per token"),
    ]


def _latents(details: Mapping[str, Any], n_latents: int) -> list[Metric]:
    frequency, make = details["frequency"], Counted(n_latents, "latents").metric
    counts = [frequency["alive"], *(frequency[name]["latents"] for name in FREQUENCIES)]
    sums = [frequency["activations"], *(frequency[name]["activations"] for name in FREQUENCIES)]
    if not all(type(each) is int and 0 <= each <= n_latents for each in counts):
        raise ValueError(f"counts of latents are whole numbers from 0 to {n_latents}")
    if not all(type(each) is int and 0 <= each <= sums[0] for each in sums):
        raise ValueError("activations of frequent latents are some of all activations")
    found = []
    for index, name in enumerate(FREQUENCIES, start=1):
        words = name.replace("_", " ").replace("percent", "% of tokens")
        found.append(
            make(f"freq_{name}", counts[index] / n_latents, "share of latents", "none", f"Latents active on {words}")
        )
        share = sums[index] / sums[0] if sums[0] else 0.0
        found.append(
            make(f"normalized_freq_{name}", share, "share of activations", "none", f"Activations of latents {words}")
        )
    found.append(make("frac_alive", counts[0] / n_latents, "share of latents", "higher", "Latents active at least once"))
    for side in ("encoder", "decoder"):
        given = details["similarity"][side]
        estimate, n = mean_from_groups(given) if given is not None else (Estimate(None, None), 0)
        words = f"Mean of the largest {side} cosine with another latent"
        of = Counted(n, "latents").metric
        found.append(of(f"average_max_{side}_cosine_sim", estimate, "cosine", "none", words, "the object shows no weights"))
    return found
