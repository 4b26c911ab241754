"""Interim analyses: which ones count, what lies on disk, and which runs they are of."""

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from synthetic import study, write_runs

from ablab.errors import UserError
from ablab.results.collect import collect
from ablab.results.interim import (
    INTERIM_FILE,
    InterimAnalysis,
    count_interim_analysis,
    interim_analyses_of,
    read_interim_analyses,
    united,
)


def seeds_of(analyses: list[InterimAnalysis] | tuple[InterimAnalysis, ...]) -> list[tuple[int, ...]]:
    return [each.seeds for each in analyses]


def test_a_study_without_one(tmp_path: Path) -> None:
    assert read_interim_analyses(tmp_path) == read_interim_analyses(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("looked", "counted"),
    [
        ([[3, 1, 2, 1, 3]], [(1, 2, 3)]),  # one run per variant and seed
        ([[1000, 7, -1, 31]], [(-1, 7, 31, 1000)]),
        ([[1, 2, 3], [1, 2, 3, 4, 5]], [(1, 2, 3), (1, 2, 3, 4, 5)]),
        ([[1, 2, 3], [1, 2, 3]], [(1, 2, 3)]),  # the same command again
        ([[1, 2, 3], [1, 2]], [(1, 2, 3)]),  # fewer seeds are no second chance
        ([[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3], [2, 4]], [(1, 2, 3), (1, 2, 3, 4, 5)]),
        ([[1, 2, 3], [2, 3, 4]], [(1, 2, 3), (2, 3, 4)]),
        ([[], [7]], [(7,)]),  # nothing finished: nothing was seen
    ],
)
def test_one_counts_if_it_has_a_seed_that_no_earlier_one_had(
    tmp_path: Path, looked: list[list[int]], counted: list[tuple[int, ...]]
) -> None:
    for seeds in looked:
        said = count_interim_analysis(tmp_path, seeds)
        assert said == read_interim_analyses(tmp_path)
    assert seeds_of(read_interim_analyses(tmp_path)) == counted


