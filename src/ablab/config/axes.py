"""The table of axes: what can be swapped, and all that the rest of the program knows of each.

Adding an axis takes a folder of options in conf/ and its default in conf/config.yaml, the code of the options, an entry
here, and the place where the model uses it. What is named here is loaded where it is needed; nothing is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

# Who calls an option's factory: the run itself, the model, or the model of a task with several modalities.
Caller = Literal["run", "model", "multimodal"]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis.

    Attributes:
        name: of the config group, the folder of options in conf/, the column of tables.
        caller: who builds the option. Those of a model are factories, called with a `LayerSpec` and what is supplied.
        kinds: dotted names of the classes one of which an option must be, or make. A folder's config may name those.
        supplied: what the program gives to an option's constructor, and the config does not.
        several: the config holds several options, by name.
        optional: the config may hold none.
        refused: dotted name of the settings that are not the config's to give, each with the reason and what to use.
        beside: keys of an option that its constructor does not take.
        read_as: dotted name of the dataclass as which the program reads some of an option's keys.
        governs: what an option governs, as "attention=lsh never changed ..." goes on; "" where no verdict can tell.
        mechanism: dotted name of `(model, pictured) -> Iterator[Watcher]`, which take its mechanism metrics.
        probe_outputs: dotted name of `(model) -> {place: numbers}`, equal for options of equal function.
        curve: the curve of metrics.csv that shows what an option does.
        pattern: dotted name of the factory of the option that lists others by their names, one for each layer.
        moved: keys that the axis took the place of, each with what is written now.
    """

    name: str
    caller: Caller = "run"
    kinds: tuple[str, ...] = ()
    supplied: tuple[str, ...] = ()
    several: bool = False
    optional: bool = False
    refused: str | None = None
    beside: tuple[str, ...] = ()
    read_as: str | None = None
    governs: str = ""
    mechanism: str | None = None
    probe_outputs: str | None = None
    curve: str | None = None
    pattern: str | None = None
    moved: Mapping[str, str] = field(default_factory=dict)


_COMPONENTS = (
    Axis(
        name="norm",
        caller="model",
        kinds=("ablab.model.norm.Norm",),
        supplied=("spec",),
        governs="what the norms make of the stream",
        mechanism="ablab.model.norm.watch",
        probe_outputs="ablab.model.norm.probe_outputs",
        moved={
            "model.norm": "norm=layer or norm=rms",
            "model.norm_position": "norm.placement=pre or norm.placement=post",
            "model.norm_first": "norm.placement=pre or norm.placement=post",
        },
    ),
    Axis(
        name="attention",
        caller="model",
        kinds=("ablab.model.attention.base.AttentionCore", "ablab.model.attention.layer.AttentionLayer"),
        supplied=("spec",),
        governs="what a query attends to",
        mechanism="ablab.model.attention.probe.watch",
        probe_outputs="ablab.model.attention.probe.probe_outputs",
        pattern="ablab.model.pattern.attention_pattern",
    ),
    Axis(
        name="feed_forward",
        caller="model",
        kinds=("ablab.model.feed_forward.base.FeedForward",),
        supplied=("spec", "activation"),
        governs="what the feed-forward parts give",
        mechanism="ablab.model.feed_forward.probe.watch",
        probe_outputs="ablab.model.feed_forward.probe.probe_outputs",
        pattern="ablab.model.pattern.feed_forward_pattern",
    ),
    Axis(
        name="activation",
        caller="model",
        kinds=("torch.nn.Module",),
        supplied=("spec",),
        governs="what the activation gives",
        mechanism="ablab.model.activation.probe.watch",
        probe_outputs="ablab.model.activation.probe.probe_outputs",
    ),
    Axis(
        name="residual",
        caller="model",
        kinds=("ablab.model.residual.base.Residual",),
        supplied=("spec", "place"),
        governs="how layers add to the stream",
        mechanism="ablab.model.residual.probe.watch",
        probe_outputs="ablab.model.residual.probe.probe_outputs",
    ),
    Axis(
        name="position",
        caller="model",
        kinds=("ablab.model.position.Position",),
        supplied=("spec",),
        governs="what the position adds",
        mechanism="ablab.model.position.watch",
        probe_outputs="ablab.model.position.probe_outputs",
    ),
    Axis(
        name="layer_fusion",
        caller="model",
        kinds=("ablab.model.layer_fusion.base.LayerFusion",),
        supplied=("spec",),
        governs="what the head sees of the layers",
        mechanism="ablab.model.layer_fusion.probe.watch",
        probe_outputs="ablab.model.layer_fusion.probe.probe_outputs",
    ),
    Axis(
        name="objective",
        caller="model",
        kinds=("ablab.model.objective.base.Objective",),
        supplied=("spec", "block", "norm"),
        governs="what training minimises",
        mechanism="ablab.model.objective.probe.watch",
        probe_outputs="ablab.model.objective.probe.probe_outputs",
    ),
    Axis(
        name="modal_fusion",
        caller="multimodal",
        kinds=("ablab.model.modal_fusion.base.ModalFusion",),
        supplied=("spec", "layout"),
        governs="which modalities see each other",
        mechanism="ablab.model.modal_fusion.probe.watch",
        probe_outputs="ablab.model.modal_fusion.probe.probe_outputs",
    ),
)

_ENTRIES = (
    Axis(name="task", kinds=("ablab.tasks.base.Task",), supplied=("seed",)),
    Axis(
        name="model",
        kinds=("ablab.model.transformer.Transformer",),
        supplied=(
            *("vocab_size", "max_length", "trained_length", "seed", "causal", "padding", "pooled", "n_outputs"),
            "encoders",
            *(axis.name for axis in _COMPONENTS),
        ),
    ),
    *_COMPONENTS,
    Axis(
        name="parametrisation",
        kinds=("ablab.model.parametrisation.Parametrisation",),
        governs="how initial values and learning rates follow the width",
        mechanism="ablab.model.parametrisation.watch",
        probe_outputs="ablab.model.parametrisation.probe_outputs",
    ),
    Axis(name="optimizer", kinds=("torch.optim.Optimizer",), supplied=("params",)),
    Axis(
        name="schedule",
        kinds=("torch.optim.lr_scheduler.LRScheduler",),
        supplied=("optimizer",),
        governs="the learning rate",
        curve="learning_rate",
    ),
    Axis(name="strategy", kinds=("ablab.training.strategies.base.Parallel",)),
    Axis(
        name="trainer",
        kinds=("lightning.Trainer",),
        refused="ablab.training.trainer.OWNED",
        beside=("compile",),
        read_as="ablab.config.run_config.TrainerConfig",
    ),
    Axis(name="logger", kinds=("lightning.pytorch.loggers.Logger",), several=True, supplied=("run",)),
    Axis(name="callbacks", kinds=("lightning.Callback",), several=True, optional=True, beside=("observer",)),
)

AXES: dict[str, Axis] = {axis.name: axis for axis in _ENTRIES}


def called_by(*callers: Caller) -> list[Axis]:
    """The axes whose options one of `callers` builds, in the table's order."""
    return [axis for axis in AXES.values() if axis.caller in callers]


def replacement(key: str) -> str | None:
    """What to write instead of a key that an axis took the place of; None for any other key."""
    return next((axis.moved[key] for axis in AXES.values() if key in axis.moved), None)


def load(dotted: str) -> Any:
    """The object of that dotted name."""
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name)
