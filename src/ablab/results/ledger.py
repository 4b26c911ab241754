"""A ledger: a file of JSON lines that is only ever added to, each line chained to the one before by a hash.

What was concluded stays concluded: a line that is changed, taken out or put in between breaks the chain, and lines cut
off the end are missed by the head, a small file beside it that counts them. Both are found when the ledger is read.
That guards against slips and second thoughts; whoever writes all of it anew can write anything.

A line is written at once and flushed. One that a kill cut short has no end, counts as not written, and is taken away by
whoever writes next; one that a full disk has no room for, or whose head it has none for, is taken away at once. Where a
kill came between a line and its head, the line counts, and the head is brought up to it before the next is written. One
process writes at a time: `ablab.campaign` holds the folder's lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablab.config import Node
from ablab.errors import UserError
from ablab.results.store import parse_json, write_atomically

LEDGER_FILE = "ledger.jsonl"
HEAD_FILE = "ledger.head.json"  # the number of lines, and the digest of the last one
_FIRST = "0" * 64


@dataclass(frozen=True)
class Entry:
    """A line of a ledger."""

    number: int  # from 1, without gaps
    kind: str
    at: str  # when it was written, ISO 8601, UTC
    content: Node
    previous: str  # digest
    digest: str

    @property
    def line(self) -> bytes:
        return (json.dumps(vars(self), allow_nan=False) + "\n").encode()


class Ledger:
    """The ledger in a folder. Reading it verifies all of it.

    Raises:
        UserError: a line was changed, or lines are missing.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._head = folder / LEDGER_FILE, folder / HEAD_FILE
        self.entries: list[Entry] = []
        self._size = 0  # bytes that are whole lines
        self._counted = 0  # lines, by the head
        if self.path.exists():
            text = self.path.read_bytes()
            self._size = text.rfind(b"\n") + 1
            self.entries = list(self._verified(text[: self._size]))
        self._check_head()

    def append(self, kind: str, content: Node, at: str) -> Entry:
        """Add a line; it is on the disk when this returns.

        Raises:
            OSError: it cannot be written; the ledger is as it was.
        """
        previous = self.entries[-1].digest if self.entries else _FIRST
        number, content = len(self.entries) + 1, json.loads(json.dumps(content, allow_nan=False))
        entry = Entry(number, kind, at, content, previous, _digest(number, kind, at, content, previous))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._counted < len(self.entries):  # or the head would be two lines behind
            self._count(self.entries[-1])
        try:
            with self.path.open("ab") as file:
                file.truncate(self._size)  # what was cut short
                file.write(entry.line)
                file.flush()
                os.fsync(file.fileno())
            self._count(entry)
        except OSError:
            with contextlib.suppress(OSError):  # there may be no file yet
                os.truncate(self.path, self._size)
            raise
        self._size += len(entry.line)
        self.entries.append(entry)
        return entry

    def _count(self, last: Entry) -> None:
        write_atomically(self._head, json.dumps({"entries": last.number, "digest": last.digest}) + "\n")
        self._counted = last.number

    def _verified(self, text: bytes) -> Iterator[Entry]:
        previous = _FIRST
        for number, line in enumerate(text.splitlines(), 1):
            try:
                entry = Entry(**parse_json(line))
                told = (entry.number, entry.kind, entry.at, entry.content, entry.previous)
                whole = entry.digest == _digest(*told)
            except (ValueError, TypeError):
                raise self._broken(f"line {number} is none of a ledger's") from None
            if not whole:
                raise self._broken(f"line {number} was changed after it was written")
            if entry.number != number or entry.previous != previous:
                raise self._broken(f"line {number} does not follow the one before: lines were taken out or put in")
            previous = entry.digest
            yield entry

    def _check_head(self) -> None:
        if not self._head.exists():
            if len(self.entries) > 1:
                raise self._broken(f"{HEAD_FILE}, which counts its lines, is missing")
            return
        try:
            head = parse_json(self._head.read_bytes())
            count, digest = int(head["entries"]), str(head["digest"])
        except (ValueError, TypeError, KeyError):
            raise self._broken(f"{HEAD_FILE}, which counts its lines, cannot be read") from None
        if count > len(self.entries):
            raise self._broken(f"{count - len(self.entries)} of its {count} lines are missing at the end")
        if count < 1 or self.entries[count - 1].digest != digest or len(self.entries) > count + 1:
            raise self._broken(f"its lines are not those that {HEAD_FILE} has counted")
        self._counted = count

    def _broken(self, why: str) -> UserError:
        return UserError(
            f"{self.path}: {why}; a ledger is only added to: put back what it was, or begin another campaign"
        )


def _digest(number: int, kind: str, at: str, content: Any, previous: str) -> str:
    told = json.dumps([number, kind, at, content, previous], sort_keys=True, allow_nan=False)
    return hashlib.sha256(told.encode()).hexdigest()