def test_the_file_is_plain_and_says_when(tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    count_interim_analysis(tmp_path, [2, 1])
    count_interim_analysis(tmp_path, [1, 2, 3])
    first, second = json.loads((tmp_path / INTERIM_FILE).read_text(encoding="utf-8"))
    assert set(first) == {"seeds", "at"}
    assert (first["seeds"], second["seeds"]) == ([1, 2], [1, 2, 3])
    assert before <= datetime.fromisoformat(first["at"]) <= datetime.now(UTC)
    assert [path.name for path in tmp_path.iterdir()] == [INTERIM_FILE]  # no half-written one beside it


@pytest.mark.parametrize(
    "text",
    [
        *("", "[{", "{}", "3", "\udcff", "[3]", "[null]", '["at"]', '[{"seeds": [1]}]', '[{"at": "2026"}]'),
        *('[{"seeds": 1, "at": ""}]', '[{"seeds": [1], "at": 2026}]'),
        *('[{"seeds": ["1"], "at": "2026"}]', '[{"seeds": [1.5], "at": "2026"}]'),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it_and_stays_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / INTERIM_FILE
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    asks: list[Callable[[], object]] = [
        lambda: read_interim_analyses(tmp_path),
        lambda: count_interim_analysis(tmp_path, [1]),
    ]
    for ask in asks:
        with pytest.raises(UserError) as caught:
            ask()
        assert str(caught.value).startswith(f"{path}: damaged")
        assert "restore the file, or remove it" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == text.encode("utf-8", "surrogateescape")


def test_what_cannot_be_read_or_written_says_so(tmp_path: Path) -> None:
    (tmp_path / INTERIM_FILE).mkdir()
    with pytest.raises(UserError, match=r"looks\.json: cannot be read \(Is a directory\)"):
        read_interim_analyses(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"looks\.json: cannot be (read|written)"):
        count_interim_analysis(tmp_path / "file", [1])


@pytest.fixture
def twice(tmp_path: Path) -> Path:
    """A study of two variants that was looked at twice, as sweeps lay them out: variant/seed."""
    records = study({"relu": [1.0, 1.1], "gelu": [0.9, 1.0]})
    for option, own in (("relu", records[:2]), ("gelu", records[2:])):
        write_runs(tmp_path / "twice" / f"activation={option}", own)
    for seeds in ([1], [1, 2]):
        count_interim_analysis(tmp_path / "twice", seeds)
    return tmp_path / "twice"


@pytest.mark.parametrize("given", [".", "..", "activation=gelu", "activation=gelu/1"])
def test_they_are_those_of_the_study_around_the_runs(twice: Path, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seeds_of(collect([twice / given]).interim_analyses) == [(1,), (1, 2)]
    monkeypatch.chdir(twice / given)
    assert seeds_of(collect([Path()]).interim_analyses) == [(1,), (1, 2)]


def test_those_of_several_studies_are_united(twice: Path) -> None:
    for name in ("once", "never", "zero"):
        write_runs(twice.parent / name, study({"relu": [1.0]}))
    count_interim_analysis(twice.parent / "once", [1, 2, 3])
    (twice.parent / "zero" / INTERIM_FILE).write_text("[]")
    assert seeds_of(collect([twice.parent]).interim_analyses) == [(1,), (1, 2), (1, 2, 3)]
    assert seeds_of(collect([twice, twice.parent / "once"]).interim_analyses) == [(1,), (1, 2), (1, 2, 3)]
    assert seeds_of(collect([twice.parent / "once"]).interim_analyses) == [(1, 2, 3)]
    assert collect([twice.parent / "never"]).interim_analyses == collect([twice.parent / "zero"]).interim_analyses == ()
    assert interim_analyses_of([]) == []


def test_an_analysis_whose_seeds_an_earlier_one_had_is_none_whichever_file_tells_of_it() -> None:
    first, fewer, more = (
        InterimAnalysis((1, 2, 3), "2026-01-01T00:00:00+00:00"),
        InterimAnalysis((1, 2), "2026-01-02T00:00:00+00:00"),
        InterimAnalysis((1, 2, 3, 4), "2026-01-03T00:00:00+00:00"),
    )
    for order in itertools.permutations((first, fewer, more, first)):
        assert united(order) == [first, more]


def test_a_run_tells_of_the_analyses_before_it_was_planned_wherever_it_lies(tmp_path: Path) -> None:
    early, late = study({"relu": [1.0, 1.1]})
    late.looks = [{"seeds": [1], "at": "2026-01-01T00:00:00+00:00"}]
    write_runs(tmp_path / "early", [early])
    write_runs(tmp_path / "late", [late])
    for places, told in (([tmp_path / "early"], []), ([tmp_path / "late"], [(1,)]), ([tmp_path], [(1,)])):
        assert seeds_of(collect(places).interim_analyses) == told
    count_interim_analysis(tmp_path / "late", [1, 2])
    assert seeds_of(collect([tmp_path]).interim_analyses) == [(1,), (1, 2)]
    late.looks = [{"seeds": "1"}]
    write_runs(tmp_path / "late", [late])
    with pytest.raises(UserError, match=r"record\.json: damaged"):
        collect([tmp_path])


def test_a_file_far_above_or_beside_the_runs_is_not_theirs(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "a" / "b" / "study", study({"relu": [1.0]}))
    for elsewhere in (tmp_path / "a", tmp_path / "a" / "b" / "other"):
        count_interim_analysis(elsewhere, [1, 2, 3])
    assert collect([folder]).interim_analyses == collect([tmp_path]).interim_analyses == ()


def test_a_damaged_file_stops_the_collection(twice: Path) -> None:
    (twice / INTERIM_FILE).write_text("oops")
    with pytest.raises(UserError, match="damaged, so that the number of interim analyses is not known"):
        collect([twice])
