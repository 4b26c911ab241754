"""The figures: what they draw stands where the numbers say, and styles belong to names."""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from drawn import axes_of
from matplotlib.text import Text
from synthetic import runs_of, study

from ablab.analysis.comparison import Comparison, compare
from ablab.analysis.curves import Band
from ablab.analysis.scaling import Exponent
from ablab.analysis.verdicts import RESOLVED
from ablab.report.figures.canvas import Drawing, folded
from ablab.report.figures.cost import quality_and_cost
from ablab.report.figures.curves import Panel, curves
from ablab.report.figures.effects import detectable_effects, forest, slopes
from ablab.report.figures.interactions import interaction_heatmap
from ablab.report.figures.narrow import NARROW, narrow
from ablab.report.figures.scaling import power_laws
from ablab.report.figures.style import MOST_VARIANTS, TEXT, Style, styles
from ablab.report.html.blocks import to_svg
from ablab.results.record import Direction

LOSSES = {"relu": [1.0, 1.1, 1.05, 1.02], "gelu": [1.2, 1.31, 1.24, 1.22], "glu": [1.0, 1.2, 1.0, 1.1]}


def compared(losses: dict[str, list[float]]) -> tuple[list[Comparison], dict[str, Style]]:
    runs = runs_of(study(losses))
    found = compare(runs)
    return list(found.items), styles(list(dict.fromkeys(runs.table["variant"])), found.baseline)


def test_forty_variants_look_different() -> None:
    found = styles([f"v{index}" for index in range(40)], "v0")
    assert len({(style.colour, style.marker) for style in found.values()}) == 40


def test_a_look_is_of_the_name_and_not_of_the_place() -> None:
    names = ["attention=lsh", "attention=windowed", "attention=full"]
    assert styles(names, "attention=full") == styles(names[::-1], "attention=full")
    for first in names:  # whether another variant is there or not, unless both want the same
        alone = styles([first, "base"], "base")[first]
        assert alone == styles([first, "base", "z"], "base")[first]


def test_six_variants_have_six_colours_and_a_thousand_have_looks() -> None:
    for start in range(20):
        found = styles([f"option {start + index}" for index in range(6)], "base")
        assert len({style.colour for style in found.values()}) == 7  # the baseline has the colour of the text
        assert len({style.marker for style in found.values()}) == 7  # and a star: no two are told by their colour alone
    assert len(styles([f"v{index}" for index in range(1000)], "v0")) == 1000


def test_a_narrow_figure_has_its_panels_below_each_other_and_names_above_rows() -> None:
    name = "a_rather_long_name_of_an_option_of_some_axis"
    items, style = compared({"relu": LOSSES["relu"], name: LOSSES["gelu"]})
    drawn = forest(items, style)
    (axes,) = axes_of(drawn)
    assert drawn is not None
    narrow(drawn.figure)
    drawn.figure.draw_without_rendering()
    assert drawn.figure.get_figwidth() == NARROW
    assert axes.bbox.width > 0.8 * drawn.figure.bbox.width  # the name takes no room beside the zero line
    assert [text.get_text().replace("\n", "") for text in axes.texts] == [name]

    x = np.arange(9.0)
    panes = [Panel("step", f"metric {place}", {"a": Band(x, x, None, None, ())}) for place in range(3)]
    shown = curves(panes, styles(["a"], "b"))
    assert shown is not None
    height = shown.figure.get_figheight()
    narrow(shown.figure)
    shown.figure.draw_without_rendering()
    boxes = [axes.get_position() for axes in shown.figure.axes if axes.get_visible()]
    assert len({round(box.x0, 3) for box in boxes}) == 1
    assert all(above.y0 > below.y1 for above, below in itertools.pairwise(boxes))
    assert shown.figure.get_figheight() > height
    sizes = [
        float(text.get_fontsize()) for text in shown.figure.findobj(Text) if isinstance(text, Text) and text.get_text()
    ]
    assert min(sizes) >= 8.25  # points, 11 pixels


