"""The page of the record: its schema, read from the classes and from the comments behind their fields."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator

from ablab.results.record import SCHEMA_VERSION, Record
from options_reference import table


def record_page() -> str:
    """The page of `record.json`, and of the parts that it has."""
    opening = (
        f"# The record of a run\n\nWhat `record.json` in a run's folder holds, version {SCHEMA_VERSION} of the schema. "
        "It is written once, atomically, when the run has ended, however it ended; everything that concludes reads it "
        "alone. In Python it is `load(DIR).record`, an `ablab.results.record.Record`."
    )
    return "\n\n".join([opening, *(_section(kind) for kind in _kinds(Record))]) + "\n"


def _kinds(first: type) -> list[type]:
    """A dataclass, and those that its fields name, each once."""
    found = [first]
    for kind in found:  # which grows meanwhile
        found += [each for each in _named_by(kind) if each not in found]
    return found


def _named_by(kind: type) -> Iterator[type]:
    there = vars(sys.modules[kind.__module__])
    for field in dataclasses.fields(kind):
        for name in re.findall(r"\w+", str(field.type)):
            if isinstance(found := there.get(name), type) and dataclasses.is_dataclass(found):
                yield found


def _section(kind: type) -> str:
    doc = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    rows = ((f"`{name}`", f"`{hint}`", default, comment) for name, hint, default, comment in _fields(kind))
    return f"## `{kind.__name__}`\n\n{doc}\n\n{table(('field', 'type', 'default', 'meaning'), rows)}"


def _fields(kind: type) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and comment of each field, in the order of the class."""
    source = inspect.getsource(kind)
    lines = source.splitlines()
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            comment = _comments(lines, node.lineno - 1, node.end_lineno or node.lineno)
            yield node.target.id, ast.unparse(node.annotation), _default(node.value), comment


def _default(value: ast.expr | None) -> str:
    if value is None:
        return "always there"
    made = re.search(r"default_factory=(\w+)", text := ast.unparse(value))
    return f"`{made[1]}()`" if made else f"`{text}`"


def _comments(lines: list[str], start: int, end: int) -> str:
    """Behind a field, and on the lines above that hold a comment alone."""
    above: list[str] = []
    while start > len(above) and (found := re.match(r"\s+#\s*(.*)", lines[start - 1 - len(above)])):
        above.insert(0, found[1])
    behind = [found[1] for line in lines[start:end] if (found := re.search(r"\s#\s*(.*)", line))]
    return " ".join([*behind, *above])
