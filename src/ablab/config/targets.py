"""What a `_target_` names, or why it cannot be had."""

from __future__ import annotations

import contextlib
import difflib
import logging
import pkgutil
import re
import sys
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from ablab.config.value_types import shown
from ablab.errors import UserError, one_line

_TRACKERS = {"aim", "mlflow"}  # for which there are options, and no extra of the package


def import_target(name: str, target: object) -> Any:
    """What the dotted name `target`, the `_target_` at `name`, stands for.

    Args:
        name: "" where it is named by itself, and not in a config.

    Raises:
        UserError: it cannot be imported, or cannot be called.
    """
    at = f"{name}._target_: " if name else ""
    if not isinstance(target, str) or "." not in target:
        raise UserError(f"{name}._target_={shown(target)}: must be the dotted name of a class or function")
    hydra_log = logging.getLogger("hydra.utils")  # which would say the same at length
    muted, hydra_log.disabled = hydra_log.disabled, True
    try:
        found = get_object(target)
    except Exception as error:  # whatever importing somebody's module may raise
        raise UserError(f"{at}{_why_not(target, error)}") from error
    finally:
        hydra_log.disabled = muted
    if not callable(found):
        raise UserError(f"{at}{target} is neither a class nor a function")
    return found


def _why_not(target: str, error: Exception) -> str:
    """Why a dotted name cannot be imported: a package that is not installed, a misspelt name, or what its code says."""
    package, first = missing_package(error), target.split(".")[0]
    if package in _offered():
        return f"{target} needs {package}: pip install {package}"
    if package == first:
        return f"{target}: there is no module {first}{_meant(first, packages_distributions())}"
    if package is not None:
        return f"{target} needs the module {package}, which is not installed"
    parts = target.split(".")
    known = next(".".join(parts[:n]) for n in range(len(parts), -1, -1) if ".".join(parts[:n]) in sys.modules or not n)
    missing = target.removeprefix(known).lstrip(".").split(".")[0]
    module = sys.modules.get(known)
    if module is None or hasattr(module, missing) or not _says_missing(error, f"{known}.{missing}"):
        return f"{target} cannot be imported ({_said(error)})"
    below = [each.name for each in pkgutil.iter_modules(getattr(module, "__path__", []))]
    names = [each for each in {*vars(module), *below} if not each.startswith("_")]
    return f"{known} has no {missing}{_meant(missing, names)}"


def _said(error: BaseException) -> str:
    """What was raised by a module itself; of code that is none, the file and the line of it."""
    while isinstance(error, ImportError) and error.__cause__ is not None:  # Hydra's, around it
        error = error.__cause__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}: {error.msg}"
    return f"{type(error).__name__}: {one_line(error)}"


def _says_missing(error: Exception, module: str) -> bool:
    """Whether it is the module itself that was not found, and not what its code wanted or did."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError):
            return cause.name == module or cause.name is None or module.startswith(cause.name)
        cause = cause.__cause__ or cause.__context__
    return True


def _meant(wrong: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(wrong, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _offered() -> set[str]:
    """The packages that ablab can do with and without, by the names of their modules."""
    with contextlib.suppress(PackageNotFoundError):
        return _TRACKERS | {re.split(r"[^\w-]", line)[0].replace("-", "_").lower() for line in requires("ablab") or ()}
    return _TRACKERS


def missing_package(error: BaseException) -> str | None:
    """The package for want of which `error` was raised, or None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            package = cause.name.split(".")[0]
            return package if find_spec(package) is None else None
        cause = cause.__cause__ or cause.__context__
    return None
