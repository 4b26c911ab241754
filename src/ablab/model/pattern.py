"""Layers that differ: which option of an axis each layer has, by a list that is repeated.

An entry of a list is the name of an option, of the folders of conf/; `3*windowed` stands for it three times, and
`{windowed: {window: 32}}` for the option with settings of its own. An option of the user's own comes with all that its
file says (`ablab.config.entries`). What an option makes of a layer is what it makes where all layers have it, initial
values included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from ablab.config import conf_folder
from ablab.config.axes import AXES
from ablab.config.nearest import nearest
from ablab.config.signature import check_signature
from ablab.config.targets import import_target
from ablab.model.feed_forward.base import FeedForward
from ablab.model.spec import LayerSpec

Entry = str | dict[str, dict[str, Any]]
Choice = tuple[str, Mapping[str, Any]]  # an option, and the settings that are its own here

_REPEATED = re.compile(r"(?:([1-9]\d{0,3})\*)?(\w+)")  # as many layers as anybody has


def attention_pattern(spec: LayerSpec, *, layers: list[Entry], first: Sequence[Entry] = ()) -> nn.Module:
    """The attention of a layer. `model.n_kv_heads` is about the layers whose attention can group its heads.

    Args:
        layers: options of the axis, repeated from behind `first` until every layer has one.
        first: options of the first layers.

    Raises:
        ValueError: the pattern does not fit the number of layers, or names an option that there is not.
    """
    factory = _option("attention", spec, layers, first)
    if not _groups_heads(getattr(factory, "func", None)) and any(
        map(_groups_heads, _targets("attention", spec, layers, first))
    ):
        spec = replace(spec, n_kv_heads=None)  # it is about the layers that have heads to group
    made: nn.Module = factory(spec)
    return made


def _groups_heads(target: Any) -> bool:
    """Whether what it makes can share a head of keys among several of queries, by `model.n_kv_heads`."""
    return getattr(target, "groups_heads", True)


def feed_forward_pattern(
    spec: LayerSpec,
    *,
    activation: Callable[[LayerSpec], nn.Module],
    layers: list[Entry],
    first: Sequence[Entry] = (),
) -> FeedForward:
    """The feed-forward part of a layer; `layers` and `first` are as in `attention_pattern`."""
    made: FeedForward = _option("feed_forward", spec, layers, first)(spec, activation=activation)
    return made


def choices(axis: str, n_layers: int, layers: Sequence[Entry], first: Sequence[Entry] = ()) -> list[Choice]:
    """What each of `n_layers` layers has. Raises ValueError if the pattern does not fit."""
    before = [choice for entry in first for choice in _choices(f"{axis}.first", entry)]
    repeated = [choice for entry in layers for choice in _choices(f"{axis}.layers", entry)]
    left = n_layers - len(before)
    if not repeated:
        raise ValueError(f"{axis}.layers names no option: take at least one")
    if left < 1:
        raise ValueError(f"{axis}.first has {len(before)} layers, which leaves none of model.n_layers={n_layers}")
    if left % len(repeated):
        behind = f" behind the {len(before)} of {axis}.first" if before else ""
        raise ValueError(
            f"{axis}.layers has {len(repeated)} layers, and model.n_layers={n_layers} leaves {left}{behind}, no "
            f"multiple of that: take another number of layers, or put those that are left over into {axis}.first"
        )
    return before + repeated * (left // len(repeated))


def nodes_of_layers(axis: str, node: dict[str, Any], n_layers: int) -> list[tuple[str, dict[str, Any]]]:
    """What the pattern in `node`, the config of an axis, gives each layer: an option's name, and its whole config."""
    listed = choices(axis, n_layers, node["layers"], node.get("first", ()))
    return [(choice[0], _node(axis, choice)) for choice in listed]


def _choices(key: str, entry: Entry) -> list[Choice]:
    """What an entry stands for."""
    name, settings = next(iter(entry.items())) if isinstance(entry, Mapping) and len(entry) == 1 else (entry, {})
    matched = _REPEATED.fullmatch(name) if isinstance(name, str) else None
    if matched is None or not isinstance(settings, Mapping):
        raise ValueError(f"{key}: {entry!r} must be OPTION, 3*OPTION or {{OPTION: {{SETTING: VALUE}}}}")
    return [(matched[2], settings)] * int(matched[1] or 1)


def _option(axis: str, spec: LayerSpec, layers: Sequence[Entry], first: Sequence[Entry]) -> Callable[..., Any]:
    """The factory of what a layer has, its settings checked as those of the axis are."""
    return _made(axis, choices(axis, spec.n_layers, layers, first)[spec.layer_index])


def _targets(axis: str, spec: LayerSpec, layers: Sequence[Entry], first: Sequence[Entry]) -> Iterator[Any]:
    """Of all layers, whose settings are looked at where each is made."""
    for choice in choices(axis, spec.n_layers, layers, first):
        yield import_target(f"{axis}.layers.{choice[0]}", _node(axis, choice)["_target_"])


def _node(axis: str, choice: Choice) -> dict[str, Any]:
    """The config of a choice, as if all layers had it."""
    name, settings = choice
    own = settings if "_target_" in settings else _menu(axis).get(name)  # of the user's own, or of ours
    if own is None:
        raise ValueError(f"{axis}={name}: no such option{nearest(name, _menu(axis))}")
    return {**own, **{key: value for key, value in settings.items() if not key.startswith("_")}, "_partial_": True}


def _made(axis: str, choice: Choice) -> Callable[..., Any]:
    node = _node(axis, choice)
    check_signature(f"{axis}.layers.{choice[0]}", node, AXES[axis].supplied)
    factory: Callable[..., Any] = instantiate(node, _convert_="all")
    return factory


@cache
def _menu(axis: str) -> dict[str, dict[str, Any]]:
    """The options of conf/, each as its file has it."""
    return {path.stem: _read(path) for path in (conf_folder() / axis).glob("*.yaml")}


def _read(path: Path) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path)))
