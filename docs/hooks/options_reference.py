"""Pages of what can be set: the options of each axis with their keys, and the settings that belong to no axis."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_type_hints

from ablab.config.axes import AXES, load
from ablab.config.schema import conf_folder, default_option, type_at
from ablab.config.signature import hints_of
from ablab.config.value_types import type_name
from yaml_comments import Key, keys_of, opening_comment, target_of

DOCS = Path(__file__).resolve().parents[1]
BESIDE = ("design", "recipe")  # groups of conf/ that are no axes
_HEADS = ("key", "default", "type", "meaning")


def axis_page(group: str) -> str:
    """The page of an axis, or of another group of conf/: its options, and the keys of each."""
    options = sorted((conf_folder() / group).glob("*.yaml"))
    parts = [f"# `{group}`", _about(group), _menu(group, options)]
    parts += [part for path in options for part in (f"## `{group}={path.stem}`", _source(path), _keys_of(group, path))]
    return "\n\n".join(part for part in parts if part) + "\n"


def settings_page() -> str:
    """The page of all settings at the top of the config, section by section, as conf/config.yaml has them."""
    keys = [key for key in keys_of(conf_folder() / "config.yaml") if key.name not in AXES]
    sections = list(dict.fromkeys(key.name.partition(".")[0] for key in keys if "." in key.name))
    parts = [
        "# Settings that belong to no axis",
        "Written on the command line as they stand here: `budget.match=flops`.",
    ]
    parts += ["## Of a run, and of how runs are carried out", _table(_rows(_named(keys, None)))]
    for section in sections:
        parts += [f"## `{section}`", _table(_rows(_named(keys, section)))]
    return "\n\n".join(parts) + "\n"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    heads = tuple(heads)
    lines = [heads, tuple("---" for _ in heads), *(tuple(each.replace("|", "\\|") for each in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _about(group: str) -> str:
    default = f"Without a choice a run has `{group}={default_option(group)}`. " if group in AXES else ""
    there = (DOCS / f"{group}.md").exists()
    page = (
        f"What the options do, where they come from and what was measured: [{group}](../../{group}.md)."
        if there
        else ""
    )
    return f"{default}{page}"


def _menu(group: str, options: list[Path]) -> str:
    return table(
        ("option", "what it is"), ((f"[`{path.stem}`](#{group}{path.stem})", _summary(path)) for path in options)
    )


def _summary(path: Path) -> str:
    """The head of an option's file, or the first sentence of its class."""
    if head := opening_comment(path):
        return head
    target = target_of(path)
    doc = inspect.getdoc(load(target)) if target else None
    return " ".join((doc or "").split("\n\n")[0].split())


def _source(path: Path) -> str:
    target = target_of(path)
    return f"Builds `{target}`." if target else ""


def _keys_of(group: str, path: Path) -> str:
    if group == "recipe":
        return f"```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```"
    keys = keys_of(path)
    return _table([(f"{group}.{key.name}", key, _hint(group, key)) for key in keys]) if keys else "It has no keys."


def _hint(group: str, key: Key) -> Any:
    """The annotation of a key: of the dataclass that the program reads, or else of the class that takes it."""
    axis = AXES.get(group)
    own = get_type_hints(load(axis.read_as)) if axis and axis.read_as else {}
    return {**hints_of(key.target), **own}.get(key.name.rpartition(".")[2])


def _named(keys: Iterable[Key], section: str | None) -> list[Key]:
    return [key for key in keys if (key.name.partition(".")[0] if "." in key.name else None) == section]


def _rows(keys: Iterable[Key]) -> list[tuple[str, Key, Any]]:
    return [(key.name, key, type_at(key.name)) for key in keys]


def _table(rows: Iterable[tuple[str, Key, Any]]) -> str:
    cells = ((f"`{name}`", f"`{key.default}`", _type(hint), key.comment) for name, key, hint in rows)
    return table(_HEADS, cells)


def _type(hint: Any) -> str:
    return "" if hint in (None, Any) else type_name(hint)
