"""A stand-in for the supervisor of studies: nothing is trained, and runs leave records as they are told to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ablab.results.record import Metric, Record
from ablab.results.store import write_record
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision.stack import Unit
from ablab.training.begin import new_record


@dataclass
class Stage:
    """Makes runs end in a moment: those at the larger rate are the better ones.

    Args:
        most: runs that it makes; the last of them fails, and the study is stopped.
    """

    most: int = 100
    made: list[str] = field(default_factory=list)  # labels

    def __call__(self, settings: Any, observer: Any, heartbeat: Any) -> Any:
        stage = self

        class Supervisor:
            stopped_by: str | None = None

            def run(self, units: Sequence[Unit]) -> dict[int, Record]:
                records = {}
                for run in (run for unit in units for run in unit.runs):
                    if self.stopped_by:
                        break
                    stage.made.append(run.info.label)
                    record = new_record(run.config, run.context)
                    rate = float(run.config.options["optimizer"]["lr"])
                    record.status, record.cause, record.reason = "ok", None, None
                    record.corpus = Preflight().task(run.config).corpus
                    record.primary = Metric(name="val_loss", split="val", direction="min")
                    record.metrics = {"val_loss": 5.0 - rate}
                    if len(stage.made) == stage.most:
                        self.stopped_by = f"{run.info.label} failed (on_failure=stop)"
                        record = replace(record, status="failed", cause="error", reason="the bulb is broken")
                    run.folder.mkdir(parents=True, exist_ok=True)
                    write_record(run.folder, record)
                    records[run.info.index] = record
                return records

        return Supervisor()
