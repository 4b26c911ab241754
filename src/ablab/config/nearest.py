"""Did you mean ...?"""

from __future__ import annotations

import difflib
from collections.abc import Collection

_ALL = 8  # names that are all listed
_FEW = 5  # of more than that
_MOST_ENDS = 3  # names that end alike; with more of them the end says nothing
_NEAR = 0.75  # of last parts, as "d_modle" is to "d_model"
_AS_NEAR = 0.12  # less than that between two that may both be meant, as "seed" and "tune.seeds" by "seeds"
# What others call it: no likeness of letters tells.
_ELSEWHERE = {
    "steps": "trainer.max_steps",
    "epochs": "trainer.max_steps",
    "heads": "model.n_heads",
    "rotary": "rope",
    "swish": "silu",
}


def nearest(wrong: str, known: Collection[str], listed: Collection[str] | None = None, see: str = "") -> str:
    """An ending for an error message: the name in `known` that was probably meant, and all of them or the nearest.

    A name without dots may be the last part of a dotted one: "lr" is meant to be "optimizer.lr".

    Args:
        listed: of very many, those that are worth naming.
        see: the command that shows all, where they are too many for a line.
    """
    names = meant_by(wrong, known)
    meant = f"; did you mean {' or '.join(map(repr, names))}?" if names else ""
    if not known:
        return f"{meant} (it has none)"
    names = sorted(known if listed is None else listed)
    if len(names) <= _ALL:
        return f"{meant} (there are: {', '.join(names)})"
    all_of_them = f"; {see} shows all" if see else ""
    return f"{meant} (the nearest of {len(names)}: {', '.join(_by_nearness(wrong, names)[:_FEW])}{all_of_them})"


def meant_by(wrong: str, known: Collection[str]) -> list[str]:
    """The names in `known` that were probably meant: one that is near, or a few whose last part is nearer."""
    if (meant := _ELSEWHERE.get(wrong)) in known and meant is not None:
        return [meant, *(name for name in known if name.endswith(f".{wrong}"))]
    whole = difflib.get_close_matches(wrong, list(known), n=1)
    near = {name: _alike(wrong, name.rpartition(".")[2]) for name in known if "." in name and "." not in wrong}
    best = max(near.values(), default=0.0)
    ends = [name for name, alike in near.items() if alike == best >= _NEAR]
    of_whole = max((_alike(wrong, name) for name in whole), default=0.0)
    if not ends or len(ends) > _MOST_ENDS or of_whole > best:
        return whole
    return list(dict.fromkeys([*whole, *ends])) if of_whole > best - _AS_NEAR else ends


def _by_nearness(wrong: str, names: list[str]) -> list[str]:
    """The names, those that share most with the wrong one first; a part of a dotted name counts as the whole."""
    return sorted(names, key=lambda name: -max(_alike(wrong, part) for part in (name, name.rpartition(".")[2])))


def _alike(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()
