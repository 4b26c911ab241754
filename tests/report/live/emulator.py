"""A terminal as far as rich's live display needs one: what somebody sees who sits in front of it."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|(.)", re.DOTALL)


class Terminal:
    """Written to like a file; `lines` is what has scrolled by and what is on the screen, as plain text."""

    def __init__(self, width: int = 100, height: int = 40) -> None:
        self.width, self.height = width, height
        self.raw = ""
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0

    def write(self, text: str) -> int:
        self.raw += text
        for argument, command, character in _TOKEN.findall(text):
            if command == "A":  # up, but not out of the screen
                self._row = max(self._row - int(argument or 1), len(self._rows) - self.height, 0)
            elif command == "K":
                assert argument == "2"
                self._rows[self._row] = []
            elif command:
                assert command in "mhl", f"unknown: {argument}{command}"  # colours, the cursor's looks
            else:
                self._put(character)
        return len(text)

    def flush(self) -> None:
        pass

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._rows]

    @property
    def cursor(self) -> tuple[int, int]:
        return self._row, self._column

    @property
    def cursor_shown(self) -> bool:
        return self.raw.rfind("\x1b[?25h") >= self.raw.rfind("\x1b[?25l")

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._next_row()
        else:
            if self._column == self.width:  # goes on in the next line, as terminals do
                self._next_row()
            row = self._rows[self._row]
            row += " " * (self._column + 1 - len(row))
            row[self._column] = character
            self._column += 1

    def _next_row(self) -> None:
        self._row, self._column = self._row + 1, 0
        if self._row == len(self._rows):
            self._rows.append([])
