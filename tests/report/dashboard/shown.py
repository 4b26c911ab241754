"""A study as its runs leave it: with learning curves, records and event files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from synthetic import write_runs
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ablab.results.hparams import write_hparams
from ablab.results.record import Record

VALUES = {"relu": [1.0, 1.2, 1.1, 1.4], "gelu": [0.9, 1.05, 1.0, 1.2], "silu": [1.0, float("nan"), 1.3, 1.2]}


def write_study(folder: Path, records: Iterable[Record], steps: int = 5) -> Path:
    """The records as run folders below `folder`, each with event files."""
    records = list(records)
    write_runs(folder, records, steps)
    for record in records:
        run = folder / str(record.index)
        writer = EventFileWriter(str(run))
        value = Summary.Value(tag="val_loss", simple_value=record.metrics.get("val_loss", 9.0))
        writer.add_event(Event(step=50, summary=Summary(value=[value])))
        writer.close()
        write_hparams(run, record)
    return folder
