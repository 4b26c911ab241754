"""The config of one run, typed: made once of what Hydra composed, and all that the rest of the program knows of it."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ablab.config.axes import AXES
from ablab.config.entries import filled_in
from ablab.config.nearest import nearest
from ablab.config.redact import redact
from ablab.config.schema import (
    BudgetConfig,
    ComparisonConfig,
    Config,
    ExecutionConfig,
    Node,
    TuneConfig,
    check_name,
    known_settings,
    without_former,
)
from ablab.config.seeds import SeedsConfig, whole_seed
from ablab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The arguments of Lightning's Trainer that the harness reads, too. The Trainer gets all of the axis `trainer`."""

    max_steps: int
    val_check_interval: int
    log_every_n_steps: int
    accumulate_grad_batches: int
    gradient_clip_val: float | None  # None: gradients are not clipped
    num_nodes: int = 1
    accelerator: str = "auto"
    precision: str | int | None = None

    @classmethod
    def of(cls, node: Node) -> TrainerConfig:
        """Those of the option of the axis.

        Raises:
            UserError: one of them is missing, of another type, or less than 1 where it counts something.
        """
        from ablab.config.value_types import check_type  # pydantic, which readers of records do without

        hints = get_type_hints(cls)
        given = {}
        for known in dataclasses.fields(cls):
            if known.name not in node:
                if known.default is dataclasses.MISSING:
                    raise UserError(f"trainer.{known.name} must be given: add trainer.{known.name}=... to the command")
                continue
            value = given[known.name] = node[known.name]
            check_type(f"trainer.{known.name}", value, hints[known.name])
            if hints[known.name] is int and value < 1:
                raise UserError(f"trainer.{known.name}={value}: must be at least 1")
            if known.name == "gradient_clip_val" and value is not None and not value >= 0:
                raise UserError(f"trainer.{known.name}={value}: must be at least 0, or null: not clipped")
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a run is asked for by. Options may be shared with other runs: change a copy, `with_values`."""

    options: dict[str, Node]  # by axis
    axes: dict[str, str]  # the names of the options
    design: Node = field(default_factory=dict)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    continue_from: str | None = None
    seed: int = 0
    name: str = ""
    question: str = ""
    overrides: list[str] = field(default_factory=list)  # as the run was asked for

    @cached_property
    def trainer(self) -> TrainerConfig:
        """What the harness reads of the axis `trainer`. Raises UserError where that is not what it must be."""
        return TrainerConfig.of(self.options["trainer"])

    @property
    def processes(self) -> int:
        """The processes of the run on each node."""
        processes: int = self.options["strategy"]["processes"]
        return processes

    @property
    def world_size(self) -> int:
        """The processes of the run on all nodes together."""
        return self.processes * self.trainer.num_nodes

    def chosen(self, axis: str) -> str:
        """The choice on an axis as a user writes it: "attention=full"."""
        return f"{axis}={self.axes.get(axis)}"

    def with_values(self, values: Mapping[str, Any]) -> RunConfig:
        """A copy with other values at some dotted keys, as in `{"model.d_ff": 64}`."""
        data = copy.deepcopy(self.to_dict())
        for key, value in values.items():
            *path, last = key.split(".")
            node = data
            for name in path:
                node = node[name]
            node[last] = value
        return RunConfig.from_dict(data)

    def to_dict(self) -> Node:
        """The config as plain data, in the form of a run's config.yaml."""
        return {
            **self.options,
            "budget": dataclasses.asdict(self.budget),
            "tune": dataclasses.asdict(self.tune),
            "comparison": dataclasses.asdict(self.comparison),
            "seeds": dataclasses.asdict(self.seeds),
            "design": self.design,
            **dataclasses.asdict(self.execution),
            "continue_from": self.continue_from,
            "seed": self.seed,
            "name": self.name,
            "question": self.question,
            "axes": self.axes,
            "overrides": self.overrides,
        }

    def shown(self) -> Node:
        """The same without secrets: what is written, and handed to whoever shows it."""
        shown: Node = redact(self.to_dict())
        return shown

    @classmethod
    def from_dict(cls, data: Node) -> RunConfig:
        """The config in `data`, as `to_dict` wrote it. Keys of other versions are dropped.

        Raises:
            UserError: a value that no run can have.
        """
        if "comparison" not in data:  # of an earlier version
            data = {**data, "comparison": {"baseline": data.get("baseline")}}
        own = {known.name for known in dataclasses.fields(cls)} - {"options", "axes", "execution", *_PARTS}
        return cls(
            options={axis: data[axis] for axis in AXES if axis in data},
            axes=data.get("axes") or {},
            execution=_made(ExecutionConfig, data),
            **{name: _made(part, data.get(name) or {}) for name, part in _PARTS.items()},
            **{name: data[name] for name in own if name in data},
        )


_PARTS: dict[str, Any] = {"budget": BudgetConfig, "tune": TuneConfig, "seeds": SeedsConfig}
_PARTS["comparison"] = ComparisonConfig


def _made(cls: Any, data: Node) -> Any:
    return cls(**{known.name: data[known.name] for known in dataclasses.fields(cls) if known.name in data})


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
    return RunConfig.from_dict({**data, "overrides": list(overrides)})


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
