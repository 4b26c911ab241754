"""From a composed config to plain data, and from plain data to a run's identity."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ablab import __version__
from ablab.config.nearest import nearest
from ablab.config.schema import AXES, Config
from ablab.errors import UserError

# Keys that do not change what a run computes: names of things, and where its results go.
IDENTITY_EXCLUDES = frozenset(
    {
        "name",
        "question",
        "baseline",
        "variant",
        "index",
        "overrides",
        "budget",  # what it changed is where it was changed
        "logger",
        "axes.logger",
    }
)


def freeze(config: DictConfig, choices: dict[str, str | None], overrides: list[str]) -> dict[str, Any]:
    """The config as plain data, interpolations resolved.

    Two keys are added: `axes`, the option chosen on each axis, and `overrides`, how the run was asked for.

    Raises:
        UserError: a key at the top is unknown, a value that must be given is missing, an interpolation cannot be
            resolved, or the name is empty.
    """
    known = [field.name for field in dataclasses.fields(Config)]
    for key in map(str, config):
        if key not in known:  # Hydra's +key=value adds whatever it is given
            raise UserError(f"{key}: no such setting{nearest(key, known)}")
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} must be given: add {error.full_key}=... to the command") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    data = {str(key): value for key, value in plain.items()}
    if data.get("name") == "":  # the runs would lie in outputs/ itself, among the folders of other studies
        raise UserError("name: must not be empty; leave it out to name the study by the time of day")
    for axis in AXES:
        if not isinstance(choices.get(axis), str | None):
            raise UserError(f"{axis}={choices.get(axis)}: must be the name of one option; add -m to sweep over several")
    data["axes"] = {axis: choices[axis] for axis in AXES if choices.get(axis)}
    data["overrides"] = [o for o in overrides if not o.startswith(("variant=", "index="))]
    return data


def fingerprint(config: dict[str, Any]) -> str:
    """The identity of the run that a frozen config describes: equal for equal computations, 16 hexadecimal digits.

    A hash of the config without `IDENTITY_EXCLUDES`, and of the package's version.
    """
    canonical = json.dumps([__version__, _identity(config, "")], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _identity(node: Any, prefix: str) -> Any:
    if not isinstance(node, dict):
        return node
    return {
        key: _identity(value, f"{prefix}{key}.")
        for key, value in node.items()
        if f"{prefix}{key}" not in IDENTITY_EXCLUDES
    }
