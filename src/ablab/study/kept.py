"""Which runs need not be run again."""

from __future__ import annotations

from pathlib import Path

from ablab.config import RunConfig, fingerprint
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, read_record
from ablab.study.planning.preflight import Preflight


def kept_record(config: RunConfig, folder: Path, preflight: Preflight, retry_failed: bool) -> Record | None:
    """The record in `folder` if it is of this very run, on the same data, and the run is done with, else None.

    A run that went well or diverged is: it would do the same again. One that was interrupted goes on. One that failed
    is tried again only where that was asked for.
    """
    try:
        record = read_record(folder / RECORD_FILE)
    except UserError:
        return None
    done = ("ok", "diverged") if retry_failed else ("ok", "diverged", "failed")
    if record.fingerprint != fingerprint(config) or record.status not in done:
        return None
    if record.corpus is None:  # it failed before its data were read
        return record
    # The config says where the corpus lies; whether it is still the same is for its hash to say.
    return record if record.corpus == preflight.task(config).corpus else None
