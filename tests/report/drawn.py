"""Figures in tests: their axes, and reports of which none is laid out and written, which is most of their time."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from markupsafe import Markup
from matplotlib.axes import Axes

from ablab.report.figures.canvas import Drawing
from ablab.report.html import blocks
from ablab.report.html.sections import cost


@contextmanager
def plain_figures() -> Iterator[None]:
    """For tests in this process that look at something else of a report: what figures show is there in words."""
    with mock.patch.object(blocks, "to_svg", _plain), mock.patch.object(cost, "to_svg", _plain):
        yield


def _plain(shown: Drawing | None, name: str) -> Markup | None:
    return None if shown is None else Markup(f"<svg><title>{html.escape(shown.alt)}</title></svg>")


def axes_of(drawn: Drawing | None) -> list[Axes]:
    assert drawn is not None
    return drawn.figure.axes
