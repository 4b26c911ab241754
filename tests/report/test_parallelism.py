"""What is said of runs of several processes, from records with known figures."""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd
import pytest
from synthetic import cost, record, runs_of, study

from ablab.report.context import ReportContext
from ablab.report.formats.contents import sections
from ablab.report.formats.latex import latex
from ablab.report.formats.text import markdown, terminal
from ablab.report.html.page import page
from ablab.report.html.sections.cost import parallelism
from ablab.report.parallel import parallel_notes, parallel_table
from ablab.results.communication import Collective, Communication, Process
from ablab.results.record import Record

GRADIENT = 4 * 12_345  # bytes, of the records' parameters


def communication(payload: float, **changes: Any) -> Communication:
    """Of two processes that send a payload in two all-reduces a step; the second needs more memory."""
    values: dict[str, Any] = {
        "processes": 2,
        "backend": "gloo",
        "steps": 100,
        "batch_shares": 2,
        "collectives": [
            Collective(
                kind="all-reduce",
                group=2,
                calls_per_step=2.0,
                payload_bytes_per_step=payload,
                sent_bytes_per_step=payload,
            )
        ],
        "collectives_per_step": 2.0,
        "payload_bytes_per_step": payload,
        "sent_bytes_per_step": payload,
        "communication_s_per_step": 0.00125,
        "overlap": 0.25,
        "each": [
            Process(
                peak_memory_bytes=50_000_000 + rank * 50_000_000,
                payload_bytes_per_step=payload,
                sent_bytes_per_step=payload,
                step_s=0.01,
                computing_s_per_step=0.008 - 0.002 * rank,
            )
            for rank in (0, 1)
        ],
    }
    return Communication(**{**values, **changes})


def spread(seed: int, loss: float, strategy: str, payload: float, speed: float, threads: int = 1) -> Record:
    item = record(seed, loss, axes={"strategy": strategy}, communication=communication(payload))
    item.cost = cost(item, tokens_per_second=speed)
    item.machine = {"threads": threads}
    return item


def alone(seed: int, loss: float, speed: float, threads: int = 2) -> Record:
    item = record(seed, loss, axes={"strategy": "single"}, machine={"threads": threads})
    item.cost = cost(item, tokens_per_second=speed)
    return item


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [
        *(alone(seed, 1.0 + seed / 10, 1000.0 * seed) for seed in (1, 2, 3)),
        *(spread(seed, 1.0 + seed / 10, "whole", GRADIENT, 900.0 * seed) for seed in (1, 2, 3)),
        *(spread(seed, 1.1 + seed / 10, "halved", GRADIENT / 2, 800.0 * seed, threads=2) for seed in (1, 2, 3)),
    ]


def table_of(records: list[Record]) -> pd.DataFrame:
    runs = runs_of(records)
    return parallel_table(ReportContext.of(runs), "language")


def test_every_figure_is_that_of_the_records(records: list[Record]) -> None:
    table = table_of(records).set_index("variant")
    one, whole, halved = (dict(row) for _, row in table.iterrows())
    assert whole == {
        "processes": "2 (gloo)",
        "payload/step": "48.2 KiB",
        "sent/step": "48.2 KiB",
        "of float32 gradient": "1",
        "collectives/step": "2",
        "communication/step": "1.25 ms",
        "overlap": ".25",
        "waiting": ".30",  # .2 in the first process, .4 in the second
        "tokens/s": "1.8 k",
        "efficiency": "0.9",
        "largest peak memory": "95.4 MiB",
    }
    assert (halved["of float32 gradient"], halved["efficiency"]) == ("0.5", "0.8")
    assert (one["processes"], one["tokens/s"]) == ("1", "2 k")
    assert {value for name, value in one.items() if name not in ("processes", "tokens/s")} == {"–"}


def test_efficiency_is_paired_by_seed(records: list[Record]) -> None:
    """The mean of all tokens a second would be 1,700 to 2,000."""
    fewer = [item for item in records if (item.axes["strategy"], item.seed) != ("single", 1)]
    slow = next(item for item in fewer if (item.axes["strategy"], item.seed) == ("whole", 3))
    changed = [
        dataclasses.replace(item, cost=cost(item, tokens_per_second=2400.0)) if item is slow else item for item in fewer
    ]
    assert list(table_of(changed)["efficiency"])[1] == "0.850 ± 0.071"  # .9 and .8


