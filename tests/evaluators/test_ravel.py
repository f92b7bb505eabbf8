"""RAVEL on a model with known facts, and its parts against slow, dense versions."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import saebench
from saebench.errors import SaebenchError
from saebench.evaluators.base import Measured
from saebench.evaluators.entities.answers import is_right, is_settled
from saebench.evaluators.entities.data import Prompt, load_prompts, rows_of
from saebench.evaluators.entities.mask import Swaps, train_mask
from saebench.evaluators.entities.pairs import Pairs, known_prompts, make_pairs
from saebench.evaluators.entities.passes import Passes
from saebench.evaluators.entities.protocol import read_ravel_protocol
from saebench.evaluators.ravel import Ravel
from saebench.lm import Cut, LanguageModel
from saebench.results import EvaluatorResult
from saebench.sae import SparseAutoencoder
from tests.evaluators.entity_world import CLASSES, EntityWorld, entity_world

MakeSae = Callable[..., SparseAutoencoder]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def world(folder: Path) -> EntityWorld:
    return entity_world(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "facts"))


def run(world: EntityWorld, folder: Path, sae: Any, **options: int) -> EvaluatorResult:
    card = saebench.evaluate(
        sae, model=world.model, corpus=world.corpus, evaluators=["ravel"], progress=False, data_dir=folder,
        options={"ravel": options},
    )  # fmt: skip
    assert card.result.failures == {}
    return card.result.evaluators["ravel"]


def values(found: EvaluatorResult) -> dict[str, float | None]:
    return {name: each.value for name, each in found.metrics.items()}


def test_a_latent_for_each_fact_separates_attributes(world: EntityWorld, folder: Path) -> None:
    found = run(world, folder, world.facts())
    assert values(found) == {"disentanglement": 1, "answered": 1, "cause": 1, "isolation": 1}
    rows = found.details["by_attribute"]
    assert rows["asked"] == rows["answered"] == [108] * 6 and found.details["left_out"] == {name: 0 for name in CLASSES}
    assert [cause + other for cause, other in zip(rows["cause"], rows["isolation"], strict=True)] == [65] * 6  # 30 % of 216
    for index, attribute in enumerate(CLASSES["city"]):
        chosen = set(found.details["latents"][f"city: {attribute}"])
        assert chosen == {3 * index, 3 * index + 1, 3 * index + 2}


def test_a_model_without_a_cache_gets_the_same(
    world: EntityWorld, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = run(world, folder, world.mixed(), pairs=30)
    monkeypatch.setenv("SAEBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(world.model, "cache_argument", None)
    assert run(world, folder, world.mixed(), pairs=30).metrics == fast.metrics


def test_latents_of_two_attributes_fail_isolation_or_cause(world: EntityWorld, folder: Path) -> None:
    found = run(world, folder, world.mixed())
    rows = found.details["by_attribute"]
    for index in (2, 5):  # the attribute with latents of its own
        assert (
            rows["cause_right"][index] == rows["cause"][index] and rows["isolation_right"][index] == rows["isolation"][index]
        )
    value = found.metrics["disentanglement"].value
    assert value is not None and 0.6 < value < 0.9
    mean = sum(
        sum(rows[f"{kind}_right"][index] / rows[kind][index] for index in range(6)) / 6 for kind in ("cause", "isolation")
    )
    assert value == pytest.approx(mean / 2)


def test_latents_without_facts_score_nothing(world: EntityWorld, folder: Path) -> None:
    """The autoencoder's error is left out, so an answer that no latent holds is lost whatever is swapped."""
    assert values(run(world, folder, world.blind())) == {"disentanglement": 0, "answered": 1, "cause": 0, "isolation": 0}


