"""Results of `saebench meta` for single latents: the meta-latents of each, and the latents that share them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from saebench.errors import SaebenchError
from saebench.sae import CheckpointInfo
from saebench.studies.study import StudyResult

TABLE, NUMBERS = "decomposition.parquet", "meta.json"
COLUMNS = ("latent", "meta_latent", "value")
SHARERS = 8
"""Number of other latents shown for each meta-latent."""


@dataclass(frozen=True)
class Decomposition:
    """The parts of all latents, sorted by latent and then by value, the largest first.

    Attributes:
        latents, meta_latents: ``[parts]`` int64; ``values``: ``[parts]``.
        by_meta: ``[parts]``, the order by meta-latent and then by value, the largest first.
        weights_sha256: of the autoencoder that was decomposed.
    """

    latents: NDArray[np.int64]
    meta_latents: NDArray[np.int64]
    values: NDArray[np.float64]
    by_meta: NDArray[np.int64]
    weights_sha256: str | None

    @staticmethod
    def open(folder: str | Path, info: CheckpointInfo) -> Decomposition:
        """Read the files of ``saebench meta`` in ``folder``.

        Raises:
            SaebenchError: they do not exist, are damaged, or of another autoencoder than ``info`` describes.
        """
        import pyarrow
        import pyarrow.parquet

        folder = Path(folder)
        try:
            study = StudyResult.model_validate_json((folder / NUMBERS).read_text(encoding="utf-8"))
            table = pyarrow.parquet.read_table(folder / TABLE, columns=list(COLUMNS)).to_pandas(ignore_metadata=True)
        except (OSError, ValueError, ValidationError, pyarrow.ArrowException) as error:
            reason = f"{error}".splitlines()[0]
            raise SaebenchError(f"{folder} does not hold the files of `saebench meta`: {reason}") from error
        try:
            latents, meta = (table[name].to_numpy().astype(np.int64, casting="safe") for name in COLUMNS[:2])
            with np.errstate(invalid="ignore"):  # a signalling NaN warns; it is refused below like any other
                values = table["value"].to_numpy().astype(np.float64, casting="safe")
        except (KeyError, TypeError, ValueError) as error:
            raise SaebenchError(f"{folder / TABLE} is damaged: its columns are not numbers.") from error
        fits = latents.size == 0 or (latents.min() >= 0 and latents.max() < info.n_latents and meta.min() >= 0)
        if not study.saes or not fits or not np.isfinite(values).all():
            raise SaebenchError(f"{folder / TABLE} is of another autoencoder, or damaged: run `saebench meta` again.")
        order = np.lexsort((-values, latents))
        latents, meta, values = latents[order], meta[order], values[order]
        return Decomposition(latents, meta, values, np.lexsort((-values, meta)), study.saes[0].weights_sha256)

    def of(self, latent: int) -> list[dict[str, Any]]:
        """For each meta-latent of ``latent``: its ``value``, the number of ``latents`` that have it, and some ``others``."""
        parts = range(*np.searchsorted(self.latents, [latent, latent + 1]))
        return [
            {"meta_latent": int(self.meta_latents[part]), "value": round(float(self.values[part]), 4)}
            | self._sharing(int(self.meta_latents[part]), latent)
            for part in parts
        ]

    def _sharing(self, meta_latent: int, latent: int) -> dict[str, Any]:
        start, stop = np.searchsorted(self.meta_latents, [meta_latent, meta_latent + 1], sorter=self.by_meta)
        who = self.latents[self.by_meta[start:stop]]
        return {"latents": int(stop - start), "others": who[who != latent][:SHARERS].tolist()}
