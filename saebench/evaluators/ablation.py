"""How sparse the effects of single latents on the model's output are.

Source: Gao et al. 2024, section 4.5. At sampled tokens each active latent is ablated alone while the rest of the
reconstruction stays spliced; ``saebench.evaluators.splicing.effects`` defines the measure. The two baselines are zeroing
single channels of the clean activations, and removing random directions of the same norm as the latents' contributions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from scipy.stats import t as student
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.evaluators.base import Evaluator, Measured, Setup
from saebench.evaluators.splicing.effects import Effect
from saebench.evaluators.splicing.interventions import (
    Interventions,
    SplicedRow,
    random_removals,
    sample_tokens,
    token_generators,
    zeroed_channels,
)
from saebench.progress import Advance
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import metric
from saebench.results.statistics import (
    Estimate,
    RowSums,
    digits,
    influence_error,
    mean_estimate,
    ratio_influence,
    read_columns,
)

KINDS = ("latents", "channels", "random_directions")
COLUMNS = ("sparsity", "active", "tried", "token_means", "tokens")
"""Sums by row: of sparsities, weighted by the active latents that each stands for, and of these weights; the number of
interventions; and of their means by token and the number of tokens."""
QUANTILES = (5, 25, 50, 75, 95)


class Ablation(Evaluator):
    """Sparsity of downstream effects of single latents, channels and random directions."""

    name = "ablation"
    version = 2
    description = "Sparsity of the effects of single latents on the logits, against channels and random directions"
    defaults: ClassVar[dict[str, int]] = {
        "tokens": 64,
        "tokens_per_row": 4,
        "horizon": 16,
        "latents_per_token": 4,
        "baselines_per_token": 2,
        "batch": 48,
    }
    """Sampled tokens, and the most in one row; positions compared (T); the most latents ablated at a token, sampled from its
    active ones; channels and random directions tried at each; interventions in a batch."""

    samples = ("by_row", "by_latent")

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.interventions = Interventions(setup.cut, self.options["horizon"], self.options["batch"])
        self.found: dict[str, list[Effect]] = {kind: [] for kind in KINDS}
        self.latents: list[Tensor] = []
        self.tokens: list[tuple[int, int]] = []
        self.active: list[int] = []

    @classmethod
    def check(cls, setup: Setup) -> None:
        """Raise ``SaebenchError`` where options are invalid, no token has T positions, or the model's dtype is too
        coarse."""
        super().check(setup)
        horizon = cls.read_options(setup)["horizon"]
        if setup.cut.model.dtype not in (torch.float32, torch.float64):
            raise SaebenchError(
                f"Differences of logits are smaller than the rounding of {setup.cut.model.dtype}: "
                "run the evaluator ablation with --dtype float32."
            )
        if not sample_tokens(setup.corpus, 1, 1, horizon, setup.seed):
            raise SaebenchError(
                f"No counted token has {horizon} positions from itself on in rows of {setup.corpus.context}: "
                "use a longer --context for the evaluator ablation."
            )

    @torch.no_grad()
    def compute(self) -> EvaluatorResult:
        """Run all interventions and summarise their effects."""
        corpus, options = self.setup.corpus, self.options
        tokens = sample_tokens(corpus, options["tokens"], options["tokens_per_row"], options["horizon"], self.setup.seed)
        if self.setup.rows is not None:
            wanted = set(self.setup.rows.tolist())
            tokens = {row: positions for row, positions in tokens.items() if row in wanted}
        current, row = -1, None
        with self.setup.progress.task("Ablating", total=sum(map(len, tokens.values())), unit="tokens") as advance:
            for number, position, generator in token_generators(self.setup.seed, tokens, corpus.context):
                if number != current or row is None:
                    current, row = number, _Row(self.setup, self.interventions, number, max(tokens[number]))
                self._token(row, position, generator, advance)
                self.tokens.append((number, position))
        details = self._details()
        return self.result(_metrics(details), details, {**options, "key_value_cache": self.interventions.cached})

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the sums by row and the means by latent."""
        return _metrics(found.details)

    def _token(self, row: _Row, position: int, generator: torch.Generator, advance: Advance) -> None:
        options, sae = self.options, self.setup.sae
        numbers, without = row.spliced.without_each(sae, position, options["latents_per_token"], generator)
        full = row.spliced.outputs[0, position]
        some = without[torch.randperm(without.shape[0], generator=generator)[: options["baselines_per_token"]]]
        altered = torch.cat([without, random_removals(full, some, generator).to(without)])
        channels = zeroed_channels(row.spliced.prefix.outputs[0, position], options["baselines_per_token"], generator)
        interventions = altered.shape[0] + channels.shape[0]

        def done(count: int) -> None:
            advance(count / interventions)

        both = self.interventions.effects(row.with_reconstructions, position, altered, done)
        self.found["latents"].append(Effect(*(each[: without.shape[0]] for each in both)))
        self.found["random_directions"].append(Effect(*(each[without.shape[0] :] for each in both)))
        self.found["channels"].append(self.interventions.effects(row.clean, position, channels, done))
        self.latents.append(numbers.cpu())
        self.active.append(row.spliced.active_at(position))

    def _sums(self, kind: str) -> RowSums:
        """By row: sums over interventions, and over tokens of the token's mean.

        Each sampled latent stands for as many as are active for one sampled, and so does a random direction in place of a
        latent: the mean is that over all active latents of the tokens, however many were sampled.
        """
        sums = RowSums(COLUMNS)
        by_row: dict[int, Tensor] = {}
        for (number, _), active, found in zip(self.tokens, self.active, self.found[kind], strict=True):
            some = found.sparsity[found.sparsity.isfinite()]
            if some.numel():
                weight = 1.0 if kind == "channels" else active / found.sparsity.numel()
                total = float(some.sum())
                own = [weight * total, weight * some.numel(), some.numel(), total / some.numel(), 1.0]
            else:
                own = [0.0] * len(COLUMNS)
            by_row[number] = by_row.get(number, 0) + torch.tensor(own, dtype=torch.float64)
        sums.add_rows(torch.stack(list(by_row.values())))
        return sums

    def _by_latent(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(latents, ablations, mean sparsity, mean size)``, ``[distinct latents]`` each."""
        latents = torch.cat(self.latents)
        found = Effect(*(torch.cat(each) for each in zip(*self.found["latents"], strict=True)))
        finite = found.sparsity.isfinite()
        distinct, place, counts = latents[finite].unique(return_inverse=True, return_counts=True)
        sums = torch.zeros(2, distinct.numel(), dtype=torch.float64)
        sums[0].index_add_(0, place, found.sparsity[finite])
        sums[1].index_add_(0, place, found.size[finite])
        return distinct, counts, sums[0] / counts, sums[1] / counts

    def _details(self) -> dict[str, Any]:
        latents, counts, means, sizes = self._by_latent()
        table = {"latent": latents.tolist(), "ablations": counts.tolist(), "sparsity": digits(means), "l2": digits(sizes)}
        tokens: dict[str, list[Any]] = {"row": [], "position": [], "ablations": [], "sparsity": []}
        for (row, position), found in zip(self.tokens, self.found["latents"], strict=True):
            some = found.sparsity[found.sparsity.isfinite()]
            values = (row, position, some.numel(), digits(some.mean().reshape(1))[0] if some.numel() else None)
            for name, value in zip(tokens, values, strict=True):
                tokens[name].append(value)
        rows = {
            kind: {"row": list(dict.fromkeys(row for row, _ in self.tokens)), **self._sums(kind).record()} for kind in KINDS
        }
        return {
            "by_row": rows,
            "by_latent": table,
            "by_token": tokens,
            "distribution": {kind: self._distribution(kind) for kind in KINDS},
        }

    def _distribution(self, kind: str) -> dict[str, Any]:
        found = Effect(*(torch.cat(each) for each in zip(*self.found[kind], strict=True)))
        finite = found.sparsity.isfinite()
        shares = torch.tensor([share / 100 for share in QUANTILES], dtype=torch.float64)
        values = digits(found.sparsity[finite].quantile(shares)) if bool(finite.any()) else [None] * len(QUANTILES)
        return {
            "quantiles": dict(zip([f"p{share}" for share in QUANTILES], values, strict=True)),
            "mean_l2": digits(found.size[finite].mean().reshape(1))[0] if bool(finite.any()) else None,
            "without_effect": int((~finite).sum()),
        }


def _metrics(details: Mapping[str, Any]) -> list[Metric]:
    """All metrics, from ``by_row`` and ``by_latent`` of the details.

    Raises:
        ValueError: these are not as ``Ablation`` writes them.
    """
    words = {
        "latents": ("sparsity", "lower", "Effective share of (word, position) pairs that leaving out a latent affects"),
        "channels": ("channel_sparsity", "none", "The same for single channels of the clean activations set to 0"),
        "random_directions": ("random_direction_sparsity", "none", "The same for random directions of the same norm"),
    }
    metrics = []
    for kind, (name, direction, description) in words.items():
        sums = RowSums.read(details["by_row"][kind], COLUMNS)
        metrics.append(_share(name, sums, "active", "sparsity", direction, "tried", "ablations", description))
        if kind == "latents":
            each = "Mean over tokens of the mean over their latents"
            metrics.append(_share("sparsity_by_token", sums, "tokens", "token_means", direction, "tokens", "tokens", each))
    metrics.append(_excess(details["by_row"]))
    means = read_columns(details["by_latent"], ["sparsity"]).flatten()
    metrics.append(
        metric(
            "sparsity_by_latent",
            mean_estimate(means),
            unit="share of V x T",
            direction="lower",
            n=means.numel(),
            n_unit="latents",
            description="Mean over latents of the mean over their ablations",
            reason=_NOTHING,
        )
    )
    return metrics


def _excess(by_row: Mapping[str, Any]) -> Metric:
    """Sparsity of latents minus that of random directions of the same norm at the same tokens, paired by row."""
    latents, directions = (RowSums.read(by_row[kind], COLUMNS) for kind in ("latents", "random_directions"))
    own, other = latents.ratio("sparsity", "active"), directions.ratio("sparsity", "active")
    estimate = Estimate(None, None)
    if own.value is not None and other.value is not None and len(latents.groups()) == len(directions.groups()):
        difference = _influence(latents) - _influence(directions)
        estimate = Estimate(own.value - other.value, influence_error(difference))
    return metric(
        "sparsity_excess",
        estimate,
        unit="share of V x T",
        direction="lower",
        n=int(latents.total("tried")),
        n_unit="ablations",
        description="Sparsity minus that of random directions of the same norm at the same tokens",
        reason=_NOTHING,
    )


def _influence(sums: RowSums) -> Tensor:
    return ratio_influence(sums.column("sparsity"), sums.column("active"))


_NOTHING = "no latent was active at the sampled tokens, or none had an effect"


class _Row:
    """A row's two passes through the layers above: with reconstructions in place, and clean."""

    def __init__(self, setup: Setup, interventions: Interventions, number: int, last: int) -> None:
        stop = last + interventions.horizon  # later positions have no influence
        tokens, excluded = setup.corpus.tokens[number, :stop], setup.corpus.excluded[number, :stop]
        self.spliced = SplicedRow.make(setup.sae, setup.cut, tokens, excluded)
        self.with_reconstructions = interventions.start(self.spliced.outputs, self.spliced.prefix)
        self.clean = interventions.start(self.spliced.prefix.outputs, self.spliced.prefix)


def _share(
    name: str, sums: RowSums, over: str, of: str, direction: Any, counted: str, unit: str, description: str
) -> Metric:
    """A mean with its standard error over rows and the 95 % interval of Student's t; ``counted`` is the column of n."""
    estimate: Estimate = sums.ratio(of, over)
    made = metric(
        name,
        estimate,
        unit="share of V x T",
        direction=direction,
        n=int(sums.total(counted)),
        n_unit=unit,
        description=description,
        reason=_NOTHING,
    )
    if made.value is None or estimate.standard_error is None:
        return made
    reach = float(student.ppf(0.975, sums.groups().shape[0] - 1)) * estimate.standard_error
    return made.model_copy(update={"interval": (max(0.0, made.value - reach), min(1.0, made.value + reach))})
