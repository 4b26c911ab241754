"""The pages of the site that are generated from the program."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from ablab.config.axes import AXES
from command_reference import command_page
from options_reference import BESIDE, axis_page, settings_page
from record_reference import record_page


def axis_pages() -> dict[str, str]:
    """The path of each axis's page, and of the other groups of conf/, by its name."""
    return {name: f"reference/axes/{name}.md" for name in (*AXES, *BESIDE)}


@cache
def pages() -> dict[str, str]:
    """Every generated page by the path of its source."""
    makers: dict[str, Callable[[], str]] = {path: partial(axis_page, name) for name, path in axis_pages().items()}
    makers |= {
        "reference/settings.md": settings_page,
        "reference/record.md": record_page,
        "reference/command_line.md": command_page,
    }
    return {path: make() for path, make in makers.items()}


def note_of(source: str) -> str:
    """What stands below the title of an axis's page that was written by hand: where its keys are listed."""
    name = source.removesuffix(".md")
    if name not in axis_pages():
        return ""
    return f"\n*Every option with every key, its type and its default: [`{name}`]({axis_pages()[name]}).*\n"
