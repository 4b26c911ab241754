"""What every command is made of."""

from __future__ import annotations

import argparse
import os
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


def folders_and_overrides(words: list[str]) -> tuple[list[Path], list[str]]:
    """A word with "=" is an override, unless what stands before it makes it a path: "./attention=lsh"."""
    if "" in words:  # as a path it would be the working folder
        raise UserError("the name of a folder is empty: is a variable of the shell not set?")
    overrides = [word for word in words if "=" in word and not {"/", os.sep} & set(word.partition("=")[0])]
    folders = [Path(word) for word in words if word not in overrides]
    if not folders:
        raise UserError(f"{' '.join(overrides)}: give the folder of the runs before it; a folder of that name is ./...")
    return folders, overrides


def trust_command(folder: Path, words: list[str], trust: bool) -> None:
    """Raises UserError where the command in a folder is not to be trusted: it could name anything."""
    asked = f"ablab {shlex.join(words)}"
    if not trust:
        raise UserError(
            f"{folder}: was stopped before its plan was made; give the command of the study again, or add --trust to "
            f"run what the folder has as its command: {asked}"
        )
    print(printable(f"ablab: trusted: {asked} (the command in {folder})"), file=sys.stderr)
