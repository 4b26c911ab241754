"""The site as people meet it: it builds without a warning, reads well in a browser, and asks for nothing elsewhere."""

from __future__ import annotations

import functools
import http.server
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Watched, chromium, watched

import reference

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = (
    *("index.html", "tutorial/reading.html", "how_to/attention.html", "reference/python.html"),
    *("reference/axes/norm.html", "experiments/five_claims/index.html", "files/experiments/quickstart.ipynb.html"),
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make check` builds it: a broken link, anchor or page fails."""
    config_of = pytest.importorskip("mkdocs.config", reason="the extra `docs`").load_config
    from mkdocs.commands.build import build

    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    folder = tmp_path_factory.mktemp("site")
    logging.getLogger("mkdocs").addHandler(handler)
    try:
        with warnings.catch_warnings(action="ignore"):  # of packages that MkDocs brings
            build(config_of(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    finally:
        logging.getLogger("mkdocs").removeHandler(handler)
    assert said == []
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Of the site on this machine."""
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}/"
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.fixture(scope="module")
def seen(address: str) -> Iterator[Watched]:
    """A narrow screen."""
    with chromium() as browser, watched(browser, 360, 740) as page:
        yield page


def test_every_generated_page_and_every_study_is_there(site: Path) -> None:
    wanted = [name.replace(".md", ".html") for name in reference.pages()]
    studies = [
        f"{path.parent.relative_to(ROOT).as_posix()}/index.html" for path in ROOT.glob("experiments/*/README.md")
    ]
    assert [name for name in (*wanted, *studies) if not (site / name).is_file()] == []
    assert not list(site.rglob("*.py"))


def test_every_picture_of_the_site_says_what_it_shows(site: Path) -> None:
    pictures = [
        (path.name, tag)
        for path in site.rglob("*.html")
        for tag in re.findall(r"<img [^>]*>", path.read_text(encoding="utf-8"))
    ]
    assert len(pictures) > 10
    assert [found for found in pictures if not re.search(r'alt="[^"]{10,}"', found[1])] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_reads_well_on_a_phone_by_day_and_by_night(seen: Watched, address: str, name: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = seen.page
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto(address + name)
        page.wait_for_selector("body[data-md-color-scheme={}]".format("slate" if scheme == "dark" else "default"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found] == [], scheme
    assert seen.said == []
    assert [each for each in seen.asked if not each.startswith((address, "data:"))] == []
