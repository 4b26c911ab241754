"""What every command is made of."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ablab.errors import UserError, printable

# What a command does with its options; the exit status, if it is not 0.
Command = Callable[[argparse.Namespace], int | None]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything here does; the usage is in the help."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Let a command that builds what a folder names be told that the folder is trusted."""
    parser.add_argument(
        "--trust", action="store_true", help="run components that the folder names and that are not ablab's own"
    )


def trust_command(folder: Path, words: list[str], trust: bool) -> None:
    """Raises UserError where the command in a folder is not to be trusted: it could name anything."""
    asked = f"ablab {shlex.join(words)}"
    if not trust:
        raise UserError(
            f"{folder}: was stopped before its plan was made; give the command of the study again, or add --trust to "
            f"run what the folder has as its command: {asked}"
        )
    print(printable(f"ablab: trusted: {asked} (the command in {folder})"), file=sys.stderr)
