"""The config of one run, typed: all that the rest of the program knows of it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_type_hints

from ablab.config.axes import AXES
from ablab.config.ladder import LadderConfig
from ablab.config.redact import redact
from ablab.config.schema import (
    BudgetConfig,
    ComparisonConfig,
    ExecutionConfig,
    Node,
)
from ablab.config.seeds import SeedsConfig
from ablab.config.tune import TuneConfig, TuneSchema
from ablab.errors import UserError

# Whether blocks are compiled in training, or in which of torch.compile's modes.
GRAPHS = "reduce-overhead"  # the one that has CUDA graphs
Compile = bool | Literal["max-autotune-no-cudagraphs", "reduce-overhead"]


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The arguments of Lightning's Trainer that the harness reads, too. It gets all of the axis but `compile`."""

    max_steps: int
    val_check_interval: int
    log_every_n_steps: int
    accumulate_grad_batches: int
    gradient_clip_val: float | None  # None: gradients are not clipped
    num_nodes: int = 1
    accelerator: str = "auto"
    precision: str | int | None = None
    compile: Compile = False  # the harness's own, of which Lightning is not told

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
    ladder: LadderConfig = field(default_factory=LadderConfig)
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
            "tune": self.tune.to_dict(),
            "comparison": dataclasses.asdict(self.comparison),
            "seeds": dataclasses.asdict(self.seeds),
            "ladder": dataclasses.asdict(self.ladder),
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


_PARTS: dict[str, Any] = {"budget": BudgetConfig, "tune": TuneSchema, "seeds": SeedsConfig}
_PARTS |= {"comparison": ComparisonConfig, "ladder": LadderConfig}


def _made(cls: Any, data: Node) -> Any:
    return cls(**{known.name: data[known.name] for known in dataclasses.fields(cls) if known.name in data})
