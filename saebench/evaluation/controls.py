"""Controls: the scores of an untrained autoencoder, of a PCA, and on a re-initialised language model.

A metric on which a control scores as well says little about an autoencoder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

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
OF_EACH = ("reinitialised",)
"""Controls that are the autoencoder itself; all others are shared by those of the same width and L0."""
SAMPLE_TOKENS, L0_TOKENS = 16_384, 4096
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
    def of(cut: Cut, corpus: TokenCorpus, most: int = SAMPLE_TOKENS) -> Sample:
        """The first ``most`` counted tokens of a text."""
        inputs: list[Tensor] = []
        targets: list[Tensor] = []
        for tokens, excluded in zip(
            corpus.tokens.split(ROWS_PER_FORWARD), corpus.excluded.split(ROWS_PER_FORWARD), strict=True
        ):
            prefix = cut.prefix(tokens)
            counted = ~excluded.to(prefix.inputs.device)
            inputs.append(prefix.inputs[counted].float())
            targets.append(prefix.outputs[counted].float())
            if sum(part.shape[0] for part in inputs) >= most:
                break
        return Sample(torch.cat(inputs)[:most], torch.cat(targets)[:most])

    def first(self) -> Sample:
        """The part that L0 and means are taken from, whatever else was sampled."""
        return Sample(self.inputs[:L0_TOKENS], self.targets[:L0_TOKENS])


@dataclass(frozen=True)
class Control:
    """What a control depends on: all autoencoders of a hook with equal ones share it.

    Attributes:
        name: ``random`` or ``pca``; ``n``: its latents; ``k``: active ones; ``d_in``, ``d_out``: its widths.
    """

    name: str
    n: int
    k: int
    d_in: int
    d_out: int

    def to_text(self, hook: Sequence[str]) -> str:
        """As JSON, with the places of the hook, which it depends on too."""
        return json.dumps(asdict(self) | {"hook": list(hook)})

    @staticmethod
    def from_text(text: str) -> Control:
        """From ``to_text``."""
        return Control(**{name: value for name, value in json.loads(text).items() if name != "hook"})

    @staticmethod
    def of(name: str, like: Autoencoder, l0: float, sample: Sample) -> Control:
        """The control of an autoencoder with an L0: its width, and the L0 on the grid of ``l0_on_grid``."""
        k, d_in = min(l0_on_grid(l0), like.n_latents), hook_width(like)
        if name == "pca":
            k = min(k, d_in, max(1, sample.inputs.shape[0] - 1))
        return Control(name, k if name == "pca" else like.n_latents, k, d_in, like.d_out)

    def make(self, sample: Sample, seed: int) -> SparseAutoencoder:
        """The autoencoder."""
        return _random(self, sample.first(), seed) if self.name == "random" else _pca(self, sample)

    def record(self, seed: int) -> dict[str, int]:
        """What a result says of it."""
        return {"seed": seed, "n_latents": self.n, "l0": self.k}


def measured_l0(sae: Autoencoder, sample: Sample) -> float:
    """The L0 of an autoencoder on the first tokens of a sample."""
    parts = [sae.encode(part).l0().double() for part in sample.first().inputs.split(1024)]
    return float(torch.cat(parts).mean())


def l0_on_grid(l0: float) -> int:
    """The whole number nearest to the power of ``2^(1/8)`` that is nearest to an L0: within 4.5 % of it, from 12 on.

    Autoencoders of nearly equal L0 thereby share a control, which does not depend on what is evaluated beside them.
    """
    return max(1, round(2 ** (round(8 * math.log2(max(l0, 1.0))) / 8)))


def _random(control: Control, sample: Sample, seed: int) -> SparseAutoencoder:
    """Random unit directions, the encoder as in Gao et al.'s initialisation, TopK."""
    n, k, d_in = control.n, control.k, control.d_in
    directions = initial_decoder(n, d_in, seed)
    decoder = directions if d_in == control.d_out else initial_decoder(n, control.d_out, seed + 1)
    device = sample.inputs.device
    return SparseAutoencoder(
        W_enc=initial_encoder(directions, k, seed).T.to(device),
        W_dec=decoder.to(device),
        b_enc=torch.zeros(n, device=device),
        b_dec=sample.targets.mean(dim=0),
        b_pre=sample.inputs[:, :d_in].mean(dim=0),
        activation=TopK(k),
        info=_info(control),
    )


def _pca(control: Control, sample: Sample) -> SparseAutoencoder:
    """The first principal components of the inputs, all of them always active.

    Where the target hook differs from the input hook, the components' scores predict it by least squares.
    """
    rank, inputs, targets = control.k, sample.inputs[:, : control.d_in].double(), sample.targets.double()
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
        info=_info(control),
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


def _info(control: Control) -> CheckpointInfo:
    name = control.name
    return CheckpointInfo(f"{name} control", "saebench", name, control.d_in, control.d_out, control.n, {})
