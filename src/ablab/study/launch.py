"""Runs the runs of a plan by our own supervisor. Those that are done with are kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from ablab.config.schema import ExecutionConfig
from ablab.results.record import Record
from ablab.study.events import Observer
from ablab.study.kept import kept_record
from ablab.study.launched import refuse_nodes
from ablab.study.plan_file import PlannedRun
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision.supervisor import Supervisor
from ablab.study.supervision.warm import freeze_code


def launch(
    runs: Sequence[PlannedRun],
    settings: ExecutionConfig,
    observer: Observer,
    preflight: Preflight | None = None,
    heartbeat: Callable[[], None] = lambda: None,
) -> dict[int, Record]:
    """See each run of the plan to its end, whatever that is; the records by `RunOutline.index`.

    Runs that were not started, since the failure of another one ended the study, have none.

    The code of all of them is read before the first one starts: what is edited meanwhile changes no queued run.

    Args:
        preflight: knows the data of the runs already, if given.
        heartbeat: called at least once a second.

    Raises:
        KeyboardInterrupt: Ctrl-C, after running runs have saved themselves.
    """
    preflight = preflight or Preflight()
    try:
        observer.planned([run.info for run in runs])
        records: dict[int, Record] = {}
        for run in runs:
            record = kept_record(run.config, run.folder, preflight, retry_failed=settings.retry == "failed")
            if record is not None:
                records[run.info.index] = record
                observer.kept(run.info, record)
        left = [run for run in runs if run.info.index not in records]
        supervisor = Supervisor(settings, observer, heartbeat)
        for run in left:
            refuse_nodes(run.config)
        if left:
            freeze_code(run.config for run in left)
            records |= supervisor.run(left)
    finally:
        observer.close()
    if supervisor.stopped_by:
        print(f"ablab: stopped, since {supervisor.stopped_by} failed (on_failure=stop)", file=sys.stderr)
    return records