def test_the_colours_can_be_told_from_both_pages() -> None:
    """2 to 1 at least; WCAG asks 3 of what only a colour tells, and here markers and names tell it too."""
    shown = {style.colour for style in styles([f"v{index}" for index in range(40)], "v0").values()} - {TEXT}
    for page in ("#ffffff", "#15171a"):
        assert min(_contrast(colour, page) for colour in shown) > 2.0


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_the_forest_has_an_interval_and_a_tick_per_seed_for_each_variant() -> None:
    items, style = compared(LOSSES)
    (axes,) = axes_of(forest(items, style))
    lines = {tuple(map(float, np.asarray(line.get_xdata()))) for line in axes.lines}
    for item in items:
        assert item.interval is not None
        assert tuple(item.interval) in lines
        assert tuple(item.differences) in lines
    assert [text.get_text() for text in axes.get_yticklabels()] == ["gelu", "glu"]
    fills = [
        line.get_markerfacecolor() for line in axes.lines if line.get_marker() in {one.marker for one in style.values()}
    ]
    assert fills == [style[items[0].variant].colour, "none"]  # gelu is resolved, glu is not


def test_of_very_many_the_largest_effects_are_drawn_in_order() -> None:
    losses = {f"v{index:03}": [1.0 + index / 100, 1.01 + index / 100] for index in range(60)}
    items, style = compared(losses)
    (axes,) = axes_of(forest(items, style))
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == [f"v{index:03}" for index in range(60 - MOST_VARIANTS, 60)]


def test_what_has_no_room_is_said_and_the_largest_effects_have_it() -> None:
    losses = {f"v{index:03}": [1.0 + index / 100, 1.01 + index / 90, 1.02 + index / 95] for index in range(40)}
    items, style = compared(losses)
    drawn = slopes(items, style)
    assert drawn is not None
    titles = [axes.get_title().partition("\n")[0] for axes in drawn.figure.axes]
    assert titles == [f"v{index:03}" for index in range(32, 40)]
    assert drawn.left_out == "Drawn are 8 of 39 comparisons: those with the largest effects."
    assert drawn.alt.endswith(drawn.left_out)
    rows = [text.get_text() for text in axes_of(detectable_effects(items, style))[0].get_yticklabels()]
    assert rows == [f"v{index:03}" for index in range(40 - MOST_VARIANTS, 40)]
    every = slopes(items[:8], style)
    assert every is not None
    assert every.left_out == ""
    one = forest(items[:1], style)
    assert one is not None
    assert str(to_svg(dataclasses.replace(one, left_out="1 < 2"), "one")).endswith('<p class="soft">1 &lt; 2</p>')


def test_slopes_run_from_baseline_to_variant_and_show_who_won() -> None:
    items, style = compared(LOSSES)
    panes = [axes for axes in axes_of(slopes(items, style)) if axes.get_visible()]
    assert len(panes) == 2
    for axes, option in zip(panes, ("gelu", "glu"), strict=True):
        drawn = [line for line in axes.lines if np.size(line.get_xdata()) == 2]
        ends = [tuple(map(float, np.asarray(line.get_ydata()))) for line in drawn]
        assert ends == [pytest.approx(pair) for pair in zip(LOSSES["relu"], LOSSES[option], strict=True)]
        won = [own < base for base, own in zip(LOSSES["relu"], LOSSES[option], strict=True)]
        assert [line.get_linestyle() == "-" for line in drawn] == won
    assert "better 1/4" in panes[1].get_title()


def test_what_was_detectable_is_a_bar_of_that_length() -> None:
    items, style = compared(LOSSES)
    drawn = detectable_effects(items, style)
    (axes,) = axes_of(drawn)
    assert drawn is not None
    told = dict(re.findall(r"(\w+): ([\d.]+) detectable", drawn.alt))
    bar: Any
    for item, bar in zip(items, axes.patches, strict=True):
        assert float(told[item.label]) == pytest.approx(bar.get_width(), rel=0.05)


