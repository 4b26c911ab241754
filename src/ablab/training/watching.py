"""What watches the training of every run, whatever its config asks for beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lightning import Callback

from ablab.training.anneal import BranchPoints, branches_of
from ablab.training.build import BuiltRun
from ablab.training.callbacks import Heartbeat, LateLoss, Mechanisms, Progress, ReportProgress
from ablab.training.cost import CostMeter
from ablab.training.token_counts import TokenCounts
from ablab.training.traffic.callback import Communicating
from ablab.training.trainer import untimed_steps
from ablab.training.watchers import Watchers


@dataclass(frozen=True)
class Watching:
    """Those that are asked afterwards, and all of them, as a Trainer takes them."""

    meter: CostMeter
    mechanisms: Mechanisms
    traffic: Communicating
    callbacks: list[Callback]


def watching(
    built: BuiltRun,
    folder: Path,
    progress: Progress | None = None,
    beat: Callable[[], None] | None = None,
    *,
    sharers: int = 1,
    theirs: list[Callback] | None = None,
) -> Watching:
    """What watches a run.

    Args:
        folder: of the run.
        progress: called a few times a second.
        beat: called at every step and batch of an evaluation.
        sharers: runs that the process trains together.
        theirs: the callbacks that the config asks for.
    """
    config, task = built.config, built.task
    accumulate, untimed = config.trainer.accumulate_grad_batches, untimed_steps(config)
    meter = CostMeter(task.tokens_per_batch * accumulate, untimed, sharers)
    tokens = TokenCounts(accumulate)
    mechanisms, traffic = Mechanisms(tokens.metrics), Communicating(untimed)
    heart = [] if beat is None else [Heartbeat(beat)]
    shows = [ReportProgress(progress, task.primary)] if progress else []
    watchers = Watchers(LateLoss(), traffic, meter, tokens, mechanisms, *heart, *shows)
    return Watching(meter, mechanisms, traffic, [watchers, *(theirs or []), BranchPoints(folder, branches_of(built))])
