"""Learning curves as they are drawn: lines are told apart, and no run that blew up takes the scale from the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawn import axes_of

from ablab.analysis.curves import Band
from ablab.report.figures.curves import Panel, curves
from ablab.report.figures.style import styles


def test_lines_upon_each_other_can_be_told_apart() -> None:
    """The baseline is whole and below; each other line has gaps of its own, and its markers where no other has any."""
    names = ["base", "one", "two", "three", "four", "five"]
    own = styles(names, "base")
    assert own["base"].dashes == ()
    assert len({own[name].dashes for name in names}) == len(names)
    x = np.arange(30.0)
    bands = {name: Band(x, 1 / (x + 1), None, None, ()) for name in names}
    lines = axes_of(curves([Panel("step", "val_loss", bands)], own))[0].lines
    at = [set(line.get_markevery()) for line in lines]  # type: ignore[arg-type]
    assert all(at)
    assert sum(map(len, at)) == len(set().union(*at)) <= 30
    few = {name: Band(x[:2], x[:2], None, None, ()) for name in names}
    sizes = [line.get_markersize() for line in axes_of(curves([Panel("layer", "mass", few)], own))[0].lines]
    assert sizes[:4] == sorted(set(sizes[:4]), reverse=True)  # those above are smaller


def test_bands_are_fainter_than_what_they_could_hide() -> None:
    x = np.arange(5.0)
    band = Band(x, x, x - 1, x + 1, ())
    axes = axes_of(curves([Panel("step", "val_loss", {"a": band, "b": band})], styles(["a", "b"], "a")))[0]
    bands: list[Any] = list(axes.collections)
    assert [band.get_facecolor()[0][3] for band in bands] == [pytest.approx(0.08)] * 2
    assert len(axes.lines) == 2
    assert min(line.get_zorder() for line in axes.lines) > max(band.get_zorder() for band in bands)


def test_legends_stay_within_their_figure() -> None:
    long = ",".join(f"key{number}={'v' * 40}" for number in range(4))
    names = [f"{long},seed={letter}" for letter in "ab"]
    band = Band(np.array([1.0, 2.0]), np.array([3.0, 2.0]), None, None, ())
    drawn = curves([Panel("step", "val_loss", dict.fromkeys(names, band))], styles(names, ""))
    assert drawn is not None
    drawn.figure.draw_without_rendering()
    legend = drawn.figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= drawn.figure.bbox.x1
    assert legend.height < 0.6 * drawn.figure.bbox.height


def test_a_variant_that_only_diverged_has_a_marker_and_a_name() -> None:
    series = (np.array([10.0]), np.array([9.0]))
    drawn = curves([Panel("step", "train_loss", {}, [("hot", 0, series), ("hot", 1, series)])], styles(["hot"], ""))
    axes, line = axes_of(drawn)[0], axes_of(drawn)[0].lines[0]
    assert (line.get_marker(), line.get_markerfacecolor()) == (styles(["hot"], "")["hot"].marker, "none")
    assert axes.get_legend_handles_labels()[1] == ["hot", "hot"]
    assert drawn is not None
    assert [text.get_text() for text in drawn.figure.legends[0].get_texts()] == ["hot"]
    assert "hot diverged" in drawn.alt


def test_a_loss_that_blows_up_leaves_the_scale_to_the_others() -> None:
    steps = np.arange(1.0, 1001.0)
    fine = Band(steps, 1 + 1 / steps, None, None, ())
    blown = np.where(steps > 997, 10.0 ** (steps - 991), 1.5)
    panel = Panel("step", "train_loss", {"fine": fine}, [("hot", 0, (steps, blown))])
    drawn = curves([panel], styles(["fine", "hot"], "fine"))
    axes = axes_of(drawn)[0]
    low, high = axes.get_ylim()
    assert 0.9 < low < 1 < 2 < high < 2.1
    x, y = map(np.asarray, axes.lines[1].get_data())
    assert (x[0], x[-1], y[-1]) == (1, 1000, high)  # its hollow end is in sight
    assert drawn is not None
    assert "hot diverged beyond the scale" in drawn.alt
    assert len(x) <= 200  # more would only make the file large


def test_a_run_that_diverged_near_the_others_is_drawn_where_it_was() -> None:
    steps = np.arange(1.0, 101.0)
    fine = Band(steps, np.full(100, 2.0), None, None, ())
    gone = [("blown", 0, (steps, 10.0**steps)), ("hot", 0, (steps, 2 + steps / 10))]
    drawn = curves([Panel("step", "train_loss", {"fine": fine}, gone)], styles(["fine", "hot", "blown"], "fine"))
    axes = axes_of(drawn)[0]
    assert np.asarray(axes.lines[1].get_data()[1])[-1] == 12
    assert 12 < axes.get_ylim()[1] < 13
    assert drawn is not None
    assert "blown diverged beyond the scale, hot diverged" in drawn.alt


@pytest.mark.parametrize("last", [1.5, 1e9])
def test_curves_that_are_no_numbers_leave_the_scale_to_one_that_diverged(last: float) -> None:
    steps = np.arange(1.0, 11.0)
    lost = Band(steps, np.full(10, np.nan), None, None, ())
    panel = Panel("step", "train_loss", {"lost": lost}, [("hot", 0, (steps, np.linspace(1, last, 10)))])
    axes = axes_of(curves([panel], styles(["lost", "hot"], "lost")))[0]
    assert axes.get_ylim()[1] > last


def test_a_curve_that_ends_as_no_number_does_not_hide_that_another_blew_up() -> None:
    steps = np.arange(1.0, 11.0)
    lost = Band(steps, np.where(steps > 5, np.nan, 2.0), None, None, ())
    panel = Panel("step", "train_loss", {"lost": lost}, [("hot", 0, (steps, np.linspace(1, 1e9, 10)))])
    drawn = curves([panel], styles(["lost", "hot"], "lost"))
    assert axes_of(drawn)[0].get_ylim()[1] < 3
    assert drawn is not None
    assert "hot diverged beyond the scale" in drawn.alt


def test_rounding_is_not_magnified_into_a_course() -> None:
    x = np.arange(3.0)
    band = Band(x, np.array([1.0, 1.0 + 1e-8, 1.0 - 1e-8]), None, None, ())
    low, high = axes_of(curves([Panel("layer", "mass_captured", {"a": band})], styles(["a"], "b")))[0].get_ylim()
    assert high - low > 0.05
    real = Band(x, np.array([1.0, 1.001, 0.999]), None, None, ())
    low, high = axes_of(curves([Panel("layer", "mass_captured", {"a": real})], styles(["a"], "b")))[0].get_ylim()
    assert high - low < 0.01
