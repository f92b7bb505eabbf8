"""The smallest useful plug-in: an evaluator that watches the pass, and a checkpoint format."""

import torch

from saebench.checkpoints.base import Adapter, Location
from saebench.evaluators.base import Setup, StreamingEvaluator, TokenBlock
from saebench.results import EvaluatorResult
from saebench.results.metrics import metric
from saebench.sae import CheckpointInfo, ReLU, SparseAutoencoder


class LargestActivation(StreamingEvaluator):
    """The largest activation of any latent."""

    name = "largest_activation"
    description = "The largest activation of any latent"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.largest, self.tokens = 0.0, 0

    def observe(self, block: TokenBlock) -> None:
        """Look at a block of tokens."""
        self.largest = max(self.largest, float(block.latents.values.max()))
        self.tokens += block.inputs.shape[0]

    def merge(self, other: StreamingEvaluator) -> None:
        """Take in what another instance saw."""
        assert isinstance(other, LargestActivation)
        self.largest, self.tokens = max(self.largest, other.largest), self.tokens + other.tokens

    def compute(self) -> EvaluatorResult:
        """One metric."""
        return self.result([metric("largest", self.largest, unit="activation", direction="none", n=self.tokens)])


class PlainNumbers(Adapter):
    """A folder with `numbers.json`: `{"scale": s, "d": d}`, an identity dictionary times `s`."""

    name = "plain_numbers"
    looks_for = "numbers.json"

    def recognise(self, location: Location) -> bool:
        """By the file's name."""
        return location.has("numbers.json")

    def weights_file(self, location: Location) -> str:
        """The only file."""
        return "numbers.json"

    def describe(self, location: Location) -> CheckpointInfo:
        """From the file."""
        d = int(location.json("numbers.json")["d"])
        return CheckpointInfo(location.origin, self.name, "relu", d, d, d, {"name": "relu"})

    def load(self, location: Location) -> SparseAutoencoder:
        """From the file."""
        info = self.describe(location)
        eye = torch.eye(info.d_in) * float(location.json("numbers.json")["scale"])
        return SparseAutoencoder(eye, eye, torch.zeros(info.d_in), torch.zeros(info.d_in), ReLU(), info)
