"""The planted world: features, texts that hold their patterns, and a language model that reads and predicts them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from saebench.lm import Cut, LanguageModel, Prefix
from saebench.lm.bridge import HookFunctions
from saebench.lm.hooks import Place, parse_place
from saebench.planted.damages import damage
from saebench.planted.features import BOS, FIRST_WORD, Contexts, PlantedConfig, PlantedFeatures, word_frequencies
from saebench.planted.oracle import fit_oracle
from saebench.planted.recovery import Recovery, measure
from saebench.sae import SparseAutoencoder
from saebench.text.corpus import TokenCorpus, make_corpus

HOOK = "blocks.0.hook_resid_post"
NORM_EPSILON = 1e-6
TEXTS_TOGETHER = 4096


class PlantedModel(LanguageModel):
    """A language model whose activations at ``HOOK`` are the planted ones, and whose layers above are an identity block, a
    norm, and logits by the features' effects. ``features`` has all true values.
    """

    features: PlantedFeatures

    def cut(self, hook_in: str | Place, hook_out: str | Place | None = None, context: Any = None) -> Cut:
        """At ``HOOK``; see ``LanguageModel.cut``."""
        place = parse_place(hook_in) if isinstance(hook_in, str) else hook_in
        super().cut(place, hook_out, context)  # raises where a hook does not exist
        return PlantedCut(self, place, place, context)

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """Logits of the planted activations."""
        cut = self.cut(HOOK)
        prefix = cut.prefix(tokens)
        return cut.suffix(prefix.outputs, prefix)


class PlantedCut(Cut):
    """The planted model, cut at ``HOOK``. No position depends on another's activations, and the blocks above add nothing."""

    model: PlantedModel

    def _seen(
        self, tokens: Tensor, wanted: list[str], hooks: HookFunctions, visible: Tensor | None, positions: Tensor | None
    ) -> dict[str, Tensor]:
        features = self.model.features
        if visible is None or positions is None:
            return dict.fromkeys(wanted, features.activations(Contexts.of(tokens)))
        rows, places = torch.ones_like(tokens).nonzero(as_tuple=True)
        found = features.activations(Contexts.at(tokens, rows, places, visible, positions))
        return dict.fromkeys(wanted, found.view(*tokens.shape, -1))

    @torch.no_grad()
    def inputs_at(
        self, tokens: Tensor, rows: Tensor, places: Tensor, visible: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """See ``Cut.inputs_at``."""
        if visible is None or positions is None:
            return self.prefix(tokens).inputs[rows, places]
        return self.model.features.activations(Contexts.at(tokens, rows, places, visible, positions)).squeeze(1)

    @torch.no_grad()
    def at_ends(self, table: Tensor, lengths: Tensor) -> Tensor:
        """See ``Cut.at_ends``."""
        features = self.model.features
        found = [
            features.activations(Contexts.ends(*some)).squeeze(1)
            for some in zip(table.split(TEXTS_TOGETHER), lengths.split(TEXTS_TOGETHER), strict=True)
        ]
        return torch.cat(found) if found else torch.zeros(0, self.d_in)

    @torch.no_grad()
    def suffix_end(self, outputs: Tensor, prefix: Prefix) -> Tensor:
        """See ``Cut.suffix_end``: the norm alone."""
        if self.model.revision is None:
            return super().suffix_end(outputs, prefix)
        return _normed(outputs.to(self.model.dtype), self.model.features.norm_size)

    def differentiable_suffix(self, outputs: Tensor, prefix: Prefix, cache: Any = None, **inputs: Tensor) -> Tensor:
        """See ``Cut.differentiable_suffix``: the norm and the unembedding. A ``cache`` gets as many empty entries."""
        if self.model.revision is None:  # re-initialised: the blocks are not empty
            return super().differentiable_suffix(outputs, prefix, cache)
        if cache is not None:
            blank = outputs.new_zeros(outputs.shape[0], 1, outputs.shape[1], 1)
            for layer in range(self.model.n_layers):
                cache.update(blank, blank, layer)
        features = self.model.features
        return _normed(outputs.to(self.model.dtype), features.norm_size) @ features.unembedding.T


@dataclass(frozen=True)
class PlantedWorld:
    """Features with a language model and texts.

    Attributes:
        features: the true dictionary; ``model``: the language model; ``hook``: where the activations are planted.
    """

    features: PlantedFeatures
    model: PlantedModel
    hook: str = HOOK

    @property
    def config(self) -> PlantedConfig:
        """Its size and seed."""
        return self.features.config

    def cut(self) -> Cut:
        """The model at its hook."""
        return self.model.cut(self.hook)

    def corpus(self, tokens: int, seed: int = 0) -> TokenCorpus:
        """A text of whole rows, each a document: BOS, the mark of a topic, words."""
        rows = sample_rows(self.features, -(-tokens // self.config.context), seed)
        return make_corpus(rows, self.model.tokenizer, name=f"planted text {seed}", bos="row")

    def code(self, corpus: TokenCorpus) -> Tensor:
        """``[counted tokens, F]``: the true code of a text's counted positions."""
        return self.features.values(Contexts.of(corpus.tokens))[~corpus.excluded]

    def activations(self, corpus: TokenCorpus) -> Tensor:
        """``[counted tokens, d]``: the activations there."""
        return self.features.activations(Contexts.of(corpus.tokens))[~corpus.excluded]

    @cached_property
    def _fitted(self) -> SparseAutoencoder:
        corpus = self.corpus(32_768, seed=-1)
        return fit_oracle(self.features, self.activations(corpus), self.code(corpus), self.model.name, self.hook)

    def oracle(self) -> SparseAutoencoder:
        """The true dictionary as decoder; see ``saebench.planted.oracle`` for the encoder."""
        return self._fitted

    def damaged(self, kind: str, dose: float, seed: int = 0) -> SparseAutoencoder:
        """The oracle with one kind of damage; dose 0 is the oracle itself.

        Raises:
            SaebenchError: there is no such damage, or the dose is outside its range.
        """
        return damage(self.oracle(), self.features, kind, dose, seed)

    def recovery(self, sae: SparseAutoencoder, corpus: TokenCorpus) -> Recovery:
        """How much of the true dictionary an autoencoder has."""
        return measure(sae, self.features.directions, self.activations(corpus), self.code(corpus))


def plant(config: PlantedConfig | None = None) -> PlantedWorld:
    """A planted world; the same configuration gives the same one."""
    features = PlantedFeatures.make(config or PlantedConfig())
    model = _model(features)
    return PlantedWorld(features, model)


def sample_rows(features: PlantedFeatures, rows: int, seed: int) -> Tensor:
    """``[rows, context]`` token ids: BOS, the mark of a topic, and words drawn from the planted model's own predictions.

    No change of the activations can therefore lower the expected loss.
    """
    config = features.config
    generator = torch.Generator().manual_seed(config.seed * 7_919 + seed + 17)
    found = torch.full((rows, config.context), BOS)
    found[:, 1] = torch.randint(FIRST_WORD, FIRST_WORD + config.topics, (rows,), generator=generator)
    unembedding, size = features.unembedding, features.norm_size
    words = word_frequencies(config) > 0
    for place in range(2, config.context):
        activations = features.activations(Contexts.ends(found[:, :place], torch.full((rows,), place))).squeeze(1)
        logits = _normed(activations, size) @ unembedding.T
        found[:, place] = torch.multinomial(logits.masked_fill(~words, -torch.inf).softmax(dim=1), 1, generator=generator)[
            :, 0
        ]
    return found


def _normed(activations: Tensor, size: float) -> Tensor:
    return activations * size / (activations.square().mean(dim=-1, keepdim=True) + NORM_EPSILON).sqrt()


def _model(features: PlantedFeatures) -> PlantedModel:
    """A Llama of two blocks that add nothing, whose unembedding holds the features' effects."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = features.config
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary, hidden_size=config.d, intermediate_size=config.d, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4 * config.context,
            rms_norm_eps=NORM_EPSILON,
            bos_token_id=BOS, eos_token_id=2, pad_token_id=None, tie_word_embeddings=False, attn_implementation="eager",
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in llama.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        llama.model.norm.weight.fill_(features.norm_size)
        llama.lm_head.weight.copy_(features.unembedding)
        embedded = torch.randn(config.vocabulary, config.d, generator=torch.Generator().manual_seed(config.seed))
        llama.model.embed_tokens.weight.copy_(embedded)
    model = PlantedModel(llama, _tokenizer(config.vocabulary), f"planted-{config.seed}", revision=repr(config))
    model.features = features
    return model


def _tokenizer(vocabulary: int) -> Any:
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{index}": index for index in range(FIRST_WORD, vocabulary)}
    return word_tokenizer(words, "planted")


def word_tokenizer(numbers: dict[str, int], name: str) -> Any:
    """A tokenizer of the words between white space; ``<unk>``, ``<s>`` (BOS) and ``</s>`` (EOS) are among them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    split.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=split, name_or_path=name, add_bos_token=True, **special)
