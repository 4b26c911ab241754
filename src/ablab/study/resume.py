"""Which runs need not be run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablab.config import fingerprint
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, read_record


def finished_record(config: dict[str, Any], folder: Path) -> Record | None:
    """The record in `folder` if it is of this very run and the run is finished, else None.

    A diverged run is finished: the same run would diverge again. A failed or interrupted one is not.
    """
    try:
        record = read_record(folder / RECORD_FILE)
    except UserError:
        return None
    same = record.fingerprint == fingerprint(config)
    return record if same and record.status in ("ok", "diverged") else None
