"""Did you mean ...?"""

from __future__ import annotations

import difflib
from collections.abc import Collection

_ALL = 8  # names that are all listed
_FEW = 5  # of more than that


def nearest(wrong: str, known: Collection[str], listed: Collection[str] | None = None, see: str = "") -> str:
    """An ending for an error message: the name in `known` that was probably meant, and all of them or the nearest.

    Args:
        listed: of very many, those that are worth naming.
        see: the command that shows all, where they are too many for a line.
    """
    close = difflib.get_close_matches(wrong, list(known), n=1)
    meant = f"; did you mean '{close[0]}'?" if close else ""
    if not known:
        return f"{meant} (it has none)"
    names = sorted(known if listed is None else listed)
    if len(names) <= _ALL:
        return f"{meant} (there are: {', '.join(names)})"
    all_of_them = f"; {see} shows all" if see else ""
    return f"{meant} (the nearest of {len(names)}: {', '.join(_by_nearness(wrong, names)[:_FEW])}{all_of_them})"


def _by_nearness(wrong: str, names: list[str]) -> list[str]:
    """The names, those that share most with the wrong one first; a part of a dotted name counts as the whole."""
    return sorted(names, key=lambda name: -max(_alike(wrong, part) for part in (name, name.rpartition(".")[2])))


def _alike(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()
