"""An autoencoder of another library, as far as evaluators see one."""

from __future__ import annotations

from torch import Tensor

from saebench.sae import SparseAutoencoder


class PlainSae:
    """The same codes and reconstructions as ``sae`` (without biases or scaling), through ``encode`` and ``decode`` alone."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae = sae

    def encode(self, x: Tensor) -> Tensor:
        return self.sae.encode(x).to_dense()

    def decode(self, z: Tensor) -> Tensor:
        return z @ self.sae.W_dec
