"""What a sweep ends with: the comparison on the screen, the report beside the runs, and an honest exit status.

A Hydra callback, so that it also concludes sweeps that other launchers ran:

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

from ablab.errors import UserError

RUNS_NOT_OK = 1  # exit status: the sweep came to its end, some of its runs did not
MISTAKE = 2  # exit status of a user's mistake, as everywhere in ablab


class ConcludeSweep(Callback):
    """Compares the runs of a sweep when all of them have ended.

    Args:
        baseline, metric, margin: as `ablab.analysis.comparison.compare` takes them; a study declares them.

    Raises:
        SystemExit: status 1 if some run is not ok, 2 if the runs cannot be compared. Hydra turns any other exception of
            a callback into a warning, and the sweep would seem to have gone well.
    """

    def __init__(self, baseline: str | None = None, metric: str | None = None, margin: float | None = None) -> None:
        self.baseline, self.metric, self.margin = baseline, metric, margin

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        try:
            statuses = self._conclude(folder)
        except UserError as error:
            print(f"ablab: error: {error}", file=sys.stderr)
            raise SystemExit(MISTAKE) from error
        unwell = sum(status != "ok" for status in statuses)
        if unwell:
            print(f"ablab: {unwell} of {len(statuses)} runs did not end well; see the run health", file=sys.stderr)
            raise SystemExit(RUNS_NOT_OK)

    def _conclude(self, folder: Path) -> list[str]:
        """Print the comparison, write the report; how the runs ended."""
        # A worker process imports this module for its callback and never concludes: it need not pay for pandas.
        from ablab.analysis.comparison import compare
        from ablab.report.compare import render
        from ablab.report.html.write import write_report
        from ablab.results.collect import collect
        from ablab.results.hparams import write_experiment

        runs = collect([folder])
        write_experiment(folder, runs.records)
        print(render(compare(runs, self.baseline, self.metric, self.margin), runs), end="")
        print(f"report: {write_report([folder], None, self.baseline, self.metric, self.margin)}")
        return [record.status for record in runs.records]
