"""Configs of many combinations of options from few compositions.

Hydra takes a seventh of a second to compose a config, and a plan may have hundreds of variants. Most options only say
what is below their own name (`attention`), and then the config of a combination is that of another one with a few nodes
exchanged. Whether that is so is not assumed: each option is composed once by itself in place of the base's, and only
where nothing else of the config differs is its node used in combinations. Settings of a node (`attention.window=64`)
are what Hydra sets last, and so they are set in what was composed without them. Everything else is composed in full.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ablab.config import Node
from ablab.config.explain import ConfigErrors

Overrides = tuple[str, ...]
Compose = Callable[[list[str]], DictConfig]

_PLAIN_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*$")  # of an override that neither adds nor deletes, nor names a package
_CHOICE = re.compile(r"[A-Za-z_]\w*=[\w.+-]*$")  # of an option, or a plain value at the top
_OF_THE_WHOLE = ("${hydra:job.override", "${hydra:overrides")  # what a config can say of all overrides together


@dataclass(frozen=True)
class _Base:
    words: Overrides
    copy: Callable[[], DictConfig]
    plain: Node


class Recombiner:
    """Composes by exchanging nodes where that gives what Hydra would.

    Args:
        compose: composes in full.
    """

    def __init__(self, compose: Compose) -> None:
        self._compose = compose
        self._bases: dict[Overrides, _Base] = {}  # by the overrides that are never exchanged
        self._nodes: dict[tuple[Overrides, str, Overrides], DictConfig | None] = {}

    def __call__(self, overrides: Overrides) -> DictConfig:
        """Return the config of these overrides, for the caller to keep.

        Raises:
            What composing in full raises.
        """
        settings = [override for override in overrides if _is_setting(override)]
        others = tuple(override for override in overrides if not _is_setting(override))
        if not settings:
            return self._chosen(others)
        if _order_counts(settings, others):
            return self._compose(list(overrides))
        try:
            config = self._chosen(others)
            for setting in map(_parsed, settings):
                OmegaConf.update(config, setting.key_or_group, setting.value(), merge=True)
        except (*ConfigErrors, ValueError):
            return self._compose(list(overrides))  # which says what is wrong
        return config

    def _chosen(self, overrides: Overrides) -> DictConfig:
        """Return the config of overrides that set nothing below a node."""
        fixed = tuple(override for override in overrides if not _exchangeable(override))
        base = self._bases.get(fixed)
        if base is None:
            config = self._compose(list(overrides))
            self._bases[fixed] = base = _Base(overrides, _copier(config), _plain(config))
            return base.copy()
        own, usual = _by_node(overrides), _by_node(base.words)
        exchanged = [top for top in usual | own if own.get(top) != usual.get(top)]
        nodes = {top: self._node(fixed, top, own.get(top, ())) for top in exchanged}
        if any(node is None for node in nodes.values()):
            return self._compose(list(overrides))
        config = base.copy()
        with read_write(config), open_dict(config), read_write(config.hydra), open_dict(config.hydra):
            for top, node in nodes.items():
                assert node is not None
                config[top] = node[top]  # a copy of it
                config.hydra.runtime.choices[top] = node.hydra.runtime.choices.get(top)
        return config

    def _node(self, fixed: Overrides, top: str, words: Overrides) -> DictConfig | None:
        """Return the base's config with `words` for the node `top`, where nothing but that node differs; else None."""
        key = (fixed, top, words)
        if key not in self._nodes:
            self._nodes[key] = self._alone(self._bases[fixed], top, words)
        return self._nodes[key]

    def _alone(self, base: _Base, top: str, words: Overrides) -> DictConfig | None:
        if _speaks_of_the_whole(base.plain):
            return None
        others = [word for word in base.words if not _exchangeable(word) or _top(word) != top]
        if _order_counts([*words, f"{top}="], others):
            return None
        try:
            config = self._compose([*others, *words])
        except (*ConfigErrors, ValueError):  # not with the base, whose attention may have no window
            return None
        plain = _plain(config)
        differs = {part for part in {*plain, *base.plain} if plain.get(part) != base.plain.get(part)}
        return config if differs <= {top} else None


def _copier(config: DictConfig) -> Callable[[], DictConfig]:
    """Return what makes copies of a whole config, by way of `pickle`: a fifth of the time of `copy.deepcopy`."""
    try:
        pickled = pickle.dumps(config, pickle.HIGHEST_PROTOCOL)
        pickle.loads(pickled)
    except (pickle.PicklingError, AttributeError, TypeError):  # of a class that lies where no module has it
        return lambda: copy.deepcopy(config)
    return lambda: cast(DictConfig, pickle.loads(pickled))


def _exchangeable(override: str) -> bool:
    """Tell whether it chooses an option, or sets a value that is there."""
    return _PLAIN_KEY.match(_key(override)) is not None and _top(override) != "hydra"


def _is_setting(override: str) -> bool:
    """Tell whether it sets a value below a node."""
    return _exchangeable(override) and "." in _key(override)


def _order_counts(overrides: Iterable[str], others: Iterable[str]) -> bool:
    """Tell whether some of the others change the nodes of these, and do not only choose their option."""
    tops = set(map(_top, overrides))
    return any(_top(word.lstrip("+~")) in tops for word in others if _CHOICE.match(word) is None)


@cache
def _parsed(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


def _by_node(overrides: Overrides) -> dict[str, Overrides]:
    """Sort those that can be exchanged by their node: several of one key count in their order."""
    found: dict[str, Overrides] = {}
    for override in filter(_exchangeable, overrides):
        found[_top(override)] = (*found.get(_top(override), ()), override)
    return found


def _plain(config: DictConfig) -> Node:
    """The config as data, its references unresolved, each node with the choice that was made for it.

    Without what Hydra says of the overrides.
    """
    plain: Any = OmegaConf.to_container(config, resolve=False)
    hydra = plain.pop("hydra")
    choices = hydra.pop("runtime").get("choices", {})
    rest = {name: value for name, value in hydra.items() if name not in ("overrides", "job")}
    return {name: (choices.get(name), plain.get(name)) for name in {*plain, *choices}} | {"hydra": rest}


def _speaks_of_the_whole(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return any(map(_speaks_of_the_whole, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and any(words in value for words in _OF_THE_WHOLE)


def _key(override: str) -> str:
    return override.split("=", 1)[0]


def _top(override: str) -> str:
    return _key(override).split(".")[0]
