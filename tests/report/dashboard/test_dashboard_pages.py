"""The dashboard's pages in a browser: what is drawn, what is complained of, and whom they ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from boards import Board, board, until
from chromium import Watched, chromium, watched
from processes import wait_for
from shown import VALUES, write_study
from synthetic import study

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PATIENCE_MS = 60_000
OWN_COMPLAINTS = ("deprecated", "Multiple instances of Three.js")  # of TensorBoard's own parts
# Each margin chart with the number of its lines, and the words of every error that is shown.
CHARTS = """() => {
  const charts = [], errors = [];
  const walk = node => {
    if (node.tagName === "TF-CUSTOM-SCALAR-MARGIN-CHART-CARD") charts.push([node.title, node._seriesNames.length]);
    if (node.classList && node.classList.contains("error-content") && node.offsetParent) errors.push(node.innerText);
    if (node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.children || []) walk(child);
  };
  walk(document.body);
  return {charts, errors};
}"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    folder: Path = write_study(tmp_path_factory.mktemp("runs") / "which", study(VALUES))
    with board(folder) as served:
        until(lambda: served.get("runs"), lambda runs: len(runs) == 17 and len(served.rows()) == 12)
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def visit(browser: Browser) -> Iterator[Watched]:
    with watched(browser, 1500, 1300) as seen:
        seen.page.set_default_timeout(PATIENCE_MS)
        yield seen


def complaints(seen: Watched) -> list[str]:
    return [text for text in seen.said if not any(words in text for words in OWN_COMPLAINTS)]


def outside(seen: Watched, served: Board) -> list[str]:
    return [address for address in seen.asked if not address.startswith((served.address, "data:", "blob:"))]


def test_the_address_that_is_printed_shows_margin_charts_of_the_variants(shown: Board, visit: Watched) -> None:
    wait_for(lambda: len(shown.said) > 1)
    address = shown.said[-1].split()[-1]
    visit.page.goto(address)
    expected = [
        ["val_loss: mean over seeds", 3],
        ["val_loss: paired difference to activation=relu", 2],
        ["train_loss: mean over seeds", 3],
        ["train_loss: paired difference to activation=relu", 2],
    ]
    same = f"expected => JSON.stringify(({CHARTS})().charts) === JSON.stringify(expected)"
    visit.page.wait_for_function(same, arg=expected)
    found = visit.page.evaluate(CHARTS)
    assert found["errors"] == []
    visit.page.wait_for_load_state("networkidle")
    assert (complaints(visit), outside(visit, shown)) == ([], [])


def test_the_tab_of_hyper_parameters_has_a_row_per_run(shown: Board, visit: Watched) -> None:
    visit.page.goto(f"{shown.address}#hparams")
    visit.page.get_by_text("diverged").last.wait_for()
    visit.page.wait_for_load_state("networkidle")
    cells = visit.page.locator("vaadin-grid-cell-content").all_inner_texts()
    words = [cell.strip() for cell in cells]
    for name in VALUES:
        assert words.count(name) == 4
    assert words.count("diverged") == 1
    assert words.count("ok") == 11
    assert (complaints(visit), outside(visit, shown)) == ([], [])


@pytest.mark.parametrize(("tab", "words"), [("text", "UNSTABLE"), ("images", "effects")])
def test_verdicts_and_figures_are_on_their_tabs(shown: Board, visit: Watched, tab: str, words: str) -> None:
    visit.page.goto(f"{shown.address}#{tab}&regexInput=%5Edashboard")
    visit.page.get_by_text(words).first.wait_for()
    if tab == "images":
        loaded = "image => image.complete && image.naturalWidth > 100"
        picture = visit.page.locator("tf-image-loader img").first
        picture.wait_for()
        assert picture.evaluate(loaded)
    visit.page.wait_for_load_state("networkidle")
    assert (complaints(visit), outside(visit, shown)) == ([], [])
