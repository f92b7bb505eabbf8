"""SAEBench's own functions and ours on the same arrays: absorption, and the selections of RAVEL, unlearning and autointerp.

`SAEBENCH_SAE` names a TopK autoencoder of SmolLM2 (random directions by default), `SAEBENCH_WORDS` the number of words.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saebench import checkpoints
from saebench.evaluators.absorption import _candidates, _probes
from saebench.evaluators.entities.answers import is_right
from saebench.evaluators.entities.data import Prompt
from saebench.evaluators.entities.mask import Swaps, train_mask
from saebench.evaluators.entities.pairs import Pairs
from saebench.evaluators.entities.passes import Passes
from saebench.evaluators.entities.protocol import MaskSection
from saebench.evaluators.first_letter.probes import f1_and_recall, main_latents
from saebench.evaluators.first_letter.protocol import read_first_letter_protocol
from saebench.evaluators.first_letter.scores import absorption
from saebench.evaluators.first_letter.words import LETTERS, LetterData, letter_data
from saebench.evaluators.forgetting.latents import clamp_change, forget_latents
from saebench.explaining.autointerp.windows import strongest_apart
from saebench.lm import LanguageModel
from saebench.probing.values import Activations
from saebench.progress import Progress
from saebench.sae import CheckpointInfo, SparseAutoencoder, TopK
from tests.benchmarks.table import Row, peer_python, run_peer
from tests.conftest import FIXTURES

TITLE = "sae-bench 0.6's functions and ours on the same arrays"
HOOK = "blocks.15.hook_resid_post"
WORDS = int(os.environ.get("SAEBENCH_WORDS", "8000"))
MASK = MaskSection(learning_rate=0.05, epochs=2, batch=5, last_temperature=1e-4)
PROTOCOL = read_first_letter_protocol()


def topk_sae(d: int, n: int, k: int) -> SparseAutoencoder:
    """Random unit directions."""
    rows = torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(0)), dim=1)
    info = CheckpointInfo("random", "saebench", "topk", d, d, n, {"k": k})
    return SparseAutoencoder(rows.T.contiguous(), rows, torch.zeros(n), torch.zeros(d), TopK(k), info, torch.zeros(d))


def weights(prefix: str, sae: SparseAutoencoder) -> dict[str, Tensor]:
    """What the peer's stand-in reads; a missing bias is 0, and decoder rows have norm 1, as SAEBench requires."""
    zeros = torch.zeros(sae.d_in)
    parts = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec, "b_pre": sae.b_pre}
    return {f"{prefix}.{name}": (zeros if each is None else each).contiguous() for name, each in parts.items()}


def unit_norm(sae: SparseAutoencoder) -> SparseAutoencoder:
    norm = sae.W_dec.norm(dim=1)
    return replace(sae, W_enc=sae.W_enc * norm, b_enc=sae.b_enc * norm, W_dec=sae.W_dec / norm.unsqueeze(1))


