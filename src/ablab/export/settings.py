"""What a run's model is made of: each layer's options with all of their settings, to be held beside a recipe's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from ablab.config import AXES, Node, RunConfig, conf_folder, register_schema, resolve
from ablab.config.axes import called_by
from ablab.model.pattern import nodes_of_layers

_TARGET = "_target_"

Option = tuple[str, Node]  # its name, and its config


class Inexpressible(ValueError):  # noqa: N818 (nothing is wrong with the run)
    """A setting of a run that a counterpart has not."""

    def __init__(self, key: str, value: object, has: object) -> None:
        super().__init__(f"{key}={_written(value)}: there it is {_written(has)}")


@dataclass(frozen=True)
class ModelSettings:
    """The model of a run: what each layer has, by axis, and the sizes as the only layer of "model"."""

    layers: Mapping[str, list[Option]]

    @classmethod
    def of(cls, config: RunConfig) -> ModelSettings:
        model = dict(config.options["model"])
        if model.get("n_kv_heads") == model["n_heads"]:
            model["n_kv_heads"] = None  # the same
        layers = {axis.name: _options(config, axis.name, model["n_layers"]) for axis in called_by("model")}
        return cls({"model": [(config.axes["model"], model)], **layers})

    def one(self, key: str) -> Any:
        """The value at "axis.setting" of all layers that have it; None where none has.

        Raises:
            Inexpressible: it differs between them.
        """
        axis, _, setting = key.partition(".")
        values = [node[setting] for _, node in self.layers[axis] if setting in node]
        for value in values:
            if value != values[0]:
                raise Inexpressible(key, value, f"the {_written(values[0])} of other layers in all of them")
        return values[0] if values else None

    def differences(self, model: ModelSettings, free: frozenset[str]) -> list[Inexpressible]:
        """What this one has and `model` has not, whose options may stand in any order of layers.

        Args:
            free: keys such as "position.base" whose values may be any.
        """
        found = [each for axis in self.layers for each in self._differences(axis, model, free)]
        return list({str(each): each for each in found}.values())

    def _differences(self, axis: str, model: ModelSettings, free: frozenset[str]) -> Iterator[Inexpressible]:
        known = {node.get(_TARGET): node for _, node in model.layers[axis]}
        for name, node in self.layers[axis]:
            if node.get(_TARGET) in known:
                yield from _in_node(axis, node, known[node.get(_TARGET)], free)
            elif axis in free:  # of another class, which may have settings that are not free
                yield from _in_node(axis, node, model.layers[axis][0][1], free)
            else:
                yield Inexpressible(axis, name, " and ".join(dict.fromkeys(name for name, _ in model.layers[axis])))


def _options(config: RunConfig, axis: str, n_layers: int) -> list[Option]:
    node = config.options[axis]
    if AXES[axis].pattern is not None and node.get(_TARGET) == AXES[axis].pattern:
        return nodes_of_layers(axis, node, n_layers)
    return [(config.axes[axis], node)] * n_layers


def _in_node(axis: str, node: Node, known: Node, free: frozenset[str]) -> Iterator[Inexpressible]:
    for setting, value in node.items():
        key = f"{axis}.{setting}"
        if not setting.startswith("_") and key not in free and value != known.get(setting):
            yield Inexpressible(key, value, known.get(setting))


def _written(value: object) -> object:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else value


@cache
def of_recipe(name: str) -> ModelSettings:
    """The model of a recipe."""
    register_schema()
    overrides = [f"recipe={name}", "name=export"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        composed = compose("config", overrides, return_hydra_config=True)
    choices: Any = OmegaConf.to_container(composed.hydra.runtime.choices)
    with open_dict(composed):
        del composed["hydra"]
    return ModelSettings.of(resolve(composed, choices, overrides))
