"""Configs of the tests: most differ in which option an axis has, and that is a file put into a config by hand.

Hydra takes a seventh of a second to compose a config, and the tests ask for hundreds.
"""

from __future__ import annotations

import copy
import pickle
from functools import cache

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from ablab.config import AXES, conf_folder, register_schema

Overrides = tuple[str, ...]


def composed(overrides: list[str]) -> DictConfig:
    """Return what Hydra composes of the overrides, with its own node."""
    words = [tuple(override.split("=", 1)) for override in overrides]
    chosen = {word[0]: word[1] for word in words if len(word) == 2 and _is_a_file(*word)}
    values = {word[0]: word[1] for word in words if word[0] in ("seed", "name")}
    rest = tuple(override for override, word in zip(overrides, words, strict=True) if word[0] not in chosen | values)
    if any(word.partition("=")[0].split(".")[0].lstrip("+~") in {*chosen, "recipe", "study"} for word in rest):
        return _copy_of_what_hydra_composes(tuple(overrides))
    config = _copy_of_what_hydra_composes(rest)
    OmegaConf.update(config, "hydra.runtime.choices", chosen)
    with open_dict(config):
        for axis, option in chosen.items():
            config[axis] = copy.deepcopy(_option(axis, option))
    for key, value in values.items():
        OmegaConf.update(config, key, int(value) if value.isdigit() else value)
    return config


def _copy_of_what_hydra_composes(overrides: Overrides) -> DictConfig:
    config: DictConfig = pickle.loads(_pickled(overrides))  # a sixth of the time of `copy.deepcopy`
    return config


@cache
def _pickled(overrides: Overrides) -> bytes:
    return pickle.dumps(by_hydra(overrides))


@cache
def by_hydra(overrides: Overrides) -> DictConfig:
    """Return the config as Hydra composes it, each only once: to be copied before it is changed."""
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


@cache
def _is_a_file(axis: str, option: str) -> bool:
    """Tell whether the option of an axis is one file, which says nothing of other nodes."""
    file = conf_folder() / axis / f"{option}.yaml"
    if axis not in AXES or not file.is_file():
        return False
    return "@package" not in file.read_text(encoding="utf-8") and "defaults" not in _option(axis, option)


@cache
def _option(axis: str, option: str) -> DictConfig:
    node = OmegaConf.load(conf_folder() / axis / f"{option}.yaml")
    assert isinstance(node, DictConfig)
    return node
