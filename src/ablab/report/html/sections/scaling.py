"""How costs and quality grow with the length of the sequences and the size of the model."""

from __future__ import annotations

import pandas as pd

from ablab.analysis.scaling import Exponent
from ablab.report import drawings
from ablab.report.context import ReportContext
from ablab.report.formatting import MISSING, confidence, decimals_for, number
from ablab.report.html.sections.base import Block, Section
from ablab.report.html.svg import to_svg

_BASIS = {"seeds": "t over seeds", "fit": "of the fit", "counted": "counted, not measured", None: "no interval"}


def scaling(context: ReportContext) -> Section | None:
    """None where the runs differ in neither."""
    blocks = []
    for over, found in context.scaling.items():
        drawn = to_svg(drawings.scaling(context, over), f"scaling-{over}")
        rows = [_row(one) for of_figure in found for one in of_figure if one.alpha is not None]
        if rows:
            blocks.append(Block(title=f"By {over}", figure=drawn, table=pd.DataFrame(rows)))
    if not blocks:
        return None
    return Section(
        "scaling",
        "Scaling",
        "Slopes of straight lines through the logarithms: mean growth over the range that was run, which says little "
        "outside it.",
        blocks,
    )


def _row(one: Exponent) -> dict[str, str]:
    low, high = one.interval if one.interval and one.basis != "counted" else (None, None)
    half = (high - low) / 2 if low is not None and high is not None else 0.0
    digits = min(max(decimals_for(half), 2), 4) if half else 2
    return {
        "series": one.series,
        "figure": one.y_name,
        "from": f"{one.x[0]:,.0f}",
        "to": f"{one.x[-1]:,.0f}",
        "exponent": MISSING if one.alpha is None else number(one.alpha, digits),
        f"{confidence(one.level)} CI": f"{number(low, digits)} to {number(high, digits)}"
        if low is not None and high is not None
        else MISSING,
        "interval": _BASIS[one.basis],
        "seeds": str(one.seeds),
    }
