"""The figure: time and memory over length, both logarithmic, so that a power of the length is a straight line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from ablab.bench.attention.implementation import Family, Pass
from ablab.bench.attention.results import Cell, Results
from ablab.bench.attention.scaling import exponent
from ablab.bench.attention.tables import TITLES

SUFFIXES = (".png", ".svg")
COLOURS: dict[Family, str] = {
    "full": "#444444",
    "windowed": "#0072B2",
    "lsh": "#D55E00",
    "dynamic": "#009E73",
    "dsa": "#CC79A7",
    "csa": "#E69F00",
    "hca": "#7F3C8D",
    "selected": "#1B9E77",
    "gated_delta": "#56B4E9",
    "mamba2": "#8B5A2B",
}
MARKERS = "ovs^DPX*<>"


def draw(results: Results, path: Path) -> None:
    """A panel of time for each pass, and one of the memory of the last; ours are solid, peers dashed.

    The legend has the fitted exponents of all passes.
    """
    passes = results.passes
    if not passes:
        return
    figure = Figure(figsize=(5.2 * (len(passes) + 1) + 2.6, 5.4), layout="constrained")
    panels = figure.subplots(1, len(passes) + 1, squeeze=False)[0]
    for axes, pass_ in zip(panels, passes, strict=False):
        _panel(axes, results, pass_, f"{TITLES[pass_]}, time", "seconds")
    _panel(panels[-1], results, passes[-1], f"{TITLES[passes[-1]]}, peak memory", "MiB")
    handles = {line.get_label(): line for line in panels[-1].get_lines()}
    labels = [_label(str(name), results) for name in handles]
    figure.legend(list(handles.values()), labels, loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=150)


def _panel(axes: Axes, results: Results, pass_: Pass, title: str, unit: str) -> None:
    seen: dict[tuple[Family, bool], int] = {}
    for each in results.implementations:
        nth = seen[each.family, each.ours] = seen.get((each.family, each.ours), -1) + 1
        values: dict[int, float] = dict(results.seconds(each.implementation, pass_))
        if unit == "MiB":
            values = {n: found / 2**20 for n, found in results.bytes(each.implementation, pass_).items() if found}
        lengths = sorted(values)
        axes.plot(lengths, [values[n] for n in lengths], label=each.implementation, **_style(each, nth))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_title(title)
    axes.set_xlabel("length, tokens")
    axes.set_ylabel(unit)
    axes.set_xticks(results.lengths)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", rotation=45)
    axes.grid(alpha=0.3)


def _label(name: str, results: Results) -> str:
    slopes = [exponent(results.seconds(name, pass_)) for pass_ in results.passes]
    growth = [f"$T^{{{slope:.2f}}}$" for slope in slopes if slope is not None]
    return f"{name}  {', '.join(growth)}" if growth else name


def _style(each: Cell, nth: int) -> dict[str, Any]:
    style: dict[str, Any] = {"color": COLOURS[each.family], "marker": MARKERS[nth % len(MARKERS)], "markersize": 4.0}
    if each.ours:
        return style | {"linestyle": "-", "linewidth": 2.0}
    return style | {"linestyle": "--", "linewidth": 1.0, "alpha": 0.75, "markerfacecolor": "none"}
