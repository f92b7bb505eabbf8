"""The page of a comparison in a browser: its tables with their verdicts, and its frontiers with their error bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import saebench
from tests.leaderboard.samples import stated_result

HOSTILE = "<img src=x onerror=alert(1)>"


def test_the_frontiers_are_drawn(tmp_path: Path, open_page: Any) -> None:
    results = [stated_result(index, k) for index, k in enumerate((8, 16, 32))]
    results += [stated_result(9 + index, k, HOSTILE) for index, k in enumerate((12, 24))]
    saebench.compare(results).page(tmp_path / "page.html")
    page = open_page((tmp_path / "page.html").as_uri())
    page.wait_for_selector("#plot-frontier-0 .scatterlayer .trace")
    assert page.locator("#plot-frontier-0 .scatterlayer .trace").count() == 2
    assert page.locator("#plot-frontier-0 .scatterlayer .points path").count() == 5
    assert page.locator("#plot-frontier-0 .errorbar").count() == 5
    assert page.locator("#plot-frontier-0 .legendtext").nth(1).text_content().startswith("<img src=x")
    assert page.locator("img[src=x]").count() == 0
    overview, matched = page.locator("table.compared").first, page.locator("table.compared").last
    assert overview.locator("tbody tr").count() == 5
    assert "✓" in overview.locator("td.better").first.text_content()
    assert page.get_by_role("heading", name="At matched L0").count() == 1
    assert "<img src=x" in matched.locator("thead").text_content()
    numbers = page.locator("figure", has=page.locator("#plot-frontier-0")).locator("tbody tr")
    assert numbers.count() == 5
