"""What every command is made of."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from ablab.errors import UserError

# What a command does with its options; the exit status, if it is not 0.
Command = Callable[[argparse.Namespace], int | None]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything here does; the usage is in the help."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")
