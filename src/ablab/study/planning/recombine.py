"""Configs of many combinations of options from few compositions.

Hydra takes a seventh of a second to compose a config, and a plan may have hundreds of variants. Most options only say
what is below their own name (`attention`), and then the config of a combination is that of another one with a few nodes
exchanged. Whether that is so is not assumed: each value is composed once by itself in place of the base's, and only
where nothing else of the config differs is its node used in combinations. Everything else is composed in full.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ablab.config.explain import ConfigErrors

Overrides = tuple[str, ...]
Compose = Callable[[list[str]], DictConfig]

_PLAIN_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*$")  # of an override that neither adds nor deletes, nor names a package
_OF_THE_WHOLE = ("${hydra:job.override", "${hydra:overrides")  # what a config can say of all overrides together


@dataclass(frozen=True)
class _Base:
    overrides: Overrides
    config: DictConfig
    plain: dict[str, Any]


class Recombiner:
    """Composes by exchanging nodes where that gives what Hydra would.

    Args:
        compose: composes in full.
    """

    def __init__(self, compose: Compose) -> None:
        self._compose = compose
        self._bases: dict[tuple[str, ...], _Base] = {}  # by the keys of the overrides
        self._nodes: dict[tuple[Any, ...], DictConfig | None] = {}

    def __call__(self, overrides: Overrides) -> DictConfig:
        """The config of these overrides, for the caller to keep.

        Raises:
            What composing in full raises.
        """
        keys = tuple(map(_key, overrides))
        base = self._bases.get(keys)
        if base is None:
            config = self._compose(list(overrides))
            self._bases[keys] = _Base(overrides, config, _plain(config))
            return copy.deepcopy(config)
        exchanged: dict[str, dict[int, str]] = {}  # by node: attention and attention.window are one
        for place, override in enumerate(overrides):
            if override != base.overrides[place]:
                exchanged.setdefault(_top(override), {})[place] = override
        nodes = {top: self._node(base, top, own) for top, own in exchanged.items()}
        if any(node is None for node in nodes.values()):
            return self._compose(list(overrides))
        config = copy.deepcopy(base.config)
        with read_write(config), open_dict(config), read_write(config.hydra), open_dict(config.hydra):
            for top, node in nodes.items():
                assert node is not None
                config[top] = copy.deepcopy(node[top])
                config.hydra.runtime.choices[top] = node.hydra.runtime.choices.get(top)
        return config

    def _node(self, base: _Base, top: str, exchanged: dict[int, str]) -> DictConfig | None:
        """The config of the base with some overrides exchanged, where nothing but the node `top` differs; else None."""
        key = (base.overrides, *exchanged.items())
        if key not in self._nodes:
            self._nodes[key] = self._alone(base, top, exchanged)
        return self._nodes[key]

    def _alone(self, base: _Base, top: str, exchanged: dict[int, str]) -> DictConfig | None:
        usual = all(_PLAIN_KEY.match(_key(override)) for override in exchanged.values()) and top != "hydra"
        if not usual or _speaks_of_the_whole(base.plain):
            return None
        try:
            config = self._compose([exchanged.get(place, override) for place, override in enumerate(base.overrides)])
        except (*ConfigErrors, ValueError):  # no value for the base, whose attention may have no window
            return None
        plain = _plain(config)
        differs = {part for part in {*plain, *base.plain} if plain.get(part) != base.plain.get(part)}
        return config if differs <= {top} else None


def _plain(config: DictConfig) -> dict[str, Any]:
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
