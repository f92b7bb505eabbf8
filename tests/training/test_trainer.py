"""Runs: planted directions are found, resuming is exact, a kill loses little, bad input is named."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench import checkpoints
from saebench.errors import SaebenchError
from saebench.lm import LanguageModel
from saebench.progress import Progress
from saebench.text.corpus import TokenCorpus
from saebench.training.config import PENALISED, TrainingConfig, make_config, read_recipe, read_sweep
from saebench.training.run import train
from saebench.training.saving import AVERAGE, STATE, save
from saebench.training.sources import CachedSource, LiveSource, TensorSource
from saebench.training.trainer import Trainer
from tests.conftest import HOOK

D, N = 32, 64


def planted(tokens: int = 20_000) -> tuple[Tensor, Tensor]:
    """``(activations, directions)``: sparse sums of 64 directions in 32 dimensions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(N, D, generator=generator), dim=1)
    active = torch.rand(tokens, N, generator=generator) < 0.05
    return (3 * torch.rand(tokens, N, generator=generator) * active) @ directions + 0.1, directions


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**({"n": N, "k": 3, "tokens": 20_480, "batch": 512, "lr": 3e-3, "scaling": "none"} | changes))


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "jumprelu", "gated", "relu"])
def test_planted_directions_are_recovered(arch: str, tmp_path: Path) -> None:
    activations, directions = planted()
    penalised = arch in PENALISED
    settings = config(
        arch=arch, tokens=600 * 512, decay_share=0.3, dead_after_tokens=20_000, target_l0=3.0 if penalised else 0.0
    )
    (trainer,) = train([settings], TensorSource(activations), [tmp_path])
    cosines = trainer.weights.decoder.detach() @ directions.T
    assert float(cosines.amax(dim=0).mean()) > 0.95
    sae = checkpoints.load(tmp_path)
    if penalised:
        assert sae.info.training["target_l0"]["within_5_percent"], sae.info.training["target_l0"]
    latents = sae.encode(activations)
    error = (sae.decode(latents) - activations).square().sum() / (activations - activations.mean(0)).square().sum()
    assert float(latents.l0().float().mean()) == pytest.approx(trainer.history[-1][2], rel=0.1)
    assert float(error) == pytest.approx(trainer.history[-1][1], rel=0.2)
    averaged = checkpoints.load(tmp_path / AVERAGE)
    assert averaged.info.training["averaged"] is True
    if arch == "batchtopk":  # one threshold stands for a budget that tokens shared: it fits the weights it is saved with
        assert float(averaged.encode(activations).l0().float().mean()) == pytest.approx(3, rel=0.05)
        assert float(latents.l0().float().mean()) == pytest.approx(3, rel=0.05)


def losses(trainer: Trainer) -> list[float]:
    return [row[1] for row in trainer.history]


def interrupted(settings: TrainingConfig, source: TensorSource, folder: Path) -> list[Trainer]:
    """A run that stops after 15 steps and is resumed from its folder."""
    half = Trainer(settings, source.chunk(0))
    for number, batch in source.batches(settings.batch, settings.seed):
        if number == 15:
            break
        half.train_step(batch)
    save(half, folder, half.record(source, 0.0))
    return train([settings], source, [folder], resume=True)


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "jumprelu"])
def test_a_resumed_run_is_the_uninterrupted_one(arch: str, tmp_path: Path) -> None:
    """Bit for bit, with a small dead-latent window so that AuxK takes part, over several epochs."""
    source = TensorSource(planted(5_000)[0])
    settings = config(arch=arch, dead_after_tokens=2_000, target_l0=3.0 if arch == "jumprelu" else 0.0, checkpoint_every=15)
    (whole,) = train([settings], source, [tmp_path / "whole"])
    (resumed,) = interrupted(settings, source, tmp_path / "half")
    assert losses(resumed) == losses(whole)
    assert torch.equal(resumed.weights.decoder, whole.weights.decoder)
    for folder in ("whole", "half"):
        assert checkpoints.load(tmp_path / folder).info.training["complete"] is True
    a, b = (checkpoints.load(tmp_path / folder / AVERAGE) for folder in ("whole", "half"))
    assert torch.equal(a.W_enc, b.W_enc)


