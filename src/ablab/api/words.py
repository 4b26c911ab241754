"""Settings as Python has them, and as the command line does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

from ablab.config.nearest import nearest
from ablab.errors import UserError

# A word of the command line, "optimizer.lr=1e-3"; or settings, {"optimizer.lr": 1e-3}.
Asked = str | Mapping[str, object]


def words_of(asked: Sequence[Asked], settings: Mapping[str, object], *, sweep: bool = False) -> list[str]:
    """The words of a command line that ask for the same.

    Args:
        sweep: lists, tuples and ranges are values to sweep over; else they are one value, a list.

    Raises:
        UserError: what is no setting.
    """
    words: list[str] = []
    for each in (*asked, settings):
        if isinstance(each, Mapping):
            words += [f"{key}={written(value, sweep)}" for key, value in each.items()]
        elif isinstance(each, str):
            words.append(_setting(each))
        else:
            raise UserError(f'{each!r}: must be a setting as on the command line, "seed=3", or a dict of settings')
    return words


def _setting(word: str) -> str:
    """The word, which is no flag and no command: one of these would make it another command."""
    if word.startswith("-"):
        flags = ["-m", "--config-dir"]
        instead = {"-m": "call sweep()", "--config-dir": "give config_dir=..."}.get(word.partition("=")[0])
        raise UserError(f"{word}: flags are for the command line; {instead or 'leave it out' + nearest(word, flags)}")
    if "=" not in word and not word.startswith("~"):
        raise UserError(f"{word or repr(word)}: not an override; write KEY=VALUE")
    return word


def written(value: object, sweep: bool = False) -> str:
    """A value as the command line has it. Texts stand there as they are: "0,1,2" is three values."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):  # NumPy's have representations of their own
        return repr(float(value) if isinstance(value, float) else int(value))
    if isinstance(value, PathLike):
        return "'" + str(value).replace("'", "\\'") + "'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple | range):
        several = ",".join(map(written, value))
        return several if sweep else f"[{several}]"
    if callable(plain := getattr(value, "tolist", None)):  # of NumPy, pandas or torch
        return written(plain(), sweep)
    raise UserError(f"{value!r}: must be a text, a number, a list or a dict of these, or None")
