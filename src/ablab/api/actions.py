"""What the command line does, for a caller in Python."""

from __future__ import annotations

import shlex
from os import PathLike
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ablab.analysis.verdicts import Intervals, Split
from ablab.api.command import Command
from ablab.api.loaded import Study
from ablab.api.trained import Run
from ablab.api.words import Asked, words_of
from ablab.config import RunConfig
from ablab.config.compose import composed, composed_sweep, importable, resolved
from ablab.config.ladder import written_out
from ablab.config.overrides import as_written
from ablab.config.project import module_folders, option_folders
from ablab.config.redact import redact_text, secrets_in
from ablab.errors import UserError

Folder = str | PathLike[str]


def compose(*asked: Asked, config_dir: Folder | None = None, **settings: object) -> RunConfig:
    """The config of one run, as `ablab --cfg job` shows it, resolved and typed: nothing is built, and nothing written.

        compose("attention=windowed", seed=3).options["attention"]["window"]

    Args:
        asked: settings as on the command line, "optimizer.lr=1e-3"; or a dict of them, {"optimizer.lr": 1e-3}.
        config_dir: a folder of options of your own; default: the one that your project names, `[tool.ablab] conf`.
        settings: the same as keywords.

    Raises:
        UserError: there is no such option or setting, or a value cannot be what it is.
    """
    words, folders = words_of(asked, settings), _folders(config_dir)
    with importable(module_folders(folders)):
        try:
            return resolved(composed(_as_read(words), folders), words)
        except UserError as error:
            raise _in_python(error) from None


def run(*asked: Asked, config_dir: Folder | None = None, **settings: object) -> Run:
    """Train one run, as `ablab` does, and give it: its record, its curves, its model.

        run("attention=windowed", name="windowed", seed=3).metrics["val_loss"]

    The run has a process of its own; Ctrl-C lets it save itself, and the same call goes on. One that is finished is not
    trained again. A run that failed or diverged is given all the same: `.record.status`.

    Args:
        asked: overrides, as `compose` takes them.
        config_dir: as `compose` takes it.
        settings: as `compose` takes them.

    Raises:
        UserError: the run cannot be as asked; nothing has been trained.
        KeyboardInterrupt: Ctrl-C, after the run has saved itself.
    """
    words, folders = words_of(asked, settings), _folders(config_dir)
    try:
        config = composed(_as_read(words), folders)
        if OmegaConf.select(config, "hydra.mode") == RunMode.MULTIRUN:
            raise UserError(f"{' '.join(words)}: is a study of several runs; call sweep()")
        words += _at_this_moment(config, "hydra.run.dir")
        folder = Path(config.hydra.run.dir)
        _carry_out([], words, config_dir)
    except UserError as error:
        raise _in_python(error) from None
    return Run(folder)


def sweep(*asked: Asked, config_dir: Folder | None = None, **settings: object) -> Study:
    """Train every variant on every seed, as `ablab -m` does, and give the study: its table, figures, runs and models.

        sweep("activation=relu,gelu", seed=[0, 1, 2], name="mine")

    The whole plan is checked first. A line says of each run how it ended, and how long the others will take. The study
    lies in outputs/<name>, with its report; the same call keeps what is finished there. Ctrl-C lets runs save
    themselves, and the same call goes on.

    Args:
        asked: overrides, as `compose` takes them.
        config_dir: as `compose` takes it.
        settings: as `compose` takes them; a list, tuple or range is swept over, as are several values in a
            text, "0,1,2".

    Raises:
        UserError: some run of the plan cannot be as asked, and nothing has been trained; or the runs cannot be compared
            as asked.
        KeyboardInterrupt: Ctrl-C, after running runs have saved themselves.
    """
    words, folders = words_of(asked, settings, sweep=True), _folders(config_dir)
    try:
        config = composed_sweep(_as_read(words), folders)
        words += _at_this_moment(config, "hydra.sweep.dir")
        folder = Path(config.hydra.sweep.dir)
    except UserError as error:
        raise _in_python(error) from None
    _carry_out(["-m"], words, config_dir)
    return Study.read(folder)


def compare(
    *of: Study | Run | Folder,
    baseline: str | None = None,
    metric: str | None = None,
    margin: float | None = None,
    last_k: int | None = None,
    split: Split | None = None,
    intervals: Intervals | None = None,
    only: str = "",
) -> Study:
    """Compare the runs of studies, or of folders, as `ablab compare` does.

        compare(study, baseline="activation=gelu")

    Args:
        of: what `sweep` or `load` gave, folders of runs, or files of kept results.
        baseline: as `load` takes it, as all of the following.
        metric: that decides.
        margin: within which variants count as equivalent.
        last_k: evaluations whose mean decides.
        split: that decides.
        intervals: one of its names.
        only: what is shown of it, "attention=lsh,mla seed=0,1"; p values stay adjusted for all comparisons.

    Raises:
        UserError: no runs are there, or they cannot be compared as asked.
    """
    if not of:
        raise UserError('compare() needs a study or a folder of runs, as in compare("outputs/quickstart")')
    places = [place for each in of for place in _places(each)]
    return Study.read(
        *places,
        baseline=baseline,
        metric=metric,
        margin=margin,
        last_k=last_k,
        split=split,
        intervals=intervals,
        only=shlex.split(only),
    )


def _places(of: Study | Run | Folder) -> list[Path]:
    if isinstance(of, Study):
        return of.folders
    return [of.folder if isinstance(of, Run) else Path(of)]


def _folders(config_dir: Folder | None) -> list[Path]:
    """The folder of the user's own options, as it is named or as their project names it."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"config_dir={config_dir}: no such folder")
    return option_folders(None if config_dir is None else Path(config_dir))


def _as_read(words: list[str]) -> list[str]:
    """The words as the command line hands them to Hydra."""
    return [*map(as_written, written_out(words))]


def _at_this_moment(config: DictConfig, folder: str) -> list[str]:
    """Overrides for what depends on the time of day, which would be another one in another process."""
    asked: Any = OmegaConf.to_container(config, resolve=False)
    found = []
    for key in ("name", folder):
        value = asked
        for part in key.split("."):
            value = value[part]
        if "${now" in str(value):
            found.append(f"{key}='{OmegaConf.select(config, key)}'")
    return found


def _carry_out(flags: list[str], words: list[str], config_dir: Folder | None) -> None:
    own = [] if config_dir is None else ["--config-dir", str(config_dir)]
    command = [*own, *flags, *words]
    shown = redact_text(shlex.join(command), secrets_in(command))
    print(f"ablab {shown}", flush=True)  # at once: importing takes seconds
    Command(command).wait()


def _in_python(error: UserError) -> UserError:
    """The error with what a caller in Python can do about it."""
    return UserError(str(error).replace("add -m", "call sweep()"))
