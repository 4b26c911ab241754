"""Where figures go, looked at before anything is measured."""

from __future__ import annotations

from pathlib import Path

from ablab.errors import UserError


def check_output(path: Path | None, option: str = "--json") -> None:
    """Look at where a file of figures is to lie.

    Raises:
        UserError: it cannot lie there.
    """
    if path is not None and path.is_dir():
        raise UserError(f"{option} {path}: is a folder")
    if path is not None and not path.parent.is_dir():
        raise UserError(f"{option} {path}: no such folder")
