"""Explaining a sample of an autoencoder's latents and scoring the explanations: every step, for any autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.explaining.examples.sampling import (
    ActivationSampler,
    ChosenLatents,
    EncodedRows,
    HookInputs,
    SampledActivations,
    choose_latents,
    encode_rows,
    split_rows,
)
from saebench.explaining.n2g.graphs import Examples, Substitutes, build_tries, cut_examples
from saebench.explaining.n2g.reader import LatentReader
from saebench.explaining.n2g.scoring import LatentScore, UnseenText, score_tries
from saebench.explaining.n2g.tokens import NearestTokens, find_padding
from saebench.explaining.n2g.trie import Trie
from saebench.explaining.protocol import Protocol
from saebench.lm import Cut
from saebench.progress import Progress
from saebench.sae import Autoencoder
from saebench.text.corpus import TokenCorpus

LATENTS_TOGETHER = 256
"""Latents whose texts are run together: more of them share more prefixes, but need more memory."""


@dataclass(frozen=True)
class StudyInputs:
    """The common inputs of all studies of an evaluation.

    Attributes:
        source: the text's activations at the hook, computed once; ``protocol``, ``seed``: as given.
        examples: rows that examples come from; ``unseen``: rows that tries are scored on.
        first: the position at which text starts in a row, after a BOS that every text has; ``bos``: that token.
        padding: the padding token.
        substitutes: similar tokens, where the protocol augments.
        progress: where to show progress.
    """

    source: HookInputs
    protocol: Protocol
    seed: int
    examples: Tensor
    unseen: Tensor
    first: int
    bos: int | None
    padding: int
    substitutes: Substitutes | None
    progress: Progress

    @staticmethod
    def of(source: HookInputs, protocol: Protocol, seed: int, progress: Progress) -> StudyInputs:
        """Prepare: split the rows, find the padding token."""
        cut, corpus = source.cut, source.corpus
        examples, unseen = split_rows(corpus.tokens.shape[0], protocol.unseen_share, seed)
        keeps = starts_with_bos(corpus, protocol)
        return StudyInputs(
            source=source,
            protocol=protocol,
            seed=seed,
            examples=examples,
            unseen=unseen,
            first=int(keeps),
            bos=cut.model.tokenizer.bos_token_id if keeps else None,
            padding=find_padding(cut.model.tokenizer, protocol.padding).token,
            substitutes=NearestTokens(cut.model, protocol.candidates) if protocol.candidates else None,
            progress=progress,
        )

    @property
    def cut(self) -> Cut:
        """The language model, cut at the hook."""
        return self.source.cut

    @property
    def corpus(self) -> TokenCorpus:
        """The text."""
        return self.source.corpus


def starts_with_bos(corpus: TokenCorpus, protocol: Protocol) -> bool:
    """Whether every text begins with BOS: where the corpus's rows do, and the protocol requires it."""
    return protocol.keep_bos and corpus.bos == "row"


@dataclass(frozen=True)
class Study:
    """Explained and scored latents of one autoencoder.

    Attributes:
        sample: the statistics of all its latents on the example rows.
        chosen: the latents; ``tries`` by latent; ``scores`` in the order of ``chosen``.
        examples: from which tries were built; ``held_out``: ``(rows, positions)`` by latent.
        levels: above which each latent counts as firing.
        unseen: the text of the scores; ``first``: the position at which text starts in a row.
        readings, texts, tokens: the cost of building: activations requested, texts and tokens run.
    """

    sample: SampledActivations
    chosen: ChosenLatents
    examples: Examples
    held_out: dict[int, tuple[Tensor, Tensor]]
    levels: dict[int, float]
    tries: dict[int, Trie]
    unseen: UnseenText
    first: int
    scores: list[LatentScore]
    readings: int
    texts: int
    tokens: int


