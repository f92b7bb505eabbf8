"""RAVEL: do the latents of an attribute change it (cause) and leave the other attributes alone (isolation)?

Source: Huang et al. 2024, arXiv 2402.17700, in SAEBench's form (arXiv 2503.09532).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from saebench.errors import SaebenchError
from saebench.evaluators.base import Evaluator, Measured, Setup
from saebench.evaluators.entities.data import SOURCE, Prompt, data_hash, load_prompts, missing_files, rows_of
from saebench.evaluators.entities.mask import Swaps, score_pairs, train_mask
from saebench.evaluators.entities.pairs import Answers, Pairs, answer, known_prompts, make_pairs
from saebench.evaluators.entities.passes import Passes
from saebench.evaluators.entities.protocol import NAME, RavelProtocol, read_ravel_protocol
from saebench.evaluators.options import read_options
from saebench.probing.memory import tensors_cached_or_computed
from saebench.results import EvaluatorResult, Metric
from saebench.results.metrics import metric
from saebench.results.statistics import Estimate
from saebench.sae import SparseAutoencoder

VERSION = 1
"""Version of the cached answers; raised where the same key would mean other numbers."""
COLUMNS = ("class", "attribute", "asked", "answered", "latents", "cause", "cause_right", "isolation", "isolation_right")


@dataclass(frozen=True)
class _Class:
    """A class of entities with the model's answers: the set-up that all autoencoders share.

    Attributes:
        prompts, answers: all of them.
        known: numbers of the prompts that are answered right, by attribute.
        pairs: of each attribute that there are pairs for; none where the model knows too little.
        passes: of the pairs' bases, if there are pairs.
        left_out: prompts whose entity does not end a token.
    """

    prompts: list[Prompt]
    answers: Answers
    known: dict[str, list[int]]
    pairs: dict[str, Pairs]
    passes: Passes | None
    left_out: int


class Ravel(Evaluator):
    """Cause and isolation of entities' attributes by swapped latents."""

    name = "ravel"
    version = 1
    description = "RAVEL: whether swapping an attribute's latents between entities changes that attribute and no other"
    needs_weights = True
    samples = ("by_attribute", "needed")

    @classmethod
    def read_options(cls, setup: Setup) -> dict[str, int]:
        """``prompts``, ``entities`` and ``pairs``, by default those of the protocol."""
        data = read_ravel_protocol().data
        defaults = {"prompts": data.prompts, "entities": data.entities, "pairs": data.pairs}
        return read_options(cls.name, setup.options, defaults)

    @classmethod
    def check(cls, setup: Setup) -> None:
        """Raise ``SaebenchError`` where the data are missing, besides the usual checks."""
        super().check(setup)
        absent = missing_files(setup.data_dir, list(read_ravel_protocol().classes))
        if absent:
            where = "no data folder is given" if setup.data_dir is None else f"{setup.data_dir} lacks it"
            raise SaebenchError(
                f"ravel needs {absent[0]}, but {where}: put {SOURCE} into a folder ravel/ and name the folder above it with "
                "--data-dir."
            )

    @classmethod
    def definitions(cls, setup: Setup) -> dict[str, str]:
        """The protocol's file."""
        return {f"probes/{NAME}": read_ravel_protocol().sha256}

    def compute(self) -> EvaluatorResult:
        """Ask the model (once for all autoencoders of the hook), select each attribute's latents, swap them."""
        setup, protocol = self.setup, read_ravel_protocol()
        assert setup.data_dir is not None
        folder = setup.data_dir
        details: dict[str, Any] = {
            "by_attribute": {name: [] for name in COLUMNS}, "needed": protocol.least.prompts, "left_out": {}, "latents": {},
            "data": setup.shared.once("ravel data", lambda: data_hash(folder, list(protocol.classes))),
        }  # fmt: skip
        for name, attributes in protocol.classes.items():
            key = f"ravel {name} {self.options} {setup.seed}"
            one = setup.shared.once(key, lambda name=name: self._class(folder, name, protocol, details["data"]))  # type: ignore[misc]
            details["left_out"][name] = one.left_out
            self._score(name, attributes, one, protocol, details)
        settings = {"protocol": protocol.model_dump(mode="json", exclude={"sha256"}), **self.options}
        return self.result(metrics_of(details), details, settings)

    @classmethod
    def recomputed(cls, found: EvaluatorResult, measured: Measured) -> list[Metric]:
        """All metrics, from the counts by attribute."""
        return metrics_of(found.details)

    def _class(self, folder: Path, name: str, protocol: RavelProtocol, data: str) -> _Class:
        setup, options = self.setup, self.options
        model = setup.cut.model
        bos = setup.corpus.bos != "none" and model.tokenizer.bos_token_id is not None
        prompts, left_out = load_prompts(
            folder, name, protocol.classes[name], options["prompts"], model.tokenizer, bos, setup.seed
        )
        rows = cache(lambda: rows_of(setup.cut, prompts))  # not run where all is cached and too little is known
        key = {
            "version": VERSION, "model": model.identity, "device": model.device.type, "hook": setup.cut.hook_in.name,
            "data": data, "class": name, "attributes": protocol.classes[name], "prompts": options["prompts"], "bos": bos,
            "tokens": protocol.data.tokens, "seed": setup.seed,
        }  # fmt: skip

        def compute() -> dict[str, torch.Tensor]:
            with setup.progress.task(f"Asking about {name}", total=len(prompts), unit="prompts") as advance:
                return vars(answer(rows(), prompts, protocol.data.tokens, advance))

        identified = "@unknown/" not in model.identity and setup.cut.context is None
        tensors, _ = tensors_cached_or_computed("ravel", key if identified else None, compute)
        answers = Answers(**tensors)
        known = known_prompts(prompts, answers.right, options["entities"])
        by_attribute = {each: [at for at in known if prompts[at].attribute == each] for each in protocol.classes[name]}
        able = all(len(each) >= protocol.least.prompts for each in by_attribute.values())
        pairs = self._pairs(prompts, known, answers, protocol.classes[name]) if able else {}
        passes = None
        if pairs:
            bases = Pairs.together(list(pairs.values())).base.unique().tolist()
            with setup.progress.task(f"Reading about {name}", total=len(bases), unit="prompts") as advance:
                passes = Passes(prompts, rows(), bases, advance)
        return _Class(prompts, answers, by_attribute, pairs, passes, left_out)

    def _pairs(
        self, prompts: list[Prompt], known: list[int], answers: Answers, attributes: tuple[str, ...]
    ) -> dict[str, Pairs]:
        """Of each attribute for which there are some."""
        count, seed = self.options["pairs"], self.setup.seed
        made = {each: make_pairs(prompts, known, answers.first, each, count, seed) for each in attributes}
        return {each: found for each, found in made.items() if not isinstance(found, str)}

    def _score(
        self, name: str, attributes: tuple[str, ...], of: _Class, protocol: RavelProtocol, details: dict[str, Any]
    ) -> None:
        sae, progress = self.setup.sae, self.setup.progress
        assert isinstance(sae, SparseAutoencoder)
        scored: dict[str, Pairs] = {}
        chosen: dict[str, torch.Tensor] = {}
        right: dict[str, torch.Tensor] = {}
        if of.passes is not None:
            swaps = Swaps(sae, of.answers.inputs)
            for attribute, pairs in of.pairs.items():
                train = int(pairs.base.numel() * protocol.data.train)
                scored[attribute] = pairs.rows(slice(train, None))
                steps = protocol.mask.epochs * -(-train // protocol.mask.batch)
                with progress.task(f"Latents of {attribute}", total=steps, unit="steps") as advance:
                    chosen[attribute] = train_mask(of.passes, swaps, pairs.rows(slice(0, train)), protocol.mask, advance)
                details["latents"][f"{name}: {attribute}"] = chosen[attribute].nonzero().flatten().tolist()
            total = sum(each.base.numel() for each in scored.values())
            with progress.task(f"Swapping latents of {name}", total=total, unit="pairs") as advance:
                found = score_pairs(
                    of.passes, swaps, list(scored.values()), list(chosen.values()), protocol.data.tokens, advance
                )
            right = dict(zip(scored, found, strict=True))
        for attribute in attributes:
            row: dict[str, Any] = dict.fromkeys(COLUMNS)
            asked = sum(prompt.attribute == attribute for prompt in of.prompts)
            row |= {"class": name, "attribute": attribute, "asked": asked, "answered": len(of.known[attribute])}
            if attribute in right:
                row |= _counts(scored[attribute], chosen[attribute], right[attribute])
            for column, value in row.items():
                details["by_attribute"][column].append(value)


def _counts(pairs: Pairs, chosen: torch.Tensor, right: torch.Tensor) -> dict[str, int]:
    """Of one attribute: selected latents, pairs of either kind, and those that are answered right."""
    kinds = {"cause": pairs.cause, "isolation": ~pairs.cause}
    numbers = {kind: int(which.sum()) for kind, which in kinds.items()}
    return {"latents": int(chosen.sum()), **numbers} | {
        f"{kind}_right": int(right[which].sum()) for kind, which in kinds.items()
    }


def metrics_of(details: Mapping[str, Any]) -> list[Metric]:
    """All metrics from the counts by attribute: means over attributes, then over classes.

    Raises:
        ValueError, TypeError: the details are not as ``Ravel`` writes them.
    """
    columns = [details["by_attribute"][name] for name in COLUMNS]
    rows = [dict(zip(COLUMNS, each, strict=True)) for each in zip(*columns, strict=True)]
    asked, answered = sum(row["asked"] for row in rows), sum(row["answered"] for row in rows)
    lacking = [row for row in rows if row["cause"] is None or not row["cause"] or not row["isolation"]]
    reason = "nothing was asked"
    if lacking:
        worst = min(lacking, key=lambda row: row["answered"])
        reason = (
            f"the language model knows too little: it answers {worst['answered']} of {worst['asked']} prompts about "
            f"{worst['attribute']} of {worst['class']} right, and {details['needed']} with different answers are needed"
        )
    found = [
        metric("answered", answered / asked if asked else None, unit="1", direction="none", n=asked, n_unit="prompts",
               description="Share of prompts that are answered right and used", reason=reason),
    ]  # fmt: skip
    words = {
        "cause": "the completion is the source's answer after swapping the latents of the attribute that is asked for",
        "isolation": "the completion stays right after swapping the latents of another attribute",
    }
    estimates: dict[str, Estimate] = {}
    for kind, text in words.items():
        estimates[kind] = Estimate(None, None) if lacking or not rows else _mean(rows, kind)
        n = 0 if lacking else sum(row[kind] for row in rows)
        found.append(metric(kind, estimates[kind], unit="1", direction="higher", n=n, n_unit="pairs",
                            description=f"Share of pairs in which {text}", reason=reason))  # fmt: skip
    both = [estimates[kind] for kind in words]
    value = None if any(each.value is None for each in both) else sum(each.value or 0.0 for each in both) / 2
    error = None if value is None else sum((each.standard_error or 0.0) ** 2 for each in both) ** 0.5 / 2
    n = 0 if lacking else sum(row["cause"] + row["isolation"] for row in rows)
    found.insert(0, metric("disentanglement", Estimate(value, error), unit="1", direction="higher", n=n, n_unit="pairs",
                           description="Mean of cause and isolation", reason=reason))  # fmt: skip
    return found


def _mean(rows: list[dict[str, Any]], kind: str) -> Estimate:
    """Mean over classes of the mean over attributes; the error is that of the shares of pairs."""
    classes: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        n, right = row[kind], row[f"{kind}_right"]
        if not 0 <= right <= n:
            raise ValueError("counts of pairs are from 0 to all of them")
        share = right / n
        classes.setdefault(row["class"], []).append((share, share * (1 - share) / n))
    value = sum(sum(share for share, _ in each) / len(each) for each in classes.values()) / len(classes)
    variance = sum(sum(spread for _, spread in each) / len(each) ** 2 for each in classes.values()) / len(classes) ** 2
    return Estimate(value, variance**0.5)
