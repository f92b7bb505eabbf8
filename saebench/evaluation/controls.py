"""Controls: the scores of an untrained autoencoder, of a PCA, and on a re-initialised language model.

A metric on which a control scores as well says little about an autoencoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.lm import Cut, LanguageModel
from saebench.sae import Autoencoder, CheckpointInfo, SparseAutoencoder, TopK, hook_width
from saebench.text.corpus import TokenCorpus
from saebench.training.recipe import initial_decoder, initial_encoder

CONTROLS = {
    "random": "an autoencoder of the same width and L0 with random directions, as initialised for training",
    "pca": "the first principal components of the activations, as many as the autoencoder has active latents",
    "reinitialised": "the autoencoder itself, on a language model with re-initialised weight matrices",
}
SAMPLE_TOKENS = 16_384
ROWS_PER_FORWARD = 8


def check_controls(names: Sequence[str]) -> None:
    """Raise ``SaebenchError`` where a control does not exist."""
    unknown = [name for name in names if name not in CONTROLS]
    if unknown:
        raise SaebenchError(f"There is no control {unknown[0]!r}; there are: {', '.join(CONTROLS)}.")


@dataclass(frozen=True)
class Sample:
    """Activations that controls are made from: ``inputs`` ``[tokens, d_in]`` and ``targets`` ``[tokens, d_out]``.

    They are the first counted tokens of the evaluated text, which gives PCA a small advantage.
    """

    inputs: Tensor
    targets: Tensor

    @staticmethod
    def of(cut: Cut, corpus: TokenCorpus) -> Sample:
        """The first ``SAMPLE_TOKENS`` of a text."""
        inputs: list[Tensor] = []
        targets: list[Tensor] = []
        for tokens, excluded in zip(
            corpus.tokens.split(ROWS_PER_FORWARD), corpus.excluded.split(ROWS_PER_FORWARD), strict=True
        ):
            prefix = cut.prefix(tokens)
            counted = ~excluded.to(prefix.inputs.device)
            inputs.append(prefix.inputs[counted].float())
            targets.append(prefix.outputs[counted].float())
            if sum(part.shape[0] for part in inputs) >= SAMPLE_TOKENS:
                break
        return Sample(torch.cat(inputs)[:SAMPLE_TOKENS], torch.cat(targets)[:SAMPLE_TOKENS])


def random_autoencoder(like: Autoencoder, sample: Sample, seed: int) -> SparseAutoencoder:
    """Random unit directions, the encoder as in Gao et al.'s initialisation, TopK with the L0 that ``like`` has."""
    n, k, d_in = like.n_latents, _active(like, sample), hook_width(like)
    directions = initial_decoder(n, d_in, seed)
    decoder = directions if d_in == like.d_out else initial_decoder(n, like.d_out, seed + 1)
    device = sample.inputs.device
    return SparseAutoencoder(
        W_enc=initial_encoder(directions, k, seed).T.to(device),
        W_dec=decoder.to(device),
        b_enc=torch.zeros(n, device=device),
        b_dec=sample.targets.mean(dim=0),
        b_pre=sample.inputs[:, :d_in].mean(dim=0),
        activation=TopK(k),
        info=_info("random", like, n),
    )


def pca_autoencoder(like: Autoencoder, sample: Sample) -> SparseAutoencoder:
    """As many principal components of the inputs as ``like`` has active latents, all of them always active.

    Where the target hook differs from the input hook, the components' scores predict it by least squares.
    """
    inputs, targets = sample.inputs[:, : hook_width(like)].double(), sample.targets.double()
    rank = min(_active(like, sample), inputs.shape[1], max(1, inputs.shape[0] - 1))
    mean = inputs.mean(dim=0)
    _, vectors = torch.linalg.eigh((inputs - mean).T @ (inputs - mean))
    components = vectors[:, -rank:].flip(1)
    decoder = components.T
    if inputs.shape != targets.shape or not torch.equal(inputs, targets):
        scores = (inputs - mean) @ components
        decoder = torch.linalg.lstsq(scores, targets - targets.mean(dim=0)).solution
    return SparseAutoencoder(
        W_enc=components.float().contiguous(),
        W_dec=decoder.float().contiguous(),
        b_enc=inputs.new_zeros(rank).float(),
        b_dec=targets.mean(dim=0).float(),
        b_pre=mean.float(),
        activation=TopK(rank, relu=False),
        info=_info("pca", like, rank),
    )


@contextmanager
def reinitialised(model: LanguageModel, seed: int) -> Iterator[None]:
    """Within this context every weight matrix of ``model`` is normal noise of the matrix's own mean and spread.

    Norms' gains and biases are unchanged. Name and hash are changed too, so that cached values are never mistaken for those
    of the model itself.
    """
    generator = torch.Generator().manual_seed(seed)
    matrices = [parameter for parameter in model.bridge.parameters() if parameter.dim() > 1]
    kept = [matrix.detach().clone() for matrix in matrices]
    name, revision, sha256 = model.name, model.revision, model.weights_sha256
    model.name, model.revision, model.weights_sha256 = f"{name} re-initialised", None, f"seed {seed} of {revision or sha256}"
    try:
        with torch.no_grad():
            for matrix in matrices:
                spread, mean = float(matrix.float().std()), float(matrix.float().mean())
                matrix.copy_(mean + spread * torch.randn(matrix.shape, generator=generator))
        yield
    finally:
        with torch.no_grad():
            for matrix, before in zip(matrices, kept, strict=True):
                matrix.copy_(before)
        model.name, model.revision, model.weights_sha256 = name, revision, sha256


def make_control(name: str, like: Autoencoder, sample: Sample, seed: int) -> SparseAutoencoder:
    """The autoencoder that replaces ``like`` in a control (``random`` or ``pca``)."""
    return random_autoencoder(like, sample, seed) if name == "random" else pca_autoencoder(like, sample)


def _active(sae: Autoencoder, sample: Sample) -> int:
    """The L0 of an autoencoder on a sample, rounded to a whole number of latents, at least 1."""
    parts = [sae.encode(part).l0().double() for part in sample.inputs[:4096].split(1024)]
    return min(max(1, round(float(torch.cat(parts).mean()))), sae.n_latents)


def _info(name: str, like: Autoencoder, n: int) -> CheckpointInfo:
    return CheckpointInfo(f"{name} control", "saebench", name, hook_width(like), like.d_out, n, {})
