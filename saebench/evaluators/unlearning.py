"""Unlearning: clamping the latents of a text to forget should make its questions wrong and leave other questions right.

Source: Farrell et al. 2024, arXiv 2410.19278, in SAEBench's form (arXiv 2503.09532).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.definitions import definition_hash
from saebench.errors import SaebenchError
from saebench.evaluators.base import Evaluator, Measured, Setup
from saebench.evaluators.forgetting.latents import active_share, clamped_answers, forget_latents, shared_start
from saebench.evaluators.forgetting.protocol import (
    DEFAULT_PAIR,
    NAME,
    PAIRS,
    Side,
    UnlearningProtocol,
    read_pair,
    read_unlearning_protocol,
)
from saebench.evaluators.forgetting.questions import Asked, Asker, known_questions, read_questions
from saebench.evaluators.options import read_options
from saebench.probing.memory import cached_or_computed
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import metric
from saebench.results.statistics import Estimate
from saebench.sae import SparseAutoencoder
from saebench.tasks.sources import inside
from saebench.text.corpus import TokenCorpus, load_corpus

VERSION = 1
"""Version of the cached questions; raised where the same key would mean other numbers."""
SIDES = ("forget", "retain")
KEPT_ACTIVATIONS = 2**28
"""Numbers of a text's activations that are kept for the next autoencoder: 1 GiB. More are computed for each."""
TOKENS_PER_BATCH = 4096
COLUMNS = ("retain_share", "latents", "clamp", "forget_right", "retain_right")


@dataclass(frozen=True)
class _Known:
    """Questions that the model answers right under every order, in their own order.

    Attributes:
        asked: the questions of either side; ``of``: how many there are in all.
        of: see ``asked``.
    """

    asked: dict[str, list[Asked]]
    of: dict[str, int]


