"""The report as people meet it: in a browser, on a phone, on paper, by keyboard, read aloud."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from chromium import Watched, chromium, watched
from PIL import Image
from synthetic import study
from worlds import factorial, lengths, write

from ablab.report.commands import report_command

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
SIZES = [(360, 740), (1280, 800)]

# Of each figure that is shown: of which form it is, whether its box need not be scrolled, the sizes of its text in
# pixels, and how much text is cut off at its sides.
FIGURES = """() => {
  const boxed = [...document.querySelectorAll("main svg")].map(svg => [svg, svg.getBoundingClientRect()]);
  return boxed.filter(([svg, box]) => box.width).map(([svg, box]) => {
    const texts = [...svg.querySelectorAll("text")], scale = box.width / svg.viewBox.baseVal.width;
    return {
      kind: svg.classList.value,
      whole: svg.parentElement.scrollWidth <= svg.parentElement.clientWidth,
      sizes: texts.map(text => parseFloat(getComputedStyle(text).fontSize) * scale),
      beside: texts.map(text => text.getBoundingClientRect())
        .filter(text => text.left < box.left - 1 || text.right > box.right + 1).length,
    };
  });
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module", params=[factorial, lengths], ids=["factorial", "lengths"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the report on a study that has everything that a report can show."""
    folder: Path = tmp_path_factory.mktemp("study")
    return report_command([write(folder, request.param())]).as_uri()


@pytest.fixture(scope="module")
def loaded(browser: Browser, address: str) -> Iterator[Watched]:
    """The report, loaded once, without a network."""
    with watched(browser, offline=True) as seen:
        seen.page.goto(address)
        yield seen


@pytest.fixture
def page(loaded: Watched) -> Page:
    """The report as it was loaded, whatever another test has made of its window."""
    loaded.page.emulate_media(media="screen", color_scheme="light")
    loaded.page.set_viewport_size({"width": 1280, "height": 800})
    loaded.page.evaluate("scrollTo(0, 0)")
    return loaded.page


def test_it_says_nothing_and_asks_for_nothing(loaded: Watched, address: str) -> None:
    assert loaded.said == []
    assert [each for each in loaded.asked if not each.startswith("data:")] == [address]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_first_screen_holds_verdicts_and_nothing_scrolls_sideways(page: Page, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    box = page.locator(".verdicts > li").first.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= height
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_no_figure_is_empty(page: Page) -> None:
    picture = _picture(page)
    figures = page.locator("main svg").evaluate_all(
        "all => all.map(each => each.getBoundingClientRect()).filter(box => box.width)"
        ".map(box => [box.left, box.top, box.right, box.bottom])"
    )
    assert len(figures) >= 6
    for box in figures:
        figure = picture.crop(tuple(map(round, box)))
        assert min(figure.size) > 100
        assert len(set(figure.tobytes())) > 8  # an empty one is of one shade


def test_on_a_phone_every_figure_is_whole_and_its_text_can_be_read(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    shown = page.evaluate(FIGURES)
    assert len(shown) >= 6
    for each in shown:
        assert (each["kind"], each["whole"], each["beside"]) == ("narrow", True, 0)
        assert min(each["sizes"]) >= 11


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(page: Page, scheme: Literal["light", "dark"]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.emulate_media(color_scheme=scheme)
    violations = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    grave = [
        f"{each['id']}: {each['nodes'][0]['html'][:200]}"
        for each in violations
        if each["impact"] in ("serious", "critical")
    ]
    assert grave == []


def test_without_javascript_it_reads_the_same(browser: Browser, page: Page, address: str) -> None:
    with watched(browser, java_script_enabled=False) as seen:
        seen.page.goto(address)
        text = seen.page.locator("main").inner_text()
    assert text == page.locator("main").inner_text()
    assert "Method" in text


def test_the_keyboard_comes_to_the_verdicts_first(page: Page) -> None:
    page.keyboard.press("Tab")
    assert _focused(page) == "To the verdicts"
    page.keyboard.press("Enter")
    assert page.url.endswith("#verdicts")


def test_on_paper_nothing_is_cut_off(page: Page) -> None:
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.set_viewport_size({"width": 794, "height": 1123})  # A4 at 96 dpi
    page.emulate_media(media="print")
    cut = page.evaluate(
        "[...document.querySelectorAll('.wide, .grid, pre')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    )
    assert cut == 0
    assert not page.locator("nav").is_visible()


def test_what_is_folded_away_is_opened_by_the_keyboard_and_is_there_on_paper(browser: Browser, tmp_path: Path) -> None:
    address = report_command([write(tmp_path, study({"relu": [1.0] * 21, "gelu": [1.1] * 21}))]).as_uri()
    with watched(browser, offline=True) as seen:
        seen.page.goto(address)
        commands = seen.page.get_by_label("Commands")
        assert not commands.is_visible()
        seen.page.emulate_media(media="print")
        box = commands.bounding_box()
        assert box is not None
        assert box["height"] > 100
        seen.page.emulate_media(media="screen")
        seen.page.locator("summary", has_text="To train each run again").press("Enter")
        assert commands.is_visible()


def _picture(page: Page) -> Image.Image:
    """The whole page, in pieces: Chromium takes none of more than 16384 pixels."""
    width, height = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    page.set_viewport_size({"width": width, "height": 2000})
    whole = Image.new("L", (width, height))
    for top in range(0, height, 2000):
        reached = page.evaluate("top => { scrollTo(0, top); return scrollY }", top)
        whole.paste(Image.open(BytesIO(page.screenshot())).convert("L"), (0, int(reached)))
    page.evaluate("scrollTo(0, 0)")
    return whole


def _focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.textContent"))
