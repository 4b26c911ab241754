"""The commands of the tutorial and of the how-tos do what the pages say, with the files that the pages show."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pages import DOCS, Workshop, blocks, commands_of, files_of

from ablab.study.supervision import code

pytestmark = pytest.mark.slow

NEEDS = {"optuna": "optuna"}  # packages that a page is about, and that are not among ablab's own

HOW_TO = sorted(page for page in (DOCS / "how_to").glob("*.md") if any(commands_of(page)))


def tutorial() -> list[Path]:
    """The pages of the tutorial, in the order in which one reads them."""
    lines = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8").splitlines()
    return [DOCS / line.split()[-1] for line in lines if line.split() and line.split()[-1].startswith("tutorial/")]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("workshop")
    written = dict(files_of([*tutorial(), *HOW_TO]))
    for name, text in written.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    modules = {Path(name).stem for name in written if name.endswith(".py")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "_known", code._known | modules)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield Workshop(folder)
    for module in modules:
        sys.modules.pop(module, None)


def follow(workshop: Workshop, page: Path) -> None:
    """Carry out what a page says, line by line."""
    for line, heads in commands_of(page):
        status, said = workshop.do(line)
        assert status == 0, f"{page.name}: {line}\n{said}"
        for head in heads:
            assert any(each.split() == head.split() for each in said.splitlines()), f"{line}: no line {head}\n{said}"


@pytest.mark.timeout(1200)
def test_the_tutorial_can_be_followed(workshop: Workshop) -> None:
    pages = tutorial()
    assert len(pages) == len(list((DOCS / "tutorial").glob("*.md")))
    for page in pages:
        assert any(commands_of(page)), page
        follow(workshop, page)


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_a_how_to_does_what_it_says(workshop: Workshop, page: Path) -> None:
    if page.stem in NEEDS:
        pytest.importorskip(NEEDS[page.stem], reason=f"the extra `{page.stem}`")
    follow(workshop, page)


def test_no_two_pages_show_another_file_of_one_name() -> None:
    shown: dict[str, str] = {}
    for name, text in files_of([*tutorial(), *HOW_TO]):
        assert shown.setdefault(name, text) == text, name


def test_what_is_not_tried_says_so_by_its_prompt() -> None:
    """A block in `sh` is tried; one in `console`, with a $, needs a cluster, a GPU or an account."""
    for page in [*tutorial(), *HOW_TO]:
        for block in blocks(page):
            assert block.language in ("sh", "console", "text", "python", "yaml", "toml"), page
            assert (block.language == "console") == block.text.startswith("$ "), page
            if block.title and block.title.endswith(".yaml"):
                assert yaml.safe_load(block.text), page
