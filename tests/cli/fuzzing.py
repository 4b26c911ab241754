"""Odd command lines and files to order, and what must hold however a command ends."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ablab.cli import main
from ablab.config import AXES, conf_folder
from ablab.config.schema import Config

LONGEST_S = 60  # after which a command hangs
LINES = 3  # of a refusal
SMALL = ("model=tiny", "task=copying", "task.batch_size=2", "trainer.accelerator=cpu", "logger=csv", "name=x")
TIMES = int(os.environ.get("ABLAB_FUZZ", "1"))  # as many examples as the suite tries
ENDED: Counter[object] = Counter()  # exit status -> how many commands

ODD = (
    *(
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1",
        "1.5",
        "1e400",
        "1e-400",
        "''",
        "null",
        "None",
        "true",
        "maybe",
        "{}",
        "[]",
    ),
    *("{a:1}", "[1,2]", "[[]]", "[null]", "'[1,2'", "a", "a.b", "..", "/", "x y", "'x y'", "a=b", "'a=b'", "${x}"),
    *("${seed}", "${oc.env:NOPE}", "${oc.env:NOPE,3}", "${", "$", "\N{SNOWMAN}", "\N{GREEK SMALL LETTER PI}", "'", '"'),
    *("9" * 30, "0" * 300 + "1", "0x10", "1_000", "3e-3", "glob(*)", "range(0)", "range(3)", "choice()", "choice(a,b)"),
    *(
        "interval(0,1)",
        "sort(3,1)",
        "1,2",
        "1,1.0",
        ",",
        "a,",
        "@",
        "#",
        "%",
        "\\",
        "{a:{b:1}}",
        "{_target_:os.getcwd}",
    ),
    *("{_target_:1}", "2024-01-01", "1:30", "a" * 300),
)
FLAGS = (
    *("-m", "--run", "--cfg", "job", "--resolve", "--package", "-p", "model", "--info", "config", "-sc", "--seed", "3"),
    *("--lr=0.1", "--config-dir", "c", "--config-name", "nope", "-x", "--", "-", "--help", "--retry", "failed"),
    *("--experimental-rerun", "x.pkl", "--no-probe", "--multirun=3", "--cfg=job", "--hydra-help", "plan", "compare"),
)


FAULTS: list[object] = []  # what was found in a long search


class Hangs(BaseException):
    """A command has taken too long; no handler of errors takes it for one."""


@dataclass(frozen=True)
class Ended:
    """How a command ended in a folder of its own."""

    words: tuple[str, ...]
    status: object
    out: str
    err: str
    left: tuple[str, ...]  # what it left behind


def check_end(ended: Ended) -> None:
    """Raise AssertionError where a command has ended as none may; in a long search, remember it and go on."""
    ENDED[ended.status] += 1
    try:
        _ended_well(ended)
    except AssertionError:
        if TIMES == 1:
            raise
        FAULTS.append(ended)


def _ended_well(ended: Ended) -> None:
    assert ended.status in (0, 1, 2), ended
    assert "Traceback" not in ended.out + ended.err, ended
    assert "unforeseen" not in ended.err, ended
    if ended.status == 2:
        lines = ended.err.splitlines()
        assert 1 <= len(lines) <= LINES, ended
        assert all(len(line) < 700 for line in lines), ended
        assert lines[0].startswith("ablab: error: "), ended
        assert lines[0].removeprefix("ablab: error: ").strip(), ended
        assert ended.left == (), ended


def end(folder: Path, words: Sequence[str]) -> Ended:
    """Run the command line in this process, in `folder`; what it leaves there is told, and removed."""
    before = _files(folder)
    out, err = io.StringIO(), io.StringIO()
    status: object = "returned"
    with _as_in_a_process_of_its_own(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as end:
            status = end.code
        except Hangs:
            status = "hangs"
    left = _files(folder) - before
    for path in sorted(left, reverse=True):
        shutil.rmtree(folder / path) if (folder / path).is_dir() else (folder / path).unlink(missing_ok=True)
    return Ended(tuple(words), status, out.getvalue(), err.getvalue(), tuple(sorted(left)))


@contextlib.contextmanager
def _as_in_a_process_of_its_own(folder: Path) -> Iterator[None]:
    def hang(*_: object) -> None:
        raise Hangs

    cwd, argv, path, environment = Path.cwd(), sys.argv, [*sys.path], dict(os.environ)
    handlers = {which: signal.getsignal(which) for which in (signal.SIGALRM, signal.SIGTERM)}
    log = logging.getLogger()
    level, log_handlers = log.level, [*log.handlers]
    os.chdir(folder)
    signal.signal(signal.SIGALRM, hang)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        for which, handler in handlers.items():
            signal.signal(which, handler)
        log.setLevel(level)  # --info has Hydra say all, and compose whatever comes later several times
        log.handlers[:] = log_handlers
        os.chdir(cwd)
        sys.argv, sys.path[:] = argv, path
        os.environ.clear()
        os.environ.update(environment)
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _leaves(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}.{key}"
        yield from _leaves(value, f"{prefix}.{key}")


def keys() -> list[tuple[str | None, str]]:
    """Every key of every option, with the override that chooses the option; and the keys that belong to no axis."""
    sections = get_type_hints(Config)
    found: list[tuple[str | None, str]] = [(None, name) for name in sections]
    found += [(None, key) for key in ("budget.match", "budget.reference", "budget.adjust", "budget.pilot_steps")]
    found += [(None, f"{name}.{field.name}") for name in ("tune", "ladder") for field in fields(sections[name])]
    found += [
        (None, f"tune.{key}") for key in ("optimizer.weight_decay", "model.d_model", "attention.window", "task.x")
    ]
    declared = ("baseline", "metric", "margin", "split", "intervals", "last_k", "within")
    found += [(None, f"comparison.{key}") for key in declared]
    found += [(None, key) for key in ("hydra.run.dir", "hydra.sweep.subdir", "hydra.job.chdir", "+hydra.x", "hydra")]
    for axis in (*AXES, "design"):
        for path in sorted((conf_folder() / axis).glob("*.yaml")):
            node = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
            found += [(f"{axis}={path.stem}", key) for key in _leaves(node, axis) if ".defaults" not in key]
    return found


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    """An option, and one of its keys with an odd value, taken out, added, or misspelt."""
    option, key = draw(st.sampled_from(_KEYS))
    how = draw(st.sampled_from(["="] * 8 + ["~", "+", "++", "misspelt", "odd option"]))
    value = draw(st.sampled_from(ODD))
    word = f"{key}={value}"
    if how == "~":
        word = draw(st.sampled_from([f"~{key}", f"~{key}={value}"]))
    elif how in ("+", "++"):
        word = f"{how}{key}{draw(st.sampled_from(['', '.x', 'x']))}={value}"
    elif how == "misspelt":
        word = f"{key[:-1]}={value}"
    elif how == "odd option":
        word = f"{key.split('.')[0]}={value}"
    return [*([option] if option else []), word]


_KEYS = keys()

_STUDY_LINES = (
    *("# @package _global_", "# @package _globl_", "question: what?", "question: what: now", "question: [1", "seed: x"),
    *("defaults:\n  - override /attention: lsh", "defaults:\n  - attention: lsh", "defaults: x", "defaults:\n  - nope"),
    *(
        "defaults:\n  - override /attenton: full",
        "defaults:\n  - override /attention: ful",
        "comparison: x",
        "margin: 1",
    ),
    *("comparison:\n  baseline: attention=ful", "comparison:\n\tmetric: a", "comparison: [a]", "metric: val_loss"),
    *("budget: params", "budget: {match: nope}", "tune: [0.1]", "tune: {lr: 0.1}", "attention: lsh", "attention:"),
    *("attention: {window: 3}", "model: {d_modle: 3}", "hydra:\n  sweeper:\n    params: {attention: 'full,lsh'}"),
    *("hydra:\n  sweeper:\n    params: {attention: ful}", "hydra:\n  sweeper:\n    params: [a]", "hydra:", "hydra: 3"),
    *("hydra:\n  sweeper:\n    parms: {a: b}", "hydra:\n  sweeper:\n    params: {attention: [full, lsh]}", "null: 2"),
    *(
        "design: pairwise",
        "design: {levels: 3}",
        "design: {exclude: [{attention: ful}]}",
        "1: 2",
        "question: ${",
        "- a",
    ),
    *("question: ${nope}", "question: ${nope:1}", "question: *x", "question: 'x", "question: !!python/name:os.x", "a"),
    *(
        "jobs: many",
        "name: 2024-01-15",
        "name: ..",
        "seed: 1\nseed: 2",
        "trainer: {max_steps: 0}",
        "\ttab: 1",
        "{",
        "\x00",
    ),
    *(
        "hydra:\n  sweeper:\n    params:\n      seed: 0,1\n      attention:",
        "optimizer: {lr: 1e-3}",
        "optimizer: {lr: 3e-3x}",
    ),
)
STUDIES = st.lists(st.sampled_from(_STUDY_LINES), min_size=1, max_size=4).map("\n".join)
