"""The report as people meet it: in a browser, on a phone, on paper, by keyboard, read aloud."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chromium import chromium, watched
from PIL import Image
from worlds import factorial, lengths, write

from ablab.report.commands import report_command

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
SIZES = [(360, 740), (1280, 800)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module", params=[factorial, lengths], ids=["factorial", "lengths"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the report on a study that has everything that a report can show."""
    folder: Path = tmp_path_factory.mktemp("study")
    return report_command([write(folder, request.param())]).as_uri()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_first_screen_holds_verdicts_and_nothing_scrolls_sideways(
    browser: Browser, address: str, width: int, height: int
) -> None:
    with watched(browser, width, height) as seen:
        seen.page.goto(address)
        box = seen.page.locator(".verdicts > li").first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= height
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_says_nothing_and_asks_for_nothing(browser: Browser, address: str) -> None:
    with watched(browser, offline=True) as seen:
        seen.page.goto(address)
        assert seen.said == []
        assert [each for each in seen.asked if not each.startswith("data:")] == [address]


def test_no_figure_is_empty(browser: Browser, address: str) -> None:
    with watched(browser) as seen:
        seen.page.goto(address)
        figures = seen.page.locator("main svg")
        assert figures.count() >= 6
        for number in range(figures.count()):
            figure = Image.open(BytesIO(figures.nth(number).screenshot())).convert("L")
            assert min(figure.size) > 100
            assert len(set(figure.tobytes())) > 8  # an empty one is of one shade


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(browser: Browser, address: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with watched(browser, color_scheme=scheme) as seen:
        seen.page.goto(address)
        violations = axe.Axe().run(seen.page).response["violations"]
    grave = [
        f"{each['id']}: {each['nodes'][0]['html'][:200]}"
        for each in violations
        if each["impact"] in ("serious", "critical")
    ]
    assert grave == []


def test_without_javascript_it_reads_the_same(browser: Browser, address: str) -> None:
    texts = []
    for allowed in (True, False):
        with watched(browser, java_script_enabled=allowed) as seen:
            seen.page.goto(address)
            texts.append(seen.page.locator("main").inner_text())
    assert texts[0] == texts[1]
    assert "Method" in texts[0]


def test_the_keyboard_comes_to_the_verdicts_first(browser: Browser, address: str) -> None:
    with watched(browser) as seen:
        seen.page.goto(address)
        seen.page.keyboard.press("Tab")
        assert _focused(seen.page) == "To the verdicts"
        seen.page.keyboard.press("Enter")
        assert seen.page.url.endswith("#verdicts")


def test_on_paper_nothing_is_cut_off(browser: Browser, address: str) -> None:
    with watched(browser) as seen:
        seen.page.goto(address)
        assert seen.page.pdf(format="A4").startswith(b"%PDF")
        seen.page.set_viewport_size({"width": 794, "height": 1123})  # A4 at 96 dpi
        seen.page.emulate_media(media="print")
        cut = seen.page.evaluate(
            "[...document.querySelectorAll('.wide, .grid, pre')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        )
        assert cut == 0
        assert not seen.page.locator("nav").is_visible()


def _focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.textContent"))
