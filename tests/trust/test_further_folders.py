"""Further things that a stranger may think of, each tried on every command that opens a folder."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import torch
from drawn import plain_figures
from strangers import Ended, Hostile

Ablab = Callable[..., Ended]


def _text(name: str, content: Callable[[Hostile], str]) -> Callable[[Hostile], None]:
    """Puts a file into the run's folder."""

    def spoil(hostile: Hostile) -> None:
        path = hostile.run / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content(hostile))

    return spoil


def _reshaped(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"state_dict": {name: each.new_zeros(3) for name, each in state["state_dict"].items()}}


def _python(hostile: Hostile) -> str:
    return f"import pathlib; pathlib.Path({str(hostile.marker.path)!r}).touch()\n"


def _tagged(hostile: Hostile) -> str:
    rest = (hostile.run / "config.yaml").read_text()
    return f"{rest}\nextra: !!python/object/apply:os.system ['touch {hostile.marker.path}']\n"


def _target(axis: str, target: str) -> Callable[[Hostile], None]:
    def spoil(hostile: Hostile) -> None:
        hostile.edit_config(lambda config: config[axis].update(_target_=target))

    return spoil


def _fifo(name: str) -> Callable[[Hostile], None]:
    def spoil(hostile: Hostile) -> None:
        (hostile.run / name).unlink(missing_ok=True)
        os.mkfifo(hostile.run / name)

    return spoil


def _checkpoint(content: Callable[[dict[str, Any]], Any]) -> Callable[[Hostile], None]:
    def spoil(hostile: Hostile) -> None:
        for path in (hostile.run / "checkpoints").glob("*.ckpt"):
            torch.save(content(torch.load(path, weights_only=True)), path)

    return spoil


def _record(**changes: Any) -> Callable[[Hostile], None]:
    def spoil(hostile: Hostile) -> None:
        path = hostile.run / "record.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def _repository(hostile: Hostile) -> None:
    """Git runs what a repository's own config names, when it is asked for the state of the files."""
    for folder in (hostile.study, hostile.run):
        subprocess.run(["git", "init", "-q", folder], check=True)
        script = folder / "program.sh"
        script.write_text(f"#!/bin/sh\ntouch '{hostile.marker.path}'\ncat\n")
        script.chmod(0o755)
        (folder / ".gitattributes").write_text("* filter=mine\n")
        subprocess.run(["git", "-C", folder, "add", ".gitattributes"], check=True)
        told = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
        subprocess.run(["git", "-C", folder, *told, "commit", "-qm", "a"], check=True)
        (folder / ".gitattributes").write_text("* filter=mine\n\n")
        for key in ("core.fsmonitor", "filter.mine.clean", "filter.mine.process", "core.sshCommand", "diff.external"):
            subprocess.run(["git", "-C", folder, "config", key, str(script)], check=True)


FOLDERS: dict[str, Callable[[Hostile], None]] = {
    "a tag of YAML that calls": _text("config.yaml", _tagged),
    "a module that Python starts with": _text("sitecustomize.py", _python),
    "a plugin of pytest": _text("conftest.py", _python),
    "a module of the standard library": _text("json.py", _python),
    "a plugin of Hydra": _text("hydra_plugins/a.py", _python),
    "a package of our name": _text("ablab/__init__.py", _python),
    "a style of Matplotlib": _text("matplotlibrc", lambda h: "text.usetex: True\nbackend: module://sitecustomize\n"),
    "settings of W&B": _text("wandb/settings", lambda h: "[default]\nbase_url = http://a.example\n"),
    "a repository with programs": _repository,
    "the command line as a task": _target("task", "ablab.cli.entry.main"),
    "the program itself": _target("task", "ablab.__main__.main"),
    "what imports modules": _target("task", "ablab.study.supervision.preload._import_all"),
    "Hydra's own": _target("task", "hydra.utils.instantiate"),
    "a method": _target("norm", "ablab.model.norm.RMSNorm.forward"),
    "an empty name": _target("norm", ""),
    "dots alone": _target("norm", "ablab....x"),
    "a name with a line": _target("norm", "ablab.model.norm.RMSNorm\nos.system"),
    "a class that deletes what a checkpoint names": lambda h: h.edit_config(
        lambda c: c["callbacks"].update(a={"_target_": "lightning.pytorch.callbacks.ModelCheckpoint"})
    ),
    "a pipe for a record": _fifo("record.json"),
    "a pipe for curves": _fifo("metrics.csv"),
    "a pipe for a config": _fifo("config.yaml"),
    "a pipe for a checkpoint": _fifo("checkpoints/best.ckpt"),
    "a checkpoint that is a list": _checkpoint(lambda state: [state]),
    "a checkpoint of other shapes": _checkpoint(_reshaped),
    "a checkpoint without weights": _checkpoint(lambda state: {"epoch": 1}),
    "pictures elsewhere": _record(pictures=["../../../../etc/hostname", "/etc/hostname"]),
    "the end of a script": _record(
        reason="</script><script>alert(1)</script>", study="</title><script>alert(1)</script>"
    ),
    "axes that are paths": _record(axes={"task": "../../../etc/passwd", "attention": "/etc/passwd"}),
    "looks that are no looks": _text("../../looks.json", lambda h: '[{"_target_": "os.system"}]'),
}


# A report takes a second, and reads no more than these.
REPORTED = (
    "a style of Matplotlib",
    "a pipe for curves",
    "pictures elsewhere",
    "the end of a script",
    "axes that are paths",
)


@pytest.mark.timeout(60)  # nothing is waited for
@pytest.mark.parametrize("kind", FOLDERS)
def test_nothing_runs(hostile: Hostile, ablab: Ablab, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """From within the folder: a result or one line, and neither a trace nor a marker."""
    FOLDERS[kind](hostile)
    monkeypatch.chdir(hostile.run)
    of_runs = ("generate", "consolidate", "evaluate", "export --format=safetensors")
    opened = [*of_runs, "compare", "resume", *(["report"] if kind in REPORTED else [])]
    for command in opened:
        with contextlib.nullcontext() if command == "report" else plain_figures():  # those of a conclusion are the same
            ended = ablab(*command.split(), str(hostile.run if command in of_runs else hostile.study))
        assert not hostile.marker.path.exists(), command
        assert ended.status in (0, 1, 2), (command, ended)
        assert "Traceback" not in ended.err + ended.out, (command, ended)
        assert ended.status != 2 or len(ended.err.splitlines()) == 1, (command, ended)
    if "report" in opened and kind != "a pipe for a record":
        assert "<script>alert(1)" not in (hostile.study / "report.html").read_text()
