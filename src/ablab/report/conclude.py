"""What a sweep ends with: the comparison on the screen, the report beside the runs, and an honest exit status.

`conclude` draws the verdicts, and counts that they were drawn: with the seeds of a later conclusion they grow stricter.
`ConcludeSweep` does so as a Hydra callback, so that it also concludes sweeps that other launchers ran:

    hydra:
      callbacks:
        conclude:
          _target_: ablab.report.conclude.ConcludeSweep
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ablab.config.explain import moved
from ablab.config.run_config import comparison_of
from ablab.errors import UserError
from ablab.report.terms import declared_terms

RUNS_NOT_OK = 1  # exit status: the sweep came to its end, some of its runs did not
MISTAKE = 2  # exit status of a user's mistake, as everywhere in ablab


class ConcludeSweep(Callback):
    """Compares the runs of a sweep when all of them have ended.

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
        folder = Path(config.hydra.sweep.dir)
        try:
            status = conclude_study(folder, **declared_terms(comparison_of(config)))
        except UserError as error:
            print(f"ablab: error: {error}", file=sys.stderr)
            raise SystemExit(MISTAKE) from error
        if status:
            raise SystemExit(status)


def conclude_study(folder: Path, **terms: Any) -> int:
    """Conclude, and say how many runs did not end well; the exit status of the sweep.

    Raises:
        UserError: as `conclude` does.
    """
    statuses = conclude(folder, **terms)
    unwell = sum(status != "ok" for status in statuses)
    if unwell:
        print(f"ablab: {unwell} of {len(statuses)} runs did not end well; see the run health", file=sys.stderr)
    return RUNS_NOT_OK if unwell else 0


def conclude(folder: Path, **terms: Any) -> list[str]:
    """Count the look, print the comparison, write the report; how the runs of the study in `folder` ended.

    A study whose runs were logged to Weights & Biases has its report there, too.

    Args:
        terms: as `ablab.analysis.comparison.compare` takes them.

    Raises:
        UserError: no runs, or they cannot be compared as asked.
    """
    # A worker process imports this module for its callback and never concludes: it need not pay for pandas.
    from ablab.analysis.comparison import compare
    from ablab.report.compare import render
    from ablab.report.html.write import write_report
    from ablab.report.wandb import show_in_wandb
    from ablab.results.collect import collect, find_records
    from ablab.results.hparams import write_experiment
    from ablab.results.looks import count_look

    # Before the comparison, whose level depends on it.
    count_look(folder, [record.seed for _, record in find_records([folder]) if record.status in ("ok", "diverged")])
    runs = collect([folder])
    write_experiment(folder, runs.records)
    comparisons = compare(runs, **terms)
    print(render(comparisons, runs), end="")
    report = write_report([folder], **terms)
    print(f"report: {report}")
    show_in_wandb(folder, comparisons, runs, report)
    return [record.status for record in runs.records]


def compare_so_far(folder: Path, **terms: Any) -> None:
    """Print the comparison of the runs of `folder` that have ended: nothing is written, and no look is counted.

    For a study that was interrupted. Where nothing can be compared yet, nothing is printed.
    """
    from ablab.analysis.comparison import compare
    from ablab.report.compare import render
    from ablab.results.collect import collect

    try:
        runs = collect([folder])
        text = render(compare(runs, **terms), runs)
    except UserError:
        return
    print(text, end="")
