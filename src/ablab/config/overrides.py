"""Overrides as text: several in one, as in "attention=lsh,model.sizes=[1,2]"; values as written, and compared."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ablab.errors import UserError

Value = TypeVar("Value")
MOST_VALUES = 100_000  # of one override; a range with a slip in it may have billions
# A comma before a key; others belong to a value.
BETWEEN_OVERRIDES = re.compile(r",\s*(?=[\w./@+~-]+=)")
_NUMBER = re.compile(
    r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][+-]?\d[\d_]*)?|[+-]?(inf|nan)|true|false", re.IGNORECASE
)


def as_written(word: str) -> str:
    """The override `word` with quotes around a value that is a text, and that Hydra would read as a number.

    So that `name=2024_01_15` is called that, and not 20240115. The group `experiment` of a user's own had to be added,
    as in `+experiment=long`, and still may be.
    """
    from ablab.config.schema import type_at  # which imports the table of axes, and this file is imported by readers

    word = word.removeprefix("+") if word.startswith("+experiment=") else word  # as long as Hydra knew of no such group
    key, equals, value = word.partition("=")
    if equals and _NUMBER.fullmatch(value) and type_at(key.lstrip("+")) in (str, str | None):
        return f"{key}='{value}'"
    return word


def not_too_many(values: Iterable[Value], word: str) -> list[Value]:
    """The values that an override gives, as `seed=range(0,10)` does. Raises UserError: nobody means so many."""
    found = list(itertools.islice(values, MOST_VALUES + 1))
    if len(found) > MOST_VALUES:
        raise UserError(f"{word}: gives more than {MOST_VALUES:,} values; write fewer")
    return found


_WORDS = {"null": "null", "~": "null", "true": "true", "false": "false"}
_WHOLE = re.compile(r"[+-]?\d+(_\d+)*")
_DECIMAL = re.compile(r"[+-]?(\d+(_\d+)*\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf|nan", re.IGNORECASE)
_QUOTED = re.compile(r"""'.*'|".*\"""", re.DOTALL)


def canonical(value: object) -> str:
    """Return a value as text that is the same for all spellings of it: 3e-3 and 0.0030, 1 and 1.0, [a, b] and ['a',b].

    Args:
        value: as a config has it; or as text, however it is written and quoted in an override.
    """
    if isinstance(value, str):
        return _of_text(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{canonical(content)}" for key, content in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(canonical, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def alike(override: str) -> str:
    """Return an override, or a name, with its value as labels and tables print it: `lr=3e-3` is `lr=0.003`."""
    key, equals, value = override.partition("=")
    return f"{key}={canonical(value)}" if equals else override


def same_value(one: object, other: object) -> bool:
    """Tell whether two values are equal, however each is written."""
    return canonical(one) == canonical(other)


def _of_text(text: str) -> str:
    if _QUOTED.fullmatch(text) and len(text) > 1:
        return _of_text(re.sub(r"\\(.)", r"\1", text[1:-1]))
    if word := "null" if text == "None" else _WORDS.get(text.lower()):  # there are options named none
        return word
    if text[:1] == "[" and text[-1:] == "]":
        return "[" + ",".join(map(_of_text, _split(text[1:-1]))) + "]"
    if text[:1] == "{" and text[-1:] == "}":
        pairs = (part.partition(":") for part in _split(text[1:-1]))
        return "{" + ",".join(f"{_of_text(key.strip())}:{_of_text(content.strip())}" for key, _, content in pairs) + "}"
    if _WHOLE.fullmatch(text) and len(text) < _LONGEST:
        return str(int(text))
    if _DECIMAL.fullmatch(text):
        number = float(text)
        return text.lower() if math.isinf(number) and "inf" not in text.lower() else canonical(number)
    return re.sub(r"\\(.)", r"\1", text)


_LONGEST = 4000  # digits that Python reads as a whole number


def _split(text: str) -> list[str]:
    """The parts between commas that stand in no bracket and no quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for place, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "[{(":
            depth += 1
        elif sign in "]})":
            depth -= 1
        elif sign == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    last = text[start:].strip()
    return [*parts, last] if parts or last else []
