"""Mistakes in YAML files, studies above all: the file, the line and what is wrong with it, in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from hydra.errors import MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ConfigTypeError, ValidationError
from yaml import MarkedYAMLError, YAMLError
from yaml.reader import ReaderError

from ablab.config.nearest import nearest
from ablab.config.schema import Config

_PACKAGE_LINE = "# @package _global_"
_SECTIONS: dict[str, Any] = {name: hint for name, hint in get_type_hints(Config).items() if is_dataclass(hint)}


def explain_yaml(error: YAMLError) -> str:
    """One line for a file that is no YAML."""
    if isinstance(error, ReaderError):
        return f"{error.name}: is no text ({error.reason})"
    if not isinstance(error, MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    problem = error.problem or error.context or "is no YAML"
    if found := re.search(r"found duplicate key (.*)", problem):
        problem = f"{found[1].strip()} is given twice; leave one of them"
    elif "'\\t'" in problem:
        problem = "a tab, which YAML does not take as indentation; write spaces"
    elif error.context:
        problem = f"{problem} {error.context}"
    if mark is None:
        return problem
    return f"{mark.name}, line {mark.line + 1}: {' '.join(problem.split())}"


def explain_file(error: Exception, causes: Iterable[BaseException]) -> str | None:
    """One line for an error in what a file holds, which Hydra tells with its name; None for any other error."""
    named = re.match(r"In '([^']+)': ", str(error))
    if named is None or named[1] == "config":
        return None
    file = f"{named[1]}.yaml"
    if isinstance(error, MissingConfigException):
        return (
            f"{file}: its defaults name {error.missing_cfg_file}, which is not there; an option of an axis is chosen "
            "by a line such as '- override /attention: full'"
        )
    for cause in causes:
        if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
            return f"{file}: {_wrong_key(str(cause.full_key), named[1].split('/')[0], cause.object_type)}"
        if isinstance(cause, ConfigTypeError):
            return f"{file}: a list stands where settings are wanted, each as KEY: VALUE"
        if isinstance(cause, ValidationError) and (found := re.search(r"is not a subclass of (\w+)", str(cause))):
            name = next((name for name, hint in _SECTIONS.items() if hint.__name__ == found[1]), found[1])
            return f"{file}: {name}: must hold settings{_example(name)}"
    return None


def _wrong_key(key: str, group: str, known_by: object) -> str:
    if key == group or key.startswith("_"):
        return f"its first line must be {_PACKAGE_LINE}, as its settings belong to the whole config"
    section = next((name for name, hint in _SECTIONS.items() if key in {known.name for known in fields(hint)}), None)
    if section is not None:
        return f"{key}: belongs to {section}; write {section}: {{{key}: ...}}"
    known = [each.name for each in fields(known_by)] if is_dataclass(known_by) else []
    return f"{key}: no such setting{nearest(key.rpartition('.')[2], known, see='ablab --cfg job')}"


def _example(name: str) -> str:
    hint = _SECTIONS.get(name)
    return f", as in {name}: {{{fields(hint)[0].name}: ...}}" if hint is not None else ""
