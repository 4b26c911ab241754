"""`ablab evaluate`: finished runs, one or all of a study, on other tasks, lengths or data, each evaluation a file."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from ablab.config import Node, conf_folder, register_schema
from ablab.config.explain import ConfigErrors, explain
from ablab.config.overrides import as_written, canonical, not_too_many
from ablab.config.redact import redact_override
from ablab.errors import UserError, printable
from ablab.results.evaluation import Evaluation
from ablab.results.find import record_files
from ablab.results.kept import why_no_folder
from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, below, read_evaluations, read_record, write_evaluation
from ablab.training.evaluation import Request, evaluate_run
from ablab.training.evaluation_data import Tasks
from ablab.training.restore import SavedRun

_DEVICE = "trainer.accelerator"


@dataclass(frozen=True)
class Finished:
    """A run that ended well, in its folder."""

    folder: Path
    record: Record


def evaluate(
    *places: str | PathLike[str],
    overrides: str | Sequence[str] = (),
    checkpoint: str = "best",
    again: bool = False,
    trust: bool = False,
) -> list[Evaluation]:
    """Evaluate finished runs elsewhere, in Python: as `ablab evaluate` does, and silently.

    from ablab import evaluate

    evaluate("outputs/mine/seed=0", overrides=["task.seq_len=512,1024"])

    Args:
        places: folders of runs, and of studies, all of whose runs that ended well are evaluated.
        overrides: of the task; several values with commas are as many evaluations.
        checkpoint: "best" or "last".
        again: also those that are there already.
        trust: components that a run's config names and that are not ablab's may run.

    Returns:
        Every evaluation that was asked for, those that were there already included.

    Raises:
        UserError: one of them cannot be made; those before it are written.
    """
    if not places:
        raise UserError('evaluate() needs a folder of runs, as in evaluate("outputs/mine")')
    asked = requests([overrides] if isinstance(overrides, str) else overrides, checkpoint)
    tasks = Tasks()
    runs = finished_runs([Path(place) for place in places])
    return [
        evaluation if (evaluation := None if again else existing(run, request)) else _write(run, request, tasks, trust)
        for request, run in _in_turn(asked, runs)
    ]


def evaluate_all(
    places: Sequence[Path],
    overrides: Sequence[str],
    *,
    checkpoint: str = "best",
    again: bool = False,
    trust: bool = False,
    tell: Callable[[str], object] = print,
) -> int:
    """Make every evaluation that is not there yet, and tell of each; the exit status.

    One that fails does not keep the others from being made; each reason is said once, on stderr, when all have been
    tried. What is written is whole at any moment: whoever stops this loses the evaluation that is being made, and the
    same command goes on with those that are left.

    Raises:
        UserError: nothing can be evaluated as asked; or all that were tried fail for the same reason.
    """
    asked, runs = requests(overrides, checkpoint), finished_runs(places)
    pairs = list(_in_turn(asked, runs))
    left = [(request, run) for request, run in pairs if again or existing(run, request) is None]
    if len(left) < len(pairs):
        tell(f"{len(pairs) - len(left)} of {len(pairs)} evaluations are there already (--again makes them anew)")
    tasks, failed = Tasks(), dict[str, list[str]]()  # the reason -> what fails for it
    for number, (request, run) in enumerate(left, start=1):
        try:
            found = _write(run, request, tasks, trust)
        except UserError as error:
            failed.setdefault(str(error), []).append(f"{run.folder}: {request.name}")
            continue
        tell(printable(f"[{number}/{len(left)}] {run.folder}: {_said(found)}"))
    count = sum(map(len, failed.values()))
    if len(failed) == 1 and count == len(left):
        raise UserError(*failed)
    for reason, (first, *others) in failed.items():
        more = f" (and for {len(others)} more)" if others else ""
        print(printable(f"ablab: {first}: {reason}{more}"), file=sys.stderr)
    if failed:
        print(f"ablab: {count} of {len(pairs)} evaluations could not be made", file=sys.stderr)
    return int(count > 0)


def _said(found: Evaluation) -> str:
    value = found.metrics.get(found.primary.name)
    shown = "no value" if value is None else f"{value:.4f}"
    return f"{found.primary.name}@{found.name} {shown} ({found.time_s or 0:.1f} s)"


def _in_turn(asked: Sequence[Request], runs: Sequence[Finished]) -> Iterator[tuple[Request, Finished]]:
    """Those of one request and seed behind each other: they share their data."""
    by_seed = sorted(runs, key=lambda run: run.record.seed)
    return itertools.product(asked, by_seed)


def existing(run: Finished, request: Request) -> Evaluation | None:
    """The evaluation where it has been made already."""
    return read_evaluations(run.folder, run.record.fingerprint).get(request.name)


def _write(run: Finished, request: Request, tasks: Tasks, trust: bool) -> Evaluation:
    trained = SavedRun.open(run.folder, request.checkpoint, trust)
    found = evaluate_run(trained, request, run.record, tasks)
    try:
        write_evaluation(run.folder, found)
    except OSError as error:
        raise UserError(f"{error.filename or run.folder}: cannot be written ({error.strerror})") from error
    return found


def finished_runs(places: Sequence[Path]) -> list[Finished]:
    """The runs that ended well in the places: folders of runs, and of studies.

    Raises:
        UserError: a place is none, a run that is named did not end well, or none of a study's did.
    """
    found: dict[Path, Finished] = {}
    for place in places:
        for run in _of(place):
            found.setdefault(run.folder.resolve(), run)
    return list(found.values())


def _of(place: Path) -> list[Finished]:
    if not place.is_dir():
        raise UserError(why_no_folder(place))
    if (place / RECORD_FILE).exists():
        record = read_record(place / RECORD_FILE)
        if record.status != "ok":
            raise UserError(f"{place}: did not end well ({record.status}), and is not evaluated")
        return [Finished(place, record)]
    folders = [path.parent for path in record_files(place)]
    for folder in folders:
        try:
            below(place, folder.relative_to(place).as_posix())
        except ValueError as error:
            raise UserError(f"{folder}: leads out of {place}; name the run itself") from error
    runs = [Finished(folder, read_record(folder / RECORD_FILE)) for folder in folders]
    well = [run for run in runs if run.record.status == "ok"]
    if not well:
        raise UserError(f"{place}: none of its {len(runs)} runs ended well: there is nothing to evaluate")
    return well


def requests(words: Sequence[str], checkpoint: str = "best") -> list[Request]:
    """What overrides ask for: an evaluation for each combination of the values that they list.

    Raises:
        UserError: one of them is no override, or not of the task.
    """
    try:
        parsed = OverridesParser.create().parse_overrides([as_written(word) for word in words])
        swept = [[(override.key_or_group, text) for text in _values(override)] for override in parsed]
        combined = (dict(chosen) for chosen in itertools.product(*swept))
        return [_request(chosen, checkpoint) for chosen in combined]
    except ConfigErrors as error:
        raise UserError(explain(error)) from error


def _values(override: Override) -> list[str]:
    key, text = override.key_or_group, str(override.input_line)
    if override.is_add() or override.is_force_add() or override.is_delete() or override.package:
        raise UserError(f"{text}: write {key}=..., for a setting that the task has")
    if not (key in ("task", _DEVICE) or (key.startswith("task.") and not key.startswith("task._"))):
        raise UserError(
            f"{text}: an evaluation changes the task alone (task=..., task.seq_len=..., task.path=...), and "
            f"{_DEVICE}; the model is as it was trained"
        )
    if not override.is_sweep_override():
        return [str(override.get_value_element_as_str())]
    if not override.is_discrete_sweep() or key == _DEVICE:
        raise UserError(f"{text}: needs {'one value' if key == _DEVICE else f'a list of values, as in {key}=1,2,3'}")
    return list(dict.fromkeys(map(str, not_too_many(override.sweep_string_iterator(), text))))


def _request(chosen: dict[str, str], checkpoint: str) -> Request:
    accelerator = chosen.pop(_DEVICE, None)
    name = chosen.get("task")
    settings = {key.removeprefix("task."): _parsed(key, text) for key, text in chosen.items() if key != "task"}
    words = {"task": name} if name else {}
    words |= {f"task.{key}": canonical(value) for key, value in settings.items()}
    return Request(
        settings=settings,
        words={key: redact_override(f"{key}={value}") for key, value in words.items()},
        option=None if name is None else _option(name),
        checkpoint=checkpoint,
        accelerator=accelerator,
    )


def _parsed(key: str, text: str) -> Any:
    value = OverridesParser.create().parse_override(f"{key}={text}").value()
    resolved: Any = OmegaConf.to_container(OmegaConf.create({key: value}), resolve=True)
    return resolved[key]


def _option(name: str) -> Node:
    """The node of an option of the axis `task`, as every command composes it; what must be given is "???"."""
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", [f"task={name}"])
    option: Any = OmegaConf.to_container(config.task, resolve=True, throw_on_missing=False)
    return dict(option)
