"""One pass over the corpus for every evaluator that streams, and for all autoencoders of a hook together.

Per batch the layers below the hook run once, the layers above once for the clean model and once for each autoencoder. Where
no evaluator needs logits, they end before the unembedding, and the losses of all runs are computed together.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum

import torch
from torch import Tensor

from saebench.evaluation.precision import Looks
from saebench.evaluators.base import CleanBatch, Setup, StreamingEvaluator, TokenBlock
from saebench.evaluators.downstream import clean_batch
from saebench.evaluators.shared import Shared, ablated_losses
from saebench.lm import Cut
from saebench.progress import Progress
from saebench.sae import Autoencoder
from saebench.text.corpus import TokenCorpus

LATENT_BUDGET = 2**26
"""Tokens times latents of a block: bounds the memory of an autoencoder with very many active latents."""


@dataclass
class EvaluatedAutoencoder:
    """An autoencoder with its evaluators, and the errors of those that failed."""

    sae: Autoencoder
    setup: Setup
    evaluators: dict[str, StreamingEvaluator]
    failures: dict[str, Exception] = field(default_factory=dict)

    def splicing(self) -> list[tuple[str, StreamingEvaluator]]:
        """The evaluators that need the model with the reconstruction spliced in."""
        return [(name, each) for name, each in self.evaluators.items() if each.needs_logits or each.needs_losses]

    @contextmanager
    def guarded(self, name: str) -> Iterator[None]:
        """An evaluator that raises is removed from the pass; the others continue."""
        try:
            yield
        except Exception as error:
            self.failures[name] = error
            self.evaluators.pop(name, None)


class Splicing(Enum):
    """What is computed of the model with reconstructions spliced in."""

    NONE = "nothing"
    LOSSES = "losses"
    LOGITS = "logits"

    @classmethod
    def of(cls, evaluated: Sequence[EvaluatedAutoencoder], cut: Cut) -> Splicing:
        """What the evaluators need; losses come from logits too where the model has no ``readout``."""
        if not any(one.splicing() for one in evaluated):
            return cls.NONE
        logits = any(each.needs_logits for one in evaluated for each in one.evaluators.values())
        return cls.LOGITS if logits or cut.model.readout is None else cls.LOSSES


class Clock:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent within this context to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


@torch.no_grad()
def stream(
    evaluated: Sequence[EvaluatedAutoencoder],
    cut: Cut,
    corpus: TokenCorpus,
    shared: Shared,
    rows_per_batch: int,
    progress: Progress,
    looks: Looks | None = None,
    ablate: bool = True,
) -> Clock:
    """Drive all streaming evaluators over the corpus and fill in the shared figures.

    Args:
        evaluated: the autoencoders with their evaluators.
        cut: the language model, cut at their hook.
        corpus: the rows of tokens.
        shared: the language model's own figures, filled in here.
        rows_per_batch: rows run together.
        progress: updated after each batch.
        looks: ends the pass early, after one of its numbers of rows.
        ablate: whether to run the ablated model too; False where the pass is over a part of the text.

    Returns:
        Seconds spent in each stage.
    """
    clock = Clock()
    splicing = Splicing.of(evaluated, cut)
    with progress.task("Evaluating", total=corpus.tokens.shape[0] * corpus.context, unit="tokens") as advance:
        sizes = batch_sizes(corpus.tokens.shape[0], rows_per_batch, () if looks is None else looks.at)
        parts = (each.split(sizes) for each in (corpus.tokens, corpus.excluded, corpus.loss_mask))
        done = 0
        for tokens, excluded, loss_mask in zip(*parts, strict=True):
            batch = _clean(cut, tokens, ~excluded, loss_mask, splicing, clock)
            places = _Places(batch, shared)
            shared.moments.update(places.targets, places.rows, tokens.shape[0], places.groups)
            for part, moments in shared.parts.values():
                moments.update(places.targets[:, part], places.rows, tokens.shape[0], places.groups)
            _evaluate_batch(evaluated, cut, batch, places, splicing, clock)
            done += tokens.shape[0]
            advance(tokens.numel())
            if looks is not None and done in looks.at and looks([each.evaluators for each in evaluated], done):
                advance.resize(done * corpus.context)
                break
    if splicing is not Splicing.NONE and ablate:
        run_ablated(cut, corpus.first(done), shared, rows_per_batch, clock)
    return clock


@torch.no_grad()
def run_ablated(cut: Cut, corpus: TokenCorpus, shared: Shared, rows_per_batch: int, clock: Clock) -> None:
    """Fill in the losses of ablated runs, once the mean activation is known."""
    with clock.stage("ablated runs"):
        mean = shared.moments.mean
        values = {"zero": torch.zeros_like(mean), "mean": mean}
        shared.ablated = ablated_losses(cut, corpus, values, rows_per_batch)


def batch_sizes(rows: int, most: int, ends: Sequence[int] = ()) -> list[int]:
    """Rows of each batch, at most ``most``; each of ``ends``, numbers of rows in ascending order, ends a batch."""
    sizes, done = [], 0
    for end in [*(each for each in ends if each < rows), rows]:
        whole, rest = divmod(end - done, most)
        sizes += [most] * whole + [rest] * (rest > 0)
        done = end
    return sizes


class _Places:
    """The counted tokens of a batch, flattened."""

    def __init__(self, batch: CleanBatch, shared: Shared) -> None:
        device = batch.prefix.outputs.device
        counted = batch.counted.to(device)
        self.rows, self.positions = counted.nonzero(as_tuple=True)
        self.inputs = batch.prefix.inputs[self.rows, self.positions].float()
        same = batch.prefix.inputs is batch.prefix.outputs
        self.targets = self.inputs if same else batch.prefix.outputs[self.rows, self.positions].float()
        self.token_ids = batch.tokens.to(device)[self.rows, self.positions]
        frequency = shared.frequency_bin[self.token_ids.cpu()].to(device)
        self.groups = {"position": self.positions, "frequency": frequency}


def _clean(cut: Cut, tokens: Tensor, counted: Tensor, loss_mask: Tensor, splicing: Splicing, clock: Clock) -> CleanBatch:
    with clock.stage("layers below the hook"):
        prefix = cut.prefix(tokens)
    batch = CleanBatch(tokens, counted, loss_mask, prefix)
    if splicing is not Splicing.LOGITS:
        return batch
    with clock.stage("layers above, clean"):
        logits = cut.suffix(prefix.outputs, prefix)
    with clock.stage("losses"):
        return clean_batch(batch, logits)


def _evaluate_batch(
    evaluated: Sequence[EvaluatedAutoencoder],
    cut: Cut,
    batch: CleanBatch,
    places: _Places,
    splicing: Splicing,
    clock: Clock,
) -> None:
    """Update all evaluators with a batch, and run the layers above where one of them splices."""
    spliced: list[tuple[EvaluatedAutoencoder, Tensor]] = []
    for one in evaluated:
        outputs = _reconstruct(one, batch, places, clock)
        if outputs is None:
            continue
        with clock.stage("layers above, spliced"):
            run = cut.suffix if splicing is Splicing.LOGITS else cut.suffix_end
            result = run(outputs, batch.prefix)
        if splicing is Splicing.LOSSES:
            spliced.append((one, result))
            continue
        with clock.stage("losses"):
            for name, evaluator in one.splicing():
                with one.guarded(name):
                    evaluator.splice(batch, result)
    if spliced:
        _compare(spliced, cut, batch, clock)
    for one in evaluated:
        for name, evaluator in list(one.evaluators.items()):
            with one.guarded(name):
                evaluator.end_batch()


def _reconstruct(one: EvaluatedAutoencoder, batch: CleanBatch, places: _Places, clock: Clock) -> Tensor | None:
    """Encode and decode a batch and update the evaluators; the outputs with reconstructions, where one of them splices."""
    with clock.stage("autoencoders"):
        for name, evaluator in list(one.evaluators.items()):
            with one.guarded(name):
                evaluator.start_batch(batch)
        splices, parts = bool(one.splicing()), []
        size = max(64, LATENT_BUDGET // one.sae.n_latents)
        for start in range(0, places.rows.numel(), size):
            block = _block(one.sae, places, slice(start, start + size))
            for name, evaluator in list(one.evaluators.items()):
                with one.guarded(name):
                    evaluator.observe(block)
            if splices:
                parts.append(block.reconstruction)
        if not splices:
            return None
        outputs = batch.prefix.outputs.clone()
        outputs[places.rows, places.positions] = torch.cat(parts).to(outputs.dtype)
        return outputs


def _compare(spliced: Sequence[tuple[EvaluatedAutoencoder, Tensor]], cut: Cut, batch: CleanBatch, clock: Clock) -> None:
    """Compare all spliced runs of a batch with the clean one, from their inputs of the unembedding."""
    readout = cut.model.readout
    assert readout is not None, "otherwise logits are made"
    with clock.stage("layers above, clean"):
        clean = cut.suffix_end(batch.prefix.outputs, batch.prefix)
    further: dict[str, Tensor] = {}
    with clock.stage("further runs"):
        for one, _ in spliced:
            for name, evaluator in one.splicing():
                with one.guarded(name):
                    further |= evaluator.further_ends(batch)
    with clock.stage("losses"):
        ends = [*(end for _, end in spliced), *further.values()]
        entropy, losses = readout.compare(clean, ends, batch.tokens)
        own, others = losses[: len(spliced)], losses[len(spliced) :]
        compared = replace(batch, cross_entropy=entropy, further=dict(zip(further, others, strict=True)))
        for (one, _), its in zip(spliced, own, strict=True):
            for name, evaluator in one.splicing():
                with one.guarded(name):
                    evaluator.compare(compared, its)


def _block(sae: Autoencoder, places: _Places, part: slice) -> TokenBlock:
    inputs = places.inputs[part]
    latents = sae.encode(inputs)
    return TokenBlock(
        inputs=inputs,
        targets=places.targets[part],
        latents=latents,
        reconstruction=sae.decode(latents, inputs).float(),
        rows=places.rows[part],
        positions=places.positions[part],
        token_ids=places.token_ids[part],
    )
