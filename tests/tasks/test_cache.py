"""What is kept on disk: found again, told apart by what it depends on, and never trusted when damaged."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ablab.tasks.cache import Arrays, cache_folder, cached


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def made() -> tuple[Callable[[], Arrays], list[int]]:
    """Something that makes arrays, and how often it did."""
    calls: list[int] = []

    def make() -> Arrays:
        calls.append(1)
        return {"squares": np.arange(1000) ** 2, "names": np.array(["a", "bc"])}

    return make, calls


def entry() -> Path:
    (folder,) = (cache_folder() / "tests").iterdir()
    return folder


def test_what_was_made_is_found_again(made: tuple[Callable[[], Arrays], list[int]]) -> None:
    make, calls = made
    for _ in range(3):
        arrays = cached("tests", {"of": 1}, make)
        np.testing.assert_array_equal(arrays["squares"], np.arange(1000) ** 2)
        assert arrays["names"].tolist() == ["a", "bc"]
    assert len(calls) == 1
    cached("tests", {"of": 2}, make)
    assert len(calls) == 2


def test_what_is_found_cannot_be_written_to(made: tuple[Callable[[], Arrays], list[int]]) -> None:
    arrays = cached("tests", {}, made[0])
    with pytest.raises(ValueError, match="read-only"):
        arrays["squares"][0] = 1


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "squares.npy"),
        lambda folder: cut(folder / "squares.npy"),
        lambda folder: (folder / "names.npy").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{", encoding="utf-8"),
        lambda folder: (folder / "manifest.json").write_text("[]", encoding="utf-8"),
    ],
)
def test_a_damaged_entry_is_noticed_and_made_again(
    damage: Callable[[Path], object], made: tuple[Callable[[], Arrays], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    make, calls = made
    cached("tests", {}, make)
    damage(entry())
    for _ in range(2):
        np.testing.assert_array_equal(cached("tests", {}, make)["squares"], np.arange(1000) ** 2)
    assert len(calls) == 2
    assert "damaged, and made again" in caplog.text
    assert sorted(path.name for path in entry().iterdir()) == ["manifest.json", "names.npy", "squares.npy"]


def test_a_crash_while_it_is_made_or_written_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Arrays:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("tests", {}, fail)

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", crash)
        with pytest.raises(KeyboardInterrupt):
            cached("tests", {}, lambda: {"a": np.arange(3)})
    assert list((cache_folder() / "tests").iterdir()) == []
    assert cached("tests", {}, lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]


def test_a_full_disk_costs_the_cache_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert cached("tests", {}, lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]
    assert "cannot be kept (No space left on device)" in caplog.text


def test_a_file_where_the_cache_would_be_costs_the_cache_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a folder that cannot be written to, or not even be looked into."""
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("ABLAB_CACHE", str(place))
        caplog.clear()
        assert cached("tests", {}, lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]
        assert "cannot be kept (" in caplog.text


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("ABLAB_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user whom the system does not know
    assert cached("tests", {}, lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]
    assert caplog.messages == ["~/.cache/ablab: cannot be kept (there is no home folder; set ABLAB_CACHE)"]
    assert not Path("~").exists()


def test_a_cache_that_cannot_be_looked_into_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: object, **how: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refused)
        found = cached("tests", {}, lambda: {"a": np.arange(3)})
    assert found["a"].tolist() == [0, 1, 2]


def _make_slowly(queue: multiprocessing.Queue[list[int]], barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    queue.put(cached("tests", {}, lambda: {"a": np.arange(100_000)})["a"][-3:].tolist())


def test_processes_that_make_the_same_at_once_all_get_it() -> None:
    context = multiprocessing.get_context("fork")
    queue, barrier = context.Queue(), context.Barrier(4)
    processes = [context.Process(target=_make_slowly, args=(queue, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [[99997, 99998, 99999]] * 4
    for process in processes:
        process.join()
    assert len(list((cache_folder() / "tests").iterdir())) == 1
