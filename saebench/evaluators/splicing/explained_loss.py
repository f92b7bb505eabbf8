"""The loss of the language model with latents replaced by the predictions of their explanations.

Source: Gao et al. 2024, section 4.4 (the substitution; which losses are compared is this package's choice). Positions
excluded from the averages keep their clean activations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from saebench.evaluators.downstream import chunks, store_losses
from saebench.explaining.examples.sampling import TOKENS_PER_BATCH
from saebench.explaining.n2g.trie import Trie, predict_places
from saebench.lm import Cut, Prefix
from saebench.progress import Progress
from saebench.results import Metric
from saebench.results.metrics import Counted
from saebench.results.statistics import Estimate, RowSums, ratio_estimate
from saebench.sae import Autoencoder, SparseLatents
from saebench.sae.latents import pack_slots
from saebench.text.corpus import TokenCorpus

_RUNS = ("clean", "true", "simulated", "zeroed")


@torch.no_grad()
def explained_losses(
    cut: Cut, sae: Autoencoder, corpus: TokenCorpus, rows: Tensor, tries: dict[int, Trie], first: int, progress: Progress
) -> RowSums:
    """Cross-entropies on ``rows`` of the corpus: clean, with the reconstruction, and with latents replaced in it.

    Args:
        cut, sae, corpus: the language model, the autoencoder and the text.
        rows: numbers of rows.
        tries: explanations by latent; these latents are replaced by their simulation, or by 0.
        first: the position at which text starts in a row.
        progress: updated after each batch.
    """
    sums = RowSums(("predictions", *_RUNS))
    for some in progress.track("Splicing explanations", rows.split(max(1, TOKENS_PER_BATCH // corpus.context)), "batches"):
        tokens, mask = corpus.tokens[some], corpus.loss_mask[some]
        prefix = cut.prefix(tokens)
        places = (~corpus.excluded[some]).nonzero(as_tuple=True)
        x = prefix.inputs[places[0].to(prefix.inputs.device), places[1].to(prefix.inputs.device)].float()
        true = sae.encode(x)
        zeroed, simulated = replaced(true, tries, tokens, places, first)
        losses = {"clean": _losses(cut, prefix, prefix.outputs, mask)}
        for name, code in (("true", true), ("simulated", simulated), ("zeroed", zeroed)):
            outputs = prefix.outputs.clone()
            outputs[places[0].to(outputs.device), places[1].to(outputs.device)] = sae.decode(code, x).to(outputs.dtype)
            losses[name] = _losses(cut, prefix, outputs, mask)
        sums.add(predictions=mask.sum(dim=1), **losses)
    return sums


def replaced(
    code: SparseLatents, tries: dict[int, Trie], tokens: Tensor, places: tuple[Tensor, ...], first: int
) -> tuple[SparseLatents, SparseLatents]:
    """``(zeroed, simulated)``: the code without the tries' latents, and with the tries' predictions in their place.

    Args:
        code: of the tokens at ``places`` (rows and positions, ``[tokens]`` each) of ``tokens`` (``[rows, context]``).
        tries: by latent.
        tokens, places, first: the text, the encoded places in it, and the position at which text starts in a row.
    """
    device = code.indices.device
    explained = torch.tensor(list(tries), dtype=torch.int64, device=device)
    zeroed = code.where(~torch.isin(code.indices, explained))
    count, tokens_of_each = len(tries), places[0].numel()
    owners = torch.arange(count).repeat_interleave(tokens_of_each)
    rows, positions = (each.repeat(count) for each in places)
    simulated = predict_places(list(tries.values()), owners, tokens, rows, positions, first).view(count, tokens_of_each)
    which, where = simulated.nonzero(as_tuple=True)
    values = simulated[which, where]
    indices, values = pack_slots(where, explained.cpu()[which], values, code.indices.shape[0])
    return zeroed, replace(
        zeroed,
        indices=torch.cat([zeroed.indices, indices.to(device)], dim=1),
        values=torch.cat([zeroed.values, values.to(zeroed.values)], dim=1),
    )


def _losses(cut: Cut, prefix: Prefix, outputs: Tensor, mask: Tensor) -> Tensor:
    """``[rows]`` float64: summed cross-entropies of the predictions that count."""
    logits = cut.suffix(outputs, prefix)
    losses = torch.empty(logits.shape[0], logits.shape[1] - 1, device=logits.device)
    for row, part in chunks(logits):
        store_losses(losses, logits[row, part].float().log_softmax(dim=-1), prefix.tokens, row, part)
    return (losses.double().cpu() * mask).sum(dim=1)


def read_losses(record: Any) -> RowSums:
    """The sums of a result's details.

    Raises:
        ValueError: they are not as ``explained_losses`` makes them.
    """
    return RowSums.read(record, ("predictions", *_RUNS))


def loss_metrics(sums: RowSums, n_latents: int) -> list[Metric]:
    """The metrics of ``explained_losses``."""
    over = Counted(int(sums.total("predictions")), "predictions")
    count = sums.column("predictions")
    true, simulated, zeroed = (sums.column(name) for name in ("true", "simulated", "zeroed"))
    which = f"{n_latents} explained latents"
    words = {
        "clean": "of the unaltered model",
        "true": "with the reconstruction spliced in",
        "simulated": f"with the reconstruction spliced in, the {which} simulated by their tries",
        "zeroed": f"with the reconstruction spliced in, the {which} set to 0",
    }
    losses = [
        over.metric(
            f"ce_{name}",
            ratio_estimate(sums.column(name), count),
            "nats",
            "lower" if name == "simulated" else "none",
            f"Cross-entropy {text}",
        )
        for name, text in words.items()
    ]
    explained = (
        ratio_estimate(zeroed - simulated, zeroed - true) if float((zeroed - true).sum()) > 0 else Estimate(None, None)
    )
    return [
        *losses,
        over.metric(
            "ce_simulation_cost",
            ratio_estimate(simulated - true, count),
            "nats",
            "lower",
            f"Cross-entropy with the {which} simulated, minus with their true activations",
        ),
        over.metric(
            "loss_explained",
            explained,
            "1",
            "higher",
            f"(CE zeroed - CE simulated) / (CE zeroed - CE true) of the {which}",
            "setting the latents to 0 does not raise the loss",
        ),
    ]
