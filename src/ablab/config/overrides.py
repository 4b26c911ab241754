"""Overrides as text: several in one, as in "attention=lsh,model.sizes=[1,2]", and values that are meant as written."""

from __future__ import annotations

import re

# A comma before a key; others belong to a value.
BETWEEN_OVERRIDES = re.compile(r",\s*(?=[\w./@+~-]+=)")
_NUMBER = re.compile(
    r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][+-]?\d[\d_]*)?|[+-]?(inf|nan)|true|false", re.IGNORECASE
)


def as_written(word: str) -> str:
    """The override `word` with quotes around a value that is a text, and that Hydra would read as a number.

    So that `name=2024_01_15` is called that, and not 20240115.
    """
    from ablab.config.schema import type_at  # which imports the table of axes, and this file is imported by readers

    key, equals, value = word.partition("=")
    if equals and _NUMBER.fullmatch(value) and type_at(key.lstrip("+")) in (str, str | None):
        return f"{key}='{value}'"
    return word
