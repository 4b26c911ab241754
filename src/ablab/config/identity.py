"""From a composed config to plain data, and from plain data to a run's identity."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ablab.config.axes import AXES
from ablab.config.nearest import nearest
from ablab.config.schema import CARRIED_OUT, ComparisonConfig, Config
from ablab.errors import UserError
from ablab.version import __version__

# Keys that do not change what a run computes: names of things, and where its results go.
IDENTITY_EXCLUDES = frozenset(
    {
        "name",
        "question",
        "comparison",
        *("baseline", "variant", "index"),  # of earlier versions
        "overrides",
        "design",
        *CARRIED_OUT,
        "budget",  # what these two bring about is where it was brought about
        "tune",
        "logger",
        "axes.logger",
        *("trainer.profiler", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
        "axes.callbacks",  # what they are stands in `callbacks`
    }
)

# The key by which a callback's node says that it changes nothing that is computed.
OBSERVER = "observer"


def freeze(
    config: DictConfig,
    choices: Mapping[str, str | None],
    overrides: list[str],
    settled: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The config as plain data, interpolations resolved, without Hydra's own node.

    Two keys are added: `axes`, the option chosen on each axis, and `overrides`, how the run was asked for.

    Args:
        settled: values at the top that are known already, as plain data.

    Raises:
        UserError: a key at the top is unknown, a value that must be given is missing, an interpolation cannot be
            resolved, or the name is empty.
    """
    known = [field.name for field in dataclasses.fields(Config)]
    keys = [str(key) for key in config if key != "hydra"]
    for key in keys:
        if key not in known:  # Hydra's +key=value adds whatever it is given
            raise UserError(f"{key}: no such setting{nearest(key, known)}")
    try:
        known_values = settled or {}
        data = {key: known_values[key] if key in known_values else to_plain(config[key]) for key in keys}
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} must be given: add {error.full_key}=... to the command") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    if data.get("name") == "":  # the runs would lie in outputs/ itself, among the folders of other studies
        raise UserError("name: must not be empty; leave it out to name the study by the time of day")
    for axis in AXES:
        if not isinstance(choices.get(axis), str | None):
            raise UserError(f"{axis}={choices.get(axis)}: must be the name of one option; add -m to sweep over several")
    data["axes"] = {axis: choices[axis] for axis in AXES if choices.get(axis)}
    if "callbacks" in data and "callbacks" not in data["axes"]:  # several at once, of which Hydra keeps no choice
        data["axes"]["callbacks"] = "+".join(data["callbacks"]) or "none"
    data["overrides"] = list(overrides)
    return data


def comparison_of(config: DictConfig) -> ComparisonConfig:
    """What a composed config declares of the comparison of its runs."""
    return ComparisonConfig(**to_plain(config.comparison))


def to_plain(value: Any) -> Any:
    """A value as plain data. Interpolations are resolved in the place that the value has in its config."""
    if not OmegaConf.is_config(value):
        return value
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)


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
        if f"{prefix}{key}" not in IDENTITY_EXCLUDES and not _only_observes(prefix, value)
    }


def _only_observes(prefix: str, node: Any) -> bool:
    return prefix == "callbacks." and isinstance(node, dict) and node.get(OBSERVER) is True
