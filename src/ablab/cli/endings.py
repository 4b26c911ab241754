"""How a command ends that cannot go on."""

from __future__ import annotations

import sys
from typing import NoReturn


def interrupt(*_: object) -> NoReturn:
    """The handler of a signal that is treated like Ctrl-C."""
    raise KeyboardInterrupt


def fail(message: str) -> NoReturn:
    """One line on stderr, and exit status 2: a mistake of the user's."""
    print(f"ablab: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
