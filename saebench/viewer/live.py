"""Content that needs the autoencoder's weights or the language model: neighbours, logit lens, search by text.

Both are loaded in the background, so that pages open at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from saebench.errors import SaebenchError
from saebench.explaining.vocabulary import token_strings
from saebench.lm import Cut, LanguageModel
from saebench.sae import Autoencoder, SparseAutoencoder

NEIGHBOURS, WORDS = 10, 10
LONGEST_TEXT = 2000
MOST_TOKENS = 512
MOST_LATENTS, LATENTS_PER_TOKEN = 60, 12
CHUNK = 8192
IN_RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out", "hook_in", "hook_out")

Loaded = TypeVar("Loaded")


class NotReady(Exception):
    """Loading has not finished yet."""


class Live:
    """Loads weights and model in the background, and answers once they are loaded.

    Args:
        load_sae: returns the autoencoder.
        load_cut: returns ``(autoencoder fitted to the cut, cut)``, or None for pages without a language model.
        bos: whether a searched text begins with BOS.
    """

    def __init__(
        self,
        load_sae: Callable[[], SparseAutoencoder],
        load_cut: Callable[[SparseAutoencoder], tuple[Autoencoder, Cut]] | None,
        bos: bool = True,
    ) -> None:
        self._sae = _in_background(lambda: Weights(load_sae()))
        self._model: Future[Model] | None = None
        if load_cut is not None:
            self._model = _in_background(lambda: Model(*load_cut(self._sae.result().sae), bos))

    def neighbours(self, latent: int, patience: float) -> list[tuple[int, float]]:
        """``(latent, cosine)`` of the decoder directions nearest to a latent's; ``NotReady`` after ``patience`` seconds."""
        return _result(self._sae, patience).neighbours(latent)

    def lens(self, latent: int, patience: float) -> dict[str, Any]:
        """The words that a latent's direction makes most and least likely; see ``Model.lens``."""
        return self._live(patience).lens([latent])[0]

    def search(self, text: str, patience: float) -> dict[str, Any]:
        """The latents that fire on a text; see ``Model.search``."""
        return self._live(patience).search(text)

    @property
    def has_model(self) -> bool:
        """Whether a language model was requested."""
        return self._model is not None

    def model(self) -> Model | None:
        """The language model, after waiting for it; None where none was requested."""
        return None if self._model is None else self._model.result()

    def weights(self) -> Weights:
        """The autoencoder, after waiting for it."""
        return self._sae.result()

    def _live(self, patience: float) -> Model:
        if self._model is None:
            raise SaebenchError("This viewer runs without the language model: start it without --no-live.")
        return _result(self._model, patience)


def _in_background(make: Callable[[], Loaded]) -> Future[Loaded]:
    """A future of the result of ``make``, in a daemon thread."""
    future: Future[Loaded] = Future()

    def run() -> None:
        try:
            future.set_result(make())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _result(future: Future[Loaded], patience: float) -> Loaded:
    try:
        return future.result(timeout=patience)
    except NotYet:
        raise NotReady from None


@dataclass(frozen=True)
class Weights:
    """The decoder's directions."""

    sae: SparseAutoencoder

    @cached_property
    def norms(self) -> Tensor:
        """``[n]``: lengths of the directions."""
        return torch.cat([part.float().norm(dim=1) for part in self.sae.W_dec.split(CHUNK)]).clamp_min(1e-30)

    def neighbours(self, latent: int, count: int = NEIGHBOURS) -> list[tuple[int, float]]:
        """``(latent, cosine)`` of the nearest directions, in descending order."""
        return self.all_neighbours(latent, latent + 1, count)[0]

    @torch.no_grad()
    def all_neighbours(self, start: int, stop: int, count: int = NEIGHBOURS) -> list[list[tuple[int, float]]]:
        """Those of latents ``start`` to ``stop``; the decoder is read in chunks."""
        directions = F.normalize(self.sae.W_dec[start:stop].float(), dim=1)
        best = directions.new_full((stop - start, count), -torch.inf)
        who = torch.zeros(stop - start, count, dtype=torch.int64, device=best.device)
        own = torch.arange(start, stop, device=best.device).unsqueeze(1)
        for first in range(0, self.sae.n_latents, CHUNK):
            others = self.sae.W_dec[first : first + CHUNK].float()
            cosines = directions @ others.T / self.norms[first : first + CHUNK]
            numbers = torch.arange(first, first + others.shape[0], device=cosines.device).expand_as(cosines)
            cosines = cosines.masked_fill(numbers == own, -torch.inf)
            merged, names = torch.cat([best, cosines], dim=1), torch.cat([who, numbers], dim=1)
            best, slots = merged.topk(count, dim=1)
            who = names.gather(1, slots)
        pairs = [zip(names, values, strict=True) for names, values in zip(who.tolist(), best.tolist(), strict=True)]
        return [[(name, round(value, 4)) for name, value in each if value > -2] for each in pairs]