def test_a_killed_run_resumes_from_its_last_checkpoint(tmp_path: Path) -> None:
    """Kill -9 in the middle; what is on disk is whole, and resuming ends where an undisturbed run ends."""
    script = f"""
import sys, torch
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.training.test_trainer import config, planted
from saebench.training.sources import TensorSource
from saebench.training.run import train
torch.set_num_threads(1)
settings = config(tokens=512 * 4000, checkpoint_every=5)
train([settings], TensorSource(planted(5_000)[0]), [Path({str(tmp_path / "run")!r})])
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / STATE).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    record = checkpoints.load(tmp_path / "run").info.training
    state = torch.load(tmp_path / "run" / STATE, weights_only=True)
    assert record["complete"] is False and state["step"] > 0 and state["step"] % 5 == 0
    assert len(state["history"]) == state["step"]


def test_members_of_a_sweep_train_as_they_would_alone(tmp_path: Path) -> None:
    source = TensorSource(planted(5_000)[0])
    members = [config(arch="topk"), config(arch="batchtopk", k=4)]
    together = train(members, source, [tmp_path / "a", tmp_path / "b"])
    for member, trainer in zip(members, together, strict=True):
        (alone,) = train([member], source, [tmp_path / f"alone-{member.arch}"])
        assert losses(alone) == losses(trainer)


def test_a_batch_depends_on_seed_and_number_alone() -> None:
    source = TensorSource(torch.arange(100.0)[:, None])
    first = {number: batch for number, batch in zip(range(25), (b for _, b in source.batches(10, 3)), strict=False)}
    later = dict(item for item, _ in zip(source.batches(10, 3, start=17), range(5), strict=False))
    assert all(torch.equal(first[number], later[number]) for number in range(17, 22))
    seen = torch.cat([first[number] for number in range(10)]).flatten().sort().values
    assert torch.equal(seen, torch.arange(100.0))


def test_activations_come_from_the_model_and_a_cache_keeps_them(
    tiny_model: LanguageModel, tiny_corpus: TokenCorpus, tmp_path: Path
) -> None:
    cut = tiny_model.cut(HOOK)
    live = LiveSource(cut, tiny_corpus, Progress(False))
    expected = cut.prefix(tiny_corpus.tokens).inputs[~tiny_corpus.excluded]
    torch.testing.assert_close(live.chunk(0), expected)
    cached = CachedSource(tmp_path / "cache", live)
    torch.testing.assert_close(cached.chunk(0), expected)
    again = CachedSource(tmp_path / "cache", LiveSource(cut, tiny_corpus, Progress(False)))
    assert torch.equal(again.chunk(0), cached.chunk(0))
    with pytest.raises(SaebenchError, match="hook differ"):
        CachedSource(
            tmp_path / "cache", LiveSource(tiny_model.cut("blocks.2.hook_resid_post"), tiny_corpus, Progress(False))
        )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("")
    with pytest.raises(SaebenchError, match="no manifest"):
        CachedSource(tmp_path / "other", live)


def test_a_batch_that_is_not_finite_stops_the_run_and_keeps_the_state(tmp_path: Path) -> None:
    activations = planted(5_000)[0]
    settings = config()
    trainer = Trainer(settings, activations)
    before = trainer.weights.encoder.detach().clone()
    with pytest.raises(SaebenchError, match="Batch 0: the activations hold NaN"):
        trainer.train_step(torch.full((4, D), torch.nan))
    assert torch.equal(before, trainer.weights.encoder)

    class Broken(TensorSource):
        def batches(self, batch: int, seed: int, start: int = 0) -> Any:
            for number, each in super().batches(batch, seed, start):
                yield number, each if number < 3 else each * torch.nan

    with pytest.raises(SaebenchError, match="Batch 3"):
        train([settings], Broken(activations), [tmp_path])
    assert torch.load(tmp_path / STATE, weights_only=True)["step"] == 3


def test_bad_settings_are_named(tmp_path: Path) -> None:
    for changes, sentence in (
        ({"k": 65}, "k = 65 is larger than n = 64"),
        ({"n": 0, "k": 1}, "n is 0"),
        ({"arch": "tokp"}, "no architecture 'tokp'"),
        ({"group_sizes": (1, 2)}, "do not add up"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"target_l0": 3.0}, "the L0 of topk is its k"),
    ):
        with pytest.raises(SaebenchError, match=sentence):
            config(**changes)
    with pytest.raises(SaebenchError, match="There is no setting sparsty"):
        make_config({"sparsty": 1.0})
    with pytest.raises(SaebenchError, match="built in are"):
        read_recipe("nothing")
    source = TensorSource(planted(600)[0])
    with pytest.raises(SaebenchError, match="larger than any chunk"):
        train([config(batch=1000)], source, [tmp_path / "big"])
    train([config(tokens=1024)], source, [tmp_path / "run"])
    with pytest.raises(SaebenchError, match="holds a training run already"):
        train([config(tokens=1024)], source, [tmp_path / "run"])
    with pytest.raises(SaebenchError, match="other settings: k, learning_rate, lr"):
        train([config(tokens=1024, k=4, lr=1e-3)], source, [tmp_path / "run"], resume=True)
    with pytest.raises(SaebenchError, match="constant, NaN or infinite"):
        Trainer(config(), torch.ones(100, D))


def test_a_known_median_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = planted(600)[0]
    median = Trainer(config(), sample).weights.b_dec.detach().clone()
    monkeypatch.setattr("saebench.training.trainer.geometric_median", None)
    again = Trainer(config(), sample, median=median)
    assert torch.equal(again.weights.b_dec, median)
    again.train_step(sample[:512])
    assert not torch.equal(again.weights.b_dec, median)
    assert torch.equal(Trainer(config(), sample, median=median).weights.b_dec, median)  # it is not changed by training


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, while it compiles
def test_a_compiled_loss_is_the_same(tmp_path: Path) -> None:
    source = TensorSource(planted(2_000)[0])
    plain, compiled = (
        train([config(arch="jumprelu", target_l0=3.0, tokens=512 * 6, compile=flag)], source, [tmp_path / str(flag)])[0]
        for flag in (False, True)
    )
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-5)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from saebench.errors import SaebenchError
from saebench.training.run import train
from saebench.training.sources import TensorSource
from tests.training.test_trainer import config, planted
torch.set_num_threads(1)
folder, source = Path(sys.argv[1]), TensorSource(planted(5_000)[0])
train([config(tokens=512 * 4, n=256)], source, [folder])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))  # no file may grow larger: writing fails as on a full disk
try:
    from saebench.training.saving import save
    from saebench.training.trainer import Trainer
    trainer = Trainer(config(tokens=512 * 4, n=256), source.chunk(0))
    trainer.train_step(source.chunk(0)[:512])
    save(trainer, folder, trainer.record(source, 0.0))
except SaebenchError as error:
    print("ERROR", error)
print("STEP", torch.load(folder / "state.pt", weights_only=True)["step"], sorted(p.name for p in folder.iterdir()))
"""


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "run")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ERROR Cannot write" in done.stdout
    assert "STEP 4 ['average', 'sae.json', 'sae.safetensors', 'state.pt']" in done.stdout
    assert checkpoints.load(tmp_path / "run").info.training["complete"] is True


