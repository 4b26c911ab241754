"""Which runs need not be run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablab.config import fingerprint
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, read_record
from ablab.study.planning.preflight import Preflight


def finished_record(config: dict[str, Any], folder: Path, preflight: Preflight) -> Record | None:
    """The record in `folder` if it is of this very run, on the same data, and the run is finished, else None.

    A diverged run is finished: the same run would diverge again. A failed or interrupted one is not.
    """
    try:
        record = read_record(folder / RECORD_FILE)
    except UserError:
        return None
    if record.fingerprint != fingerprint(config) or record.status not in ("ok", "diverged"):
        return None
    # The config says where the corpus lies; whether it is still the same is for its hash to say.
    return record if record.corpus == preflight.task(config).corpus else None
