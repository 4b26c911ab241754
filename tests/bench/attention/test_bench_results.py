"""The JSON file: an object per implementation, pass and length, of one shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_fakes import fake, timed

from ablab.bench.attention.results import Results, cell, first_line, write

COMMON = {"implementation": "peer", "ours": False, "family": "lsh", "pass": "forward_backward", "length": 512}


def test_a_measured_cell(tmp_path: Path) -> None:
    write(tmp_path / "found.json", [timed("peer", 512, 2.0, pass_="forward_backward", family="lsh", peak_bytes=7)])
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8")) == [
        COMMON | {"seconds": 2.0, "seconds_min": 1.0, "seconds_max": 3.0, "peak_bytes": 7}
    ]


def test_a_skipped_cell(tmp_path: Path) -> None:
    skipped = cell(fake("peer", family="lsh"), "forward_backward", 512, skipped='says "no"')
    write(tmp_path / "found.json", [skipped, skipped])
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found == [COMMON | {"skipped": 'says "no"'}] * 2


def test_nothing_measured_is_an_empty_array_and_leaves_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text("what was there before", encoding="utf-8")
    write(tmp_path / "found.json", [])
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_what_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "found.json", [timed("peer", 512, float("nan"))])
    assert list(tmp_path.iterdir()) == []


def test_results_are_found_by_name_pass_and_length() -> None:
    skipped = cell(fake("b"), "forward", 64, skipped="no")
    backward = timed("a", 128, 3.0, pass_="forward_backward")
    results = Results([timed("a", 128, 2.0, peak_bytes=5), skipped, backward, timed("a", 64, 1.0, peak_bytes=3)])
    assert results.seconds("a", "forward") == {128: 2.0, 64: 1.0}
    assert results.bytes("a", "forward") == {128: 5, 64: 3}
    assert results.seconds("a", "forward_backward") == {128: 3.0}
    assert results.seconds("b", "forward") == results.bytes("b", "forward") == {}
    assert results.lengths == [64, 128]
    assert results.passes == ["forward", "forward_backward"]
    assert [each.implementation for each in results.implementations] == ["a", "b"]


def test_an_error_in_one_line() -> None:
    try:
        try:
            raise OSError("no such library\nwith much detail")
        except OSError as error:
            raise RuntimeError("could not load") from error
    except RuntimeError as error:
        assert first_line(error) == "OSError: no such library"
    assert first_line(AssertionError()) == "AssertionError"
    assert len(first_line(ValueError("x" * 1000))) == len("ValueError: ") + 160
