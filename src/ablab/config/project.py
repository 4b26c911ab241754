"""What a project of the user's says of ablab in its pyproject.toml, so that no command needs to:

[tool.ablab]
conf = "my_conf"  # a folder of options of its own, as --config-dir names one
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablab.config.nearest import nearest
from ablab.errors import UserError

_FILE = "pyproject.toml"
_KEYS = ("conf",)


def option_folders(named: Path | None = None) -> list[Path]:
    """The folders of the user's own options: the one that is named, or else that of their project.

    Raises:
        UserError: as `project_conf` does.
    """
    if named is not None:
        return [named.resolve()]
    return [] if (conf := project_conf()) is None else [conf]


def module_folders(options: Sequence[Path]) -> list[Path]:
    """Where modules of the user's are looked for, as commands do: here, and where their options lie and above it."""
    return [Path.cwd(), *options, *(folder.parent for folder in options)]


def project_conf(folder: Path | None = None) -> Path | None:
    """The folder of options that the nearest pyproject.toml names, at `folder` or above it; None where none does.

    Args:
        folder: default: the working folder.

    Raises:
        UserError: the file cannot be read, or what it says of ablab cannot be.
    """
    try:
        start = (folder or Path.cwd()).resolve()
    except FileNotFoundError as error:
        raise UserError("the working folder is not there any more: change to one that is") from error
    file = next((each / _FILE for each in (start, *start.parents) if (each / _FILE).is_file()), None)
    if file is None:
        return None
    said = _said(file)
    for key in said:
        if key not in _KEYS:
            raise UserError(f"{file}: tool.ablab.{key}: no such setting{nearest(key, _KEYS)}")
    conf = said.get("conf")
    if conf is None:
        return None
    if not isinstance(conf, str) or not (file.parent / conf).is_dir():
        raise UserError(f"{file}: tool.ablab.conf={conf!r}: must be a folder of options, beside the file")
    return file.parent / conf


def _said(file: Path) -> dict[str, Any]:
    try:
        tool = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
    except (OSError, ValueError) as error:  # as of damaged TOML, and of text in another encoding
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())})") from error
    said = tool.get("ablab", {}) if isinstance(tool, dict) else {}
    if not isinstance(said, dict):
        raise UserError(f"{file}: tool.ablab: must be a table of settings")
    return said
