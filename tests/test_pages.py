"""What is written for readers: where links lead, and how long the first page is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "experiments").glob("**/*.md")]


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8_000


def test_every_page_is_in_the_index() -> None:
    docs = ROOT / "docs"
    listed = re.findall(r"\]\(([\w/]+\.md)\)", (docs / "index.md").read_text(encoding="utf-8"))
    assert {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")} - {"index.md"} == set(listed)


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    docs = ROOT / "docs"
    named = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")} <= set(named)


def test_every_picture_says_what_it_shows() -> None:
    for page in PAGES:
        for text in re.findall(r"!\[([^\]]*)\]\(", page.read_text(encoding="utf-8")):
            assert len(text.split()) > 1, page