def test_the_reference_recipe_is_the_grid_that_its_documentation_names() -> None:
    configs, names = read_sweep("reference")
    cells = {(each.arch, each.n, each.k) for each in configs if not each.freeze}
    six = ("topk", "batchtopk", "matryoshka", "jumprelu", "relu", "gated")
    wide = {(arch, 16_384, k) for arch in ("topk", "batchtopk", "jumprelu") for k in (32, 64)}
    narrow = {("topk", n, 32) for n in (1024, 2048)}
    assert cells == {(arch, 4096, k) for arch in six for k in (16, 32, 64, 128)} | wide | narrow
    assert min(each.steps * each.batch for each in configs) >= 4_000_000
    assert sorted(each.seed for each in configs if (each.arch, each.n, each.k) == ("jumprelu", 4096, 32)) == [0, 1, 2]
    assert {each.freeze for each in configs} == {"", "decoder", "soft-decoder", "encoder"}
    kept = {name: each.keep_tokens for name, each in zip(names, configs, strict=True) if each.keep_tokens}
    assert kept == {f"{arch}-n4096-k32": tuple(8192 * 2**i for i in range(10)) for arch in ("topk", "jumprelu")}
    gemma = [(each.arch, each.k, each.freeze) for each in read_sweep("reference-gemma")[0]]
    assert len(gemma) == len(set(gemma)) == 15


def test_recipes_and_sweeps_are_read(tmp_path: Path) -> None:
    assert make_config(read_recipe("smollm2-demo")).hook == "blocks.15.hook_resid_post"
    assert make_config({"model": "gemma3-270m"}).hook == "blocks.9.hook_resid_post"
    assert make_config({"model": "gemma3-270m", "hook": "blocks.3.hook_resid_post"}).hook == "blocks.3.hook_resid_post"
    file = tmp_path / "sweep.toml"
    file.write_text('n = 64\n[[member]]\nname = "a"\nk = 2\n[[member]]\nname = "b"\narch = "relu"\n')
    configs, names = read_sweep(file)
    assert names == ["a", "b"] and (configs[0].k, configs[1].arch, configs[1].n) == (2, "relu", 64)
    assert configs[1].target_l0 == 32 and configs[0].target_l0 == 0
    file.write_text('n = 64\n[grid]\narch = ["topk", "jumprelu"]\nk = [4, 8]\n')
    configs, names = read_sweep(file)
    assert names == ["topk-k4", "topk-k8", "jumprelu-k4", "jumprelu-k8"] and configs[3].target_l0 == 8
    file.write_text('n = 64\nlr = 0.1\n[[grid]]\nk = [4, 8]\nlr = 0.2\n[[grid]]\nfreeze = ["encoder"]\nseed = [3]\n')
    configs, names = read_sweep(file, {"corpus_tokens": 512, "lr": 0.3})
    assert names == ["k4", "k8", "encoder-seed3"] and [each.lr for each in configs] == [0.2, 0.2, 0.3]
    assert (configs[2].freeze, configs[2].seed, configs[0].corpus_tokens) == ("encoder", 3, 512)
    assert len(read_sweep("gpt2-leask")[0]) == 36
    file.write_text('[[member]]\nname = "../a"\n')
    with pytest.raises(SaebenchError, match="different names"):
        read_sweep(file)
