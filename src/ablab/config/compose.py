"""Configs that are composed within Python, beside whatever else the process uses Hydra for."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from ablab.config.composed import resolve
from ablab.config.explain import ConfigErrors, explain
from ablab.config.run_config import RunConfig
from ablab.config.schema import conf_folder, register_schema
from ablab.errors import UserError

_one_at_a_time = threading.RLock()
_SEARCH = "hydra.searchpath="


def composed(overrides: Sequence[str], folders: Sequence[Path] = ()) -> DictConfig:
    """What Hydra composes of overrides, with its own node.

    Args:
        folders: where options of the user's own lie, as --config-dir has it.

    Raises:
        UserError: it cannot be composed.
    """
    register_schema()
    try:
        with _hydra_as_before(), initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return compose("config", _with_folders(overrides, folders), return_hydra_config=True)
    except ConfigErrors as error:
        raise UserError(explain(error)) from error


def composed_sweep(overrides: Sequence[str], folders: Sequence[Path] = ()) -> DictConfig:
    """What Hydra composes of the overrides of a multirun, swept or not, for the multirun as a whole.

    Arguments and errors are those of `composed`.
    """
    register_schema()
    try:
        with _hydra_as_before(), initialize_config_dir(str(conf_folder()), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            return loader.load_configuration("config", _with_folders(overrides, folders), RunMode.MULTIRUN)
    except ConfigErrors as error:
        raise UserError(explain(error)) from error


def _with_folders(overrides: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The overrides with a search path that has the folders, too."""
    if not folders:
        return [*overrides]
    rest = [override for override in overrides if not override.startswith(_SEARCH)]
    given = [override.removeprefix(_SEARCH).strip("[]") for override in overrides if override.startswith(_SEARCH)]
    path = ",".join([*(f"file://{folder.resolve()}" for folder in folders), *filter(None, given[-1:])])
    return [*rest, f"{_SEARCH}[{path}]"]


def resolved(config: DictConfig, overrides: Sequence[str], seed: int | None = None) -> RunConfig:
    """The run of what was `composed`, which stays as it is.

    Args:
        overrides: how it was asked for.
        seed: in place of its own.

    Raises:
        UserError: it holds what no run can have.
    """
    choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)
    plain = copy.deepcopy(config)
    with open_dict(plain):
        del plain["hydra"]
        if seed is not None:
            plain.seed = seed
    try:
        with _hydra_as_before():
            HydraConfig.instance().set_config(config)
            return resolve(plain, choices, list(overrides), sources=list(config.hydra.runtime.config_sources))
    except ConfigErrors as error:
        raise UserError(explain(error)) from error


@contextmanager
def _hydra_as_before() -> Iterator[None]:
    """Within it Hydra may be used, whoever uses it around it, and by one thread at a time: what it knows is global."""
    with _one_at_a_time:
        before, settings = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
        GlobalHydra.instance().clear()
        try:
            yield
        finally:
            GlobalHydra.instance().hydra = before
            HydraConfig.instance().cfg = settings


def make_importable(folders: Iterable[Path]) -> None:
    """Let components of the user's be found in these folders, behind all that is installed."""
    sys.path += [each for each in dict.fromkeys(map(str, folders)) if each not in sys.path]


@contextmanager
def importable(folders: Iterable[Path]) -> Iterator[None]:
    """Within it, `make_importable` of these folders holds."""
    with _one_at_a_time:
        before = [*sys.path]
        make_importable(folders)
        try:
            yield
        finally:
            sys.path[:] = before
