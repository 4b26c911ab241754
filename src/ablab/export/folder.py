"""The folder of an export: what lies in it, how it is written, and how the model in it is read back."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ablab.config import Node, RunConfig
from ablab.errors import UserError, one_line
from ablab.export.vocabulary import remembered_of
from ablab.model.transformer import Transformer
from ablab.results.run_folder import as_config
from ablab.results.store import EXPORT_FILES, below, parse_json, replacing_folder
from ablab.tasks.base import Task
from ablab.training.build_option import build_option
from ablab.training.restore import DAMAGE, admit_model, moved, rebuild

WEIGHTS_FILE = "model.safetensors"
# What says of an export what it is: the second, or the first where the second is that of transformers.
OWN_FILE, CONFIG_FILE = EXPORT_FILES
VOCABULARY_FILE = "vocabulary.json"
_MARK, _SCHEMA = "ablab_export", 1

# Writes weights into a file.
Save = Callable[[Path], object]


def safetensors() -> Any:
    """The library's module for torch. Raises UserError if it is not installed."""
    try:
        return importlib.import_module("safetensors.torch")
    except ModuleNotFoundError as error:
        raise UserError("this needs the library safetensors: pip install 'ablab[export]'") from error


def target_of(run: Path, output: Path | None, name: str) -> Path:
    """Where an export of a run goes: to `output`, or into the run's folder.

    Raises:
        UserError: something is there that is no export, or a link leads out of the run's folder.
    """
    try:
        target = below(run, f"export/{name}") if output is None else output
    except ValueError as error:
        raise UserError(
            f"{run}/export: a link leads out of the run's folder; choose another place by --output"
        ) from error
    is_empty = target.is_dir() and not any(target.iterdir())
    if os.path.lexists(target) and not is_empty and own_info(target) is None:
        raise UserError(f"{target}: is there already, and is no export of ablab's; choose another --output")
    return target


def write_folder(target: Path, info: Node, files: Mapping[str, Node | str], save: Save) -> None:
    """Write an export, which takes the place of an earlier one when all of it is there.

    Args:
        info: what is said of the export itself. It is the config where `files` have no other.
        files: by name, JSON or text.

    Raises:
        UserError: it cannot be written.
    """
    own = OWN_FILE if CONFIG_FILE in files else CONFIG_FILE
    contents = {own: {_MARK: _SCHEMA, **info}, **files}
    try:
        with replacing_folder(target) as folder:
            save(folder / WEIGHTS_FILE)
            for name, content in contents.items():
                text = content if isinstance(content, str) else json.dumps(content, indent=1, allow_nan=False) + "\n"
                (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from error


def own_info(folder: Path) -> Node | None:
    """What an export says of itself; None of a folder that is none."""
    for name in (OWN_FILE, CONFIG_FILE):
        try:
            info = parse_json((folder / name).read_bytes()) if (folder / name).is_file() else None
        except (OSError, ValueError):
            continue
        if isinstance(info, dict) and isinstance(info.get(_MARK), int):
            return info
    return None


def export_config(folder: Path) -> RunConfig:
    """The config of the run that was exported. Raises UserError: it is damaged, or of another version or format."""
    info, path = own_info(folder), folder / CONFIG_FILE
    if info is None:
        raise UserError(f"{folder}: no export of ablab's (no {CONFIG_FILE} that says so)")
    if info[_MARK] > _SCHEMA:
        raise UserError(f"{folder}: exported by a later version of ablab: upgrade ablab to read it")
    if info.get("format") != "safetensors":
        raise UserError(
            f"{folder}: an export for transformers, which AutoModelForCausalLM.from_pretrained opens; for load() there "
            "is --format safetensors"
        )
    return as_config(info.get("config"), path)


def read_export(folder: Path, trust: bool = False, device: str = "cpu") -> tuple[Transformer, Task]:
    """The exported model, in evaluation mode, and its task, without the task's data.

    Args:
        trust: components that the config names and that are not ablab's may run.

    Raises:
        UserError: the export is damaged, or has a component of somebody's and `trust` is not given.
    """
    library, config = safetensors(), export_config(folder)
    damage = (*DAMAGE, OSError, importlib.import_module("safetensors").SafetensorError)
    admit_model(config, folder / CONFIG_FILE, trust)
    task: Task = build_option(config, "task", seed=config.seed)
    try:
        remembered = remembered_of(parse_json((folder / VOCABULARY_FILE).read_bytes()))
        model = rebuild(config, task, remembered, lambda made: library.load_model(made, str(folder / WEIGHTS_FILE)))
    except damage as error:
        raise UserError(f"{folder}: a damaged export, or one of another run ({one_line(error)})") from error
    return moved(model, device), task
