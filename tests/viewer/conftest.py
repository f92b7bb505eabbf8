from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from saebench.checkpoints import save_native
from saebench.explaining.examples.collecting import ExampleSettings, collect, write_examples
from saebench.lm import LanguageModel
from saebench.progress import Progress
from saebench.results import write_result
from saebench.sae import CheckpointInfo, SparseAutoencoder, TopK
from saebench.studies.meta.report import meta_result
from saebench.studies.meta.run import MetaSettings, MetaStudy, meta_study
from saebench.studies.study import write_parquet, write_study
from saebench.text.corpus import TokenCorpus
from saebench.viewer.opening import open_viewer
from saebench.viewer.server import serve
from tests.conftest import HOOK
from tests.sample_results import evaluator, sample_result

N = 120
DEAD, DENSE = 7, 11
SCRIPT = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>"


@dataclass(frozen=True)
class Files:
    """A checkpoint with examples and a result file that explains latents 3 (in script, to be escaped) and 5."""

    sae: Path
    examples: Path
    result: Path
    meta: Path
    model: str


@pytest.fixture(scope="session")
def viewer_sae() -> SparseAutoencoder:
    """Latent 7 is dead, latent 11 fires everywhere."""
    directions = torch.nn.functional.normalize(torch.randn(N, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    bias = torch.zeros(N)
    bias[DEAD], bias[DENSE] = -1e6, 50.0
    info = CheckpointInfo("made in a test", "saebench", "topk", 32, 32, N, {}, hook_in=HOOK)
    return SparseAutoencoder(directions.T.clone(), directions, bias, torch.zeros(32), TopK(6), info)


@pytest.fixture(scope="session")
def files(
    tmp_path_factory: pytest.TempPathFactory,
    viewer_sae: SparseAutoencoder,
    tiny_model: LanguageModel,
    tiny_corpus: TokenCorpus,
) -> Files:
    from saebench import checkpoints

    folder = tmp_path_factory.mktemp("viewer")
    save_native(viewer_sae, folder / "sae <b>")
    sae = checkpoints.load(folder / "sae <b>")
    found = collect(sae, tiny_model.cut(HOOK), tiny_corpus, ExampleSettings.defined(), 6, Progress(False))
    write_examples(found, folder / "examples")
    path = {"tokens": [5, None, 9], "text": ["w5", "*", SCRIPT], "at_start": True, "value": 1.25}
    latents = [
        {"latent": 3, "trie": [path], "f1": 0.5, "precision_interval": [0.25, 0.75], "recall": None},
        {"latent": N + 4, "trie": []},
    ]
    named = {"5": {"explanation": "fires on numbers", "scores": {"detection": 0.75}}, "3": {"explanation": SCRIPT}}
    parts = {
        "explainability": evaluator("explainability", [], {"latents": latents}),
        "llm": evaluator("llm", [], {"latents": named}),
    }
    write_result(sample_result(evaluators=parts), folder / "result.json")
    write_meta(sae, folder / "meta")
    return Files(folder / "sae <b>", folder / "examples", folder / "result.json", folder / "meta", tiny_model.name)


def write_meta(sae: SparseAutoencoder, folder: Path) -> MetaStudy:
    """A meta-autoencoder of six meta-latents, as ``saebench meta`` writes it."""
    study = meta_study(sae, MetaSettings(n=6, active=2, steps=20))
    write_study(meta_result(study), [], folder)
    write_parquet(study.decomposition(), folder / "decomposition.parquet")
    return study


@contextmanager
def running(files: Files, live: bool = True) -> Iterator[str]:
    """The address of a server that runs meanwhile."""
    content, loading = open_viewer(
        str(files.sae),
        examples=files.examples,
        result=files.result,
        meta=files.meta,
        model=files.model,
        live=live,
        device="cpu",
    )
    with serve(content, loading) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.address
        server.shutdown()
        thread.join()