def test_unresolved_interactions_are_hatched_and_unknown_ones_said_to_be() -> None:
    effects = pd.DataFrame([[0.1, -0.2], [math.nan, 0.0]], index=["a", "b"], columns=["c", "d"])
    resolved = pd.DataFrame([[True, False], [False, False]], index=["a", "b"], columns=["c", "d"])
    drawn = interaction_heatmap(effects, resolved, "val_loss")
    (axes,) = axes_of(drawn)
    cells = [patch for patch in axes.patches if patch.get_linewidth() > 0]
    assert [bool(cell.get_hatch()) for cell in cells] == [False, True, False, True]
    assert [text.get_text() for text in axes.texts] == ["+0.1", "-0.2", "not run", "0"]
    assert interaction_heatmap(effects.iloc[1:, :1], resolved.iloc[1:, :1], "val_loss") is None


def test_the_svg_keeps_every_word_and_every_reference() -> None:
    items, style = compared({"ReLU": LOSSES["relu"], "活性化 <$x$>": LOSSES["gelu"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = to_svg(forest(items, style), "one")
    assert svg is not None
    assert "活性化 &lt;$x$&gt;" in svg
    referred = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    assert referred
    assert referred <= set(re.findall(r' id="([^"]+)"', svg))
    assert all(name.startswith("one-") for name in re.findall(r' id="([^"]+)"', svg))
    assert TEXT not in svg
    assert to_svg(None, "two") is None


@pytest.mark.parametrize("draw", [forest, detectable_effects])
def test_long_names_are_folded_and_leave_room_for_what_is_drawn(draw: Callable[..., Drawing | None]) -> None:
    names = [f"attention={'w' * 30}{letter},activation={'g' * 30}{letter},model.sizes=[1,2]" for letter in "abc"]
    losses = {f"option-{place}": values for place, values in enumerate(LOSSES.values())}
    items, found = compared(losses)
    items = [dataclasses.replace(item, label=name) for item, name in zip(items, names, strict=False)]
    drawn = draw(items, found)
    (axes,) = axes_of(drawn)
    assert drawn is not None
    drawn.figure.draw_without_rendering()
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert len(set(shown)) == len(items) > 1
    assert all(len(line) <= 34 for label in shown for line in label.split("\n"))
    assert axes.get_position().width > 0.4
    height = axes.get_window_extent().height / len(items)
    assert all(label.get_window_extent().height < height for label in axes.get_yticklabels())
    numbers = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(numbers))
    assert all(name in drawn.alt for name in names[: len(items)])


def test_a_folded_name_breaks_between_overrides_only() -> None:
    assert folded("attention=lsh,sizes=[1,2]", 16) == "attention=lsh,\nsizes=[1,2]"
    assert folded("attention=lsh,sizes=[1,2]", 25) == "attention=lsh,sizes=[1,2]"
    assert folded("a" * 20, 8) == "aaa…aaaa"
    assert folded("") == ""
    many = folded(",".join(f"key{number}=value" for number in range(40)), 20)
    assert many.count("\n") == 3
    assert max(map(len, many.split("\n"))) <= 20


def test_growth_is_drawn_in_the_looks_of_the_variants() -> None:
    one = Exponent(
        series="attention=full", x_name="seq_len", y_name="peak_memory_bytes", x=(64, 128), y=(1e6, 2e6), alpha=1.0,
        log_scale=math.log(15625.0), interval=None, basis=None, seeds=1,
    )  # fmt: skip
    own = styles(["attention=full", "attention=lsh"], "attention=full")
    axes = axes_of(power_laws([[one]], own))[0]
    assert axes.lines[0].get_marker() == own["attention=full"].marker
    assert axes.get_xlabel() == "sequence length (tokens)"
    assert axes.get_ylabel() == "peak memory (bytes)"
    assert power_laws([[dataclasses.replace(one, series="text: attention=full")]], own) is not None


def test_a_steep_growth_is_drawn_without_overflow() -> None:
    """Of such a fit neither the factor in front nor its inverse is a float; warnings are errors here."""
    alpha, middle = 500.0, math.log(100.0)
    one = Exponent(
        series="a", x_name="seq_len", y_name="flops_per_step", x=(100, 101), y=(1.0, math.exp(alpha * math.log(1.01))),
        alpha=alpha, log_scale=-alpha * middle, interval=None, basis=None, seeds=1,
    )  # fmt: skip
    with pytest.raises(OverflowError):
        math.exp(alpha * middle)
    axes = axes_of(power_laws([[one], [dataclasses.replace(one, alpha=-alpha, log_scale=alpha * middle)]], {}))
    assert axes[0].lines[1].get_ydata() == pytest.approx(one.y)
    assert np.isfinite(np.asarray(axes[1].lines[1].get_ydata())).all()


def test_names_in_a_figure_stay_what_they_are() -> None:
    items, found = compared(LOSSES)
    name = f'{TEXT} id="a" url(#b) xlink:href="#c" 1.23456 $x$ <b>'
    items = [dataclasses.replace(item, label=name) for item in items]
    svg = str(to_svg(forest(items, found), "effects"))
    assert html.escape(name, quote=False) in html.unescape(svg.replace("&lt;", "&amp;lt;").replace("&gt;", "&amp;gt;"))
    assert TEXT not in re.sub(r">[^<]*<", "><", svg)


def test_fronts_and_budgets_are_drawn_as_they_are() -> None:
    given = {"slow_good": (1.0, 100.0, 9), "fast_bad": (2.0, 900.0, 9), "worst": (3.0, 100.0, 9)}
    rows = [
        {"variant": name, "metric": "val_loss", "mean": mean, "sd": 0.1, "flops_total": flops, "wall_time_s": None,
         "tokens_per_second": speed, "peak_memory_bytes": None, "verdict": "UNRESOLVED"}
        for name, (mean, speed, flops) in given.items()
    ]  # fmt: skip
    own = styles(list(given), "worst")
    members = {
        "flops_total": {"slow_good": "on", "fast_bad": "perhaps", "worst": "off"},
        "tokens_per_second": {"slow_good": "on", "fast_bad": "on", "worst": "perhaps"},
    }
    drawn = quality_and_cost(rows, members, {"fast_bad": "+38% FLOPs"}, own)
    assert drawn is not None
    flops, speed = (axes for axes in axes_of(drawn) if axes.get_visible())
    assert [axes.get_xlabel() for axes in (flops, speed)] == ["training FLOPs", "tokens per second (more is better)"]
    assert [list(np.asarray(axes.lines[0].get_xdata())) for axes in (flops, speed)] == [[9], [100, 900]]
    assert "training FLOPs: slow_good on the front, perhaps fast_bad." in drawn.alt
    assert "fast_bad at another budget (+38% FLOPs)" in drawn.alt
    bars: list[Any] = list(flops.containers)
    assert [bar.lines[0].get_markerfacecolor() == "none" for bar in bars] == [False, True, False]
    assert [bar.lines[0].get_alpha() for bar in bars] == [1.0, 1.0, pytest.approx(0.35)]
    rings = [line for axes in (flops, speed) for line in axes.lines if line.get_markersize() == 14]
    assert [list(np.asarray(ring.get_xdata())) for ring in rings] == [[9], [900]]


@pytest.mark.parametrize(("direction", "solid"), [("min", 3), ("max", 1)])
def test_a_solid_line_is_a_seed_on_which_the_variant_did_better(direction: Direction, solid: int) -> None:
    items, found = compared({"relu": [1.0, 1.1, 1.05, 1.02], "gelu": [0.9, 1.0, 1.0, 1.12]})
    drawn = slopes([dataclasses.replace(item, direction=direction) for item in items], found)
    styles = [line.get_linestyle() for line in axes_of(drawn)[0].lines if np.size(line.get_xdata()) == 2]
    assert (styles.count("-"), styles.count("--")) == (solid, 4 - solid)


def test_only_resolved_effects_are_filled() -> None:
    items, found = compared(
        {"relu": [1.0, 1.1, 1.05, 1.02], "gelu": [1.2, 1.31, 1.24, 1.22], "glu": [1.0, 1.2, 1.0, 1.1]}
    )
    expected = [found[item.variant].colour if item.verdict in RESOLVED else "none" for item in items]
    assert expected.count("none") == 1
    for draw in (forest, detectable_effects):
        lines = axes_of(draw(items, found))[0].lines
        shown = [line.get_markerfacecolor() for line in lines if np.size(line.get_xdata()) == 1]
        assert shown == expected
