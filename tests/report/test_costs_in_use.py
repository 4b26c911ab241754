"""The table of costs in use: where variants differ in them, and there alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from synthetic import runs_of, study

from ablab.report.context import ReportContext
from ablab.report.formats.contents import sections
from ablab.report.formats.latex import latex
from ablab.report.formatting import MISSING
from ablab.report.html.page import page
from ablab.report.tables import inference_table
from ablab.results.record import Record

pytestmark = pytest.mark.usefixtures("_plain_figures")

VALUES = {"relu": [1.0, 1.1, 1.2], "gelu": [1.2, 1.1, 1.3]}


def context(costs: dict[str, dict[str, Any]]) -> ReportContext:
    records: list[Record] = [
        replace(record, cost=replace(record.cost, **costs.get(record.axes["activation"], {})))
        for record in study(VALUES)
    ]
    return ReportContext.of(runs_of(records))


def test_it_says_what_is_kept_and_what_a_token_takes() -> None:
    made = context(
        {
            "relu": {"cache_bytes_1k": 2**21, "decode_flops_1k": 3_000_000, "prefill_flops": 10**9},
            "gelu": {"cache_bytes_1k": 2**20, "decode_flops_1k": 3_000_000, "prefill_flops": 10**9},
        }
    )
    table = inference_table(made, made.runs.tasks[0])
    assert table["variant"].tolist() == made.runs.variants
    assert table["cache at 1k"].tolist() == ["2 MiB", "1 MiB"]
    assert table["token at 1k"].tolist() == ["3 M", "3 M"]
    assert table["prompt"].tolist() == ["1 G", "1 G"]
    assert table["token at 8k"].tolist() == [MISSING, MISSING]
    assert "inference" in [section.kind for section in sections(made)]
    assert "Cost in use" in page(made)
    assert r"\caption{In use: bytes kept of a sequence, FLOPs of its last token and of a prompt, counted.}" in latex(
        made
    )


def test_it_is_left_out_where_all_cost_the_same() -> None:
    same = {"cache_bytes_1k": 2**21, "decode_flops_1k": 3_000_000}
    for costs in ({}, {"relu": same, "gelu": same}):
        made = context(costs)
        assert inference_table(made, made.runs.tasks[0]).empty
        assert "inference" not in [section.kind for section in sections(made)]
        assert "Cost in use" not in page(made)
