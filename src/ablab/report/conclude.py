"""The end of a sweep: the comparison on the screen, the report beside the runs, and an honest exit status.

`conclude` draws the verdicts, and counts that they were drawn: with the seeds of a later conclusion they grow stricter.
`ConcludeSweep` does so as a Hydra callback, so that it also concludes sweeps that other launchers ran:

    hydra:
      callbacks:
        conclude:
          _target_: ablab.report.conclude.ConcludeSweep
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ablab.config.composed import comparison_of
from ablab.config.explain import moved
from ablab.errors import UserError, one_line
from ablab.results.store import RECORD_FILE

if TYPE_CHECKING:
    from ablab.analysis.comparison import ComparisonSettings
    from ablab.results.collect import Runs

SHOWN_ELSEWHERE = "ABLAB_SHOWN_ELSEWHERE"  # in the environment: whoever started the command shows the comparison itself
RUNS_NOT_OK = 1  # exit status: the sweep came to its end, some of its runs did not
MISTAKE = 2  # exit status of a user's mistake, as everywhere in ablab


class ConcludeSweep(Callback):
    """A callback that compares the runs of a sweep when all of them have ended.

    Args:
        baseline, metric, margin, last_k: where studies of earlier versions declared what is `comparison` now.

    Raises:
        UserError: one of them is given.
        SystemExit: status 1 if some run is not ok, 2 if the runs cannot be compared. Hydra turns any other exception of
            a callback into a warning, and the sweep would seem to have gone well.
    """

    def __init__(
        self, baseline: object = None, metric: object = None, margin: object = None, last_k: object = None
    ) -> None:
        given = {"baseline": baseline, "metric": metric, "margin": margin, "last_k": last_k}
        for name, value in given.items():
            if value is not None and (line := moved(f"hydra.callbacks.conclude.{name}")):
                raise UserError(line)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from ablab.report.declared import declared_settings  # with it come tables and statistics

        folder = Path(config.hydra.sweep.dir)
        try:
            status = conclude_study(folder, **declared_settings(comparison_of(config)))
        except UserError as error:
            print(f"ablab: error: {error}", file=sys.stderr)
            raise SystemExit(MISTAKE) from error
        if status:
            raise SystemExit(status)


def conclude_study(folder: Path, **comparison: Unpack[ComparisonSettings]) -> int:
    """Conclude, and say how many runs did not end well or left no record; the exit status of the sweep.

    Raises:
        UserError: as `conclude` does.
    """
    statuses = conclude(folder, **comparison)
    unwell, missing = sum(status != "ok" for status in statuses), _without_record(folder)
    if unwell:
        print(f"ablab: {unwell} of {len(statuses)} runs did not end well; see the run health", file=sys.stderr)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        print(f"ablab: no record of the planned run {missing[0]}{more}", file=sys.stderr)
    return RUNS_NOT_OK if unwell or missing else 0


def _without_record(study: Path) -> list[Path]:
    """The folders of the plan's runs that have none: they were never started, or others' files were in the way."""
    from ablab.study.plan_reader import folders_of

    return [folder for folder in folders_of(study) if not (folder / RECORD_FILE).exists()]


def conclude(folder: Path, **comparison: Unpack[ComparisonSettings]) -> list[str]:
    """Count the interim analysis, print the comparison, write the report; how the runs in `folder` ended.

    Every record is read once, and the runs are compared once. A study whose runs were logged to Weights & Biases has
    its report there, too.

    Args:
        comparison: as `ablab.analysis.comparison.compare` takes it.

    Raises:
        UserError: no runs, or they cannot be compared as asked.
    """
    # A worker process imports this module for its callback and never concludes: it need not pay for pandas.
    from ablab.report.context import ReportContext
    from ablab.report.formats import render
    from ablab.report.html.page import REPORT_FILE, write_report
    from ablab.report.wandb import show_in_wandb
    from ablab.results.collect import collect
    from ablab.results.hparams import write_experiment
    from ablab.results.interim import count_interim_analysis, united

    runs = collect([folder])
    # Before the comparison, whose level depends on it.
    ended = [record.seed for record in runs.records if record.status in ("ok", "diverged")]
    looks = united([*runs.interim_analyses, *count_interim_analysis(folder, ended)])
    runs = replace(runs, interim_analyses=tuple(looks))
    with _shown_only("the event file of the study"):
        write_experiment(folder, runs.every.records)
    context = ReportContext.of(runs, **_until_evaluated(runs, folder, comparison))
    text, report = render(context), folder / REPORT_FILE
    try:
        write_report(context, report)
    except Exception as error:
        _show(text)  # the comparison is shown all the same
        raise error if isinstance(error, UserError) else UserError(f"{report}: {one_line(error)}") from error
    _show(text)
    print(f"report: {report}")
    show_in_wandb(folder, context, report)
    return [record.status for record in runs.every.records]


def _show(comparison: str) -> None:
    if SHOWN_ELSEWHERE not in os.environ:
        print(comparison, end="")


def _until_evaluated(runs: Runs, folder: Path, comparison: ComparisonSettings) -> ComparisonSettings:
    """The settings without a declared metric of evaluations elsewhere, while none has been made; a line says so."""
    from ablab.analysis.metrics import pending

    metric = comparison.get("metric")
    if not (missing := pending(runs, metric)):
        return comparison
    print(f"{metric} was declared, and the runs are not evaluated there yet: ablab evaluate {folder} {missing}")
    left = {name: value for name, value in comparison.items() if name not in ("metric", "margin")}
    return cast("ComparisonSettings", left)


@contextlib.contextmanager
def _shown_only(what: str) -> Iterator[None]:
    """Within it, what fails is a line on stderr: no study is the worse for what shows it."""
    try:
        yield
    except Exception as error:  # of records of odd values, of a disk
        print(f"ablab: {what} could not be written: {one_line(error)}", file=sys.stderr)


def compare_so_far(folder: Path, **comparison: Unpack[ComparisonSettings]) -> None:
    """Print the comparison of the runs of `folder` that have ended: nothing is written, no interim analysis counted.

    For a study that was interrupted. Where nothing can be compared yet, nothing is printed.
    """
    from ablab.report.context import ReportContext
    from ablab.report.formats import render
    from ablab.results.collect import collect

    try:
        runs = collect([folder])
        text = render(ReportContext.of(runs, **_until_evaluated(runs, folder, comparison)))
    except UserError:
        return
    print(text, end="")