@pytest.mark.parametrize(
    "change",
    [
        {"cost": {"tokens": 12_800}},  # another batch
        {"cost": {"parameters": 99}},
        {"axes": {"task": "language", "attention": "full", "activation": "gelu", "strategy": "single"}},
    ],
)
def test_one_process_on_other_terms_is_no_measure(records: list[Record], change: dict[str, Any]) -> None:
    changed = [
        dataclasses.replace(item, **{**change, "cost": cost(item, **change.get("cost", {}))})
        if item.communication is None
        else item
        for item in records
    ]
    assert set(table_of(changed)["efficiency"]) == {"–"}
    assert parallel_notes(ReportContext.of(runs_of(changed)), "language") == []


def test_what_efficiency_is_measured_against_is_said_with_the_threads(records: list[Record]) -> None:
    runs = runs_of(records)
    single, whole, halved = runs.variants
    assert parallel_notes(ReportContext.of(runs), "language") == [
        f"Efficiency of {whole}: against {single}, 2 processes of 1 thread each against one of 2 threads.",
        f"Efficiency of {halved}: against {single}, 2 processes of 2 threads each against one of 2 threads: "
        "not the same number of threads in all.",
    ]


def test_what_was_not_measured_is_a_dash(records: list[Record]) -> None:
    unknown = [Process(peak_memory_bytes=1, payload_bytes_per_step=1, sent_bytes_per_step=1)]
    changes = {"communication_s_per_step": None, "overlap": None, "each": unknown}
    changed = [
        dataclasses.replace(item, machine={}, communication=communication(1, **changes))
        if item.communication is not None
        else item
        for item in records
    ]
    rows = table_of(changed).iloc[1:]
    assert set(rows[["communication/step", "overlap", "waiting"]].to_numpy().ravel()) == {"–"}
    assert all(
        line.endswith(f"against {runs_of(changed).variants[0]}.")
        for line in parallel_notes(ReportContext.of(runs_of(changed)), "language")
    )


@pytest.mark.usefixtures("_plain_figures")
def test_the_section_shows_quality_beside_it(records: list[Record]) -> None:
    runs = runs_of(records)
    section = parallelism(ReportContext.of(runs))
    assert section is not None
    sent, brought, _ = section.blocks
    assert sent.table is not None
    assert brought.table is not None
    none, _, lossy = brought.table["effect"]
    assert none == "–"
    assert lossy.startswith("+0.1")
    assert set(sent.table) | set(brought.table) >= set(table_of(records))
    assert len(brought.lines) == 2
    html = page(ReportContext.of(runs))
    assert '<section id="parallelism">' in html
    assert 'aria-label="Parallelism, Sent in a step: table"' in html
    together = parallelism(ReportContext.of(runs, intervals="simultaneous"))
    assert together is not None
    assert together.blocks[1].table is not None
    assert "simultaneous 95% CI" in together.blocks[1].table


@pytest.mark.usefixtures("_plain_figures")
def test_every_format_has_the_table_and_no_run_of_one_process_alone(records: list[Record]) -> None:
    runs = runs_of(records)
    for form in (terminal, markdown, latex):
        assert "1.25 ms" in form(ReportContext.of(runs)), form
    assert "tab:ablab-parallel" in latex(ReportContext.of(runs))
    plain = runs_of(study({"relu": [1.0, 1.1], "gelu": [1.2, 1.3]}))
    assert parallelism(ReportContext.of(plain)) is None
    assert "parallel" not in {section.kind for section in sections(ReportContext.of(plain))}
    assert "parallel" not in page(ReportContext.of(plain)).partition("</style>")[2].lower()


def test_several_tasks_have_a_table_each_and_the_suite_has_none(records: list[Record]) -> None:
    other = [dataclasses.replace(item, axes={**item.axes, "task": "vision"}) for item in records]
    runs = runs_of([*records, *other])
    found = [section for section in sections(ReportContext.of(runs)) if section.kind == "parallel"]
    assert [section.where for section in found] == ["language", "vision"]
    section = parallelism(ReportContext.of(runs))
    assert section is not None
    assert [block.title for block in section.blocks if not block.sub] == ["language", "vision"]