class Letters:
    """Ours on the words: probes, main latents and absorption by letter."""

    def __init__(self, data: LetterData, sae: SparseAutoencoder, seed: int = 0) -> None:
        self.data, self.sae, self.probes = data, sae, _probes(data, PROTOCOL, seed)
        self.scores = self.probes.scores(data.activations)
        train, test = slice(0, data.train), slice(data.train, len(data.words))
        source = Activations(sae, "last")
        self.code = source.encode(data.activations)
        order = _candidates(self.code.rows(train), data.letters[train], PROTOCOL, seed)
        self.f1, self.main = [], {}
        for number, letter in enumerate(LETTERS):
            has = data.letters == number
            self.f1.append(f1_and_recall(self.scores[test, number] > 0, has[test])[0])
            values = source.chosen(order[number], data.activations, data.letters, len(data.words)).T
            self.main[letter] = main_latents(
                order[number], (values[train], has[train]), (values[test], has[test]), PROTOCOL.k_sparse
            )
        right = self.scores.gather(1, data.letters.unsqueeze(1)).squeeze(1) > 0
        self.scored = right & (torch.arange(len(data.words)) >= data.train)

    def absorption(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(fraction, full, letter)`` of each scored word, letter by letter."""
        fractions, fulls, letters = [], [], []
        for number, main in enumerate(self.main.values()):
            mine = (self.data.letters == number) & self.scored
            probe, x = self.probes.weight[:, number], self.data.activations[mine]
            found = absorption(self.code.rows(mine), x, probe, self.sae.W_dec, main.latents, PROTOCOL.absorption)
            fractions.append(found.fraction.double())
            fulls.append(found.full)
            letters.append(torch.full((int(mine.sum()),), number))
        return torch.cat(fractions), torch.cat(fulls), torch.cat(letters)


def answer_cases() -> list[tuple[str, str, str]]:
    """Prompts, labels and completions with every special rule of the default attributes."""
    labels = ["France", "United States", "United Kingdom", "South Korea", "North America", "South America", "Mandarin",
              "English", "French,Dutch", "male", "Physics", "Chemistry", "Congo", ""]  # fmt: skip
    texts = ["is a city in the country of", "people there speak the language", "its latitude is", "on the continent of"]
    completions = [
        "{}",
        " {}, which",
        " the {}",
        '{}"',
        " Chinese",
        " Korea",
        " NA",
        " England",
        "",
        ' "',
        "12",
        "fr",
        " Dutch and",
    ]
    return [
        (text, label, shape.format(other))
        for text in texts for label in labels for shape in completions for other in labels
    ]  # fmt: skip


def run() -> list[Row]:
    if peer_python("saebench") is None:
        return [Row("all", "not compared", "", "sae-bench's environment is absent: see docs/saebench-suite.md")]
    generator = torch.Generator().manual_seed(0)
    cut = LanguageModel.load("smollm2", "float32").cut(HOOK)
    given = os.environ.get("SAEBENCH_SAE")
    sae = unit_norm(checkpoints.load_one(given) if given else topk_sae(cut.d_in, 4096, 64))
    assert isinstance(sae.activation, TopK) and sae.scaling.kind in ("none", "layer_norm")
    letters = Letters(letter_data(cut, PROTOCOL, WORDS, True, 0, Progress(False)), sae)
    tiny = LanguageModel.load(str(FIXTURES / "saelens_evals" / "model"))
    small, small_cut = topk_sae(32, 64, 8), tiny.cut("blocks.1.hook_resid_post")
    prompts = torch.randint(3, 200, (20, 9), generator=generator)
    places = torch.randint(9, (20,), generator=generator)
    base, source = (torch.randint(20, (32,), generator=generator) for _ in range(2))
    pairs = Pairs(base, source, base > 9, torch.randint(3, 200, (32,), generator=generator))
    arrays = {
        **weights("sae", sae), **weights("small", small), "words.activations": letters.data.activations,
        "words.letters": letters.data.letters, "words.scored": letters.scored, "probe.weight": letters.probes.weight,
        "prompts": prompts, "places": places, "pairs.base": base, "pairs.source": source, "pairs.target": pairs.target,
        "mask": torch.randn(64, generator=generator), "swap.base": torch.randn(50, 32, generator=generator),
        "swap.source": torch.randn(50, 32, generator=generator), "resid": torch.randn(4, 12, 32, generator=generator),
        "forget": torch.rand(5000, generator=generator), "retain": torch.rand(5000, generator=generator).pow(8),
        "dense": torch.rand(60, 64, generator=generator),
    }  # fmt: skip
    facts = {
        "main_latents": {letter: each.latents for letter, each in letters.main.items()}, "train": letters.data.train,
        "k": sae.activation.k, "small_k": 8, "batch": MASK.batch, "learning_rate": MASK.learning_rate,
        "clamped_latents": list(range(0, 64, 5)), "clamp": 25, "answers": answer_cases(),
        "normed": sae.scaling.kind == "layer_norm",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(FIXTURES / "saelens_evals" / "model", folder / "model")
        save_file(arrays, folder / "arrays.safetensors")
        (folder / "facts.json").write_text(json.dumps(facts))
        run_peer("saebench", "peer_saebench_functions.py", name)
        theirs, record = load_file(folder / "peer.safetensors"), json.loads((folder / "peer.json").read_text())
    asked = [Prompt("", "", "", "", tuple(ids), place) for ids, place in zip(prompts.tolist(), places.tolist(), strict=True)]
    inputs = small_cut.prefix(prompts).inputs[torch.arange(20), places]
    chosen = train_mask(Passes(small_cut, asked, range(20)), Swaps(small, inputs), pairs, MASK, lambda amount: None)
    return [
        *_letter_rows(letters, theirs, record), *_ravel_rows(small, arrays, chosen, theirs, record, facts),
        *_other_rows(small, arrays, theirs, record, facts),
    ]  # fmt: skip


def _letter_rows(letters: Letters, theirs: dict[str, Tensor], record: dict[str, Any]) -> list[Row]:
    fraction, full, numbers = letters.absorption()
    own_f1, their_f1 = torch.tensor(letters.f1), torch.tensor(record["probe_f1"])
    mains = record["main_latents"]
    other = Letters(letters.data, letters.sae, seed=1)
    same = sum(set(mains[letter]["latents"]) == set(each.latents) for letter, each in letters.main.items())
    first = sum(mains[letter]["latents"][0] == each.latents[0] for letter, each in letters.main.items())
    f1 = torch.tensor([[each.f1, mains[letter]["f1"]] for letter, each in letters.main.items()])
    means = [float(torch.stack([each[numbers == n].mean() for n in numbers.unique()]).mean())
             for each in (fraction, theirs["fraction"], full.double(), theirs["full"].double())]  # fmt: skip
    worst = float((fraction - theirs["fraction"]).abs().max())
    spread = float((f1[:, 0] - f1[:, 1]).std()) / 26**0.5
    return [
        Row("absorption fraction, mean over letters", f"{means[0]:.4f}, theirs {means[1]:.4f}", "1e-3",
            f"{fraction.numel()} words; largest difference of a word {worst:.1e}"),
        Row("full absorption, mean over letters", f"{means[2]:.4f}, theirs {means[3]:.4f}", "1e-3",
            f"{int((full != theirs['full']).sum())} words differ"),
        *(_own_row(name, index, (letters, other), record) for index, name in enumerate(("fraction", "full"))),
        Row("probe F1, mean over letters", f"{float(own_f1.mean()):.4f}, theirs {float(their_f1.mean()):.4f}", "",
            f"other initial weights and batches; largest difference {float((own_f1 - their_f1).abs().max()):.3f}"),
        Row("main latents: F1, mean over letters", f"{float(f1[:, 0].mean()):.4f}, theirs {float(f1[:, 1].mean()):.4f}", "",
            f"standard error of the difference {spread:.4f}; first latent the same for {first} of 26, all for {same}"),
    ]  # fmt: skip


def _own_row(name: str, index: int, ours: tuple[Letters, Letters], record: dict[str, Any]) -> Row:
    """The whole of either side: own probes, own main latents, own words."""
    found = []
    for each in ours:
        scores, numbers = each.absorption()[index].double(), each.absorption()[2]
        found.append([float(scores[numbers == n].mean()) if bool((numbers == n).any()) else None for n in range(26)])
    first, second, theirs = *found, record["own"][index]
    differences = torch.tensor([a - b for a, b in zip(first, theirs, strict=True) if a is not None and b is not None])
    average = [sum(x for x in each if x is not None) / sum(x is not None for x in each) for each in (first, theirs, second)]
    error = float(differences.std()) / len(differences) ** 0.5
    note = f"standard error of the difference {error:.3f}; ours with another seed {average[2]:.3f}"
    return Row(f"absorption ({name}), own probes and latents", f"{average[0]:.3f}, theirs {average[1]:.3f}", "", note)


def _ravel_rows(
    small: SparseAutoencoder, arrays: dict[str, Tensor], chosen: Tensor, theirs: dict[str, Tensor], record: dict[str, Any],
    facts: dict[str, Any],
) -> list[Row]:  # fmt: skip
    swaps = Swaps(small, torch.cat([arrays["swap.base"], arrays["swap.source"]]))
    pairs = Pairs(
        torch.arange(50), torch.arange(50, 100), torch.ones(50, dtype=torch.bool), torch.zeros(50, dtype=torch.long)
    )
    shares = {True: arrays["mask"].sigmoid(), False: (arrays["mask"] > 0).float()}
    which = torch.zeros_like(pairs.base)
    worst = max(
        float((swaps.outputs(pairs, share.unsqueeze(0), which) - theirs[f"swap.{key}"]).abs().max())
        for key, share in shares.items()
    )
    differ = int((chosen != theirs["chosen"]).sum())
    own = [is_right(*case) for case in facts["answers"]]
    return [
        Row("RAVEL: swapped activations", f"{worst:.1e}", "1e-3", "largest difference, shares from 0 to 1 and 0 or 1"),
        Row("RAVEL: latents that the mask selects", f"{differ} of {chosen.numel()} differ", "0",
            f"{int(chosen.sum())} selected, after 14 steps on a random Llama"),
        Row("RAVEL: right completions", f"{sum(a != b for a, b in zip(own, record['answers'], strict=True))} differ", "0",
            f"of {len(own)} cases, {sum(own)} of them right"),
    ]  # fmt: skip


def _other_rows(
    small: SparseAutoencoder, arrays: dict[str, Tensor], theirs: dict[str, Tensor], record: dict[str, Any],
    facts: dict[str, Any],
) -> list[Row]:  # fmt: skip
    top = [forget_latents(arrays["forget"], arrays["retain"], share).tolist() for share in (0.001, 0.01)]
    x = arrays["resid"]
    code = small.encode(x.flatten(0, 1))
    live = (torch.arange(12) > 0).expand(4, -1).flatten()
    clamped = torch.isin(code.indices, torch.tensor(facts["clamped_latents"])) & (code.values > 0) & live.unsqueeze(1)
    changed = x + clamp_change(small, code, clamped, facts["clamp"]).view_as(x)
    difference = float((changed - theirs["clamped"]).abs().max())
    dense = arrays["dense"]
    inside = (torch.arange(64) >= 10) & (torch.arange(64) < 54)
    centres = (torch.arange(60).unsqueeze(1) * 64 + torch.arange(64))[:, inside].flatten()
    places = [int(centres[index]) for index in strongest_apart(centres.tolist(), dense.flatten()[centres], 12, 64, 10)]
    same = places == (theirs["largest"][:, 0] * 64 + theirs["largest"][:, 1]).tolist()
    return [
        Row("unlearning: latents to clamp", "the same" if top == record["top_latents"] else "differ", "the same",
            f"lists of {len(top[0])} and {len(top[1])} latents, in order"),
        Row("unlearning: clamped activations", f"{difference:.1e}", "1e-3", "largest difference, clamp 25"),
        Row("autointerp: strongest windows apart", "the same" if same else "differ", "the same", "12 of 60 rows of 64"),
    ]  # fmt: skip
