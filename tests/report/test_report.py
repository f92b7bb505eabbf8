from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from saebench.errors import SaebenchError, plain
from saebench.report import render_html_table, render_markdown, render_terminal, render_text, write_page
from saebench.report.content import differences, format_value
from saebench.report.figures import LONGEST_LABEL, densities, figures, losses, positions, recovery
from saebench.report.page import render_page, script_json
from saebench.results import Metric, Result
from tests.sample_results import downstream, evaluator, metric, reconstruction, sample_result

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>|`[x](javascript:alert(1))\x1b]0;owned\x07"


class Page(HTMLParser):
    """A page's elements, their attributes, and the text of its scripts, as a browser would cut them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.visible: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.visible.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def figures_of(page: Page) -> list[dict[str, Any]]:
    found = re.match(r"\s*const FIGURES = (.*);\n", page.scripts[-1])
    assert found
    return json.loads(found[1])


def with_details(result: Result, **details: Any) -> Result:
    found = result.evaluators["reconstruction"]
    return result.model_copy(
        update={"evaluators": {**result.evaluators, "reconstruction": found.model_copy(update={"details": details})}}
    )


@pytest.fixture(scope="module")
def hostile() -> Result:
    named = evaluator(HOSTILE, [metric(HOSTILE, 1.0, unit=HOSTILE, n_unit=HOSTILE, description=HOSTILE)])
    undefined = evaluator("other", [metric("m", None, reason=HOSTILE)])
    result = sample_result(HOSTILE, failures={HOSTILE: HOSTILE}, controls=True, settings={HOSTILE: HOSTILE})
    parts = {**result.evaluators, HOSTILE: named, "other": undefined}
    return result.model_copy(update={"evaluators": parts, "controls": {HOSTILE: {HOSTILE: named}}})


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0.123456, 0.0123, "0.123 ± 0.012"),
        (0.123456, 0.000456, "0.12346 ± 0.00046"),
        (12345.678, 123.4, "12,346 ± 123"),
        (2.5, 1.0, "2.5 ± 1.0"),
        (-0.00001, 0.001, "0.0000 ± 0.0010"),
        (0.123456, None, "0.1235"),
        (32.0, 0.0, "32"),
        (131072.0, None, "131,072"),
        (131072.4, None, "131,072"),
        (1.5e-9, None, "1.5e-09"),
        (0.5, 1e-12, "0.5 ± 1e-12"),
    ],
)
def test_numbers_have_the_digits_that_their_error_supports(value: float, error: float | None, shown: str) -> None:
    assert format_value(metric("m", value, error)) == shown


def test_an_interval_is_shown_where_there_is_no_standard_error() -> None:
    assert format_value(metric("m", 0.81273, interval=(0.80761, 0.81782))) == "0.8127 [0.8076, 0.8178]"
    assert format_value(metric("m", 0.81273, interval=(0.80761, 0.81782)), with_error=False) == "0.8127"
    assert format_value(metric("m", None, reason="none")) == "—"


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_rounding_moves_a_number_by_less_than_a_twentieth_of_its_error(value: float, error: float) -> None:
    shown, shown_error = (float(part.replace(",", "")) for part in format_value(metric("m", value, error)).split(" ± "))
    assert abs(shown - value) <= max(0.051 * error, 0.5 * (error >= 10))
    assert abs(shown_error - error) <= max(0.051 * error, 0.5 * (error >= 10))


def test_the_terminal_shows_values_units_directions_and_reasons() -> None:
    text = render_text(sample_result(), width=140)
    row = next(line for line in text.splitlines() if line.strip().startswith("ce_difference"))
    assert [cell.strip() for cell in row.split("│")] == [
        "ce_difference", "0.1871 ± 0.0041", "↓", "nats", "32,512 tokens", "Spliced minus clean cross-entropy",
    ]  # fmt: skip
    assert "— relative_compute: no scaling law for this model: give one with --scaling-law" in text
    assert "32,512 of 32,768 tokens; left out (256): special tokens and the first position" in text
    assert "Incomplete" not in text
    assert "Incomplete" in render_text(sample_result(complete=False))


def test_controls_are_shown_with_the_score() -> None:
    text = render_text(sample_result(controls=True), width=140)
    row = next(line for line in text.splitlines() if line.strip().startswith("normalised_mse"))
    assert [cell.strip() for cell in row.split("│")][1:3] == ["0.1834 ± 0.0021", "0.9537"]


@pytest.mark.parametrize("controls", [False, True])
@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_numbers_are_whole_at_every_width(width: int, controls: bool) -> None:
    text = render_text(sample_result(controls=controls), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "0.97637 ± 0.00052" in text
    assert "max_decoder_similarity" in text
    assert "…" not in text


def test_a_terminal_is_not_steered_by_names(hostile: Result) -> None:
    console = Console(width=200, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(render_terminal(hostile))
    assert "\x1b]" not in capture.get() and "\x07" not in capture.get()
    markup = evaluator("plugin", [metric("m", 1.0, unit="[/nothing]")])
    assert "[/nothing]" in render_text(sample_result(evaluators={"plugin": markup}))


def test_plain_text_has_no_characters_that_steer_or_reorder() -> None:
    assert plain("a\tb\nc") == "a b c"
    assert plain("a\x1b[31m\u202eb\u2066") == "a\ufffd[31m\ufffdb\ufffd"
    assert plain("σ² ± é 日本") == "σ² ± é 日本"


def test_markdown_is_a_table_of_as_many_cells_in_each_row() -> None:
    text = render_markdown(sample_result(controls=True))
    rows = [line for line in text.splitlines() if line.startswith("| ") or line.startswith("|---")]
    body = [row for row in rows if row.count("|") != 3]
    assert {row.count("|") for row in body} == {8}
    assert (
        "| reconstruction.normalised_mse | 0.1834 ± 0.0021 | 0.9537 ± 0.0021 | ↓ |  | 32,512 tokens "
        "| Squared error over that of predicting the mean |"
    ) in rows
    assert "- downstream.relative_compute: no scaling law" in text


def test_markdown_takes_no_markup_from_names(hostile: Result) -> None:
    text = render_markdown(hostile)
    assert "<" not in text and "`" not in text and "](" not in text and "\x1b" not in text
    table = text[text.index("| Metric") :].split("\n\n")[0]
    assert {row.count("|") for row in table.splitlines()} == {8}


def test_the_page_needs_no_network_and_holds_plotly_once(tmp_path: Path) -> None:
    write_page([sample_result("one"), sample_result("other", scale=1.4)], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.lstrip().startswith("<!doctype html>")
    page = Page(text)
    assert len(page.scripts) == 2
    assert text.count("plotly.js v") == 1
    assert not [attributes for _, attributes in page.elements if attributes.keys() & {"src", "href", "srcset", "action"}]
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy.startswith("default-src 'none'") and "http" not in policy


def test_the_page_shows_every_number_and_what_it_takes_to_repeat_it() -> None:
    result = sample_result(controls=True)
    visible = " ".join("".join(Page(render_page([result])).visible).split())
    for shown in ("0.1834 ± 0.0021", "0.9537 ± 0.0021", "no scaling law for this model", "9f" * 32, "b7" * 32, "5d" * 32):
        assert shown in visible
    assert '"learning_rate": 0.0003' in visible


def test_figures_hold_the_numbers_of_the_result() -> None:
    result = sample_result()
    density, position, loss = figures_of(Page(render_page([result])))
    details = result.evaluators["reconstruction"].details
    assert density["traces"][0]["y"] == details["density_histogram"]["counts"]
    assert density["traces"][0]["x"][0] == -4.625
    assert position["traces"][0]["y"] == details["normalised_mse_by_position"]["value"]
    assert loss["traces"][0]["x"] == ["clean", "spliced", "mean-ablated", "zero-ablated"]
    assert loss["traces"][0]["y"] == [2.9143, 2.9143 + 0.1871, 7.4127, 10.8312]
    assert loss["traces"][0]["error_y"]["array"][0] == pytest.approx(1.96 * 0.0312)


def test_each_figure_has_its_numbers_in_a_table() -> None:
    found = {each.key: each for each in figures([sample_result("one"), sample_result("other", scale=1.4)])}
    assert found["loss"].header == ["Model", "one", "other"]
    assert found["loss"].rows[1] == ["spliced", "3.1014", "3.1762"]
    assert found["position"].rows[0][0] == "1" and len(found["position"].rows) == 127
    assert found["density"].rows[-1][0] == "56 % to 100 %"
    assert "108 of one; 108 of other" in found["density"].caption


def test_a_curve_with_standard_errors_has_a_band() -> None:
    curve = {"position": [1, 2], "value": [0.5, None], "standard_error": [0.1, None]}
    figure = positions([with_details(sample_result(), normalised_mse_by_position=curve)])
    assert figure is not None and "95 % intervals" in figure.caption
    band, line = figure.traces
    assert band["x"] == [1, 1] and band["y"] == pytest.approx([0.696, 0.304])
    assert line["y"] == [0.5, None]


@pytest.mark.parametrize(
    "histogram",
    [
        None,
        "text",
        {"log10_edges": [0, 1], "counts": [1]},
        {"log10_edges": [0, 1], "counts": [1, 2], "never_active": 0},
        {"log10_edges": [0, float("inf")], "counts": [1], "never_active": 0},
        {"log10_edges": [0, "<b>"], "counts": [1], "never_active": 0},
    ],
)
def test_data_that_does_not_fit_is_not_drawn(histogram: Any) -> None:
    result = with_details(sample_result(), density_histogram=histogram, normalised_mse_by_position={"position": [1]})
    assert densities([result]) is None
    assert positions([result]) is None
    assert [each.key for each in figures([result])] == ["loss"]


def test_a_page_without_data_for_figures_has_no_script() -> None:
    page = Page(render_page([sample_result(evaluators={"plugin": evaluator("plugin", [metric("m", 1.0)])})]))
    assert page.scripts == [] and page.all("figure") == []


def test_undefined_losses_are_left_out_of_the_bars() -> None:
    only = evaluator("downstream", [metric("ce_clean", 2.0), metric("ce_spliced", None, reason="not run")])
    figure = losses([sample_result(evaluators={"downstream": only})])
    assert figure is not None and figure.traces[0]["x"] == ["clean"]
    assert losses([sample_result(evaluators={"reconstruction": reconstruction()})]) is None


def test_no_name_becomes_markup_or_script(hostile: Result) -> None:
    for results in ([hostile], [hostile, hostile]):
        page = Page(render_page(results))
        assert len(page.scripts) == 2
        assert page.all("img") == []
        assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
        assert "alert(1)" in "".join(page.visible)
        names = [trace["name"] for figure in figures_of(page) for trace in figure["traces"]]
        assert names and not any("<" in name for name in names)
    table = Page(render_html_table(hostile))
    assert table.scripts == [] and table.all("img") == []


@given(st.text())
def test_json_in_a_script_never_ends_it_and_reads_back(text: str) -> None:
    safe = script_json({"name": text + "</script><!--"})
    assert "<" not in safe and ">" not in safe
    assert json.loads(safe) == {"name": text + "</script><!--"}


def test_the_page_can_be_read_without_seeing_it() -> None:
    page = Page(render_page([sample_result("one", controls=True), sample_result("other")]))
    assert page.all("html") == [{"lang": "en"}]
    assert all(head.get("scope") in ("row", "col", "rowgroup") for head in page.all("th"))
    assert len(page.all("figure")) == len(page.all("figcaption")) == 3
    plots = [each for each in page.all("div") if each.get("class") == "plot"]
    assert len(plots) == 3 and all(each["role"] == "img" and each["aria-label"] for each in plots)
    scrolling = [each for each in page.all("div") if each.get("class") == "scroll"]
    assert scrolling and all(each["tabindex"] == "0" and each["aria-label"] for each in scrolling)
    assert "".join(page.visible).count("lower is better") > 2


def test_results_under_other_conditions_are_marked() -> None:
    one, other = sample_result(), sample_result(seed=1)
    assert differences([one, sample_result("another")]) == []
    assert differences([one, other]) == ["seeds"]
    corpus = one.corpus.model_copy(update={"sha256": "00" * 32})
    assert differences([one, sample_result(corpus=corpus)]) == ["tokens"]
    assert "Not under the same conditions" in render_page([one, other])
    assert "Not under the same conditions" not in render_page([one, one])


def test_side_by_side_has_a_gap_where_a_metric_was_not_measured() -> None:
    page = render_page([sample_result("one"), sample_result("other", evaluators={"downstream": downstream()})])
    side = page[page.index("All autoencoders side by side") : page.index("</table>")]
    row = side[side.index("normalised_<wbr>mse") :].split("</tr>")[0]
    assert re.findall(r'<td class="number">(.*?)</td>', row) == ["0.1834 ± 0.0021", ""]


def test_long_names_are_shortened_in_legends_alone() -> None:
    name = "google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82"
    figure = losses([sample_result(name), sample_result()])
    assert figure is not None
    assert figure.traces[0]["name"] == "google/gemma…/width_16k/average_l0_82"
    assert len(figure.traces[0]["name"]) == LONGEST_LABEL + 1
    assert figure.header[1] == name


def test_a_page_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SaebenchError, match="no result"):
        write_page([], tmp_path / "page.html")


def test_a_metric_without_error_or_unit_is_still_a_row() -> None:
    bare = Metric(name="bare", value=1.0, unit="1", direction="none", n=0)
    text = render_text(sample_result(evaluators={"plugin": evaluator("plugin", [bare])}))
    assert re.search(r"bare\s+│\s+1 │", text)


def test_progressive_recovery_is_drawn_over_the_latents_kept() -> None:
    curve = {"level": [1, 2, 4], "normalised_mse": [0.7, 0.5, None], "l0": [1.0, 2.0, 4.0]}
    figure = recovery([with_progressive(by_count=curve)])
    assert figure is not None
    assert figure.traces[0]["x"] == [1, 2, 4] and figure.traces[0]["y"] == [0.7, 0.5, None]
    assert figure.rows == [["1", "0.7000"], ["2", "0.5000"], ["4", ""]]
    assert recovery([with_progressive(by_count={"level": [1], "normalised_mse": []})]) is None
    assert recovery([sample_result()]) is None


def with_progressive(**details: Any) -> Result:
    result = sample_result()
    progressive = result.evaluators["reconstruction"].model_copy(update={"name": "progressive", "details": details})
    return result.model_copy(update={"evaluators": {**result.evaluators, "progressive": progressive}})
