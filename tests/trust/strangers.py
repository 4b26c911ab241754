"""What a stranger may put into a folder: spoilt copies of a study, and a marker that shows when something of it ran."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
import yaml

from ablab.results.store import CONFIG_FILE

RUN = "activation=relu/seed=0"


@dataclass(frozen=True)
class Marker:
    """A file that must never be there, and objects that make it when they are unpickled or called."""

    path: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)

    @property
    def node(self) -> dict[str, Any]:
        """A config that makes it when it is instantiated."""
        return {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": [str(self.path)]}]}

    @property
    def module(self) -> str:
        """The source of a module that makes it when it is imported."""
        return f"import pathlib\npathlib.Path({str(self.path)!r}).touch()\nraise SystemExit('imported')\n"


@dataclass(frozen=True)
class Ended:
    status: object
    out: str
    err: str


@dataclass(frozen=True)
class Hostile:
    """A copy of the study, and the means to spoil it."""

    study: Path
    marker: Marker

    @property
    def run(self) -> Path:
        return self.study / RUN

    def edit_config(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the run's config.yaml, and its config in plan.json, alike; the run is then not finished."""
        path = self.run / CONFIG_FILE
        data = yaml.safe_load(path.read_text())
        change(data)
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        self.edit_plan(lambda plan: change(plan["runs"][0]["config"]))

    def edit_plan(self, change: Callable[[dict[str, Any]], None]) -> None:
        path = self.study / "plan.json"
        plan = json.loads(path.read_text())
        change(plan)
        path.write_text(json.dumps(plan))
        (self.run / "record.json").unlink(missing_ok=True)

    def shard(self) -> Path:
        """Put best.ckpt into shards, as a run of several processes leaves it; the folder."""
        path = self.run / "checkpoints" / "best.ckpt"
        whole = torch.load(path, weights_only=True)
        shards = dict(whole["state_dict"])
        rest = {
            name: {"piece of": name, "name": name, "shape": list(each.shape), "dtype": str(each.dtype)[6:]}
            for name, each in shards.items()
        }
        path.unlink()
        with warnings.catch_warnings(action="ignore"):  # that one process alone is meant
            dcp.save(shards, storage_writer=dcp.FileSystemWriter(path), no_dist=True)
        torch.save(whole | {"state_dict": rest}, path / "rest.pt")
        return path


def pickled(marker: Marker) -> bytes:
    return pickle.dumps(marker)
