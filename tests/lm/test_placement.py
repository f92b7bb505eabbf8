"""Models that are divided among devices: the numbers of one device, and activations that are where they are needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig

from saebench.api import evaluate
from saebench.checkpoints import save_native
from saebench.errors import SaebenchError
from saebench.lm import LanguageModel
from saebench.lm.continuation import Continuation, cache_trouble
from saebench.lm.placement import GIB, device_map, divided, outline_of, pick_devices
from saebench.lm.prompts import Prompts
from saebench.results import Result
from saebench.sae import SparseAutoencoder
from tests.conftest import FIXTURES
from tests.distributed.test_distributed import numbers
from tests.lm.test_model import CONFIGS, WIDE, random_model
from tests.lm.two_devices import DEVICES, two_devices

MODEL = str(FIXTURES / "saelens_evals" / "model")
PLACES = [
    (0, "hook_resid_pre"), (0, "hook_resid_post"), (1, "hook_resid_mid"), (1, "mlp.hook_post"), (2, "attn.hook_z"),
]  # fmt: skip
TOKENS = torch.randint(3, 200, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models of several architectures, saved."""
    found = {}
    for name in CONFIGS:
        found[name] = tmp_path_factory.mktemp(name)
        random_model(name)[0].save_pretrained(found[name])
        AutoTokenizer.from_pretrained(FIXTURES / "saelens_evals" / "model").save_pretrained(found[name])
    return found


