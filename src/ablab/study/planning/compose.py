"""From a run's overrides to its config and its folder.

Hydra takes a seventh of a second to compose a config, and a plan may have hundreds of variants. Most options only say
what is below their own name (`attention`), and then the config of a combination is that of another one with a few nodes
exchanged. Whether that is so is not assumed: each value is composed once by itself in place of the base's, and only
where nothing else of the config differs is its node used in combinations. Everything else is composed in full.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict, read_write

from ablab.config import Node, RunConfig, resolve
from ablab.config.explain import ConfigErrors
from ablab.config.run_config import to_plain
from ablab.study.planning.expand import Run

Overrides = tuple[str, ...]
Compose = Callable[[list[str]], DictConfig]

_PLAIN_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*$")  # of an override that neither adds nor deletes, nor names a package
_OF_THE_WHOLE = ("${hydra:job.override", "${hydra:overrides")  # what a config can say of all overrides together


@dataclass(frozen=True)
class _Base:
    overrides: Overrides
    config: DictConfig
    plain: Node


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


Composed = tuple[RunConfig, Path]

_REFERENCE = re.compile(r"\$\{(\w+)(?:\.\w+)*\}")  # its first name
_SEED = "seed="


@dataclass(frozen=True)
class _Common:
    """What runs that are composed once have in common."""

    config: DictConfig
    hydra: Any  # what the resolver ${hydra:...} reads
    choices: dict[str, str | None]
    settled: Node  # the plain values that refer to nothing


class Composer:
    """Composes the runs of a multirun.

    Composing takes long. So runs that differ in their seed alone are composed once, and the seed, the number and the
    folder of each are set; everything that refers to them is resolved for each run. `Recombiner` saves more.

    Args:
        config: of the multirun as a whole, with Hydra's own node.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self.loader, self.config = loader, config
        self._parse = lru_cache(maxsize=None)(OverridesParser.create(config_loader=loader).parse_override)
        self._recombine = Recombiner(lambda overrides: loader.load_sweep_config(config, overrides))
        self._composed: dict[tuple[str, ...], _Common] = {}
        self._runs: dict[tuple[Any, ...], Composed] = {}

    def __call__(self, run: Run, number: int = 0) -> Composed:
        """The config and the folder of a run.

        Args:
            number: of the job, for a run of another sweeper than ours, which has no index.
        """
        number = number if run.context.index is None else run.context.index
        key = (number, run.folder, *run.overrides)
        if key not in self._runs:
            self._runs[key] = self._resolve(run, number)
        return self._runs[key]

    def _resolve(self, run: Run, number: int) -> Composed:
        rest = tuple(o for o in run.overrides if not o.startswith(_SEED))
        if rest not in self._composed:
            self._composed[rest] = self._compose(list(rest))
        common = self._composed[rest]
        for node in (common.config.hydra, common.hydra.hydra):
            node.job.num, node.job.id = number, str(number)
            if run.folder is not None:
                node.sweep.subdir = run.folder
        for override in run.overrides:
            if override.startswith(_SEED):
                common.config.seed = self._parse(override).value()
        HydraConfig.instance().cfg = common.hydra
        asked = [o for o in run.overrides if not o.lstrip("+~").startswith(("hydra.", "hydra/"))]
        config = resolve(common.config, common.choices, asked, common.settled)
        return config, Path(common.config.hydra.sweep.dir, common.config.hydra.sweep.subdir)

    def _compose(self, overrides: list[str]) -> _Common:
        composed = self._recombine(tuple(overrides))
        HydraConfig.instance().set_config(composed)
        hydra: Any = HydraConfig.instance().cfg
        for node in (composed.hydra, hydra.hydra):  # our own, and written to for every run
            OmegaConf.set_readonly(node, False)
            OmegaConf.set_struct(node, False)
        choices: Any = OmegaConf.to_container(composed.hydra.runtime.choices)
        plain: Any = OmegaConf.to_container(composed, resolve=False)
        del plain["hydra"]
        settled = {key: to_plain(composed[key]) for key in plain if _is_settled(key, plain)}
        return _Common(composed, hydra, choices, settled)


def _is_settled(key: str, plain: Node) -> bool:
    """Whether a value at the top is the same for all runs that are composed once, and nothing in it is missing.

    It is if what it refers to, and what that refers to, is neither their seed nor beyond the config.
    """
    met, left = set(), {key}
    while left:
        name = left.pop()
        if name == "seed" or name not in plain:
            return False
        met.add(name)
        for text in _texts(plain[name]):
            named = _REFERENCE.findall(text)
            if text == MISSING or len(named) < text.count("${"):  # a resolver, or a place relative to its own
                return False
            left |= set(named) - met
    return True


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value
