"""The application that Hydra runs: one run, a sweep, or the plan of one; and how a command ends that cannot go on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ablab.cli.flags import check_flags, check_overrides, parts
from ablab.config.redact import redact_text, secrets_in
from ablab.errors import UserError, named, one_line, printable

if TYPE_CHECKING:
    from omegaconf import DictConfig


_NO_FOLDER = re.compile(r"provider=hydra\.searchpath in [\w-]+, path=(.+) is not available\.")  # a warning of Hydra's
_LONGEST = 660  # characters of a line: a name or a list within it may have any number


def interrupt(*_: object) -> NoReturn:
    """The handler of a signal that is treated like Ctrl-C."""
    raise KeyboardInterrupt


def fail(message: str) -> NoReturn:
    """One line on stderr, and exit status 2: a mistake of the user's."""
    said = redact_text(" ".join(message.split()), secrets_in(sys.argv))
    if len(said) > _LONGEST:
        said = f"{said[: _LONGEST * 2 // 3]} [...] {said[-_LONGEST // 3 :]}"
    print(printable(f"ablab: error: {said}"), file=sys.stderr)
    sys.exit(2)


def refuse(error: Exception) -> NoReturn:
    """The same for any error: that of a config or a file, and one that nobody has foreseen, with the place of it."""
    from yaml import YAMLError

    from ablab.config.explain import ConfigErrors, explain
    from ablab.config.yaml_files import explain_yaml

    if os.environ.get("ABLAB_TRACEBACK"):
        traceback.print_exception(error)
    if isinstance(error, UserError):
        fail(str(error))
    if isinstance(error, ConfigErrors):
        fail(explain(error))
    if isinstance(error, YAMLError):
        fail(explain_yaml(error))
    if isinstance(error, UnicodeDecodeError):
        fail(f"{_undecodable()}: is no UTF-8 text ({error.reason} at byte {error.start})")
    if isinstance(error, ValueError) and "Config group override" in str(error):
        fail(f"each axis needs the name of an option ({error})")  # attention: null in the defaults of a file
    if isinstance(error, FileExistsError) and error.filename:  # as Hydra makes the folder of a run
        fail(f"{error.filename}: a file is in the way of the folder that is to be made; choose another name")
    if isinstance(error, OSError):
        fail(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    if isinstance(error, UserWarning) and (found := _NO_FOLDER.fullmatch(str(error))):
        fail(f"hydra.searchpath: {found[1]}: no such folder")
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # as pathlib says it
        fail(f"{one_line(error)}: a link that leads to itself")
    if _is_of_hydra(error):
        fail(f"the config cannot be put together: {one_line(error)}; is a part of a file empty, or of another kind?")
    fail(f"unforeseen: {named(error)}; ABLAB_TRACEBACK=1 shows more")


def _is_of_hydra(error: Exception) -> bool:
    """Whether Hydra or OmegaConf has stumbled over what it was given."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and bool({"hydra", "omegaconf"} & set(Path(frames[-1].filename).parts))


def _undecodable() -> str:
    """The file in the folder of --config-dir that cannot be read."""
    folders = [value for name, _, value in parts(sys.argv[1:]) if name in ("--config-dir", "-cd") and value]
    for path in (path for folder in folders for path in sorted(Path(folder).rglob("*.yaml"))):
        try:
            path.read_text(encoding="utf-8")
        except ValueError:
            return str(path)
    return "a file"


PLAN_HELP = """\
Shows what `ablab -m ...` would do, before anything is trained: the runs, how long they take and how much memory (from
a few steps of each variant, which --no-probe leaves out), the smallest effect that the seeds could show, and every
error of every run. Exit status: 2 if a run cannot work, 1 if the few steps of a variant did not end well."""


def run_hydra(words: list[str]) -> int:
    """Hand the command line to Hydra: one run, or with -m a sweep.

    Of several processes that a launcher has started for one run, the first does so, and the others wait for what it
    finds.
    """
    from ablab.training.world import launched

    if (place := launched()) is None:
        return _run_hydra(words)
    from ablab.study.launched import follow, lead

    return follow(place) if place.rank else lead(place, lambda: _run_hydra(words))


def _run_hydra(words: list[str]) -> int:
    import hydra

    from ablab.config import conf_folder, register_schema
    from ablab.config.ladder import written_out
    from ablab.config.overrides import as_written

    words = _retry(words)
    check_flags(words)
    check_overrides(words)
    register_schema()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would otherwise print at length; it is explained here
    sys.argv = ["ablab", *map(as_written, written_out(overrides_last(words)))]
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, interrupt)  # a scheduler's polite end is treated like Ctrl-C
    statuses: list[str] = []

    def job(config: DictConfig) -> float:
        from ablab.study.job import run_job
        from ablab.study.other_launcher import objective

        try:
            record = run_job(config)
        except Exception as error:  # here: Hydra would say more of it than its cause
            refuse(error)
        statuses.append(record.status)
        return objective(record)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", _NO_FOLDER.pattern, UserWarning)  # whatever lies there would be missing
        hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")(job)()
    return 130 if "interrupted" in statuses else int(any(status != "ok" for status in statuses))


def show_plan(words: list[str]) -> int:
    """`ablab plan ...` takes what `ablab -m ...` takes, and `--no-probe`."""
    if "-h" in words or "--help" in words:
        print("ablab plan [--no-probe] STUDY, as in ablab plan study=quickstart\n\n" + PLAN_HELP)
        return 0
    if foreign := next((word for word in words if word.lstrip("+").startswith("hydra/sweeper=")), None):
        raise UserError(f"{foreign}: a plan is of a sweep by ablab's own sweeper; leave it out")
    probe = "--no-probe" not in words
    planner = ["hydra/sweeper=ablab_plan", f"hydra.sweeper.probe={str(probe).lower()}"]
    return run_hydra(["-m", *planner, *(word for word in words if word not in ("--no-probe", "-m"))])


def _retry(words: list[str]) -> list[str]:
    """`--retry failed`, as `ablab resume` has it, for the setting of that name."""
    if "--retry" not in words[:-1]:
        return words
    place = words.index("--retry")
    return [*words[:place], *words[place + 2 :], f"retry={words[place + 1]}"]


def overrides_last(words: list[str]) -> list[str]:
    """Hydra's parser refuses overrides on both sides of an option, as in `ablab name=windows -m seed=0,1`."""
    options: list[str] = []
    overrides: list[str] = []
    for word, flag, value in parts(words):
        if flag is None:
            overrides.append(word)
        else:
            value = "all" if flag.may_lack and value is None else value  # or it would take an override for its value
            options += [word] if value is None else [word, value]
    return [*options, *overrides]
