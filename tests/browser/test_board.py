"""The leaderboards' site in a browser: sorting, filtering, the plot, links, keys, and ten thousand rows."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from saebench.leaderboard.entry_page import PLOTLY
from saebench.leaderboard.rows import Row
from saebench.leaderboard.site import build, render_index
from saebench.leaderboard.submit import import_results
from saebench.report.page import plotly_script
from tests.leaderboard.samples import entry_result, saebench_file, submission, write_board
from tests.sample_results import evaluator, metric

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
ROWS = "#table tbody tr:not(.gap)"
NAMES = "#table tbody th a"
POINTS, TIP = "#plot .scatterlayer .points path", "#plot .hoverlayer .hovertext"


def centre(mark: Any) -> tuple[float, float]:
    """Where the middle of a drawn mark lies on the page, in pixels."""
    box = mark.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def write_index(folder: Path, rows: list[Row], boards: list[dict[str, Any]]) -> None:
    """An index with the script that it shares with other pages."""
    (folder / "index.html").write_text(render_index(rows, boards))
    (folder / PLOTLY).write_text(plotly_script())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight entries of this suite, of two architectures, and three of another suite."""
    folder = tmp_path_factory.mktemp("site")
    kinds = [(k, architecture) for architecture in ("topk", "jumprelu") for k in (8, 16, 32, 64)]
    results = [entry_result(index, k, architecture) for index, (k, architecture) in enumerate(kinds)]
    write_board(
        folder / "boards", [submission(f"{each.sae.architecture}-{each.sae.activation['k']}", each) for each in results]
    )
    files = [saebench_file(folder / f"{l0}.json", l0) for l0 in (22, 41, 82)]
    import_results(files, folder / "boards")
    build(folder / "boards", folder / "out")
    return folder / "out"


def address(site: Path, state: str = "") -> str:
    return (site / "index.html").as_uri() + (f"#{state}" if state else "")


def names(page: Any) -> list[str]:
    return list(page.locator(NAMES).all_inner_texts())


def test_it_opens_on_one_leaderboard_and_shows_all_on_request(site: Path, open_page: Any) -> None:
    page = open_page(address(site))
    assert len(names(page)) == 8
    assert page.locator("#count").inner_text() == "8 of 11 entries, by Autoencoder"
    assert not page.locator("#note").is_visible()
    page.select_option("#model", "")
    assert len(names(page)) == 11
    assert "different text or models" in page.locator("#note").inner_text()
    assert page.locator("#table .mark").count() == 6  # a dagger for the entry, one for its L0, of three entries


def test_a_column_sorts_best_first_then_the_other_way(site: Path, open_page: Any) -> None:
    page = open_page(address(site))
    button = page.locator("#table thead button", has_text="normalised_mse")
    button.click()
    assert names(page)[:2] == ["jumprelu-64", "topk-64"]
    assert page.locator("#table th[aria-sort]").get_attribute("aria-sort") == "ascending"
    assert page.evaluate("document.activeElement.dataset.key") == "reconstruction.normalised_mse"
    button.press("Enter")
    assert names(page)[0] in ("jumprelu-8", "topk-8")
    assert page.locator("#table th[aria-sort]").get_attribute("aria-sort") == "descending"
    first = page.locator(ROWS).first.inner_text()
    assert "0.3678 ± 0.0033" in first


def test_filters_narrow_the_rows(site: Path, open_page: Any) -> None:
    page = open_page(address(site))
    page.fill("#min", "16")
    page.fill("#max", "32")
    assert sorted(names(page)) == ["jumprelu-16", "jumprelu-32", "topk-16", "topk-32"]
    page.locator("#architectures button", has_text="jumprelu").click()
    assert sorted(names(page)) == ["topk-16", "topk-32"]
    page.fill("#q", "TOPK 32")
    assert names(page) == ["topk-32"]
    page.fill("#q", "nothing of the kind")
    assert "No entry fits these filters." in page.locator("#table tbody").inner_text()
    page.click("#reset")
    assert len(names(page)) == 8
    page.select_option("#model", "tiny-2b")
    assert [name.rpartition("_")[2] for name in names(page)] == ["22", "41", "82"]
    assert page.locator("#hook option").all_inner_texts() == ["all", "blocks.12.hook_resid_post"]


def test_columns_are_chosen(site: Path, open_page: Any) -> None:
    page = open_page(address(site))
    page.click("#columns summary")
    page.check("#column-list input[value='downstream.top1_agreement']")
    page.uncheck("#column-list input[value='reconstruction.normalised_mse']")
    header = page.locator("#table thead th").all_inner_texts()
    assert any(text.startswith("top1_agreement") for text in header)
    assert not any(text.startswith("normalised_mse") for text in header)


