"""Known values beside measured ones: whose ceiling is whose, the table, the figure."""

import math
import re
from statistics import fmean
from typing import Any

import pytest
from synthetic import ended, record, runs_of

from ablab.analysis.pairing import variants
from ablab.report.figures.ceilings import ceilings
from ablab.report.figures.style import styles
from ablab.report.html.blocks import to_svg
from ablab.report.theory import Theory, theory, theory_table
from ablab.results.record import Metric, Record

ACCURACY = Metric(name="val_accuracy", split="val", direction="max")
ORACLE = {"chance": 0.0625, "ceiling": 1.0, "majority": 0.25, "window_8": 0.5, "window_16": 0.7, "with=text": 0.3}


def run(seed: int, accuracy: float, option: str, window: Any = None, visited: float = 4.0, **changes: Any) -> Record:
    own = {} if window is None else {"window": window}
    values: dict[str, Any] = {
        "axes": {"attention": option},
        "primary": ACCURACY,
        "metrics": {"val_accuracy": accuracy},
        "settings": {"attention": own},
        "mechanism": {"attention/keys_visited": visited},
        "oracle": ORACLE,
    }
    return record(seed, **(values | changes))


def found(records: list[Record]) -> Theory:
    known = theory(runs_of(records), "language")
    assert known is not None
    return known


@pytest.fixture
def mixed() -> list[Record]:
    chosen = {"full": (0.9, None), "windowed": (0.45, 8), "selected": (0.8, 16)}
    return [
        run(seed, value + seed / 100, option, window, visited=20.0 if option == "selected" else 4.0)
        for option, (value, window) in chosen.items()
        for seed in (1, 2)
    ]


def test_each_variant_has_the_ceiling_of_what_it_sees(mixed: list[Record]) -> None:
    rows = found(mixed).reached
    # `selected` visits more keys than its window holds: its window is not its ceiling.
    assert [(row.bound, row.ceiling) for row in rows] == [("ceiling", 1.0), ("window_8", 0.5), ("ceiling", 1.0)]
    assert [row.values for row in rows] == [pytest.approx([value + 0.01, value + 0.02]) for value in (0.9, 0.45, 0.8)]


@pytest.mark.parametrize("window", [None, True, "8", 8.5, math.nan, 9, -8])
def test_without_an_entry_of_exactly_its_window_a_variant_has_the_common_ceiling(window: Any) -> None:
    assert found([run(1, 0.5, "windowed", window)]).reached[0].bound == "ceiling"


def test_a_ceiling_is_the_mean_over_the_variants_own_runs() -> None:
    records = [
        run(seed, 0.4, option, 8, oracle={**ORACLE, "window_8": value})
        for option, values in {"a": (0.5, 0.52), "b": (0.6, 0.62)}.items()
        for seed, value in enumerate(values)
    ]
    assert [row.ceiling for row in found(records).reached] == [pytest.approx(0.51), pytest.approx(0.61)]


def test_the_table_has_the_difference_in_points_and_the_known_values_below(mixed: list[Record]) -> None:
    table = theory_table(found(mixed))
    assert list(table["variant"][3:]) == ["chance, by theory", "ceiling, by theory", "majority, by theory"]
    assert list(table["difference"][:3]) == ["-8.5 points", "-3.5 points", "-18.5 points"]
    assert list(table["its ceiling"][:3]) == ["1", "0.5 (window_8)", "1"]


def test_a_metric_that_is_no_fraction_has_plain_differences() -> None:
    records = [run(1, 2.5, "full", oracle={"chance": 4.0, "ceiling": 2.0})]
    assert list(theory_table(found(records))["difference"]) == ["+0.5", "", ""]


def test_the_figure_has_the_known_values_at_their_places(mixed: list[Record]) -> None:
    runs = runs_of(mixed)
    known = found(mixed)
    assert known.windows
    drawn = ceilings(known, styles(variants(runs), "attention=full"))
    assert drawn is not None
    assert "attention=windowed 0.465 of 0.5 (window_8)" in drawn.alt
    assert "chance 0.0625, ceiling 1, majority 0.25" in drawn.alt
    both = to_svg(drawn, "x")
    assert both is not None
    svg, *_ = both.partition("</svg>")  # as wide screens show it
    assert svg.count("window_8<") == 1
    assert "window_16" not in svg
    chance, ceiling, majority, bar = upright_lines(svg)
    assert (majority - chance) / (ceiling - chance) == pytest.approx((0.25 - 0.0625) / (1 - 0.0625), abs=1e-3)
    assert (bar - chance) / (ceiling - chance) == pytest.approx((0.5 - 0.0625) / (1 - 0.0625), abs=1e-3)


def upright_lines(svg: str) -> list[float]:
    """The x of each line that stands upright in the axes, in the order of drawing."""
    paths = [list(map(float, re.findall(r"[\d.]+", path))) for path in re.findall(r'<path d="([^"]*)" clip', svg)]
    return [path[0] for path in paths if len(path) == 4 and path[0] == path[2]]


def test_nothing_known_or_nothing_measured_draws_nothing() -> None:
    assert theory(runs_of([record()]), "language") is None
    assert theory(runs_of([ended("failed", "boom", primary=None)]), "language") is None
    failed = ended("failed", "boom", axes={"attention": "full"}, primary=ACCURACY, oracle=ORACLE)
    known = found([failed, run(1, math.nan, "windowed", 8)])
    assert ceilings(known, {}) is None
    assert list(theory_table(known)["difference"][:2]) == ["–", "–"]


def test_known_values_that_are_no_numbers_are_passed_over() -> None:
    records = [run(1, 0.5, "full", oracle={"chance": None, "ceiling": math.nan, "majority": 0.3})]
    assert found(records).known == {"majority": 0.3}
    assert found(records).reached[0].ceiling is None
    assert fmean(found(records).reached[0].values) == 0.5
