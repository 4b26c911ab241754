"""From what Hydra composed to the config of a run: resolved once, checked, and typed."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ablab.config.axes import AXES
from ablab.config.entries import filled_in
from ablab.config.nearest import nearest
from ablab.config.run_config import RunConfig
from ablab.config.schema import ComparisonConfig, Config, Node, check_name, known_settings, without_former
from ablab.config.seeds import whole_seed
from ablab.errors import UserError


def resolve(
    config: DictConfig,
    choices: Mapping[str, str | None],
    overrides: list[str],
    settled: Mapping[str, Any] | None = None,
    sources: Iterable[Any] = (),
) -> RunConfig:
    """The config that Hydra composed as that of one run, interpolations resolved, without Hydra's own node.

    Args:
        choices: the option on each axis.
        overrides: how the run was asked for.
        settled: values at the top that are known already, as plain data.
        sources: Hydra's `runtime.config_sources`, where options of the user's own may lie.

    Raises:
        UserError: a key at the top is unknown, a value that must be given is missing, an interpolation cannot be
            resolved, or a value cannot be what it is.
    """
    known = [known.name for known in dataclasses.fields(Config)]
    keys = [str(key) for key in config if key != "hydra"]
    for key in keys:
        if key not in known:  # Hydra's +key=value adds whatever it is given
            everywhere = [*known, *known_settings()]
            raise UserError(f"{key}: no such setting{nearest(key, everywhere, known, see='ablab --cfg job')}")
    try:
        values = settled or {}
        data = {key: values[key] if key in values else to_plain(config[key]) for key in keys}
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} must be given: add {error.full_key}=... to the command") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {_reason(error)}") from error
    check_name(data.get("name"))
    data |= {"seed": whole_seed(data["seed"])} if "seed" in data else {}
    _check_numbers(data)
    for axis in AXES:
        several = not AXES[axis].several and any(override.startswith(f"{axis}=[") for override in overrides)
        if several or not isinstance(choices.get(axis), str | None):
            raise UserError(
                f"{axis}={choices.get(axis) or '[...]'}: must be the name of one option; -m sweeps over several, "
                f"written {axis}=A,B without brackets"
            )
    from ablab.config.signature import with_floats  # pydantic, which readers of records do without

    if choices.get("recipe"):
        data |= {axis: without_former(axis, data[axis], choices, overrides) for axis in AXES if axis in data}
    data |= filled_in(data, config, sources)
    data |= {axis: with_floats(AXES[axis], data[axis]) for axis in AXES if isinstance(data.get(axis), dict)}
    data["axes"] = {axis: choices[axis] for axis in AXES if choices.get(axis)}
    if "callbacks" in data and "callbacks" not in data["axes"]:  # several at once, of which Hydra keeps no choice
        data["axes"]["callbacks"] = "+".join(data["callbacks"]) or "none"
    return RunConfig.from_dict({**data, **_in_one_spelling(data), "overrides": list(overrides)})


def _in_one_spelling(data: Node) -> Node:
    """What may be written in several ways that are one run, in the way by which the run is known."""
    found: Node = {}
    precision = (data.get("trainer") or {}).get("precision")
    if isinstance(precision, str | int) and str(precision) in _PRECISIONS:
        found["trainer"] = {**data["trainer"], "precision": _PRECISIONS[str(precision)]}
    trunk = data.get("continue_from")
    if isinstance(trunk, str) and trunk and ".." not in trunk.split(os.sep):  # which a link may lead elsewhere
        found["continue_from"] = os.path.normpath(trunk)
    return found


_PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}  # as Lightning reads them


def _check_numbers(data: Node) -> None:
    """Raises UserError for a number at the top that is none; those of options are checked with their signatures."""
    for key, value in data.items():
        if key not in AXES and _has_numbers(value):
            from ablab.config.value_types import check_finite  # pydantic, which readers of records do without

            check_finite(key, value)


def _has_numbers(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_has_numbers, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float)


def _reason(error: OmegaConfBaseException) -> str:
    """Why a value cannot be resolved: what the resolver itself says, as of a variable of the environment."""
    return re.sub(r"^\w+ raised while resolving interpolation: ", "", str(error).splitlines()[0]).strip('"')


def comparison_of(config: DictConfig) -> ComparisonConfig:
    """What a composed config declares of the comparison of its runs."""
    return ComparisonConfig(**to_plain(config.comparison))


def to_plain(value: Any) -> Any:
    """A value as plain data. Interpolations are resolved in the place that the value has in its config."""
    if not OmegaConf.is_config(value):
        return value
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
