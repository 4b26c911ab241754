"""`ablab keep`: the results of a study, out of its folder into one file (`ablab.results.kept`)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ablab.config import Node
from ablab.errors import UserError
from ablab.results.find import record_files, trial_files
from ablab.results.interim import interim_analyses_of
from ablab.results.kept import KeptRun, write_kept
from ablab.results.store import (
    METRICS_FILE,
    PLAN_FILE,
    as_record,
    finite,
    parse_json,
    read_evaluations,
    read_record_data,
)


def keep(folder: Path, file: Path, *, trials: bool = False) -> str:
    """Write the results of the runs below `folder` into `file`, and return what was written, in a line.

    Args:
        trials: also the runs by which settings were chosen or speeds measured.

    Raises:
        UserError: neither runs below `folder` nor trials that are asked for, one cannot be read, or `file` cannot be
            written or is another's.
    """
    tried = trial_files(folder) if trials else []
    paths = record_files(folder, some=not tried)  # of a study that was stopped while it tuned there are trials alone
    runs = [_run(path, folder) for path in paths] + [_run(path, folder, trial=True) for path in tried]
    analyses = interim_analyses_of(path.parent for path in paths)
    write_kept(file, {"interim_analyses": [asdict(each) for each in analyses], "plan": _plan(folder)}, runs)
    curves, evaluations = sum(run.curves is not None for run in runs), sum(len(run.evaluations) for run in runs)
    elsewhere = f", {evaluations} evaluations elsewhere" if evaluations else ""
    beside = f" and {len(runs) - len(paths)} trials" if len(runs) > len(paths) else ""
    size = f"{file.stat().st_size / 1024:,.0f} KiB"
    return f"{file}: {len(paths)} runs{beside}, {curves} with learning curves{elsewhere}, {size}"


def _run(path: Path, study: Path, *, trial: bool = False) -> KeptRun:
    folder = path.parent.relative_to(study).as_posix()
    if not folder.isprintable():
        raise UserError(f"{path.parent}: the name of a run's folder must be readable text")
    data = read_record_data(path)
    found = read_evaluations(path.parent, as_record(data, path).fingerprint)
    return KeptRun(
        folder=folder,
        record=data,
        curves=_curves(path.with_name(METRICS_FILE)),
        evaluations=[finite(each.to_dict()) for each in found.values()],
        trial=trial,
    )


def _curves(path: Path) -> str | None:
    if path.exists() and not path.is_file():  # a pipe, which would be waited for
        raise UserError(f"{path}: holds no curves")
    try:
        text = path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if text and "step" not in text.partition("\n")[0].split(","):  # what a link leads to may be anything
        raise UserError(f"{path}: holds no curves, and is not kept; remove it to keep the run without")
    return text


def _plan(folder: Path) -> Node | None:
    """The plan of the study in `folder` without the folders of the machine that made it; None if there is none."""
    path = folder / PLAN_FILE
    try:
        plan = parse_json(path.read_bytes())
        here = Path(plan["working_folder"]).as_posix() + "/"  # "./" where it is not known
        command = [str(word).replace(here, "") for word in plan["command"]]
        return dict(plan) | {"command": command, "working_folder": "", "python_path": []}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error})") from error
