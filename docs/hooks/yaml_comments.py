"""Keys of a YAML file with their values and the comments behind them: what the pages of options are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HYDRAS_OWN = ("_target_", "_partial_", "_recursive_", "_convert_", "defaults", "hydra")


@dataclass(frozen=True, kw_only=True)
class Key:
    """One setting as its file has it."""

    name: str  # dotted, below the file's own
    default: str  # as it is written
    comment: str
    target: str  # dotted name of the class that takes it; "" where there is none


def opening_comment(path: Path) -> str:
    """The comment at the head of a file, in one line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = lines[: next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return " ".join(line.lstrip("# ") for line in head if "@package" not in line)


def keys_of(path: Path) -> list[Key]:
    """All settings of a file, without those that say to Hydra how it is read."""
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text)
    return list(_keys(root, text.splitlines(), "")) if isinstance(root, yaml.MappingNode) else []


def target_of(path: Path) -> str:
    """Dotted name of what an option builds; "" where it builds nothing, or several things."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    return str(data.get("_target_", "")) if isinstance(data, dict) else ""


def _keys(node: yaml.MappingNode, lines: list[str], above: str) -> Iterator[Key]:
    entries: list[tuple[Any, Any]] = node.value
    target = next((str(value.value) for key, value in entries if key.value == "_target_"), "")
    for key, value in entries:
        if key.value in HYDRAS_OWN:
            continue
        name = f"{above}{key.value}"
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _keys(value, lines, f"{name}.")
        else:
            yield Key(name=name, default=_written(value, lines), comment=_comment(value, lines), target=target)


def _written(value: yaml.Node, lines: list[str]) -> str:
    start, end = value.start_mark, value.end_mark
    if start.line == end.line:
        return lines[start.line][start.column : end.column]
    return " ".join(line.strip() for line in lines[start.line : end.line])


def _comment(value: yaml.Node, lines: list[str]) -> str:
    """Behind a value, and on the lines below that hold a comment alone and are indented."""
    place = value.end_mark.line
    if not (found := re.match(r"\s*#\s*(.*)", lines[place][value.end_mark.column :] if place < len(lines) else "")):
        return ""
    parts = [found[1]]
    while place + 1 < len(lines) and (more := re.match(r"\s+#\s*(.*)", lines[place + 1])):
        parts.append(more[1])
        place += 1
    return " ".join(parts)
