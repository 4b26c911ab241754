"""ablab: does this component help, by how much, at what cost, and how sure are we?

    from ablab import compare, compose, evaluate, load, run, sweep

    study = sweep("activation=relu,gelu", seed=[0, 1, 2], name="mine")  # trained, compared: `ablab.api`
    study = load("outputs/quickstart")  # a folder of runs, compared; or one run, with its model
    evaluate("outputs/quickstart", overrides=["task.seq_len=1024"])  # as the command does: `ablab.study.evaluate`

The rooms, in the order in which data flows through them: `config`, `tasks`, `model`, `training`, `study`, `results`,
`analysis`, `report`; `bench` and `export` beside them, and `cli` and `api` before them all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ablab.version import __version__

if TYPE_CHECKING:
    from ablab.api import compare, compose, load, run, sweep
    from ablab.study.evaluate import evaluate

__all__ = ["__version__", "compare", "compose", "evaluate", "load", "run", "sweep"]

_API = ("compare", "compose", "load", "run", "sweep")


def __getattr__(name: str) -> Any:
    # What only notebooks need is loaded when it is asked for: every command imports this file.
    if name in _API:
        return getattr(import_module("ablab.api"), name)
    if name == "evaluate":
        from ablab.study.evaluate import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
