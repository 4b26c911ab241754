"""Configs as text: what OmegaConf would write and read, by the C library that PyYAML comes with.

A config has hundreds of keys, of which OmegaConf makes nodes one by one; a study that is resumed reads one for each
run. Here nothing is interpolated and nothing is made: text becomes dicts, lists and plain values, and the reverse.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

# Numbers that OmegaConf reads beyond those of YAML 1.1, by which PyYAML goes: 1e5, and 1.5e5 without a sign.
_FLOAT = re.compile(r"([-+]?\d+(_\d+)*(\.[\d_]*)?[eE][-+]?|\.\d+(_\d+)*[eE][-+])\d+$")
_FLOAT_TAG, _TIME_TAG = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"
_DEEPEST = 200  # levels
_PLAIN = (str, int, float, bool, bytes, type(None))

# Where PyYAML was built without the library, the same in Python.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class ConfigLoader(_SafeLoader):  # type: ignore[misc]  # which of two it is, is known when it runs
    """Reads numbers as OmegaConf does, dates as text, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        met = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in met:
                raise yaml.constructor.ConstructorError(None, None, f"there are two keys {key.value}", key.start_mark)
            met.add((key.tag, key.value))
        made: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return made


class ConfigDumper(_SafeDumper):  # type: ignore[misc]
    """Puts quotes around text that a reader would take for a number, and writes twice what is there twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _reads in (ConfigLoader, ConfigDumper):
    _reads.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+.0123456789"))
ConfigLoader.yaml_implicit_resolvers = {
    first: [each for each in known if each[0] != _TIME_TAG]
    for first, known in ConfigLoader.yaml_implicit_resolvers.items()
}


def to_yaml(data: Any) -> str:
    """Text for a config, in the order of its keys."""
    return str(yaml.dump(data, Dumper=ConfigDumper, default_flow_style=False, allow_unicode=True, sort_keys=False))


def from_yaml(text: str) -> Any:
    """What a text says.

    Raises:
        yaml.YAMLError: it is no YAML, has a key twice or something that no config has, as a set or an alias.
    """
    _check_events(text)
    data = yaml.load(text, Loader=ConfigLoader)
    _check_plain(data)
    return data


def _check_events(text: str) -> None:
    """Before anything is made of it: each level takes room on the stack, and a few lines of aliases unfold to more than
    fits into any memory."""
    depth = 0
    for event in yaml.parse(text, Loader=ConfigLoader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise yaml.YAMLError("it is nested deeper than any")


def _check_plain(data: Any) -> None:
    if isinstance(data, dict):
        for key, value in data.items():
            _check_plain(key)
            _check_plain(value)
    elif isinstance(data, list):
        for each in data:
            _check_plain(each)
    elif not isinstance(data, _PLAIN):
        raise yaml.YAMLError(f"a {type(data).__name__} is in it")
