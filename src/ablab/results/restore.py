"""`ablab restore`: the folder of a study, out of the file of its kept results (`ablab.results.kept`)."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ablab.config.yaml_text import to_yaml
from ablab.errors import UserError
from ablab.results.evaluation import as_evaluation
from ablab.results.interim import INTERIM_FILE
from ablab.results.kept import KeptRun, kept_runs, read_kept
from ablab.results.store import (
    CONFIG_FILE,
    METRICS_FILE,
    PLAN_FILE,
    RECORD_FILE,
    as_record,
    replacing_folder,
    write_evaluation,
)


def restore(file: Path, folder: Path) -> str:
    """Write what `file` holds of a study into `folder`, and return what was written, in a line.

    Each run has its record, config, curves and evaluations elsewhere; none has weights. To the command of the study
    they are finished runs: with more seeds or variants in it, it goes on with these alone.

    Raises:
        UserError: `file` holds no kept results, or a run that has no config; `folder` is there and not empty, or cannot
            be written.
    """
    study = read_kept(file)
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; give the name of a new folder")
    try:
        with replacing_folder(folder) as new:
            written = [_write(run, new, file) for run in kept_runs(file)]
            if study.interim_analyses:
                (new / INTERIM_FILE).write_text(json.dumps(study.interim_analyses, indent=2), encoding="utf-8")
            if study.plan is not None:
                (new / PLAN_FILE).write_text(json.dumps(study.plan, indent=2), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
    trials = sum(written)
    return f"{folder}: {len(written) - trials} runs" + (f" and {trials} trials" if trials else "")


def _write(run: KeptRun, study: Path, file: Path) -> bool:
    """Write the folder of a run, and return whether it is a trial."""
    place = study / run.folder  # which `read_kept` has found to lie below the study's
    place.mkdir(parents=True, exist_ok=True)  # it is the study's where a single run was kept
    record = as_record(run.record, file / run.folder)
    if not record.config:
        raise UserError(f"{file}: its run {run.folder} has no config, so that no study could go on with it")
    (place / RECORD_FILE).write_text(json.dumps(run.record, indent=2), encoding="utf-8")
    (place / CONFIG_FILE).write_text(to_yaml(record.config), encoding="utf-8")
    if run.curves is not None:
        (place / METRICS_FILE).write_text(run.curves, encoding="utf-8", newline="")
    for data in run.evaluations:
        write_evaluation(place, as_evaluation(data, file / run.folder, record.fingerprint))
    return run.trial