def results(model: LanguageModel, point: str, layer: int) -> list[torch.Tensor]:
    """All that a cut computes."""
    cut = model.cut(f"blocks.{layer}.{point}")
    prefix = cut.prefix(TOKENS)
    some = cut.inputs_at(TOKENS, torch.tensor([1, 0]), torch.tensor([4, 7]))
    changed = torch.ones(prefix.outputs.shape).to(prefix.outputs.device) + prefix.outputs
    found = [prefix.inputs, some, cut.suffix(prefix.outputs, prefix), cut.suffix(changed, prefix)]
    assert all(each.device == model.device for each in found)
    assert model.readout is not None
    return [each.cpu() for each in [*found, model.readout.logits(cut.suffix_end(changed, prefix).flatten(0, 1), 0, 200)]]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("gpt2", [0, 0, 1]),
        pytest.param("llama", [0, 1, 1], marks=pytest.mark.slow),
        pytest.param("llama", [1, 1, 1], marks=pytest.mark.slow),
        pytest.param("neox", [0, 1, 1], marks=pytest.mark.slow),
        pytest.param("gemma2", [0, 1, 1], marks=pytest.mark.slow),
    ],
)
def test_a_divided_model_computes_the_numbers_of_one_device(
    name: str, places: list[int], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LanguageModel.load(str(folders[name]), "float32", "cpu")
    with two_devices(monkeypatch, places) as devices:
        parts = LanguageModel.load(str(folders[name]), "float32", ",".join(DEVICES))
        assert [str(next(block.parameters()).device) for block in parts.bridge.blocks] == [DEVICES[each] for each in places]
        assert str(parts.device) == DEVICES[0]
        devices.copies.clear()
        assert torch.equal(parts.logits(TOKENS).cpu(), whole.logits(TOKENS))
        assert devices.copies[DEVICES] and devices.copies[DEVICES[::-1]]  # there and back
        for layer, point in PLACES:
            if (name, point) != ("neox", "hook_resid_mid"):  # its attention and MLP are parallel
                for found, expected in zip(results(parts, point, layer), results(whole, point, layer), strict=True):
                    assert torch.equal(found, expected), (layer, point)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_caches_and_heads_of_a_divided_model(name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def found(model: LanguageModel, layer: int) -> list[torch.Tensor]:
        cut = model.cut(f"blocks.{layer}.hook_resid_post")
        prefix = cut.prefix(TOKENS[:1])
        assert cache_trouble(cut, prefix.outputs, prefix, 4, 3) is None
        row = Continuation(cut, prefix.outputs, prefix)
        head = model.cut(f"blocks.{layer}.attn.hook_z.head_1")
        one = head.prefix(TOKENS)
        rows = Prompts(cut, [tuple(each) for each in TOKENS.tolist()], [3] * len(TOKENS))
        completed = torch.tensor(rows.complete(range(len(TOKENS)), 3))
        return [row.run(2 * row.outputs(5, 3)[None], 5), completed, head.suffix(2 * one.outputs, one)]

    whole = LanguageModel.load(str(folders[name]), "float32", "cpu")
    with two_devices(monkeypatch, [0, 1, 1]):
        parts = LanguageModel.load(str(folders[name]), "float32", ",".join(DEVICES))
        for layer in (0, 1):
            for each, expected in zip(found(parts, layer), found(whole, layer), strict=True):
                assert torch.equal(each.cpu(), expected), layer


def test_an_evaluation_on_a_divided_model_is_that_of_one_device(
    text: Path, make_sae: Callable[..., SparseAutoencoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The autoencoder is on the first device, its hook on the second. Losses are summed in other blocks than on a CPU."""
    checkpoint = save_native(make_sae(), tmp_path / "sae")
    settings: dict[str, Any] = {
        "model": MODEL, "corpus": str(text), "context": 16, "tokens": 160, "dtype": "float32", "progress": False,
        "hook": "blocks.2.hook_resid_post", "evaluators": ["reconstruction", "downstream"], "controls": ["random"],
    }  # fmt: skip
    expected = evaluate(str(checkpoint), device="cpu", **settings).result
    with two_devices(monkeypatch, [0, 0, 1, 1]) as devices:
        found = evaluate(str(checkpoint), device=",".join(DEVICES), **settings).result
        assert devices.copies[DEVICES] and devices.copies[DEVICES[::-1]]
    assert found.failures == {} and found.complete
    assert values_of(found) == pytest.approx(values_of(expected), rel=1e-4)


def values_of(result: Result) -> dict[str, float]:
    """Every metric that has a value, of the autoencoder and of its control."""
    return {
        f"{name}.{metric}": it["value"]
        for name, each in numbers(result).items()
        for metric, it in each["metrics"].items()
        if it["value"] is not None
    }


def test_blocks_fill_devices_to_the_same_share() -> None:
    assert divided([10] * 8, [0, 0], [100, 100]) == [0] * 4 + [1] * 4
    assert divided([10] * 8, [40, 0], [100, 100]) == [0] * 2 + [1] * 6  # the embedding takes the place of four blocks
    assert divided([10] * 8, [40, 0], [50, 200]) == [1] * 8  # the first is full enough with the embedding
    assert divided([10] * 8, [0, 0, 0], [100, 50, 50]) == [0] * 4 + [1] * 2 + [2] * 2
    assert divided([10, 70], [0, 0], [30, 70]) == [0, 1]
    assert divided([70, 10], [0, 0], [30, 70]) is None  # blocks keep their order
    assert divided([10] * 8, [0, 0], [30, 30]) is None
    assert divided([10], [40, 0], [30, 100]) is None


def test_an_outline_has_every_weight_once(folders: dict[str, Path]) -> None:
    for name in CONFIGS:
        outline, weights = outline_of(CONFIGS[name]), dict(random_model(name)[0].named_parameters())
        assert outline.weights == sum(each.numel() for each in weights.values())
        assert len(set(outline.blocks.values())) == 1 and len(outline.blocks) == 3
        parts = (*outline.blocks, *outline.others)
        assert all(sum(weight == part or weight.startswith(f"{part}.") for part in parts) == 1 for weight in weights)


def test_a_model_that_does_not_fit_is_refused_with_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIGS["llama"]
    monkeypatch.setattr("saebench.lm.placement.free_memory", {"cuda:0": 4 * 2**20, "cuda:1": 2**10}.__getitem__)
    found = device_map("m", config, 4, ["cuda:0", "cuda:1"])
    assert set(found.values()) == {"cuda:0"} and found["model.layers.2"] == "cuda:0"
    monkeypatch.setattr("saebench.lm.placement.free_memory", {"cuda:0": 2.5 * GIB, "cuda:1": 2 * GIB}.__getitem__)
    words = (
        r"^m does not fit: it needs \(model 2\.2\d \+ batch 0\.00\) x 1\.25 = 2\.8\d GiB in whole blocks, and free are "
        r"cuda:0 2\.50, cuda:1 2\.00: name more devices, or use --dtype bfloat16\.$"
    )
    with pytest.raises(SaebenchError, match=words):
        device_map(
            "m", LlamaConfig(**WIDE | {"num_hidden_layers": 1, "intermediate_size": 6_250_000}), 4, ["cuda:0", "cuda:1"]
        )


def test_a_model_that_ends_the_memory_of_one_device_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(SaebenchError, match=r"does not fit cpu: name more devices \(--device cuda:0,cuda:1, or all\)\.$"):
        LanguageModel.load(MODEL, device="cpu")


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cpu,cpu", "Several devices are GPUs, each named once by its number, such as cuda:0,cuda:1, not cpu,cpu."),
        ("cpu,nowhere:1", "torch cannot use the device 'nowhere:1' here"),
        ("", "torch cannot use the device '' here"),
    ],
)
def test_devices_are_checked(device: str, words: str) -> None:
    with pytest.raises(SaebenchError, match=words):
        LanguageModel.load(MODEL, device=device)


def test_a_wrong_device_is_no_fault_of_the_autoencoders(
    text: Path, make_sae: Callable[..., SparseAutoencoder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saes = [str(save_native(make_sae(seed=seed), tmp_path / str(seed))) for seed in range(2)]
    with pytest.raises(SaebenchError, match=r"^torch cannot use the device 'nowhere:1' here"):
        evaluate(saes, model=MODEL, corpus=str(text), device="cpu,nowhere:1", context=16, tokens=160, progress=False)
    assert "Left out" not in capsys.readouterr().err


def test_all_is_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SaebenchError, match="The device all means every GPU, and torch finds none here"):
        pick_devices("all")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", lambda size, device: None)
    assert pick_devices("all") == ("cuda:0", "cuda:1")
    assert pick_devices(None) == ("cpu",) or torch.cuda.is_available()