class Unlearning(Evaluator):
    """How many questions to forget become wrong while the others stay right."""

    name = "unlearning"
    version = 1
    description = "Share of questions to forget that clamped latents make wrong, with 99 % of other questions still right"
    needs_weights = True
    samples = ("by_setting", "questions", "known")

    @classmethod
    def _options(cls, setup: Setup) -> tuple[str, dict[str, int]]:
        given = dict(setup.options)
        text = read_unlearning_protocol().text
        pair = str(given.pop("pair", DEFAULT_PAIR))
        return pair, read_options(cls.name, given, {"rows": text.rows, "context": text.context, "questions": 10**6})

    @classmethod
    def read_options(cls, setup: Setup) -> dict[str, int]:
        """``rows`` and ``context`` of the texts and the number of ``questions`` of each file; ``pair`` names the pair."""
        return cls._options(setup)[1]

    @classmethod
    def check(cls, setup: Setup) -> None:
        """Raise ``SaebenchError`` where the pair or its data are missing, besides the usual checks."""
        super().check(setup)
        name, _ = cls._options(setup)
        pair = read_pair(name)
        absent = pair.missing(setup.data_dir)
        if absent:
            where = "no data folder is given" if setup.data_dir is None else f"{setup.data_dir} lacks it"
            raise SaebenchError(
                f"The unlearning pair {name} needs {absent[0]}, but {where}: name the folder with --data-dir "
                f"({pair.source})."
            )
        if setup.cut.context is not None:
            raise SaebenchError("The evaluator unlearning needs an autoencoder that reads single tokens: leave it out.")

    @classmethod
    def definitions(cls, setup: Setup) -> dict[str, str]:
        """The protocol and the pair."""
        pair = str(setup.options.get("pair", DEFAULT_PAIR))
        return {f"probes/{NAME}": read_unlearning_protocol().sha256, f"{PAIRS}/{pair}": definition_hash(PAIRS, pair)}

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.pair_name = self._options(setup)[0]
        self.pair, self.protocol = read_pair(self.pair_name), read_unlearning_protocol()
        tokenizer = setup.cut.model.tokenizer
        self.bos = setup.corpus.bos != "none" and tokenizer.bos_token_id is not None

    def compute(self) -> EvaluatorResult:
        """Find the questions that the model knows (once for all autoencoders), select latents, clamp, ask again."""
        setup = self.setup
        asker = Asker(setup.cut.model.tokenizer, self.protocol.questions, self.bos)
        known = setup.shared.once(f"unlearning questions {self._key}", lambda: self._known(asker))
        details: dict[str, Any] = {
            "questions": known.of, "known": {side: len(known.asked[side]) for side in SIDES},
            "by_setting": {name: [] for name in COLUMNS}, "latents": {},
        }  # fmt: skip
        if all(count >= self.protocol.least.questions for count in details["known"].values()):
            self._score(asker, known, details)
        settings = {
            "pair": self.pair_name, "chat_template": asker.chat, "bos": self.bos, **self.options,
            "protocol": self.protocol.model_dump(mode="json", exclude={"sha256"}),
        }  # fmt: skip
        return self.result(metrics_of(details, self.protocol), details, settings)

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the right answers by setting."""
        return metrics_of(found.details, read_unlearning_protocol())

    @property
    def _key(self) -> str:
        return f"{self.pair_name} {self.options} {self.setup.seed} {self.bos}"

    @property
    def _folder(self) -> Path:
        assert self.setup.data_dir is not None
        return self.setup.data_dir

    def _known(self, asker: Asker) -> _Known:
        model, most = self.setup.cut.model, self.options["questions"]
        asked: dict[str, list[Asked]] = {}
        of = {}
        for side in SIDES:
            questions = [
                each for file in getattr(self.pair, side).questions for each in read_questions(self._folder, file)[:most]
            ]
            first = [asker.ask(each, range(len(each.options))) for each in questions]
            key = {
                "version": VERSION, "model": model.identity, "device": model.device.type,
                "asked": [[each.ids, each.options, each.right] for each in first],
            }  # fmt: skip

            def compute(questions: list[Any] = questions, side: str = side) -> dict[str, list[int]]:
                with self.setup.progress.task(f"Questions to {side}", total=len(questions), unit="questions") as advance:
                    return {"known": known_questions(self.setup.cut, asker, questions, advance)}

            found, _ = cached_or_computed(key if "@unknown/" not in model.identity else None, compute)
            asked[side] = [first[index] for index in found["known"]]
            of[side] = len(questions)
        return _Known(asked, of)

    def _score(self, asker: Asker, known: _Known, details: dict[str, Any]) -> None:
        sae, of = self.setup.sae, self.protocol.latents
        assert isinstance(sae, SparseAutoencoder)
        forget, retain = (active_share(sae, self._activations(side)) for side in SIDES)
        chosen = {share: forget_latents(forget, retain, share) for share in of.retain}
        details["latents"] = {f"{share:g}": each[: max(of.count)].tolist() for share, each in chosen.items()}
        settings = [
            (share, count, clamp, chosen[share][:count]) for share, count, clamp in product(of.retain, of.count, of.clamp)
        ]
        different = {(tuple(latents.tolist()), clamp): latents for _, _, clamp, latents in settings}
        tried = [(latents, clamp) for (_, clamp), latents in different.items()]
        right = {}
        for side in SIDES:
            asked = known.asked[side]
            start = self.setup.shared.once(
                f"unlearning start {side} {self._key}",
                lambda asked=asked: shared_start(self.setup.cut, asked),  # type: ignore[misc]
            )
            with self.setup.progress.task(f"Answers to {side}", total=len(asked), unit="questions") as advance:
                counts = clamped_answers(self.setup.cut, sae, asker, asked, tried, start, advance).sum(dim=1).tolist()
            right[side] = dict(zip(different, counts, strict=True))
        for share, count, clamp, latents in settings:
            same = (tuple(latents.tolist()), clamp)
            row = (share, min(count, latents.numel()), clamp, right["forget"][same], right["retain"][same])
            for name, value in zip(COLUMNS, row, strict=True):
                details["by_setting"][name].append(value)

    def _activations(self, side: str) -> Iterator[Tensor]:
        """``[tokens, d_in]`` float32 of a side's text, in batches; short ones are kept for the next autoencoder."""
        corpus = self.setup.shared.once(f"unlearning text {side} {self._key}", lambda: self._text(getattr(self.pair, side)))
        if corpus.tokens.numel() * self.setup.cut.d_in > KEPT_ACTIVATIONS:
            return self._run(corpus, side)
        key = f"unlearning activations {side} {self._key}"
        return iter(self.setup.shared.once(key, lambda: list(self._run(corpus, side))))

    def _text(self, side: Side) -> TokenCorpus:
        model, options = self.setup.cut.model, self.options
        longest = getattr(model.config, "max_position_embeddings", None)
        context = min(options["context"], longest) if isinstance(longest, int) else options["context"]
        path = inside(self._folder, side.text)
        return load_corpus(
            str(path), model.tokenizer, context=context, tokens=options["rows"] * context, bos=self.setup.corpus.bos,
            field=side.field, shuffle_seed=self.setup.seed,
        )  # fmt: skip

    def _run(self, corpus: TokenCorpus, side: str) -> Iterator[Tensor]:
        size = max(1, TOKENS_PER_BATCH // corpus.context)
        with self.setup.progress.task(f"Text to {side}", total=corpus.tokens.numel(), unit="tokens") as advance:
            for rows in torch.arange(corpus.tokens.shape[0]).split(size):
                inputs = self.setup.cut.prefix(corpus.tokens[rows]).inputs
                yield inputs[~corpus.excluded[rows].to(inputs.device)].float()
                advance(corpus.tokens[rows].numel())


def metrics_of(details: Mapping[str, Any], protocol: UnlearningProtocol) -> list[Metric]:
    """All metrics from the right answers by setting.

    Raises:
        ValueError, TypeError: the details are not as ``Unlearning`` writes them.
    """
    known, of = details["known"], details["questions"]
    columns = [details["by_setting"][name] for name in COLUMNS]
    rows = [dict(zip(COLUMNS, each, strict=True)) for each in zip(*columns, strict=True)]
    for row in rows:
        if any(type(row[f"{side}_right"]) is not int or not 0 <= row[f"{side}_right"] <= known[side] for side in SIDES):
            raise ValueError("right answers are whole numbers up to the questions known")
    kept = [row for row in rows if row["retain_right"] >= protocol.questions.kept * known["retain"]]
    lacking = min(SIDES, key=lambda side: known[side])
    reason = (
        f"the language model knows too little: it answers {known[lacking]} of {of[lacking]} questions to {lacking} right "
        f"under every order of the options, and {protocol.least.questions} are needed"
    )
    score: Estimate | None = None
    side_effect = None
    if rows:
        best = min(kept, key=lambda row: row["forget_right"], default=None)
        share = 1.0 if best is None else best["forget_right"] / known["forget"]
        score = Estimate(1 - share, (share * (1 - share) / known["forget"]) ** 0.5)
        side_effect = 1.0 if best is None else best["retain_right"] / known["retain"]
    found = [
        metric("unlearning_score", score, unit="1", direction="higher", n=known["forget"] if rows else 0, n_unit="questions",
               description="Largest share of questions to forget that become wrong, over settings that keep "
               f"{protocol.questions.kept:.0%} of the others right; 0 where none does", reason=reason),
        metric("retained", side_effect, unit="1", direction="higher", n=known["retain"] if rows else 0, n_unit="questions",
               description="Share of the other questions that stay right with that setting", reason=reason),
        metric("settings_kept", len(kept) / len(rows) if rows else None, unit="1", direction="none", n=len(rows),
               n_unit="settings", description="Share of the settings that keep the other questions right", reason=reason),
    ]  # fmt: skip
    for side in SIDES:
        share = known[side] / of[side] if of[side] else None
        found.append(metric(f"known_{side}", share, unit="1", direction="none", n=of[side], n_unit="questions",
                            description=f"Share of questions to {side} answered right under every order of the options",
                            reason="there are no questions"))  # fmt: skip
    return found