def sample_activations(
    ground: StudyInputs, sae: Autoencoder, watch: Sequence[Callable[[EncodedRows], None]] = ()
) -> SampledActivations:
    """One pass over the example rows: a sample of every latent's activations."""
    protocol, corpus = ground.protocol, ground.corpus
    sampler = ActivationSampler(sae.n_latents, protocol.build + protocol.held_out, ground.seed)
    with ground.progress.task("Sampling activations", ground.examples.numel() * corpus.context, "tokens") as advance:
        for batch in encode_rows(ground.source, sae, ground.examples):
            sampler.update(batch)
            for each in watch:
                each(batch)
            advance(batch.rows.numel())
    return sampler.result()


def choose(ground: StudyInputs, sample: SampledActivations, wanted: int, only: Sequence[int] | None = None) -> ChosenLatents:
    """The latents to explain: a stratified sample, or of ``only`` those that fired often enough."""
    if only is None:
        return choose_latents(sample.counts, ground.protocol.least, wanted, ground.protocol.strata, ground.seed)
    able = [latent for latent in dict.fromkeys(only) if int(sample.counts[latent]) >= ground.protocol.least]
    return ChosenLatents(able, [0] * len(able), [1.0] * len(able))


def study(ground: StudyInputs, sae: Autoencoder, sample: SampledActivations, chosen: ChosenLatents) -> Study:
    """Build the tries of the chosen latents and score them."""
    protocol, corpus = ground.protocol, ground.corpus
    examples, held_out = divide(ground, sample, chosen.latents)
    reader = LatentReader(ground.cut, sae, ground.bos)
    tries = tries_of(ground, reader, examples, chosen.latents)
    levels = {latent: protocol.firing * float(sample.largest[latent]) for latent in chosen.latents}
    unseen = UnseenText(ground.source, sae, ground.unseen, chosen.latents)
    scores = score_tries(tries, unseen, held_out, corpus.tokens, ground.first, levels)
    return Study(
        sample,
        chosen,
        examples,
        held_out,
        levels,
        tries,
        unseen,
        ground.first,
        scores,
        reader.asked,
        reader.texts,
        reader.tokens,
    )


def tries_of(ground: StudyInputs, reader: LatentReader, examples: Examples, latents: Sequence[int]) -> dict[int, Trie]:
    """The tries of ``latents``, from their ``examples``."""
    tries: dict[int, Trie] = {}
    with ground.progress.task("Building tries", examples.latents.numel(), "examples") as advance:
        for start in range(0, len(latents), LATENTS_TOGETHER):
            some = torch.tensor(latents[start : start + LATENTS_TOGETHER])
            part = Examples(*(each[torch.isin(examples.latents, some)] for each in examples))
            tries |= build_tries(reader, part, ground.padding, ground.protocol, ground.substitutes, advance)
    return tries


def divide(
    ground: StudyInputs, sample: SampledActivations, latents: list[int]
) -> tuple[Examples, dict[int, tuple[Tensor, Tensor]]]:
    """Each latent's sampled activations: the first to build from, the others held out, in the protocol's proportion."""
    protocol = ground.protocol
    build: list[Tensor] = []
    held_out = {}
    for latent in latents:
        part = sample.of(latent)
        n = part.stop - part.start
        n_build = min(max(1, n * protocol.build // (protocol.build + protocol.held_out)), n - 1)
        build.append(torch.arange(part.start, part.start + n_build))
        rest = slice(part.start + n_build, part.stop)
        held_out[latent] = (sample.rows[rest], sample.positions[rest])
    entries = torch.cat(build) if build else torch.zeros(0, dtype=torch.int64)
    owners = torch.tensor(latents, dtype=torch.int64).repeat_interleave(
        torch.tensor([each.numel() for each in build]).long()
    )
    examples = cut_examples(
        ground.corpus.tokens, owners, sample.rows[entries], sample.positions[entries], sample.values[entries],
        protocol.window - ground.first, ground.first,
    )  # fmt: skip
    return examples, held_out
