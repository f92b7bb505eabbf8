"""A language model whose words hold their first letter as a direction, and autoencoders with known absorption of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saebench.lm import LanguageModel
from saebench.planted.world import word_tokenizer
from saebench.sae import CheckpointInfo, JumpReLU, SparseAutoencoder
from saebench.text.corpus import TokenCorpus, make_corpus

HOOK = "blocks.0.hook_resid_post"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PER_LETTER = 24
OWN = 0.25
"""So small that the penalty of the selection removes a latent of a single word."""
SPECIAL = ("<unk>", "<s>", "</s>")


@dataclass(frozen=True)
class LetterWorld:
    """Activation of a word: 3 along the axis of its letter (0 unless ``known``), ``OWN`` along one of its own."""

    model: LanguageModel
    corpus: TokenCorpus
    words: list[str]
    own: float = OWN

    def letter_of(self, index: int) -> int:
        return LETTERS.index(self.words[index][0].lower())

    def sae(self, absorbed: dict[int, float], split: tuple[int, ...] = ()) -> SparseAutoencoder:
        """26 letter latents, then one for each word, then second latents of the ``split`` letters.

        ``absorbed``: words whose own latent writes this share of the letter instead of the letter's latent.
        """
        v, d = len(self.words), 26 + len(self.words)
        axes = torch.eye(d)
        encoder, decoder = axes.clone(), axes.clone()
        for index, share in absorbed.items():
            letter = self.letter_of(index)
            encoder[letter, 26 + index] = -3 * share / self.own
            decoder[26 + index, letter] = 3 * share / OWN
        extra = []
        for letter in split:
            other = encoder[letter].clone()
            for index in range(v):
                if self.letter_of(index) == letter:
                    (encoder[letter] if index % 2 else other)[26 + index] = -3 / self.own
            extra.append(other)
        if extra:
            encoder = torch.cat([encoder, torch.stack(extra)])
            decoder = torch.cat([decoder, axes[list(split)]])
        n = encoder.shape[0]
        threshold = torch.full((n,), 0.5)
        threshold[26 : 26 + v] = self.own / 2
        info = CheckpointInfo("planted letters", "saebench", "jumprelu", d, d, n, {}, hook_in=HOOK, hook_out=HOOK)
        return SparseAutoencoder(
            W_enc=encoder.T.contiguous(), W_dec=decoder.contiguous(), b_enc=torch.zeros(n), b_dec=torch.zeros(d),
            activation=JumpReLU(threshold), info=info,
        )  # fmt: skip


def letter_world(known: bool = True, own: float = OWN) -> LetterWorld:
    generator = torch.Generator().manual_seed(0)
    words = ["has", "the", "first", *(letter.upper() for letter in LETTERS)]
    for letter in LETTERS:
        for number in range(PER_LETTER):
            words.append(letter + LETTERS[number] + LETTERS[int(torch.randint(26, (1,), generator=generator))] + "x")
    from transformers import LlamaConfig, LlamaForCausalLM

    d, vocabulary = 26 + len(words), len(SPECIAL) + len(words) + 1
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=d, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            num_key_value_heads=1, max_position_embeddings=512, head_dim=8, tie_word_embeddings=False,
            attn_implementation="eager", bos_token_id=1, eos_token_id=2, pad_token_id=None,
        )
    )  # fmt: skip
    embedded = torch.zeros(vocabulary, d)
    for index, word in enumerate(words):
        embedded[3 + index, 26 + index] = own
        embedded[3 + index, LETTERS.index(word[0].lower())] = 3.0 if known else 0.0
    with torch.no_grad():
        for name, parameter in llama.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        llama.model.embed_tokens.weight.copy_(embedded)
    numbers = {word: index for index, word in enumerate([*SPECIAL, *words, "letter:"])}
    model = LanguageModel(llama, word_tokenizer(numbers, "letters"), f"letters-{known}-{own}", revision="1")
    rows = torch.randint(3, vocabulary, (8, 16), generator=generator)
    rows[:, 0] = 1
    return LetterWorld(model, make_corpus(rows, model.tokenizer, name="words", bos="row"), words, own)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))