def test_the_address_keeps_the_view_and_gives_it_back(site: Path, open_page: Any) -> None:
    page = open_page(address(site))
    page.fill("#min", "16")
    page.locator("#table thead button", has_text="ce_difference").click()
    page.select_option("#y", "downstream.top1_agreement")
    page.uncheck("#log")
    there = page.evaluate("location.hash")
    other = open_page(address(site) + there)
    assert names(other) == names(page) and len(names(other)) == 6
    assert other.input_value("#min") == "16" and other.input_value("#y") == "downstream.top1_agreement"
    assert not other.is_checked("#log")
    other.evaluate("location.hash = 'sort=-l0'")
    other.wait_for_function("document.getElementById('min').value === ''")
    assert names(other)[0] in ("jumprelu-64", "topk-64")


def test_an_address_of_nonsense_shows_the_table(site: Path, open_page: Any) -> None:
    page = open_page(address(site, f"sort={HOSTILE}&columns=x,y&x=constructor&y=__proto__&hide=a&min=abc&hook={HOSTILE}"))
    assert len(names(page)) == 8 + 3 * (page.input_value("#model") == "")
    assert page.input_value("#x") == "l0"


def test_the_plot_has_every_point_and_is_read_with_keys(site: Path, open_page: Any) -> None:
    page = open_page(address(site))
    assert page.locator(POINTS).count() == 8
    assert page.evaluate("dots.length") == 8
    page.focus("#plot")
    page.keyboard.press("End")
    said = page.locator("#plot-said").inner_text()
    assert "-64" in said and "L0 64" in said and "normalised_mse 0.04598 ± 0.00042" in said
    page.wait_for_selector(TIP)
    assert "-64" in page.locator(TIP).text_content()
    page.keyboard.press("Escape")
    page.wait_for_selector(TIP, state="detached")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_url("**/*-8.html")


def test_a_point_is_shown_under_the_pointer_and_opens(site: Path, open_page: Any) -> None:
    page = open_page(address(site, "hide=jumprelu"))
    x, y = centre(page.locator(POINTS).nth(1))
    page.mouse.move(x, y)
    page.wait_for_selector(TIP)
    assert "topk-16" in page.locator(TIP).text_content()
    page.mouse.click(x, y)
    page.wait_for_url("**/topk-16.html")
    assert page.locator("h1").inner_text() == "topk-16"


def test_points_lie_where_their_numbers_say(site: Path, open_page: Any) -> None:
    page = open_page(address(site, "hide=jumprelu"))
    places = [centre(page.locator(POINTS).nth(number)) for number in range(4)]
    xs, ys = [x for x, _ in places], [y for _, y in places]
    steps = [b - a for a, b in itertools.pairwise(xs)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)  # L0 doubles: even steps on a logarithmic axis
    rises = [b - a for a, b in itertools.pairwise(ys)]
    assert rises[1:] == pytest.approx([rises[1]] * 2, abs=0.2) and rises[1] > 0  # the error halves; down is smaller


def test_rows_are_selected_with_arrow_keys_and_opened(site: Path, open_page: Any) -> None:
    page = open_page(address(site))
    page.focus("#table")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == names(page)[1]
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.textContent") == names(page)[-1]
    page.keyboard.press("Enter")
    page.wait_for_url("**/topk-64.html")
    page.click("text=All entries")
    page.wait_for_url("**/index.html")


def test_the_page_of_an_entry_has_intervals_controls_and_its_file(site: Path, open_page: Any) -> None:
    page = open_page((site / "smollm2/blocks.15.hook_resid_pre/topk-32.html").as_uri())
    row = page.locator("tr", has=page.locator("th code", has_text="ce_difference")).inner_text()
    assert "0.0958 ± 0.0033" in row and "0.0893 to 0.1024" in row and "0.958 ± 0.033" in row
    page.wait_for_selector("#plot-density .bars path")
    page.wait_for_selector("#plot-position .scatterlayer path")
    assert page.locator("a", has_text="The entry's file").get_attribute("href") == "topk-32.json"
    assert (site / "smollm2/blocks.15.hook_resid_pre/topk-32.json").is_file()


def test_unverified_parts_are_marked(site: Path, open_page: Any) -> None:
    entry = site / "tiny-2b/blocks.12.hook_resid_post/imported/some-scope-2b-layer-12-width-16k-average-l0-22.html"
    page = open_page(entry.as_uri())
    assert "no hash of the autoencoder's weights" in page.locator(".warning").inner_text()
    assert "claimed, not measured" in page.locator("table.metrics").inner_text()


