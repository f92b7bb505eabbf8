"""From a checkpoint's name to the viewer's content, cheap checks first."""

from __future__ import annotations

from pathlib import Path

from saebench import checkpoints
from saebench.errors import SaebenchError
from saebench.evaluation.preflight import model_name
from saebench.evaluation.run import open_model
from saebench.lm import Cut
from saebench.lm.loading import pick_device
from saebench.progress import Progress
from saebench.sae import Autoencoder, SparseAutoencoder
from saebench.viewer.content import Content, Extent
from saebench.viewer.live import Live

BRIEF = Extent(top=8, groups=4, each=3, before=24, after=10)
"""The content of static pages: half the text, because that of every latent is written."""


def open_viewer(
    checkpoint: str,
    *,
    examples: Path | None = None,
    result: Path | None = None,
    meta: Path | None = None,
    model: str | None = None,
    hook: str | None = None,
    live: bool = True,
    device: str | None = None,
    brief: bool = False,
) -> tuple[Content, Live]:
    """The content, and the weights and language model, which continue loading in the background.

    Args:
        checkpoint: path or hub name.
        examples: folder of ``saebench examples``.
        result: file with tries or explanations.
        meta: folder of ``saebench meta``.
        model: language model; the checkpoint's by default.
        hook: where the autoencoder reads; the checkpoint's by default.
        live: whether to load the language model.
        device: of both.
        brief: show less of each latent.

    Raises:
        SaebenchError: an argument is invalid.
    """
    info = checkpoints.inspect(checkpoint)
    content = Content.open(info, examples, result, BRIEF if brief else Extent(), meta)
    if live:
        model_name(model, [info])
        if not (hook or info.hook_in):
            raise SaebenchError("The checkpoint does not say where it reads: give the hook with --hook, or use --no-live.")
    bos = content.examples is None or content.examples.manifest["corpus"].get("bos") != "none"

    def load_sae() -> SparseAutoencoder:
        sae = checkpoints.load_one(checkpoint, pick_device(device) if live else "cpu")
        _check_same(content, sae)
        return sae

    def load_cut(sae: SparseAutoencoder) -> tuple[Autoencoder, Cut]:
        return open_model(sae, Progress(False), model=model, hook=hook, device=device)

    return content, Live(load_sae, load_cut if live else None, bos)


def _check_same(content: Content, sae: SparseAutoencoder) -> None:
    """Raise ``SaebenchError`` where examples or meta-latents are of other weights."""
    ours, theirs = sae.info.weights_sha256, {}
    if content.examples is not None:
        theirs["examples"] = content.examples.manifest["sae"].get("weights_sha256")
    if content.decomposition is not None:
        theirs["meta-latents"] = content.decomposition.weights_sha256
    for name, weights in theirs.items():
        if weights and ours and weights != ours:
            raise SaebenchError(f"The {name} were collected with other weights than this checkpoint's.")
