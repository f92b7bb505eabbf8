"""Neuron2Graph: planted latents, and the same tries as one latent and one variant at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from saebench.explaining.examples.sampling import HookInputs
from saebench.explaining.n2g.graphs import build_tries
from saebench.explaining.n2g.packing import END, Pack, Texts, batch_packs, run_packed, tree_trouble
from saebench.explaining.n2g.reader import LatentReader, select_latents
from saebench.explaining.n2g.study import StudyInputs, choose, divide, sample_activations, study
from saebench.explaining.n2g.tokens import NearestTokens, find_padding
from saebench.explaining.n2g.trie import ANY, Trie
from saebench.explaining.protocol import Protocol, read_protocol
from saebench.lm import LanguageModel
from saebench.progress import Progress
from saebench.sae import Activation, JumpReLU, ReLU, SparseAutoencoder, TopK
from saebench.text.corpus import TokenCorpus, load_corpus, make_corpus
from tests.conftest import HOOK
from tests.explaining.n2g.planted import TokensAsActivations
from tests.explaining.n2g.slow_n2g import SlowModel, slow_trie


def as_plain(trie: Trie) -> dict[tuple[int | str, ...], float]:
    return {
        (*(("^",) if path.at_start else ()), *("*" if token == ANY else token for token in path.tokens)): path.value
        for path in trie.paths()
    }


def neighbours(model: LanguageModel, candidates: int) -> dict[int, list[int]]:
    """By cosine of input embeddings, special tokens left out."""
    table = F.normalize(model.bridge.original_model.get_input_embeddings().weight.detach(), dim=1)
    found = {}
    for token in range(table.shape[0]):
        order = (table @ table[token]).argsort(descending=True).tolist()
        found[token] = [each for each in order if each != token and each not in model.tokenizer.all_special_ids][:candidates]
    return found


def compare(model: LanguageModel, hook: str, layer: int, sae: SparseAutoencoder, corpus: TokenCorpus, protocol: Protocol,
            near: dict[int, list[int]]) -> int:  # fmt: skip
    """Build the tries both ways; how many paths were the same."""
    ground = StudyInputs.of(HookInputs(model.cut(hook), corpus), protocol, 0, Progress(False))
    sample = sample_activations(ground, sae)
    found = study(ground, sae, sample, choose(ground, sample, protocol.latents))
    assert found.chosen.latents
    slow = SlowModel(model, layer, sae, ground.bos)
    paths = 0
    for latent in found.chosen.latents:
        mine = (found.examples.latents == latent).nonzero().squeeze(1).tolist()
        examples = [
            (found.examples.tokens[each, -int(found.examples.lengths[each]) :].tolist(), float(found.examples.values[each]))
            for each in mine
        ]
        expected = slow_trie(slow, latent, examples, ground.padding, near)
        got = as_plain(found.tries[latent])
        assert got.keys() == expected.keys()
        assert all(got[path] == pytest.approx(expected[path], rel=1e-4) for path in got)
        paths += len(got)
    assert slow.calls == found.readings
    return paths


@pytest.mark.parametrize(
    ("definition", "activation"),
    [("n2g", TopK(8)), ("gao2024", TopK(8)), ("gao2024", ReLU()), ("n2g", JumpReLU(torch.full((64,), 0.3)))],
    ids=["n2g-topk", "gao2024-topk", "gao2024-relu", "n2g-jumprelu"],
)
def test_the_same_tries_as_one_at_a_time(
    make_sae: Callable[..., SparseAutoencoder],
    tiny_model: LanguageModel,
    tiny_corpus: TokenCorpus,
    definition: str,
    activation: Activation,
) -> None:
    protocol = read_protocol(definition, {"window": 10, "build": 3, "held_out": 3, "latents": 4, "least": 4})
    near = neighbours(tiny_model, protocol.candidates) if protocol.candidates else {}
    assert compare(tiny_model, HOOK, 1, make_sae(activation=activation), tiny_corpus, protocol, near) > 8


def test_several_sizes_at_a_time_give_the_same_suffixes(
    make_sae: Callable[..., SparseAutoencoder], tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    protocol = read_protocol("n2g", {"window": 10, "build": 6, "held_out": 3, "latents": 8, "least": 4})
    source, sae = HookInputs(tiny_model.cut(HOOK), tiny_corpus), make_sae(activation=TopK(8))
    ground = StudyInputs.of(source, protocol, 0, Progress(False))
    sample = sample_activations(ground, sae)
    examples, _ = divide(ground, sample, choose(ground, sample, protocol.latents).latents)
    reader = LatentReader(tiny_model.cut(HOOK), sae, ground.bos)
    assert reader.shares  # it is a transformer
    found = []
    for reader.shares in (True, False):
        found.append(build_tries(reader, examples, ground.padding, protocol))
    assert len(found[0]) == 8 and sum(len(as_plain(each)) for each in found[0].values()) > 8
    for latent, trie in found[0].items():
        assert as_plain(found[1][latent]) == pytest.approx(as_plain(trie), rel=1e-4)


@pytest.mark.slow
def test_the_same_tries_as_one_at_a_time_on_a_real_model(make_sae: Callable[..., SparseAutoencoder]) -> None:
    model = LanguageModel.load("smollm2", dtype="float32")
    corpus = load_corpus("python-docs", model.tokenizer, context=32, tokens=1024)
    protocol = read_protocol("gao2024", {"window": 16, "build": 4, "held_out": 4, "latents": 4, "keep_bos": True})
    sae = make_sae(d=576, n=512, activation=TopK(16))
    assert compare(model, "blocks.15.hook_resid_post", 15, sae, corpus, protocol, {}) > 8


def some_texts(n: int, longest: int) -> torch.Tensor:
    """Random texts of few tokens, of all lengths, so that many share beginnings and some are beginnings of others."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(3, 6, (n, longest), generator=generator)
    lengths = torch.randint(1, longest + 1, (n, 1), generator=generator)
    return table.masked_fill(torch.arange(longest) >= lengths, END)