def test_it_is_usable_on_a_phone_and_in_the_dark(site: Path, open_page: Any) -> None:
    page = open_page(address(site), viewport={"width": 375, "height": 740}, color_scheme="dark", has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth <= 375")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 23, 29)"
    entry = open_page(
        (site / "smollm2/blocks.15.hook_resid_pre/topk-32.html").as_uri(), viewport={"width": 375, "height": 740}
    )
    assert entry.evaluate("document.documentElement.scrollWidth <= 375")


def test_a_screen_reader_finds_names_roles_and_counts(site: Path, open_page: Any) -> None:
    page = open_page(address(site))
    assert page.locator("#table table").get_attribute("aria-rowcount") == "9"
    assert page.locator(ROWS).first.get_attribute("aria-rowindex") == "2"
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select, button')].filter((each) => !each.labels?.length "
        "&& !each.textContent.trim() && !each.getAttribute('aria-label')).map((each) => each.outerHTML)"
    )
    assert unnamed == []
    assert "8 autoencoders" in page.locator("#plot").get_attribute("aria-label")


def many_rows(count: int) -> list[Row]:
    rows = []
    for index in range(count):
        l0 = 4 + (index * 37) % 251
        error = 0.9 / math.sqrt(l0) + index % 97 / 400
        values = [metric("l0", float(l0), 0.1, "latents"), metric("normalised_mse", error, 0.002, direction="lower")]
        values += [
            metric(f"metric_{number}", (index * (number + 3)) % 1009 / 7, 0.01, direction="lower") for number in range(20)
        ]
        kind = ("topk", "relu", "gated")[index % 3]
        rows.append(
            Row(f"entry-{index}", f"a/b/entry-{index}.html", 0, kind, 1024, {"reconstruction": evaluator("r", values)})
        )
    return rows


def test_of_ten_thousand_rows_those_in_sight_are_made(tmp_path: Path, open_page: Any) -> None:
    board = {"model": "m", "hook": "h", "title": "t", "facts": []}
    write_index(tmp_path, many_rows(10_000), [board])
    page = open_page(address(tmp_path))
    assert page.locator("#count").inner_text() == "10,000 of 10,000 entries, by Autoencoder"
    assert page.locator(NAMES).count() < 100
    drawings = page.evaluate(
        """() => { let plots = 0, cells = 0;
                   const react = Plotly.react, row = HTMLTableRowElement.prototype, append = row.append;
                   Plotly.react = (...given) => { plots += 1; return react(...given); };
                   row.append = function (...given) { cells += 1; return append.apply(this, given); };
                   for (let step = 0; step < 3; step++) sortBy("reconstruction.normalised_mse");
                   for (let step = 1; step <= 10; step++) { grid.scrollTop = step * 6789; drawRows(); }
                   row.append = append; Plotly.react = react;
                   return {plots, cells}; }"""
    )
    assert drawings["plots"] == 0  # the points stay where they are
    assert 0 < drawings["cells"] < 5000  # of 80,000: sorted three times, scrolled ten times, rows in sight alone are made
    assert page.locator(ROWS).count() < 100
    page.evaluate("grid.scrollTop = grid.scrollHeight")
    page.wait_for_selector("tr[aria-rowindex='10001']")
    best = page.evaluate("order.map((row) => column('reconstruction.normalised_mse')[row])")
    assert best == sorted(best) and len(best) == 10_000


def test_script_in_names_stays_text(tmp_path: Path, open_page: Any) -> None:
    values = [metric("l0", 8.0, 0.1, HOSTILE), metric(HOSTILE, 0.5, 0.1, direction="lower", description=HOSTILE)]
    row = Row(
        HOSTILE, "x.html", 0, HOSTILE, 8, {HOSTILE: evaluator(HOSTILE, values), "reconstruction": evaluator("r", values)}
    )
    board = {"model": HOSTILE, "hook": HOSTILE, "title": HOSTILE, "facts": [(HOSTILE, HOSTILE)]}
    write_index(tmp_path, [row, row], [board])
    page = open_page(address(tmp_path))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.focus("#plot")
    page.keyboard.press("ArrowRight")
    page.locator("#table thead button").last.click()
    assert page.locator("img").count() == 0 and page.locator("main script").count() == 0
    assert HOSTILE in page.locator("#plot-said").text_content()
    assert HOSTILE in page.locator(TIP).text_content()
    assert page.locator(NAMES).first.get_attribute("aria-label") == HOSTILE
