"""Mistakes in YAML files, studies above all: the file, the line and what is wrong with it, in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ConfigTypeError, ValidationError
from yaml import MappingNode, MarkedYAMLError, Node, ScalarNode, SequenceNode, YAMLError
from yaml.reader import ReaderError

from ablab.config.nearest import nearest
from ablab.config.schema import Config, conf_folder, type_at
from ablab.errors import UserError

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


def refuse_misread(sources: Iterable[Any], choices: Mapping[str, Any]) -> None:
    """Raise UserError for a name in a file of the user's that YAML reads as a number or a truth value: 2024_01_15, on.

    Args:
        sources: Hydra's `runtime.config_sources`.
        choices: the option of each group.
    """
    folders = [Path(source["path"]) for source in sources if source["schema"] == "file"]
    left = [f"{group}/{option}" for group, option in choices.items() if option and not group.startswith("hydra")]
    met: set[str] = set()
    while left:
        met.add(name := left.pop())
        for file in (path for folder in folders if (path := folder / f"{name}.yaml").is_file()):
            if file.parent.parent == conf_folder():  # ours
                continue
            text, group = file.read_text(encoding="utf-8"), name.split("/")[0]
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            if isinstance(root, MappingNode):
                _check_names(f"{name}.yaml", "" if text.startswith(_PACKAGE_LINE) else f"{group}.", root)
                left += [base for base in _bases(group, root) if base not in met]


_PARAMS, _VARIANTS = "hydra.sweeper.params", "design.variants"  # keys in the first are those of the config


def _bases(group: str, root: MappingNode) -> Iterator[str]:
    """The other files of the group that a file builds on, by its defaults."""
    found = next((value for key, value in root.value if key.value == "defaults"), None)
    for each in found.value if isinstance(found, SequenceNode) else ():
        if isinstance(each, ScalarNode) and each.value != "_self_":
            yield each.value.lstrip("/") if "/" in each.value else f"{group}/{each.value}"


def _check_names(file: str, prefix: str, node: MappingNode) -> None:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if prefix == f"{_VARIANTS}.":
            _check_name(file, name, key)
        if isinstance(value, MappingNode):
            _check_names(file, "" if name == _PARAMS else f"{name}.", value)
        elif type_at(name) in (str, str | None):
            _check_name(file, name, value)


def _check_name(file: str, key: str, node: Node) -> None:
    if not isinstance(node, ScalarNode) or node.style is not None:  # quoted
        return
    both: Any = OmegaConf.to_container(OmegaConf.create(f"x: {node.value}"), resolve=False)  # as Hydra reads it
    read = both["x"]
    if isinstance(read, bool | int | float) and str(read) != node.value:
        raise UserError(
            f"{file}, line {node.start_mark.line + 1}: {key}: {node.value} would be read as {read}; put it in quotes, "
            f"'{node.value}'"
        )
