"""`saebench explain`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from saebench.errors import SaebenchError
from saebench.parsing import names_in
from saebench.terminal import terminal

if TYPE_CHECKING:
    from saebench.explaining.examples.folder import ActivatingExamples
    from saebench.explaining.llm.client import ChatClient
    from saebench.explaining.llm.plan import Load
    from saebench.lm import Cut
    from saebench.progress import Progress
    from saebench.sae import SparseAutoencoder
    from saebench.text.corpus import TokenCorpus

console = terminal()


def explain(
    checkpoint: Annotated[str, typer.Argument(help="Path or hub name.")],
    examples: Annotated[Path, typer.Option(help="Folder that `saebench examples` wrote for this checkpoint.")],
    explainer_url: Annotated[
        str, typer.Option(help="Endpoint with the chat-completions protocol, such as http://localhost:8000/v1.")
    ],
    explainer_model: Annotated[str, typer.Option(help="Name of the model that writes explanations, at the endpoint.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Result file to write.")],
    explainer_key: Annotated[
        str, typer.Option(help="Environment variable that holds the endpoint's key.")
    ] = "OPENAI_API_KEY",
    explainer_price: Annotated[
        str | None, typer.Option(help="Price of a million tokens in and out, such as 0.15,0.60.")
    ] = None,
    scorer_url: Annotated[
        str | None, typer.Option(help="Endpoint that answers the tests; the explainer's by default.")
    ] = None,
    scorer_model: Annotated[
        str | None, typer.Option(help="Model that answers the tests; the explainer's by default.")
    ] = None,
    scorer_key: Annotated[str | None, typer.Option(help="Environment variable with the scorer's key.")] = None,
    scorer_price: Annotated[str | None, typer.Option(help="As --explainer-price, for the scorer.")] = None,
    tests: Annotated[
        str | None,
        typer.Option(help="Tests, separated by commas: detection, fuzzing, simulation, intruder; all by default."),
    ] = None,
    latents: Annotated[str | None, typer.Option(help="Indices separated by commas; a random sample by default.")] = None,
    count: Annotated[int | None, typer.Option(help="Size of the random sample.")] = None,
    concurrency: Annotated[int, typer.Option(help="Questions in flight at a time.")] = 8,
    requests_per_minute: Annotated[float, typer.Option(help="Rate limit; 0 for none.")] = 0.0,
    tokens_per_minute: Annotated[float, typer.Option(help="Rate limit; 0 for none.")] = 0.0,
    timeout: Annotated[float, typer.Option(help="Seconds until a question times out.")] = 120.0,
    retries: Annotated[int, typer.Option(help="Retries of a question.")] = 6,
    answers: Annotated[
        Path | None, typer.Option(help="Cache folder of answers; in saebench's cache folder by default.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Send questions without confirmation.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of samples and orders.")] = 0,
    model: Annotated[str | None, typer.Option(help="Language model that the autoencoder reads.")] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Such as cpu or cuda; cuda:0,cuda:1 or all (every GPU) divides a large language model."),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Rows per batch.")] = None,
) -> None:
    """Explain latents in words with a language model, and score the explanations."""
    from saebench.evaluation.settings import TOKENS_PER_BATCH
    from saebench.explaining.examples.folder import ActivatingExamples
    from saebench.explaining.llm.limits import Limits
    from saebench.explaining.llm.protocol import load_protocol
    from saebench.explaining.llm.report import make_result
    from saebench.explaining.llm.run import ExplanationRun
    from saebench.files import check_writable
    from saebench.progress import Progress
    from saebench.report import render_terminal
    from saebench.results import read_result, write_result

    check_writable(out)
    if out.exists() and out.stat().st_size:
        read_result(out)  # an earlier result is replaced, other files are not
    protocol = load_protocol(names_in(tests) if tests is not None else None)
    limits = Limits(concurrency, requests_per_minute, tokens_per_minute, timeout, retries)
    asked = {"url": explainer_url, "model": explainer_model, "key_variable": explainer_key}
    scoring = {
        "url": scorer_url or explainer_url,
        "model": scorer_model or explainer_model,
        "key_variable": scorer_key or explainer_key,
    }
    prices = explainer_price, scorer_price or (explainer_price if scoring == asked else None)
    explainer, scorer = _clients(asked, scoring, prices, protocol.sampling.made(), limits, answers)
    collected = ActivatingExamples.open(examples)
    sae = _load(checkpoint, collected)
    progress = Progress()
    run = ExplanationRun(
        collected, protocol, explainer, scorer, latents=_numbers(latents), count=count, seed=seed, progress=progress
    )
    known = run.explanations_known
    needed = [client for client, spared in ((explainer, known), (scorer, known and scorer.known)) if not spared]
    checked = _check(needed, set())  # before the language model is loaded
    start = time.perf_counter()
    cut, corpus = _prepare(sae, collected, progress, model, device)
    run.stages["loading"] = time.perf_counter() - start
    run.find_inactive(sae, cut, corpus, batch or max(1, TOKENS_PER_BATCH // corpus.context))
    loads = run.plan()
    _show(loads, (explainer, scorer), len(run.materials))
    if any(load.to_ask for load in loads):
        _check([client for client, load in zip((explainer, scorer), loads, strict=True) if load.to_ask], checked)
        if not yes and not typer.confirm("Continue?"):
            raise SaebenchError("No question was sent; --yes skips this confirmation.")
    try:
        outcomes = run.run()
    except KeyboardInterrupt as stop:
        raise SaebenchError("Stopped: the answers so far are cached; repeat the command to resume.") from stop
    result = make_result(run, outcomes, cut.model.device)
    write_result(result, out)
    console.print(render_terminal(result))
    console.print(Text(f"Result: {out}"))


def _clients(
    asked: dict[str, Any],
    scoring: dict[str, Any],
    prices: tuple[str | None, str | None],
    sampling: Any,
    limits: Any,
    folder: Path | None,
) -> tuple[ChatClient, ChatClient]:
    """Explainer and scorer; the same client, with the same limits, where they are the same."""
    from saebench.explaining.llm.cache import AnswerCache
    from saebench.explaining.llm.client import ChatClient
    from saebench.explaining.llm.endpoint import Endpoint

    endpoints = []
    for role, target, price in (("explainer", asked, prices[0]), ("scorer", scoring, prices[1])):
        price_in, price_out = _prices(price, role)
        endpoints.append(Endpoint(**target, price_in=price_in, price_out=price_out, role=role))
    cache = AnswerCache(folder)
    explainer = ChatClient(endpoints[0], sampling, limits, cache)
    same = scoring == asked and prices[0] == prices[1]
    return explainer, explainer if same else ChatClient(endpoints[1], sampling, limits, cache)


def _prices(text: str | None, role: str) -> tuple[float | None, float | None]:
    if text is None:
        return None, None
    try:
        price_in, price_out = (float(each) for each in text.split(","))
    except ValueError as error:
        raise SaebenchError(f"--{role}-price must be two prices for a million tokens, as in 0.15,0.60.") from error
    return price_in, price_out


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(each) for each in names_in(text)]
    except ValueError as error:
        raise SaebenchError(f"--latents must be numbers separated by commas, not {text!r}.") from error


def _load(checkpoint: str, collected: ActivatingExamples) -> SparseAutoencoder:
    """The checkpoint, which must be the one that the examples were collected from."""
    from saebench import checkpoints

    sae, record = checkpoints.load_one(checkpoint), collected.manifest["sae"]
    theirs, own = record.get("weights_sha256"), sae.info.weights_sha256
    if collected.n_latents != sae.n_latents or (theirs and own and theirs != own):
        raise SaebenchError(
            f"The examples in {collected.folder} are of another autoencoder ({record.get('origin')}); collect examples of this one."
        )
    return sae


def _check(clients: list[ChatClient], done: set[int]) -> set[int]:
    """One call to each endpoint that was not checked yet."""
    for client in clients:
        if id(client) not in done:
            client.check()
            done.add(id(client))
    return done


def _prepare(
    sae: SparseAutoencoder, collected: ActivatingExamples, progress: Progress, model: str | None, device: str | None
) -> tuple[Cut, TokenCorpus]:
    """The language model cut at the hook, and the text that the examples were collected from."""
    import torch

    from saebench.evaluation.run import prepare
    from saebench.provenance import model_record
    from saebench.text.corpus import TokenCorpus, make_corpus

    record, of, tokens = collected.manifest["corpus"], collected.manifest["model"], collected.tokens.long()
    everywhere = torch.zeros_like(tokens, dtype=torch.bool)
    text = TokenCorpus(tokens, everywhere, ~everywhere[:, 1:], record["name"], None, "none", "nothing", 1)
    name = model or (None if sae.info.model else of["name"])
    _, cut, _ = prepare(sae, progress, model=name, hook=collected.manifest["sae"]["hook_in"], corpus=text, device=device)
    own = model_record(cut.model)
    if own.weights_sha256 and of.get("weights_sha256") and own.weights_sha256 != of["weights_sha256"]:
        raise SaebenchError(f"The examples were collected with another language model ({of['name']}): give it with --model.")
    corpus = make_corpus(
        tokens, cut.model.tokenizer, name=record["name"], bos=record["bos"], exclude=record["excluded"] != "nothing"
    )
    if corpus.sha256 != record["sha256"]:
        raise SaebenchError(f"The text in {collected.folder} is not what its manifest names: collect the examples again.")
    return cut, corpus


def _show(loads: tuple[Load, Load], clients: tuple[ChatClient, ChatClient], latents: int) -> None:
    """The planned questions and their cost."""
    table = Table("", "Model", "Questions", "Cached", "To ask", "Tokens in", "Tokens out", "Cost", show_edge=False)
    for role, load, client in zip(("Explainer", "Scorer"), loads, clients, strict=True):
        cost = "unknown" if load.cost is None else f"{load.cost:.2f}"
        numbers = [
            f"{value:,.0f}" for value in (load.questions, load.cached, load.to_ask, load.prompt_tokens, load.answer_tokens)
        ]
        table.add_row(role, Text(client.endpoint.model), *numbers, cost if load.to_ask else "0")
    console.print(Text(f"{latents:,} latents; tokens and cost are estimates."))
    console.print(table)
