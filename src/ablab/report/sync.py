"""Upload what was logged to Weights & Biases offline: `ablab sync DIR`, by W&B's own `wandb sync`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ablab.errors import UserError, printable
from ablab.report.wandb import SHOWN_FILE
from ablab.results.kept import why_no_folder
from ablab.results.store import RECORD_FILE
from ablab.results.wandb_runs import NO_KEY, has_key, offline_folders, run_id

UPLOADED, THERE, RUNNING, FAILED = "uploaded", "already there", "still running", "failed"
_PATIENCE_S = 3600  # for one run, pictures and tables included
_RETRIES = 4  # to reach the server, which take half a minute; W&B's own number takes many
_UNREACHED = "giving up after"  # what W&B says after these


@dataclass(frozen=True)
class OfflineRun:
    """A W&B run as it lies on the disk: a folder of W&B's for each attempt, in the order of time."""

    folder: Path  # of the run, or of the study whose report it is
    identity: str
    parts: list[Path]

    @property
    def waiting(self) -> list[Path]:
        """The parts that were not uploaded yet, by W&B's own marks."""
        return [part for part in self.parts if not any(part.glob("*.wandb.synced"))]

    @property
    def ended(self) -> bool:
        """A run ends with its record and a report with its mark; what another run left in its folder has ended."""
        ends = (self.folder / RECORD_FILE, self.folder / SHOWN_FILE)
        return any(path.is_file() for path in ends) or run_id(self.folder) != self.identity


def sync(folder: Path) -> int:
    """Upload the runs below `folder` that have ended and are not there yet: a line for each, then their numbers.

    Returns:
        The exit status: 1 if an upload failed.

    Raises:
        UserError: no such folder, no offline runs, or something to upload and no API key or no way to the server.
    """
    if not folder.is_dir():
        raise UserError(why_no_folder(folder))
    runs = find_offline_runs(folder)
    if not runs:
        raise UserError(f"{folder}: no offline runs of W&B here or below; train with logger=wandb")
    if any(run.ended and run.waiting for run in runs) and not has_key():
        raise UserError(f"nothing was uploaded: {NO_KEY}")
    counts = dict.fromkeys((UPLOADED, THERE, RUNNING, FAILED), 0)
    for run in runs:
        outcome, why = _bring(run)
        if _UNREACHED in why:  # as the next would be, a minute later
            raise UserError(f"W&B cannot be reached, {counts[UPLOADED]} uploaded; try again later ({why})")
        counts[outcome] += 1
        print(printable(f"{outcome:<15}{run.folder} ({run.identity}){': ' if why else ''}{why}"), flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count))
    return int(counts[FAILED] > 0)


def find_offline_runs(folder: Path) -> list[OfflineRun]:
    """The W&B runs that were logged offline in `folder` and below, in the order of their folders."""
    found = []
    for home in sorted({part.parent.parent for part in folder.rglob("wandb/offline-run-*") if part.is_dir()}):
        parts = defaultdict(list)
        for part in offline_folders(home):
            parts[part.name.split("-", 3)[3]].append(part)  # offline-run-DATE_TIME-ID
        found += [OfflineRun(home, identity, each) for identity, each in parts.items()]
    return found


def _bring(run: OfflineRun) -> tuple[str, str]:
    """Upload a run; the outcome, and why it failed."""
    if not run.ended:
        return RUNNING, ""
    if not run.waiting:
        return THERE, ""
    reason = _upload(run.waiting)
    return (FAILED, reason) if run.waiting else (UPLOADED, "")


def _upload(parts: list[Path]) -> str:
    """Upload parts of one run in order; what W&B said of it, in one line."""
    home = tempfile.TemporaryDirectory()  # W&B reads settings, of its server too, from where it is started
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "wandb", "sync", *(str(part.resolve()) for part in parts)],
            env={"WANDB_X_GRAPHQL_RETRY_MAX": str(_RETRIES), **os.environ, "WANDB_SILENT": "false"},
            cwd=home.name,
            stdin=subprocess.DEVNULL,  # nobody is asked for a key
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {_PATIENCE_S // 60} minutes"
    finally:
        home.cleanup()
    lines = [line.removeprefix("wandb: ").strip() for line in done.stdout.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR ") for line in lines if line.startswith(("ERROR ", "panic:"))]
    return [*errors[:1], *lines[-1:], f"wandb sync ended with status {done.returncode}"][0]
