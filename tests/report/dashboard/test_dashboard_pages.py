"""The dashboard's pages in a browser: what is drawn, what is complained of, and whom they ask."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boards import Board, board, until
from shown import VALUES, write_study
from synthetic import study

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


class Visit:
    """A page, what it complained of and what it asked for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning") and not any(words in message.text for words in OWN_COMPLAINTS):
            self.complaints.append(message.text)

    def outside(self, served: Board) -> list[str]:
        return [url for url in self.asked if not url.startswith((served.address, "data:", "blob:"))]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    folder: Path = write_study(tmp_path_factory.mktemp("runs") / "which", study(VALUES))
    with board(folder) as served:
        until(lambda: served.get("runs"), lambda runs: len(runs) == 17 and len(served.rows()) == 12)
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    sync_api = pytest.importorskip("playwright.sync_api", reason="there is no Playwright here")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    page = browser.new_page(viewport={"width": 1500, "height": 1300})
    page.set_default_timeout(PATIENCE_MS)
    yield Visit(page)
    page.close()


def test_the_address_that_is_printed_shows_margin_charts_of_the_variants(shown: Board, visit: Visit) -> None:
    assert shown.process.stderr is not None
    address = shown.process.stderr.readline().split()[-1]
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
    assert (visit.complaints, visit.outside(shown)) == ([], [])


def test_the_tab_of_hyper_parameters_has_a_row_per_run(shown: Board, visit: Visit) -> None:
    visit.page.goto(f"{shown.address}#hparams")
    visit.page.get_by_text("diverged").last.wait_for()
    visit.page.wait_for_load_state("networkidle")
    cells = visit.page.locator("vaadin-grid-cell-content").all_inner_texts()
    words = [cell.strip() for cell in cells]
    for name in VALUES:
        assert words.count(name) == 4
    assert words.count("diverged") == 1
    assert words.count("ok") == 11
    assert (visit.complaints, visit.outside(shown)) == ([], [])


@pytest.mark.parametrize(("tab", "words"), [("text", "UNSTABLE"), ("images", "effects")])
def test_verdicts_and_figures_are_on_their_tabs(shown: Board, visit: Visit, tab: str, words: str) -> None:
    visit.page.goto(f"{shown.address}#{tab}&regexInput=%5Edashboard")
    visit.page.get_by_text(words).first.wait_for()
    if tab == "images":
        loaded = "image => image.complete && image.naturalWidth > 100"
        picture = visit.page.locator("tf-image-loader img").first
        picture.wait_for()
        assert picture.evaluate(loaded)
    visit.page.wait_for_load_state("networkidle")
    assert (visit.complaints, visit.outside(shown)) == ([], [])
