"""What is said of other links and more devices, from records with known figures."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from synthetic import cost, record, runs_of, study

from ablab.report.context import ReportContext
from ablab.report.extrapolation import NOTE, compute_s, extrapolation_notes, extrapolation_table
from ablab.report.formats.contents import sections
from ablab.report.html.sections.cost import parallelism
from ablab.results.communication import Collective, Communication, Process
from ablab.results.record import Record


def process(computing_s: float | None) -> Process:
    return Process(
        peak_memory_bytes=1,
        payload_bytes_per_step=1e6,
        sent_bytes_per_step=1e6,
        step_s=0.02,
        computing_s_per_step=computing_s,
    )


def spread(seed: int, strategy: str = "ddp", **changes: Any) -> Record:
    """A megabyte in an all-reduce of two processes, the slower of which computes for 8 ms."""
    values: dict[str, Any] = {
        "processes": 2,
        "backend": "gloo",
        "steps": 10,
        "batch_shares": 2,
        "collectives": [
            Collective(
                kind="all-reduce", group=2, calls_per_step=1.0, payload_bytes_per_step=1e6, sent_bytes_per_step=1e6
            )
        ],
        "overlap": 0.25,
        "each": [process(0.006), process(0.008)],
    }
    return record(seed, 1.0, axes={"strategy": strategy}, communication=Communication(**{**values, **changes}))


def rows_of(*records: Record) -> list[dict[str, str]]:
    runs = runs_of(list(records))
    return [dict(row) for _, row in extrapolation_table(ReportContext.of(runs), "language").iterrows()]


def test_figures_are_those_of_the_model() -> None:
    """At 1 Gbit/s an all-reduce takes 8 ms and 0.1 ms among two; among n (n - 1) (0.1 + 16/n) ms."""
    first, _, last = rows_of(spread(1), spread(2))
    assert (first["computation/step"], first["link"]) == ("8 ms", "1 Gbit/s, 50 µs")

    def expected(n: int) -> str:
        sent = (n - 1) * (0.1 + 16 / n)
        figures = (8 / (8 + sent - min(0.25 * sent, 8)), 8 / (8 + sent), 8 / max(8, sent))
        return "{} ({} to {})".format(*(f"{figure:.2f}".removeprefix("0") for figure in figures))

    assert [first[name] for name in ("as run", "8 devices", "64 devices", "1,024 devices")] == [
        expected(n) for n in (2, 8, 64, 1024)
    ]
    assert last["as run"] == ".99 (.99 to 1.00)"


def test_where_the_model_is_shared_out_more_devices_are_a_dash() -> None:
    first, *_ = rows_of(spread(1, batch_shares=1))
    assert first["as run"] != "–"
    assert {first[name] for name in ("8 devices", "64 devices", "1,024 devices")} == {"–"}


def test_without_a_measured_overlap_there_is_an_interval_alone() -> None:
    first, *_ = rows_of(spread(1, overlap=None))
    assert first["as run"] == ".50 to .99"


def test_where_computation_is_not_known_it_is_the_step_and_that_is_said() -> None:
    unknown = spread(1, each=[process(None)])
    unknown = dataclasses.replace(unknown, cost=cost(unknown, train_time_s=2.0, steps=100))
    assert compute_s(unknown) == pytest.approx(0.02)
    runs = runs_of([unknown, spread(2, "other")])
    note, whole = extrapolation_notes(ReportContext.of(runs), "language")
    assert note == NOTE
    assert whole.startswith(f"Computation of {runs.variants[0]} is the whole time of a step")
    nothing = dataclasses.replace(unknown, cost=cost(unknown, train_time_s=None))
    assert compute_s(nothing) is None
    assert rows_of(nothing) == []


def test_the_page_and_the_formats_show_it_and_say_that_it_is_a_model() -> None:
    runs = runs_of([spread(1), spread(2)])
    section = parallelism(ReportContext.of(runs))
    assert section is not None
    *_, block = section.blocks
    assert (block.title, block.lines) == ("On other links and more devices", [NOTE])
    found = [each for each in sections(ReportContext.of(runs)) if each.kind == "extrapolation"]
    assert len(found) == 1
    assert "by a model" in found[0].title
    alone = runs_of(study({"relu": [1.0, 1.1], "gelu": [1.2, 1.3]}))
    assert not [each for each in sections(ReportContext.of(alone)) if each.kind == "extrapolation"]
