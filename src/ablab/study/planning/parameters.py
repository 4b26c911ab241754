"""What a study file sweeps over, `hydra.sweeper.params`, as the overrides that a command line would have."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from ablab.config.axes import AXES
from ablab.config.ladder import written_out
from ablab.config.schema import OF_THE_STUDY, Node, conf_folder, type_at
from ablab.config.signature import hints_of
from ablab.errors import UserError
from ablab.study.designs.factors import written

_WHERE = "hydra.sweeper.params"


def overrides_of(params: Mapping[str, Any], config: DictConfig) -> list[str]:
    """An override for each of the parameters. A text is as on the command line: `attention: full,lsh`.

    A list is swept over, `attention: [full, lsh]`, unless it is one value of a setting that takes lists.

    Args:
        params: as plain data.
        config: of the study as a whole.

    Raises:
        UserError: settings stand where values are wanted, or a list has none.
    """
    return written_out(f"{key}={_value(str(key), value, config)}" for key, value in params.items())


def _value(key: str, value: Any, config: DictConfig) -> str:
    if isinstance(value, Mapping) and "." not in key:
        first = next(iter(value), "KEY")
        raise UserError(f"{_WHERE}.{key}: holds settings, not values; write {key}.{first}: ..., a line for each")
    if isinstance(value, list) and _is_swept(key.lstrip("+"), value, config):
        if not value:
            raise UserError(f"{_WHERE}.{key}: an empty list gives no value at all; write {key}: 1,2,3, or one value")
        return ",".join(map(written, value))
    return value if isinstance(value, str) else written(value)


def _is_swept(key: str, value: list[Any], config: DictConfig) -> bool:
    if key.split(".")[0] in OF_THE_STUDY:  # one value for all runs, as tune.lr
        return False
    if key in AXES:
        return not AXES[key].several  # of which one choice is a list
    if value and all(isinstance(each, list) for each in value):
        return True
    kinds = _kinds(key, config)
    if kinds == {True, False}:
        raise UserError(
            f"{_WHERE}.{key}: a list may be one value of it, or several; write a text, '[16,32]' for one list, '16,32' "
            "for two values"
        )
    return True not in kinds


def _kinds(key: str, config: DictConfig) -> set[bool]:
    """Of the types that the setting may have in the options of its axis, null aside: whether each is a list."""
    axis, _, name = key.partition(".")
    if axis not in AXES:
        return set(_are_lists(type_at(key)))
    found: set[bool] = set()
    for node in _options(axis, config):
        hint = hints_of(str(node.get("_target_"))).get(name)
        found |= {True} if isinstance(node.get(name), list) else set(_are_lists(hint))
    return found


def _options(axis: str, config: DictConfig) -> Iterator[Node]:
    """The option of an axis that is chosen, and those of conf/, of which another may be swept over."""
    yield typing.cast(Node, OmegaConf.to_container(config[axis], resolve=False))
    for path in (conf_folder() / axis).glob("*.yaml"):
        yield yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _are_lists(hint: Any) -> Iterator[bool]:
    """Yield for each kind of value of an annotated type, null aside, whether it is a list."""
    origin = typing.get_origin(hint) or hint
    if origin in (typing.Union, types.UnionType):
        for each in typing.get_args(hint):
            yield from _are_lists(each)
    elif hint not in (None, types.NoneType):
        yield (
            isinstance(origin, type) and origin is not object and any(map(issubclass, (list, tuple), (origin, origin)))
        )
