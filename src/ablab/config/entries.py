"""Options of the user's own that another option names, as a pattern does for its layers.

What a pattern has of ablab's own options it reads from conf/. A folder of the user's is known to the command alone that
was given it, so what its files say is put into the config in place of the name: a run is made of its config alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ablab.config.axes import AXES
from ablab.config.schema import Node, conf_folder
from ablab.errors import UserError

_NAMED = re.compile(r"(?:\d+\*)?(\w+)")  # in an entry such as 3*mine


def filled_in(data: Node, composed: DictConfig, sources: Iterable[Mapping[str, Any]]) -> Node:
    """The options of `data` that list others by name, each with what files of the user's own say of these.

    Args:
        data: of a run's config, by axis; plain, each already resolved.
        composed: the same as Hydra has composed it, to which interpolations in the files refer.
        sources: Hydra's `runtime.config_sources`.

    Raises:
        UserError: a file cannot be what it is.
    """
    folders = [Path(source["path"]) for source in sources if source["schema"] == "file"]
    own = [folder for folder in folders if folder.resolve() != conf_folder().resolve()]
    nodes = {axis.name: data.get(axis.name) for axis in AXES.values() if axis.pattern}
    return {
        name: _filled_in(name, node, composed, own)
        for name, node in nodes.items()
        if own and isinstance(node, dict) and node.get("_target_") == AXES[name].pattern
    }


def _filled_in(axis: str, node: Node, composed: DictConfig, folders: Sequence[Path]) -> Node:
    lists = {key: value for key, value in node.items() if isinstance(value, list)}
    made = {key: [_entry(axis, each, composed, folders) for each in value] for key, value in lists.items()}
    # Nodes in the lists are for the pattern to build, which knows their layers.
    return node if made == lists else {**node, **made, "_recursive_": False}


def _entry(axis: str, entry: Any, composed: DictConfig, folders: Sequence[Path]) -> Any:
    """An entry of a list: as it is, or with all the settings of the user's option that it names."""
    single = isinstance(entry, dict) and len(entry) == 1
    name, settings = next(iter(entry.items())) if single else (entry, {})
    matched = _NAMED.fullmatch(name) if isinstance(name, str) else None
    if matched is None or not isinstance(settings, dict):
        return entry  # for the pattern to refuse
    if not any((folder / axis / f"{matched[1]}.yaml").is_file() for folder in folders):
        return entry
    read = _read(axis, matched[1], [*folders, conf_folder()])
    whole: Any = OmegaConf.to_container(composed, resolve=False)
    whole = {key: value for key, value in whole.items() if key != "hydra"}
    resolved: Any = OmegaConf.to_container(OmegaConf.create(whole | {axis: read})[axis], resolve=True)
    if "_target_" not in resolved:
        raise UserError(f"{axis}/{matched[1]}.yaml: has no _target_, the class or function that builds it")
    return {name: {**resolved, **settings}}


def _read(axis: str, name: str, folders: Sequence[Path]) -> Any:
    """What the file of an option says, above what the options say that it builds on."""
    path = next((path for folder in folders if (path := folder / axis / f"{name}.yaml").is_file()), None)
    if path is None:
        raise UserError(f"{axis}/{name}.yaml: is not there, and an option in a pattern builds on it")
    node = OmegaConf.load(path)
    if not isinstance(node, DictConfig):
        raise UserError(f"{path}: is no option: it must hold settings, each as KEY: VALUE")
    bases = node.pop("defaults", None) or []
    if not isinstance(bases, ListConfig | list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: in a pattern, its defaults may name options of its own axis alone")
    before = ["_self_"] if "_self_" not in bases else []
    layers = [node if base == "_self_" else _read(axis, base, folders) for base in [*bases, *before]]
    return OmegaConf.merge(*layers)
