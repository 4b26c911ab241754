"""Seeds in one process beside seeds one after the other: `python -m ablab.bench.gpu.stacks FILE KEY=VALUE ...`.

Two sweeps of the same model, with what each took written as one JSON file when it has ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ablab.results.store import RECORD_FILE, read_record, write_atomically

STACKED, ALONE = 16, 4  # seeds: those that are alone are as many as it takes to know how long one is
STEPS = 200


def run(output: Path, overrides: list[str]) -> bool:
    """Make both sweeps in a folder beside `output`; whether both ended well."""
    rows: list[dict[str, Any]] = []
    for stack, seeds in (("seeds", STACKED), ("null", ALONE)):
        folder = output.resolve().parent / f"stack={stack}"
        status = _sweep(folder, [f"stack={stack}", f"seed={','.join(map(str, range(seeds)))}", *overrides])
        rows.append({"stack": stack, "seeds": seeds, **_told(folder)})
        if len(rows) == 2 and rows[0]["s a seed"] and rows[1]["s a seed"]:
            rows[0]["times as fast"] = rows[1]["s a seed"] / rows[0]["s a seed"]
        write_atomically(output, json.dumps(rows) + "\n")
        if status:
            return False
    return True


def _sweep(folder: Path, overrides: Iterable[str]) -> int:
    length = [f"trainer.max_steps={STEPS}", f"trainer.val_check_interval={STEPS}", "logger={}", "jobs=1"]
    words = ["-m", *length, *overrides, f"hydra.sweep.dir={folder}"]
    return subprocess.run([sys.executable, "-m", "ablab", *words], check=False).returncode


def _told(folder: Path) -> dict[str, Any]:
    """How many of its runs ended well, in how many processes, and what a seed took."""
    records = [read_record(path) for path in sorted(folder.rglob(RECORD_FILE))]
    seconds = [each.cost.wall_time_s for each in records if each.status == "ok" and each.cost.wall_time_s]
    together = [each for each in records if getattr(each, "stacked", None)]
    mean = sum(seconds) / len(seconds) if seconds else None
    return {"ended well": len(seconds), "stacked": len(together), "s a seed": mean}


if __name__ == "__main__":
    sys.exit(0 if run(Path(sys.argv[1]), sys.argv[2:]) else 1)