class Model:
    """A language model cut at the autoencoder's hooks. One text runs at a time."""

    def __init__(self, sae: Autoencoder, cut: Cut, bos: bool) -> None:
        self.sae, self.cut, self._bos = sae, cut, bos
        self.words = token_strings(cut.model.tokenizer)
        self._lock = threading.Lock()
        self._reading = _reading(cut)
        self.search = lru_cache(maxsize=32)(self._search)

    @torch.no_grad()
    def lens(self, latents: Sequence[int], count: int = WORDS) -> list[dict[str, Any]]:
        """For each latent the words whose logits its decoder direction raises and lowers most.

        The direction is multiplied by the final normalisation's gain and the unembedding ("logit lens", nostalgebraist
        2020); logits are relative to their mean over the vocabulary, for a latent of activation 1 at a residual stream of
        unit scale. ``reason`` replaces the words where the autoencoder does not write to the residual stream.
        """
        if isinstance(self._reading, str):
            return [{"reason": self._reading} for _ in latents]
        if not isinstance(self.sae, SparseAutoencoder):
            return [{"reason": "this autoencoder has no decoder weights"} for _ in latents]
        logits = self._reading.logits(self.sae.W_dec[list(latents)].float())
        count = min(count, logits.shape[1])
        found = []
        for row in logits:
            top, bottom = row.topk(count), row.topk(count, largest=False)
            found.append({"top": self._named(top.indices, top.values), "bottom": self._named(bottom.indices, bottom.values)})
        return found

    def _named(self, tokens: Tensor, values: Tensor) -> list[list[Any]]:
        names = [self.words[token] if token < len(self.words) else f"[{token}]" for token in tokens.tolist()]
        return [[name, float(f"{value:.3g}")] for name, value in zip(names, values.tolist(), strict=True)]

    @torch.no_grad()
    def _search(self, text: str) -> dict[str, Any]:
        """Which latents fire on a text: its tokens, the latents in order of their strongest activation, and each token's.

        Raises:
            SaebenchError: the text is empty or too long.
        """
        if not text.strip():
            raise SaebenchError("Type some text to search for the latents that fire on it.")
        if len(text) > LONGEST_TEXT:
            raise SaebenchError(f"The text has {len(text):,} characters; at most {LONGEST_TEXT:,} are searched.")
        tokenizer = self.cut.model.tokenizer
        ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])[:MOST_TOKENS]
        lead = [tokenizer.bos_token_id] if self._bos and tokenizer.bos_token_id is not None else []
        with self._lock:
            inputs = self.cut.prefix(torch.tensor([lead + ids])).inputs[0, len(lead) :].float()
            code = self.sae.encode(inputs)
        token, slot = code.active.cpu().nonzero(as_tuple=True)
        latents, values = code.indices.cpu()[token, slot], code.values.cpu()[token, slot].float()
        return {"tokens": [self.words[each] for each in ids], **_by_latent(token, latents, values, len(ids))}


def _by_latent(token: Tensor, latents: Tensor, values: Tensor, tokens: int) -> dict[str, Any]:
    """The latents in order of their strongest activation, with where they fire; and the strongest of each token."""
    active: dict[int, list[list[float]]] = {}
    per_token: list[list[tuple[float, int]]] = [[] for _ in range(tokens)]
    for place, latent, value in zip(token.tolist(), latents.tolist(), values.tolist(), strict=True):
        active.setdefault(latent, []).append([place, float(f"{value:.4g}")])
        per_token[place].append((abs(value), latent))
    strongest = {latent: max(abs(value) for _, value in where) for latent, where in active.items()}
    of_tokens = [[latent for _, latent in sorted(each, reverse=True)[:LATENTS_PER_TOKEN]] for each in per_token]
    ranking = sorted(active, key=lambda latent: -strongest[latent])
    listed = dict.fromkeys([*ranking[:MOST_LATENTS], *(latent for each in of_tokens for latent in each)])
    return {
        "latents": [{"latent": latent, "strongest": strongest[latent], "active": active[latent]} for latent in listed],
        "ranking": ranking[:MOST_LATENTS],
        "of_tokens": of_tokens,
        "total": len(active),
    }


@dataclass(frozen=True)
class _Reading:
    """The language model's operations on its last residual stream: centring, gain, unembedding."""

    centred: bool
    gain: Tensor  # [d_model]
    unembedding: Tensor  # [d_model, V], in the model's dtype

    def logits(self, directions: Tensor) -> Tensor:
        """``[directions, V]``, less their mean over the vocabulary; in chunks of words, in float32."""
        if self.centred:
            directions = directions - directions.mean(dim=1, keepdim=True)
        scaled = directions * self.gain
        logits = torch.cat([scaled @ part.float() for part in self.unembedding.split(4 * CHUNK, dim=1)], dim=1)
        return logits - logits.mean(dim=1, keepdim=True)


@torch.no_grad()
def _reading(cut: Cut) -> _Reading | str:
    """How directions are converted to words, or why they cannot be.

    The gain is determined from the final normalisation's output for a vector of alternating signs (mean 0, unit
    scale), independently of how the model stores it.
    """
    model: LanguageModel = cut.model
    if cut.hook_out.point not in IN_RESIDUAL:
        return f"{cut.hook_out} does not write to the residual stream"
    try:
        unembedding, norm = model.bridge.W_U, model.bridge.ln_final
        ones = torch.ones(1, 1, unembedding.shape[0], device=model.device, dtype=model.dtype)
        signs = ones.clone()
        signs[..., 1::2] = -1
        gain = (norm(signs) - norm(-signs)).float()[0, 0] / 2 * signs.float()[0, 0]
        centred = float((norm(ones) - norm(-ones)).float().norm()) < 1e-3
    except (AttributeError, RuntimeError, TypeError):
        return "TransformerLens gives no access to final normalisation and unembedding of this model"
    if cut.d_out != unembedding.shape[0]:
        return f"{cut.hook_out} does not write to the residual stream"
    return _Reading(centred, gain, unembedding)
