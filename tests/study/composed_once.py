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
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

_choose = defaults_list.create_defaults_list
_refer = defaults_list._create_interpolation_map
_compose = ConfigLoaderImpl._compose_config_from_defaults_list
_parse = OverridesParser.parse_rule
_load_stored = ConfigStore.load

_chosen: dict[Any, bytes] = {}  # by files and choices; pickled, as garbage is not looked for in bytes
_numbers: dict[Any, int] = {}  # of files
_last: tuple[list[Any], int] = ([], 0)  # the list of defaults that was made last, and of which files
_composed: dict[Any, bytes] = {}  # by a list of defaults and its files
_met: set[Any] = set()  # beginnings of lists of defaults
_on_the_way: dict[Any, bytes] = {}  # what is merged of a beginning with which lists parted
_parsed: dict[tuple[str, str], Any] = {}
_loaded: dict[Any, bytes] = {}
_stored: dict[int, tuple[Any, bytes]] = {}  # by the node's identity, with the node
_NOTHING = DictConfig({})


@contextlib.contextmanager
def composed_once() -> Iterator[None]:
    """Within it, the files of a config are read and merged for the first of those that choose the same options."""
    with (
        mock.patch.object(config_loader_impl, "create_defaults_list", create_defaults_list),
        mock.patch.object(defaults_list, "_create_interpolation_map", create_interpolation_map),
        mock.patch.object(ConfigLoaderImpl, "_compose_config_from_defaults_list", compose),
        mock.patch.object(OverridesParser, "parse_rule", parse_rule),
        mock.patch.object(_of("file")[0], "load_config", load_config),
        mock.patch.object(_of("pkg")[0], "load_config", load_packaged),
        mock.patch.object(ConfigStore, "load", load_stored),
        mock.patch.object(ConfigStore, "__deepcopy__", itself, create=True),
    ):
        yield


def create_defaults_list(
    repo: Any, config_name: str | None, overrides_list: list[Any], prepend_hydra: bool, skip_missing: bool
) -> DefaultsList:
    global _last
    values = Overrides(repo=repo, overrides_list=overrides_list).config_overrides
    choices = [each for each in overrides_list if not any(each is value for value in values)]
    words = tuple(each.input_line for each in choices if not each.is_sweep_override())
    key = (_files(repo.get_sources()), config_name, words, prepend_hydra, skip_missing)
    if key not in _chosen:
        _chosen[key] = pickle.dumps(_choose(repo, config_name, overrides_list, prepend_hydra, skip_missing))
    found: DefaultsList = replace(pickle.loads(_chosen[key]), config_overrides=values)
    _last = found.defaults, _numbers.setdefault(key[0], len(_numbers))
    return found


def create_interpolation_map(overrides: Overrides, defaults: list[Any], self_added: bool) -> DictConfig:
    """What the defaults of a file can refer to. Few do, and Hydra makes a config of all choices for every file."""
    return _refer(overrides, defaults, self_added) if any(each.is_interpolation() for each in defaults) else _NOTHING


def compose(self: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> DictConfig:
    made, files = _last
    if defaults is not made:
        return _compose(self, defaults, repo)
    ways: list[Any] = [(files,)]
    for each in defaults:
        ways.append((ways[-1], each.config_path, each.package, each.primary))
    if ways[-1] not in _composed:
        try:
            found = _merged(self, defaults, repo, ways)
        except OmegaConfBaseException:
            found = _compose(self, defaults, repo)  # which says where it was raised
        _composed[ways[-1]] = pickle.dumps(found)
    config: DictConfig = pickle.loads(_composed[ways[-1]])
    return config


def _merged(self: ConfigLoaderImpl, defaults: list[ResultDefault], repo: Any, ways: list[Any]) -> DictConfig:
    """What Hydra merges, in its order: on from where an earlier list went another way."""
    parting = max((at for at, way in enumerate(ways) if way in _met), default=0)
    start = max((at for at, way in enumerate(ways[: parting + 1]) if way in _on_the_way), default=0)
    _met.update(ways)
    config = pickle.loads(_on_the_way[ways[start]]) if start else OmegaConf.create()
    for first, end in ((start, parting), (parting, len(defaults))):
        with flag_override(config, "no_deepcopy_set_nodes", True):
            for default in defaults[first:end]:
                config.merge_with(self._load_single_config(default=default, repo=repo).config)
        if end == parting > start:
            _on_the_way[ways[end]] = pickle.dumps(config)
    with mock.patch.object(OmegaConf, "create", return_value=config):
        return _compose(self, [], repo)  # which tidies it up


def itself(self: ConfigStore, memo: dict[int, Any]) -> ConfigStore:
    """Hydra copies where it looks for files for each config, and with that all that is in the store, to no end."""
    return self


def parse_rule(self: OverridesParser, s: str, rule_name: str) -> Any:
    if (s, rule_name) not in _parsed:
        _parsed[s, rule_name] = _parse(self, s, rule_name)
    return copy.deepcopy(_parsed[s, rule_name])


def load_config(self: Any, config_path: str) -> Any:
    path = os.path.join(self.path, self._normalize_file_name(config_path))
    read = _of("file")[1]
    if not os.path.isfile(path):
        return read(self, config_path)
    return _loads((self.provider, self.path, *_known(path)), read, self, config_path)


def load_packaged(self: Any, config_path: str) -> Any:
    """Of Hydra's own files, which nobody changes."""
    read = _of("pkg")[1]
    if not self.path.startswith("hydra."):
        return read(self, config_path)
    return _loads((self.provider, self.path, config_path), read, self, config_path)


def load_stored(self: ConfigStore, config_path: str) -> Any:
    found = copy.copy(self._load(config_path))
    kept, pickled = _stored.get(id(found.node), (None, b""))
    if kept is not found.node:
        try:
            pickled = pickle.dumps(found.node)
        except (pickle.PicklingError, AttributeError, TypeError):  # of a class that lies where no module has it
            return _load_stored(self, config_path)
        _stored[id(found.node)] = found.node, pickled
    found.node = pickle.loads(pickled)
    return found


def _loads(key: Any, read: Callable[..., Any], *arguments: Any) -> Any:
    if key not in _loaded:
        _loaded[key] = pickle.dumps(read(*arguments))
    return pickle.loads(_loaded[key])  # a sixth of the time of `copy.deepcopy`


@functools.cache
def _of(scheme: str) -> tuple[Any, Callable[..., Any]]:
    """Return Hydra's class of files there, as it has loaded it, and how this reads one."""
    Plugins.instance()  # loads it
    found = SourcesRegistry.instance().resolve(scheme)
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
