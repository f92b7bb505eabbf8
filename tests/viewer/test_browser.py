"""The viewer in a real browser, from the server and from files: open a latent, search, jump; nothing on the console."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saebench.progress import Progress
from saebench.viewer.opening import open_viewer
from saebench.viewer.static import write_static
from tests.viewer.browser import watched_page
from tests.viewer.conftest import DEAD, DENSE, SCRIPT, Files, N, running


@pytest.fixture(scope="module")
def served(files: Files) -> Iterator[str]:
    with running(files) as address:
        yield address


@pytest.fixture(scope="module")
def written(files: Files, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("static") / "pages"
    content, live = open_viewer(
        str(files.sae),
        examples=files.examples,
        result=files.result,
        meta=files.meta,
        model=files.model,
        device="cpu",
        brief=True,
    )
    write_static(content, live, folder, Progress(False))
    return f"{(folder / 'index.html').as_uri()}"


@pytest.fixture(params=["served", "written"])
def start(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def text(page: Any, selector: str) -> str:
    return str(page.locator(selector).first.inner_text())


def test_list_and_latent(browser: Any, start: str) -> None:
    with watched_page(browser) as page:
        page.goto(start)
        page.wait_for_selector("table.list")
        assert page.locator("table.list tbody tr").count() == 50
        assert "sae <b>" in text(page, "h1") and page.locator("b").count() == 0
        page.select_option("select >> nth=1", "density")
        page.wait_for_url("**sort=density**")
        page.wait_for_selector(f"table.list tbody tr:first-child th a:text-is('{DENSE}')")
        page.click("table.list th a >> nth=0")
        page.wait_for_selector(".example")
        assert text(page, "h1") == f"Latent {DENSE}"
        assert page.locator(".example .on").count() > 0
        page.wait_for_selector(".lens li")
        page.wait_for_selector("aside table a")
        page.reload()  # the address alone brings the page back
        page.wait_for_selector(".example")
        assert text(page, "h1") == f"Latent {DENSE}"


def test_meta_latents_lead_to_those_that_share_them(browser: Any, start: str) -> None:
    with watched_page(browser) as page:
        page.goto(f"{start}#/latent/3")
        section = page.locator("section[data-meta]")
        section.locator("tbody tr").first.wait_for()
        other = section.locator("tbody tr").first.locator("a").first
        number = other.inner_text()
        other.click()
        page.get_by_role("heading", name=f"Latent {number}", exact=True).wait_for()
        assert "3" in page.locator("section[data-meta] a").all_inner_texts()


def test_jumps_and_keys(browser: Any, start: str) -> None:
    with watched_page(browser) as page:
        page.goto(start)
        page.wait_for_selector("table.list")
        page.click("[data-jump=dead]")
        page.wait_for_selector("text=never active")
        page.keyboard.press("d")
        page.wait_for_selector(".example")
        page.goto(f"{start}#/latent/{DEAD}")
        page.wait_for_selector(f"h1:text-is('Latent {DEAD}')")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(f"h1:text-is('Latent {DEAD + 1}')")
        page.keyboard.press("r")
        page.wait_for_selector(f"h1:not(:text-is('Latent {DEAD + 1}'))")
        page.keyboard.press("/")
        page.keyboard.type(str(DENSE))
        page.keyboard.press("Enter")
        page.wait_for_selector(f"h1:text-is('Latent {DENSE}')")
        page.keyboard.press("l")
        page.wait_for_selector("table.list")
        assert page.locator("table.list tbody tr").count() == 50


def test_search_by_text(browser: Any, served: str) -> None:
    with watched_page(browser) as page:
        page.goto(served)
        page.fill("#query", "w5 w9 w30")
        page.keyboard.press("Enter")
        page.wait_for_selector("button.t")
        assert page.locator("button.t").all_inner_texts() == ["w5", "w9", "w30"]
        assert text(page, "table.list th a") == str(DENSE)
        before = page.locator("table.list tbody tr").count()
        page.click("button.t >> nth=1")
        page.wait_for_selector("h2:has-text('chosen token')")
        assert page.locator("table.list tbody tr").count() == 6 < before
        page.click("table.list th a >> nth=0")
        page.wait_for_selector(".example")


def test_search_without_a_model_says_so(browser: Any, written: str) -> None:
    with watched_page(browser) as page:
        page.goto(written)
        page.fill("#query", "some words")
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=alert]")
        sentence = "Searching by text needs the language model: start `saebench view` without --static."
        assert text(page, "[role=alert]") == sentence


def test_script_in_names_and_explanations_stays_text(browser: Any, start: str) -> None:
    with watched_page(browser) as page:
        page.goto(f"{start}#/latent/3")
        page.wait_for_selector("[data-explained=explainability] .gram")
        assert text(page, ".explanation") == SCRIPT
        assert SCRIPT.replace(" ", "␣") in text(page, "[data-explained=explainability] .gram")
        assert page.locator("main img, main script").count() == 0
        assert "owned" not in page.title()
        page.goto(f"{start}#/?show=explained")
        page.wait_for_selector("table.list td:has-text('fires on numbers')")
        assert page.locator("table.list tbody tr").count() == 2


def test_fits_a_phone_in_the_dark(browser: Any, start: str) -> None:
    with watched_page(browser, viewport={"width": 360, "height": 740}, color_scheme="dark") as page:
        for place in ("", f"#/latent/{DENSE}", "#/latent/3"):
            page.goto(f"{start}{place}")
            page.wait_for_selector("table.list" if not place else f"h1:text-is('Latent {place.split('/')[-1]}')")
            page.wait_for_load_state("networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, place
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", background)[:3])) < 64


def test_errors_are_shown(browser: Any, written: str) -> None:
    with watched_page(browser) as page:
        page.goto(f"{written}#/latent/{N + 5}")
        page.wait_for_selector("[role=alert]")
        assert text(page, "[role=alert]") == f"There is no latent {N + 5}."


def test_pages_need_no_network(browser: Any, written: str) -> None:
    with watched_page(browser) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{written}#/latent/{DENSE}")
        page.wait_for_selector(".example")
        assert asked and all(url.startswith(("file:", "data:")) for url in asked)
        assert all(Path(url.removeprefix("file://").partition("#")[0]).exists() for url in asked if url.startswith("file:"))
