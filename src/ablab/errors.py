"""Errors: what a user may be told, and what is refused alike everywhere.

Everything that is the user's to mend is a `UserError`: one line that says what is wrong and what to do. The command
line prints it on stderr and exits with status 2, without a traceback.
"""

import re
import traceback
from pathlib import Path

# Characters that a terminal obeys instead of showing them, and those by which text is shown in another order.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class UserError(Exception):
    """A mistake in what was asked for: an unknown option, a bad value, a missing file. One line, and how to mend it."""


def one_line(error: BaseException, longest: int = 200) -> str:
    """Return the words of an error of another library, which may take many lines, in one of `longest` characters."""
    said = str(error).partition("Exception raised from")[0]  # torch goes on with the addresses of its C++ functions
    words = " ".join(said.split()) or type(error).__name__
    return words if len(words) <= longest else f"{words[:longest]}..."


def named(error: BaseException) -> str:
    """Return an error of any kind in one line, with its type and the line of code that it comes from."""
    text = one_line(error)
    kind = type(error).__name__
    said = kind if text == kind else f"{kind}: {text}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{said} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else said


class Diverged(Exception):  # noqa: N818 (an outcome of an experiment, not a programming error)
    """The loss became NaN or infinite. An outcome, not a failure: it is counted and reported, never run again."""

    def __init__(self, metric: str, value: float, step: int) -> None:
        super().__init__(f"{metric} became {value} at step {step}")
        self.metric, self.value, self.step = metric, value, step


class Interrupted(Exception):  # noqa: N818 (nothing went wrong)
    """The run was asked to stop, has written a checkpoint, and can go on from there; or may not begin, and says why."""


def require_at_least(least: float, **values: float) -> None:
    """Raises ValueError for the first of `values` that is below `least` or NaN."""
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name}={value} must be at least {least:g}")


def require_shares(**values: float) -> None:
    """Raises ValueError for the first of `values`, weights of moving averages, that is not in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value} must be at least 0 and less than 1")


def printable(text: str) -> str:
    """Return text for a terminal, with a "?" for each character that a terminal would obey: names may be anybody's."""
    return _OBEYED.sub("?", text)
