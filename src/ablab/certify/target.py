"""From what a user names, a class, an option or a YAML file, to one option of one axis in a config."""

from __future__ import annotations

import inspect
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from ablab.config import AXES, Axis, Node, RunConfig, conf_folder
from ablab.config.axes import load
from ablab.config.compose import composed, make_importable, resolved
from ablab.config.nearest import nearest
from ablab.config.schema import default_option
from ablab.config.signature import settings_of, with_floats
from ablab.config.targets import import_target
from ablab.errors import UserError, one_line

MINE = "certified"  # the name of what is no file of an axis's folder
# Small, and all the same long enough for windows and buckets of the menu to leave something out.
SIZES = (
    "model=tiny",
    "model.d_model=32",
    "model.n_heads=4",
    "model.n_layers=2",
    "name=certificate",
    "seed=0",
    "trainer.max_steps=100",
)

_OPTION = re.compile(r"(\w+)=([\w.+-]+)$")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")


@dataclass(frozen=True)
class Target:
    """An option, and a run that has it.

    Args:
        said: as the user named it.
        config: of the run; `config.options[axis.name]` is the option.
    """

    said: str
    axis: Axis
    config: RunConfig


def find(said: str, axis: str | None, overrides: Sequence[str], folders: Sequence[Path] = ()) -> Target:
    """The option that is meant.

    Args:
        said: "package.Class", "axis=option", or a path to an option's YAML file.
        axis: of a class or a file that does not tell.
        overrides: of the run, settings of the option among them ("attention.window=8").
        folders: where options of the user's own lie, as --config-dir has it.

    Raises:
        UserError: there is no such thing, its axis cannot be told, or an override does not fit.
    """
    if axis is not None and axis not in AXES:
        raise UserError(f"--axis {axis}: no such axis{nearest(axis, AXES)}")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--config-dir {folder}: no such folder")
    make_importable([Path.cwd(), *folders, *(folder.resolve().parent for folder in folders)])
    if said.endswith((".yaml", ".yml")):
        return _of_file(said, axis, overrides, folders)
    if matched := _OPTION.match(said):
        name = _known_axis(matched[1])
        if axis not in (None, name):
            raise UserError(f"--axis {axis}: {said} is an option of {name}; leave --axis out")
        return Target(said, AXES[name], _composed([said, *overrides], folders))
    if _DOTTED.match(said):
        return _of_class(said, axis, overrides, folders)
    raise UserError(f"{said}: give a class (my_module.MyAttention), an option (attention=dsa), or a YAML file of one")


def _known_axis(name: str) -> str:
    if name not in AXES:
        raise UserError(f"{name}: no such axis{nearest(name, AXES)}")
    return name


def _of_class(said: str, axis: str | None, overrides: Sequence[str], folders: Sequence[Path]) -> Target:
    made = import_target("", said)
    found = AXES[axis] if axis else _axis_of(said, made)
    partial = found.caller != "run" or found.name in ("model", "optimizer", "schedule")
    node = {"_target_": said, **({"_partial_": True} if partial else {}), **_of_the_run(made)}
    return Target(said, found, _with_node(found, node, overrides, folders))


def _of_the_run(made: Any) -> dict[str, str]:
    """The settings that options of the menu take from the run."""
    try:
        return {"total_steps": "${trainer.max_steps}"} if "total_steps" in settings_of(made) else {}
    except ValueError:  # of a function without a signature
        return {}


def _of_file(said: str, axis: str | None, overrides: Sequence[str], folders: Sequence[Path]) -> Target:
    path = Path(said).resolve()
    if not path.is_file():
        raise UserError(f"{said}: no such file")
    try:
        node = OmegaConf.load(path)
    except Exception as error:  # whatever YAML makes of somebody's file
        raise UserError(f"{said}: {one_line(error)}") from error
    if not isinstance(node, DictConfig) or not ("_target_" in node or "defaults" in node):
        raise UserError(f"{said}: has no _target_, the class or function that builds it")
    folder = path.parent
    make_importable([folder, folder.parent, folder.parent.parent])
    name = axis or (folder.name if folder.name in AXES else None)
    if name is None:
        name = _axis_of(str(node.get("_target_")), import_target("verify", node.get("_target_"))).name
    if name == folder.name:
        words = [f"{name}={path.stem}", *overrides]
        return Target(said, AXES[name], _composed(words, [folder.parent, *folders]))
    return Target(said, AXES[name], _with_node(AXES[name], OmegaConf.to_container(node), overrides, folders))


def _axis_of(said: str, made: Any) -> Axis:
    """The axis whose contract a class keeps; of any other module it is the activation's, which asks for no more."""
    kinds = [(axis, load(kind)) for axis in AXES.values() for kind in axis.kinds]
    if inspect.isclass(made):
        fit = [(axis, kind) for axis, kind in kinds if issubclass(made, kind)]
        if fit:
            return max(fit, key=lambda each: len(each[1].__mro__))[0]
    raise UserError(f"{said}: is of no axis's base class: say which it is an option of, by --axis")


def _with_node(axis: Axis, node: Any, overrides: Sequence[str], folders: Sequence[Path]) -> RunConfig:
    """A run that has what is no file of an axis's folder; settings that its config does not list may be given."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / axis.name / f"{MINE}.yaml"
        place.parent.mkdir()
        place.write_text(OmegaConf.to_yaml(OmegaConf.create(node)), encoding="utf-8")
        own = [f"++{word}" if word.startswith(f"{axis.name}.") else word for word in overrides]
        return _composed([f"{axis.name}={MINE}", *own], [Path(scratch), *folders])


def with_usual(config: RunConfig, axis: Axis) -> RunConfig:
    """The same run with the axis's default option."""
    option = default_option(axis.name)
    node = cast(Node, OmegaConf.to_container(OmegaConf.load(conf_folder() / axis.name / f"{option}.yaml")))
    options = {**config.options, axis.name: with_floats(axis, node)}
    return replace(config, options=options, axes={**config.axes, axis.name: option})


def _composed(words: Sequence[str], folders: Sequence[Path]) -> RunConfig:
    overrides = [*SIZES, *words]
    return resolved(composed(overrides, folders), overrides)
