"""What Hydra makes of the same files and the same choices of options, made once in the process of the tests.

Hydra takes a seventh of a second for each config, a command composes four, and the tests of commands in this process
take hundreds of commands. They differ in values that are set in what is composed, which Hydra does each time anew.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig

_choose = defaults_list.create_defaults_list
_refer = defaults_list._create_interpolation_map
_compose = ConfigLoaderImpl._compose_config_from_defaults_list
_parse = OverridesParser.parse_rule

_chosen: dict[Any, DefaultsList] = {}  # by files and choices
_composed: dict[int, bytes] = {}  # pickled, by the list of defaults, which is kept above
_parsed: dict[tuple[str, str], Any] = {}
_loaded: dict[Any, bytes] = {}
_NOTHING = DictConfig({})
_MOST = 100  # that are kept: each has a thousand nodes, which are looked at when garbage is collected


@contextlib.contextmanager
def composed_once() -> Iterator[None]:
    """Within it, the files of a config are read and merged for the first of those that choose the same options."""
    with (
        mock.patch.object(config_loader_impl, "create_defaults_list", create_defaults_list),
        mock.patch.object(defaults_list, "_create_interpolation_map", create_interpolation_map),
        mock.patch.object(ConfigLoaderImpl, "_compose_config_from_defaults_list", compose),
        mock.patch.object(OverridesParser, "parse_rule", parse_rule),
        mock.patch.object(_of_files()[0], "load_config", load_config),
    ):
        yield


def create_defaults_list(
    repo: Any, config_name: str | None, overrides_list: list[Any], prepend_hydra: bool, skip_missing: bool
) -> DefaultsList:
    values = Overrides(repo=repo, overrides_list=overrides_list).config_overrides
    choices = [each for each in overrides_list if not any(each is value for value in values)]
    words = tuple(each.input_line for each in choices if not each.is_sweep_override())
    key = (_files(repo.get_sources()), config_name, words, prepend_hydra, skip_missing)
    if key not in _chosen:
        if len(_chosen) == _MOST:
            _chosen.clear()
            _composed.clear()
        _chosen[key] = _choose(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    return replace(_chosen[key], config_overrides=values)


def create_interpolation_map(overrides: Overrides, defaults: list[Any], self_added: bool) -> DictConfig:
    """What the defaults of a file can refer to. Few do, and Hydra makes a config of all choices for every file."""
    return _refer(overrides, defaults, self_added) if any(each.is_interpolation() for each in defaults) else _NOTHING


def compose(self: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> DictConfig:
    kept = any(defaults is each.defaults for each in _chosen.values())
    if not kept:
        return _compose(self, defaults, repo)
    if id(defaults) not in _composed:
        _composed[id(defaults)] = pickle.dumps(_compose(self, defaults, repo))
    config: DictConfig = pickle.loads(_composed[id(defaults)])
    return config


def parse_rule(self: OverridesParser, s: str, rule_name: str) -> Any:
    if (s, rule_name) not in _parsed:
        _parsed[s, rule_name] = _parse(self, s, rule_name)
    return copy.deepcopy(_parsed[s, rule_name])


def load_config(self: Any, config_path: str) -> Any:
    path = os.path.join(self.path, self._normalize_file_name(config_path))
    if not os.path.isfile(path):
        return _of_files()[1](self, config_path)
    key = (self.provider, self.path, *_known(path))
    if key not in _loaded:
        _loaded[key] = pickle.dumps(_of_files()[1](self, config_path))
    return pickle.loads(_loaded[key])  # a sixth of the time of `copy.deepcopy`


@functools.cache
def _of_files() -> tuple[Any, Callable[..., Any]]:
    """Return Hydra's class of files, as it has loaded it, and how this reads one."""
    Plugins.instance()  # loads it
    found = SourcesRegistry.instance().resolve("file")
    return found, found.load_config


def _files(sources: Sequence[ConfigSource]) -> tuple[Any, ...]:
    """All that is known of files without reading them, and the names of what is no file."""
    return (*(_below(source) for source in sources), _names(ConfigStore.instance().repo))


def _below(source: ConfigSource) -> tuple[Any, ...]:
    if source.scheme() != "file":
        return source.provider, source.path
    found = []
    for folder, _, names in os.walk(source.path, followlinks=True):
        for path in (os.path.join(folder, name) for name in names if name.endswith(".yaml")):
            found.append(_known(path))
    return source.provider, source.path, *sorted(found)


def _known(path: str) -> tuple[Any, ...]:
    file = os.stat(path)
    return path, file.st_ino, file.st_mtime_ns, file.st_size


def _names(nodes: dict[str, Any]) -> tuple[Any, ...]:
    return tuple((name, _names(node) if isinstance(node, dict) else None) for name, node in sorted(nodes.items()))
