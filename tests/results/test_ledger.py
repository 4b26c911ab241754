"""Ledgers: what is written is read back, and no edit of it passes for it."""

from __future__ import annotations

import contextlib
import errno
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from ablab.errors import UserError
from ablab.results.ledger import HEAD_FILE, LEDGER_FILE, Ledger
from ablab.results.store import write_atomically

Content = dict[str, object]
_VALUES = (
    some.none()
    | some.booleans()
    | some.integers(-(2**40), 2**40)
    | some.floats(allow_nan=False, allow_infinity=False)
    | some.text(max_size=8)
)
_CONTENTS = some.lists(some.dictionaries(some.text(max_size=5), _VALUES, max_size=3), min_size=2, max_size=6)


@contextmanager
def written(contents: list[Content]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder))
        for content in contents:
            ledger.append("entry", content, "2026-01-01T00:00:00+00:00")
        yield Path(folder)


@settings(max_examples=30)
@given(_CONTENTS)
def test_a_ledger_is_read_as_it_was_written(contents: list[Content]) -> None:
    with written(contents) as folder:
        assert [entry.content for entry in Ledger(folder).entries] == json.loads(json.dumps(contents))


@settings(max_examples=60)
@given(_CONTENTS, some.data())
def test_a_byte_that_is_changed_is_found(contents: list[Content], data: some.DataObject) -> None:
    with written(contents) as folder:
        path = folder / LEDGER_FILE
        text = bytearray(path.read_bytes())
        place = data.draw(some.integers(0, len(text) - 1))
        text[place] = data.draw(some.sampled_from([byte for byte in b'05aZ"{}\n ' if byte != text[place]]))
        path.write_bytes(text)
        _is_refused_or_the_same(folder, contents)


@settings(max_examples=30)
@given(_CONTENTS, some.data())
def test_lines_that_are_taken_out_repeated_or_in_another_order_are_found(
    contents: list[Content], data: some.DataObject
) -> None:
    with written(contents) as folder:
        path = folder / LEDGER_FILE
        lines = path.read_bytes().splitlines(keepends=True)
        chosen = data.draw(some.lists(some.integers(0, len(lines) - 1), max_size=len(lines) + 1))
        path.write_bytes(b"".join(lines[place] for place in chosen))
        if chosen != [*range(len(lines))]:
            with pytest.raises(UserError, match="ledger"):
                Ledger(folder)


@settings(max_examples=40)
@given(_CONTENTS, some.integers(1, 400))
def test_a_line_that_a_kill_cut_short_counts_as_not_written(contents: list[Content], cut: int) -> None:
    """The head is written after the line, so that it counts the lines before it, or all of them."""
    with written(contents[:-1]) as folder:
        head = (folder / HEAD_FILE).read_bytes()
        before = (folder / LEDGER_FILE).stat().st_size
        Ledger(folder).append("entry", contents[-1], "now")
        whole = (folder / LEDGER_FILE).read_bytes()
        (folder / LEDGER_FILE).write_bytes(whole[: max(before, len(whole) - cut)])
        (folder / HEAD_FILE).write_bytes(head)
        assert len(Ledger(folder).entries) == len(contents) - 1
        Ledger(folder).append("entry", contents[-1], "now")
        assert (folder / LEDGER_FILE).read_bytes() == whole
        assert len(Ledger(folder).entries) == len(contents)


def test_a_kill_between_the_line_and_the_head_loses_nothing() -> None:
    with written([{"a": 1}]) as folder:
        head = (folder / HEAD_FILE).read_bytes()
        Ledger(folder).append("entry", {"a": 2}, "now")
        (folder / HEAD_FILE).write_bytes(head)
        assert len(Ledger(folder).entries) == 2


def test_a_second_kill_between_the_line_and_the_head_loses_nothing() -> None:
    with written([{"a": 1}]) as folder:
        behind = (folder / HEAD_FILE).read_bytes()
        Ledger(folder).append("entry", {"a": 2}, "now")
        (folder / HEAD_FILE).write_bytes(behind)

        def killed(path: Path, text: str) -> None:
            if json.loads(text)["entries"] == 3:
                raise KeyboardInterrupt
            write_atomically(path, text)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ablab.results.ledger.write_atomically", killed)
            with pytest.raises(KeyboardInterrupt):
                Ledger(folder).append("entry", {"a": 3}, "now")
        assert len(Ledger(folder).entries) == 3


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_a_disk_that_is_full_leaves_the_ledger_as_it_was(lines: int) -> None:
    """However often it is tried, with room for the line and none for the head."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with written([{"a": number} for number in range(lines)]) as folder:
        for _ in range(3):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("ablab.results.ledger.write_atomically", full)
                with pytest.raises(OSError, match="No space"):
                    Ledger(folder).append("entry", {"a": lines}, "now")
            assert len(Ledger(folder).entries) == lines
        Ledger(folder).append("entry", {"a": lines}, "now")
        assert [entry.content for entry in Ledger(folder).entries] == [{"a": number} for number in range(lines + 1)]


@pytest.mark.parametrize("head", ["", "{}", '{"entries": 1, "digest": "no"}', '{"entries": 0, "digest": ""}', "[]"])
def test_a_head_that_was_changed_is_found(head: str) -> None:
    with written([{"a": 1}, {"a": 2}]) as folder:
        (folder / HEAD_FILE).write_text(head, encoding="utf-8")
        with pytest.raises(UserError, match="ledger"):
            Ledger(folder)


def _is_refused_or_the_same(folder: Path, contents: list[Content]) -> None:
    """A change of white space is none of what a line says."""
    with contextlib.suppress(UserError):
        assert [entry.content for entry in Ledger(folder).entries] == json.loads(json.dumps(contents))
