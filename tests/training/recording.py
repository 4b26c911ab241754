"""A callback that remembers every hook of Lightning's, in order."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

# What a Trainer asks a callback for beside the hooks whose names begin with "on_".
OTHERS = ("setup", "teardown", "state_dict", "load_state_dict")
HOOKS = [name for name in dir(Callback) if name.startswith("on_") or name in OTHERS]

seen: list[tuple[Any, ...]] = []  # a run builds its callbacks itself, so that a test looks here


class Recorder(Callback):
    """Adds each hook to `seen`, with the step, the batch's number where there is one, and the stage."""

    def __init__(self) -> None:
        for name in HOOKS:
            setattr(self, name, functools.partial(self._record, name))

    def _record(self, name: str, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        step = args[0].global_step if args and hasattr(args[0], "global_step") else None
        numbers = tuple(each for each in args if type(each) is int)
        seen.append((name, step, numbers, kwargs.get("stage")))
        return {"recorded": True} if name == "state_dict" else None


class LogsAtTheStart(Callback):
    """Logs by the module as training starts."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        module.log("mine", 1.0)


class Losses(Callback):
    """Writes the loss of each batch, as a callback is given it, to a file of this process."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        with (self._folder / f"losses-{trainer.global_rank}").open("a") as file:
            print(float(outputs["loss"]), file=file)


class Unreadable(Callback):
    """Has a state that is no plain data: from the beginning, or once training has begun."""

    def __init__(self, *, late: bool = False) -> None:
        self._late, self._begun = late, False

    def on_train_batch_end(self, *args: Any) -> None:
        self._begun = True

    def state_dict(self) -> dict[str, Any]:
        return {"where": Path("x")} if self._begun or not self._late else {}


class Interrupted(Callback):
    """Ends the process of a run once, as Ctrl-C twice does, when training has ended and while the file is there."""

    def __init__(self, flag: str) -> None:
        self._flag = Path(flag)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._flag.exists():
            self._flag.unlink()
            raise KeyboardInterrupt


class Counting(Callback):
    """Has a state, under the key of its class."""

    def state_dict(self) -> dict[str, int]:
        return {"count": 1}


class NoServer(Callback):
    """Cannot be set up."""

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        raise RuntimeError("no server here")


class Surprise(Callback):
    """Logs a metric of its own."""

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        module.log("surprise", 1.0)
