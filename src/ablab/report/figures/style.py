"""The colour, the marker and the dashes of each variant, the same in every figure.

The colours are those of Okabe and Ito (2008), "Color Universal Design", without the yellow that vanishes on white; the
marker shapes carry the same information without colour, and where lines lie upon each other, each shows through the
gaps of those above it. A variant's style follows from its name, so that an option
looks alike in every report that it is in; where two names of one report meet, the later one takes the next style that
is free.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

TEXT = "#010203"  # the report sets its page's own text colour in its place
MOST_VARIANTS = 24  # that one figure tells apart; the tables beside it have them all
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Lengths of dashes and gaps, in widths of the line; dotted lines mean something else.
_DASHES = ((7.0, 3.0), (3.5, 2.5), (7.0, 2.5, 2.0, 2.5), (5.0, 5.0), (10.0, 4.0))
_PAIRS = len(_COLOURS) * len(_MARKERS)  # they share no divisor: counting both up comes by every pair


@dataclass(frozen=True)
class Style:
    """How a variant is drawn and called, in every figure alike."""

    colour: str
    marker: str
    dashes: tuple[float, ...] = ()  # none: a whole line
    name: str = ""  # in legends, where it is another than the variant's

    @property
    def line(self) -> tuple[float, tuple[float, ...]] | str:
        """Its curves, as Matplotlib takes them."""
        return (0.0, self.dashes) if self.dashes else "-"


def styles(variants: Sequence[str], baseline: str) -> dict[str, Style]:
    """The style of each variant. The baseline has the colour of the text, a star and whole lines.

    As long as there are no more variants than colours, no two have the same colour, nor the same marker; nor the same
    dashes as long as there are no more than of these.
    """
    others = sorted(variant for variant in variants if variant != baseline)
    found: dict[str, Style] = {}
    colours: set[str] = set()
    markers: set[str] = set()
    dashes: set[int] = set()
    taken: set[int] = set()
    for variant in others:
        first = zlib.crc32(variant.encode()) % _PAIRS
        free = [place for place in (*range(first, _PAIRS), *range(first)) if place not in taken]
        place = min(free, key=lambda place: (_style(place).colour in colours, _style(place).marker in markers))
        line = _next_free(zlib.crc32(variant.encode()) // _PAIRS, dashes)
        found[variant] = replace(_style(place), dashes=_DASHES[line])
        taken.add(place)
        colours.add(found[variant].colour)
        markers.add(found[variant].marker)
        dashes.add(line)
        if len(colours) == len(_COLOURS):
            colours.clear()
            markers.clear()
        if len(dashes) == len(_DASHES):
            dashes.clear()
        if len(taken) == _PAIRS:
            taken.clear()
    ordered = {variant: found[variant] for variant in variants if variant in found}
    return {**ordered, baseline: Style(TEXT, "*")}


def _style(place: int) -> Style:
    return Style(_COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)])


def _next_free(first: int, taken: set[int]) -> int:
    """The first of the dashes from `first` on that is not taken; not all of them are."""
    return next(line for line in ((first + on) % len(_DASHES) for on in range(len(_DASHES))) if line not in taken)
