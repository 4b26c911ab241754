"""What results say of themselves: their order, and what may not be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_fakes import Mean, cells, fake

from ablab.bench.attention.results import Results, cell, first_line, write


def test_results_are_found_by_name_pass_and_length_in_order() -> None:
    skipped = cell(fake(Mean(), "b"), "forward", 64, skipped="no")
    [backward] = cells("a", {128: 3.0}, pass_="forward_backward")
    long, short = cells("a", {128: 2.0, 64: 1.0}, bytes={128: 5, 64: 3})
    results = Results(["a", "b"], [backward, skipped, long, short])
    assert results.sorted() == [short, skipped, long, backward]
    assert results.seconds("a", "forward") == {64: 1.0, 128: 2.0}
    assert results.bytes("a", "forward") == {64: 3, 128: 5}
    assert results.seconds("a", "forward_backward") == {128: 3.0}
    assert results.seconds("b", "forward") == results.bytes("b", "forward") == {}
    assert results.lengths == [64, 128]
    assert results.passes == ["forward", "forward_backward"]
    assert [each.implementation for each in results.implementations] == ["a", "b"]


def test_what_is_no_number_is_refused_and_the_file_of_before_kept(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        write(path, cells("peer", {512: float("nan")}))
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_in_one_line() -> None:
    cause = OSError("no such library\nwith much detail")
    error = RuntimeError("could not load")
    error.__cause__ = cause
    assert first_line(error) == "OSError: no such library"
    assert first_line(AssertionError()) == "AssertionError"
    assert len(first_line(ValueError("x" * 1000))) == len("ValueError: ") + 160