@pytest.mark.parametrize("way", ["trees", "chains"])
def test_packs_give_what_texts_give(tiny_model: LanguageModel, way: str) -> None:
    cut = tiny_model.cut(HOOK)
    assert tree_trouble(cut, torch.arange(3, 11)) is None
    texts = Texts(torch.unique(some_texts(300, 7), dim=0))
    packs: list[Pack] = getattr(texts, way)()
    nodes = sum(each.tokens.numel() for each in packs)
    if way == "trees":
        assert len(packs) > 3 and nodes < 0.6 * int(texts.lengths.sum())
    else:
        assert len(packs) == int(texts.maximal.sum()) < texts.lengths.numel() and nodes < 0.9 * int(texts.lengths.sum())
    groups = batch_packs(packs, 100)
    assert len(groups) > 3 and sorted(number for each in groups for number in each) == list(range(len(packs)))
    numbers = torch.arange(texts.lengths.numel()).split([each.ends.numel() for each in packs])
    for group in groups:
        found = run_packed(cut, [packs[each] for each in group])
        for row, number in zip(found, torch.cat([numbers[each] for each in group]).tolist(), strict=True):
            alone = cut.prefix(texts.table[number : number + 1, : int(texts.lengths[number])]).inputs[0, -1]
            assert torch.allclose(row, alone, atol=1e-3)  # of norms near 50


def test_a_model_that_does_not_support_trees_is_given_texts(tiny_model: LanguageModel) -> None:
    cut: Any = TokensAsActivations(tiny_model)
    assert tree_trouble(cut, torch.arange(3, 11)) is not None


def test_readings_do_not_depend_on_how_texts_are_run(
    make_sae: Callable[..., SparseAutoencoder], tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = some_texts(200, 6)
    latents = torch.randint(0, 64, (200,), generator=torch.Generator().manual_seed(1))
    reader = LatentReader(tiny_model.cut(HOOK), make_sae(activation=TopK(24)), bos=1)
    batches: list[int] = []
    packed = reader.read(table, latents, batches.append)
    assert reader.asked == sum(batches) == 200 and reader.texts < 200 and reader.tokens < 200 * 4
    reader.trees = False
    monkeypatch.setattr("saebench.explaining.n2g.packing.TOKENS_PER_BATCH", 20)
    assert torch.allclose(reader.read(table, latents), packed, atol=1e-5)
    for row, latent, value in zip(table, latents.tolist(), packed.tolist(), strict=True):
        text = F.pad(row[row != END], (1, 0), value=1)
        code = make_sae(activation=TopK(24)).encode(tiny_model.cut(HOOK).prefix(text.unsqueeze(0)).inputs[0, -1:])
        assert value == pytest.approx(float(code.to_dense()[0, latent]), rel=1e-5, abs=1e-5)
    assert (packed > 0).any() and (packed == 0).any()


def test_some_latents_alone(make_sae: Callable[..., SparseAutoencoder]) -> None:
    sae = make_sae(activation=JumpReLU(torch.linspace(0.1, 0.9, 64)))
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([40, 3, 17])
    assert torch.allclose(select_latents(sae, wanted).encode(x).to_dense(), sae.encode(x).to_dense()[:, wanted], atol=1e-6)


def test_the_nearest_tokens_are_the_nearest(tiny_model: LanguageModel) -> None:
    expected = neighbours(tiny_model, 3)
    tokens = torch.tensor([10, 50, 10, 199])
    assert NearestTokens(tiny_model, 3)(tokens).tolist() == [expected[token] for token in tokens.tolist()]


def test_the_padding_token_and_its_fallback(tiny_model: LanguageModel) -> None:
    assert find_padding(tiny_model.tokenizer, "w10")[:2] == (10, "w10")
    fallback = find_padding(tiny_model.tokenizer, " _")
    assert fallback.token == 3 and "first ordinary token" in fallback.rule


@pytest.mark.slow
def test_smollm2_has_the_underscore() -> None:
    model = LanguageModel.load("smollm2")
    assert find_padding(model.tokenizer, " _").token == 2483


def test_text_that_begins_with_bos_is_tried_with_it(
    make_sae: Callable[..., SparseAutoencoder], tiny_model: LanguageModel, tiny_corpus: TokenCorpus
) -> None:
    for definition, bos in (("n2g", 1), ("gao2024", None)):
        protocol = read_protocol(definition, {"window": 12})
        ground = StudyInputs.of(HookInputs(tiny_model.cut(HOOK), tiny_corpus), protocol, 0, Progress(False))
        assert (ground.bos, ground.first) == (bos, 1 if bos else 0)
    bare = make_corpus(tiny_corpus.tokens[:, 1:], tiny_model.tokenizer, name="no BOS")
    source = HookInputs(tiny_model.cut(HOOK), bare)
    assert StudyInputs.of(source, read_protocol("n2g", {"window": 12}), 0, Progress(False)).bos is None
