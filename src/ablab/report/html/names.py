"""Names that users gave, in the midst of what the page says."""

from __future__ import annotations

from markupsafe import Markup, escape

from ablab.config.overrides import BETWEEN_OVERRIDES

_MOST_LETTERS = 32  # without a place to break
_BREAK = Markup("<wbr>")


def foldable(name: object) -> Markup:
    """The name of a variant with places to break it where a table has little room: between overrides, if it has any."""
    parts = BETWEEN_OVERRIDES.split(str(name))
    return _BREAK.join(_pieces(part) for part in [*(f"{part}," for part in parts[:-1]), parts[-1]])


def isolated(sentence: str, name: str) -> Markup:
    """The sentence with the name apart: one that runs from right to left would take the numbers beside it along."""
    before, found, after = sentence.partition(name) if name else (sentence, "", "")
    return escape(before) + (Markup("<bdi>{}</bdi>").format(found) if found else Markup("")) + escape(after)


def _pieces(part: str) -> Markup:
    return _BREAK.join(part[start : start + _MOST_LETTERS] for start in range(0, len(part), _MOST_LETTERS))
