"""Metrics in terms of sums by row of text: which columns of an evaluator's sums they are ratios of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Ratio(NamedTuple):
    """How a metric is computed from sums by row: a ratio of columns (``a - b`` is a difference of two).

    ``kind``: ``exact`` where the metric is the ratio, ``complement`` where it is 1 minus it, ``scaled`` where it is the
    ratio times a constant of the text and the model. ``table``: where the details hold the sums. ``minus``: where they hold
    those of a second ratio of the same columns, which is subtracted.
    """

    numerator: str
    denominator: str
    kind: str = "exact"
    table: str = "by_row"
    minus: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all its columns."""
        return (*self.numerator.split(" - "), *self.denominator.split(" - "))

    def of(self, sums: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """``(numerator, denominator)`` by row (``[groups]`` each) from columns of sums, which must be there."""
        return _difference(sums, self.numerator), _difference(sums, self.denominator)


RATIOS: dict[str, Ratio] = {
    "reconstruction.normalised_mse": Ratio("squared_error", "variance"),
    "reconstruction.explained_variance": Ratio("squared_error", "variance", "complement"),
    "reconstruction.normalised_mse_unit_norm": Ratio("unit_error", "tokens", "scaled"),
    "reconstruction.per_token_normalised_mse": Ratio("relative_error", "tokens"),
    "reconstruction.mse": Ratio("squared_error", "tokens", "scaled"),
    "reconstruction.cosine_similarity": Ratio("cosine", "tokens"),
    "reconstruction.l2_ratio": Ratio("norm_ratio", "tokens"),
    "reconstruction.relative_reconstruction_bias": Ratio("reconstruction_squares", "dot"),
    "reconstruction.l0": Ratio("l0", "tokens"),
    "reconstruction.l1": Ratio("l1", "tokens"),
    "downstream.ce_clean": Ratio("ce_clean", "predictions"),
    "downstream.ce_spliced": Ratio("ce_spliced", "predictions"),
    "downstream.ce_zero_ablated": Ratio("ce_zero_ablated", "predictions"),
    "downstream.ce_mean_ablated": Ratio("ce_mean_ablated", "predictions"),
    "downstream.ce_difference": Ratio("ce_spliced - ce_clean", "predictions"),
    "downstream.loss_recovered": Ratio("ce_zero_ablated - ce_spliced", "ce_zero_ablated - ce_clean"),
    "downstream.loss_recovered_mean": Ratio("ce_mean_ablated - ce_spliced", "ce_mean_ablated - ce_clean"),
    "downstream.kl_divergence": Ratio("kl_divergence", "positions"),
    "downstream.top1_agreement": Ratio("top1_agreement", "positions"),
    "shrinkage.value_ratio": Ratio("refined_values", "values"),
    "shrinkage.mean_value_ratio": Ratio("ratios", "active"),
    "shrinkage.zeroed": Ratio("zeroed", "active"),
    "shrinkage.normalised_mse_before": Ratio("error", "variance"),
    "shrinkage.normalised_mse_after": Ratio("refined_error", "variance"),
    **{
        f"shrinkage.{name}_{variant}": Ratio(numerator.format(variant), denominator, table="by_sampled_row")
        for variant in ("before", "after")
        for name, numerator, denominator in (
            ("ce_difference", "ce_spliced {} - ce_clean", "predictions"),
            ("kl_divergence", "kl_divergence {}", "positions"),
        )
    },
    "ablation.sparsity": Ratio("sparsity", "active", table="by_row.latents"),
    "ablation.sparsity_by_token": Ratio("token_means", "tokens", table="by_row.latents"),
    "ablation.sparsity_excess": Ratio("sparsity", "active", table="by_row.latents", minus="by_row.random_directions"),
}
"""Metrics in terms of sums by row of text that their evaluator's details hold."""


def _difference(sums: Mapping[str, Tensor], words: str) -> Tensor:
    """A column of sums, or the difference ``a - b`` of two."""
    first, _, second = words.partition(" - ")
    return sums[first] - sums[second] if second else sums[first]