def test_a_model_without_knowledge_gets_a_reason(folder: Path, tmp_path: Path) -> None:
    ignorant = entity_world(tmp_path, knows=False)
    found = run(ignorant, tmp_path, ignorant.facts())
    assert found.metrics["answered"].value is not None and found.metrics["answered"].value < 0.5
    for name in ("disentanglement", "cause", "isolation"):
        each = found.metrics[name]
        assert each.value is None and each.reason is not None
        assert "knows too little" in each.reason and "100 with different answers are needed" in each.reason


def test_set_up_is_shared_and_cached(world: EntityWorld, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(world, folder, world.facts(), pairs=40)
    asked: list[int] = []

    def no_set_up(*arguments: Any, **names: Any) -> Any:
        asked.append(1)
        raise AssertionError("the model was asked again")

    monkeypatch.setattr("saebench.evaluators.ravel.answer", no_set_up)
    again = run(world, folder, world.facts(), pairs=40)
    assert not asked and first.metrics == again.metrics
    assert sum(first.details["by_attribute"]["cause"]) < sum([65] * 6) / 2


def test_metrics_follow_from_the_details(world: EntityWorld, folder: Path) -> None:
    found = run(world, folder, world.mixed())
    measured = Measured(12, 1, 1, "m", 1, 1, 1, 0)
    assert {each.name: each for each in Ravel.recomputed(found, measured)} == found.metrics
    assert found.metrics["cause"].standard_error == pytest.approx(_error(found, "cause"))


def _error(found: EvaluatorResult, kind: str) -> float:
    rows = found.details["by_attribute"]
    shares = [right / n for right, n in zip(rows[f"{kind}_right"], rows[kind], strict=True)]
    return sum(share * (1 - share) / n for share, n in zip(shares, rows[kind], strict=True)) ** 0.5 / 6


def test_missing_data_is_one_sentence(world: EntityWorld, tmp_path: Path) -> None:
    with pytest.raises(SaebenchError, match=r"ravel needs ravel/city\.jsonl, but no data folder is given: .* --data-dir"):
        saebench.evaluate(world.facts(), model=world.model, corpus=world.corpus, evaluators=["ravel"], progress=False)
    with pytest.raises(SaebenchError, match=r"ravel/city\.jsonl, but .* lacks it"):
        run(world, tmp_path, world.facts())


def test_damaged_data_fails_this_evaluator_alone(world: EntityWorld, tmp_path: Path) -> None:
    other = entity_world(tmp_path)
    (tmp_path / "ravel" / "city.jsonl").write_text('{"entity": "x"}\n')
    card = saebench.evaluate(
        other.facts(), model=other.model, corpus=other.corpus, evaluators=["ravel", "dictionary"], progress=False,
        data_dir=tmp_path,
    )  # fmt: skip
    assert "has no Country" in card.result.failures["ravel"] and "dictionary" in card.result.evaluators


def test_the_data_at_hand_is_read(world: EntityWorld, shared_data: Path) -> None:
    """Counts of RAVEL's own files: 3,552 cities; the last token of each city is found with the tokenizer."""
    protocol = read_ravel_protocol()
    assert protocol.classes == CLASSES
    prompts, left_out = load_prompts(shared_data, "city", CLASSES["city"], 500, world.model.tokenizer, True, 0)
    assert all(each.head <= each.position < len(each.ids) for each in prompts)
    assert len(prompts) + left_out == 500 and {prompt.attribute for prompt in prompts} == set(CLASSES["city"])
    everything, missed = load_prompts(shared_data, "city", ("Country",), 10**9, world.model.tokenizer, False, 0)
    assert (len(everything) + missed) % 3552 == 0 and len({prompt.entity for prompt in everything}) <= 3552


@pytest.mark.parametrize(
    ("text", "label", "completion", "right"),
    [
        ("is in the country of", "France", ' France", "x', True),
        ("is in the country of", "France", " Fran", True),  # a part of the answer, where fewer tokens were generated
        ("is in the country of", "France", " Germany", False),
        ("is in the country of", "United States", " the United States of", True),
        ("is in the country of", "United Kingdom", " England and", True),
        ("is in the country of", "South Korea", " Korea, the", True),
        ("on the continent of", "North America", " NA", True),
        ("people speak the language", "Mandarin", " Chinese", True),
        ("people speak the language", "French,Dutch", " Dutch and", True),
        ("its latitude is", "57", " 56.1 N", True),
        ("its latitude is", "57", " 51", False),
        ("is in the country of", "", " x", False),
        ("is in the country of", "France", ' "', False),
    ],
)
def test_answers(text: str, label: str, completion: str, right: bool) -> None:
    assert is_right(text, label, completion) is right


def test_a_settled_answer_stays_what_it_is() -> None:
    """Random completions, cut after each piece: once settled, whatever follows is judged the same."""
    draw = random.Random(0)
    labels = ["France", "Spain", "Côte d'Ivoire", "a/b", "United States", "South Korea", "French,Dutch", "North America", ""]
    pieces = [
        *labels[:4], " Fra", "nce", "Spa", "in", " the", " ", '"', "\\", "/", "a", "b", ",", "é", "\ufffd",
        "Dutch", "57", "Σ",
    ]  # fmt: skip
    settled = 0
    for _ in range(20_000):
        text, label = draw.choice(["is in", "the language", "its latitude is"]), draw.choice(labels)
        parts = draw.choices(pieces, k=4)
        texts = ["".join(parts[: count + 1]) for count in range(4)]
        cut = next((each for each in texts if is_settled(text, label, each)), None)
        if cut is not None:
            settled += cut != texts[-1]
            assert is_right(text, label, cut) == is_right(text, label, texts[-1]), (text, label, texts)
    assert settled > 5_000


def random_pairs(cut: Cut, generator: torch.Generator) -> tuple[list[Prompt], Tensor, Pairs]:
    """Prompts of two templates, and pairs of them."""
    prompts = []
    for number, length in enumerate(torch.randint(4, 9, (20,), generator=generator).tolist()):
        head = 2 * (number % 2)
        ids = [7, 8][:head] + torch.randint(3, 200, (length - head,), generator=generator).tolist()
        position = int(torch.randint(head, length, (1,), generator=generator))
        prompts.append(Prompt("x", "e", "a", "b", tuple(ids), position, head))
    inputs = torch.stack([cut.prefix(torch.tensor([p.ids])).inputs[0, p.position] for p in prompts])
    base, source = (torch.randint(20, (16,), generator=generator) for _ in range(2))
    return prompts, inputs, Pairs(base, source, base > 9, torch.randint(3, 200, (16,), generator=generator))


def passes_of(cut: Cut, prompts: list[Prompt], numbers: list[int]) -> Passes:
    return Passes(prompts, rows_of(cut, prompts), numbers)


def test_the_mask_agrees_with_a_dense_version(tiny_model: LanguageModel, make_sae: MakeSae) -> None:
    """The same training with dense latents, one pair at a time, without padding."""
    cut, sae, generator = tiny_model.cut("blocks.1.hook_resid_post"), make_sae(), torch.Generator().manual_seed(1)
    prompts, inputs, pairs = random_pairs(cut, generator)
    settings = read_ravel_protocol().mask.model_copy(update={"batch": 5, "learning_rate": 0.05})
    found = train_mask(
        passes_of(cut, prompts, pairs.base.tolist()), Swaps(sae, inputs), pairs, settings, lambda amount: None
    )
    assert all(parameter.grad is None for parameter in tiny_model.bridge.parameters())
    dense = sae.encode(inputs).to_dense()
    mask = torch.zeros(sae.n_latents, requires_grad=True)
    optimizer = torch.optim.Adam([mask], lr=0.05)
    batches = torch.arange(16).split(5)
    for step, temperature in enumerate(torch.logspace(0, -4, 8).tolist()):
        losses = []
        for index in batches[step % 4].tolist():
            own, share = prompts[int(pairs.base[index])], torch.sigmoid(mask / temperature)
            latents = (1 - share) * dense[pairs.base[index]] + share * dense[pairs.source[index]]
            prefix = cut.prefix(torch.tensor([own.ids]))
            outputs = prefix.outputs.clone()
            outputs[0, own.position] = latents @ sae.W_dec + sae.b_dec
            logits = cut.differentiable_suffix(outputs, prefix)[0, -1]
            losses.append(F.cross_entropy(logits[None], pairs.target[index : index + 1]))
        (mask.grad,) = torch.autograd.grad(torch.stack(losses).mean(), mask)
        optimizer.step()
    assert torch.equal(found, mask > 0) and 5 < int(found.sum()) < 60


def test_kept_passes_are_those_of_whole_batches(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """At hooks whose output is the residual stream, and at others; and where there are too many to keep them."""
    for hook in ("blocks.1.hook_resid_post", "blocks.2.hook_mlp_out"):
        cut = tiny_model.cut(hook)
        prompts, _, _ = random_pairs(cut, torch.Generator().manual_seed(0))
        numbers = [3, 0, 3, 7]
        kept = passes_of(cut, prompts, numbers).of(numbers)
        with monkeypatch.context() as patched:
            patched.setattr("saebench.evaluators.entities.passes.KEPT", 0)
            fresh = passes_of(cut, prompts, numbers).of(numbers)
        assert torch.equal(kept.tokens, fresh.tokens)
        for row, number in enumerate(numbers):
            length = len(prompts[number].ids) - prompts[number].head
            for name in ("inputs", "outputs", "residual"):
                torch.testing.assert_close(
                    getattr(kept, name)[row, :length], getattr(fresh, name)[row, :length], atol=1e-5, rtol=1e-5
                )


def test_each_pair_is_swapped_by_its_attribute(tiny_model: LanguageModel, make_sae: MakeSae) -> None:
    cut, sae, generator = tiny_model.cut("blocks.1.hook_resid_post"), make_sae(), torch.Generator().manual_seed(1)
    _, inputs, pairs = random_pairs(cut, generator)
    swaps, shares = Swaps(sae, inputs), torch.rand(3, sae.n_latents, generator=generator)
    which = torch.arange(16) % 3
    found = swaps.outputs(pairs, shares, which)
    for row in range(16):
        one = swaps.outputs(pairs.rows(torch.tensor([row])), shares[which[row]].unsqueeze(0), torch.tensor([0]))
        torch.testing.assert_close(found[row], one[0])


def test_pairs_ask_what_they_should() -> None:
    prompts = [
        Prompt("x", f"e{entity}", attribute, f"{attribute}{entity % 3}", (1,), 0)
        for entity in range(9)
        for attribute in ("A", "B", "C")
    ]
    right = torch.ones(27, dtype=torch.bool)
    right[:2] = False  # e0 is known by one prompt only
    known = known_prompts(prompts, right, entities=8)
    assert {prompts[index].entity for index in known} == {f"e{entity}" for entity in range(1, 9)} and len(known) == 24
    first = torch.arange(27) * 10
    pairs = make_pairs(prompts, known, first, "A", 100, 0)
    assert isinstance(pairs, Pairs) and int(pairs.cause.sum()) == 8 == int((~pairs.cause).sum())
    for base, source, cause, target in zip(*(each.tolist() for each in vars(pairs).values()), strict=True):
        assert prompts[base].attribute == prompts[source].attribute and prompts[base].label != prompts[source].label
        assert (prompts[base].attribute == "A") == cause and target == 10 * (source if cause else base)
    again = make_pairs(prompts, known, first, "A", 100, 0)
    assert isinstance(again, Pairs) and torch.equal(again.source, pairs.source)
    assert "no two prompts" in str(make_pairs(prompts, [0, 9], first, "A", 100, 0))
