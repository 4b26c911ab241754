"""Mistakes of every kind on the command line and in files: each ends in one line that names it, and leaves nothing."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from fuzzing import SMALL, end

from ablab.cli import entry
from ablab.cli.flags import command_first

PACKAGE = "# @package _global_\n"

LINES = {
    "-m seed=range(0)": "seed=range(0): gives no value at all",
    "-m optimizer.lr=glob(*)": "optimizer.lr=glob(*): gives no value at all",
    "-m design=explicit 'design.variants={a: 3}'": "design.variants: a must hold overrides",
    "--resolve": "--resolve: says how --cfg shows the config; write --cfg job --resolve",
    "--shell-completion": "--shell-completion: say what it is to do, as in --shell-completion install=bash",
    "--run -m": "--run -m: each asks for something else; give one of them",
    "--cfg job hydra.searchpath=[file://nowhere]": "hydra.searchpath: nowhere: no such folder",
    "-m --cfg job": "-m --cfg: each asks for something else",
    "--experimental-rerun x.pkl": "--experimental-rerun: ablab does not take it",
    "--seed 3": "--seed: settings are given without dashes; write seed=3",
    "--seed=3": "--seed=3: settings are given without dashes; write seed=3",
    "--optimizer.lr 0.1": "--optimizer.lr: settings are given without dashes; write optimizer.lr=0.1",
    "--multirum": "--multirum: no such flag; did you mean '--multirun'?",
    "--config-dir": "--config-dir: needs a value",
    "--cfg nope": "--cfg nope: must be job or hydra or all",
    "--no-probe": "--no-probe: is for ablab plan",
    "attention=ful -m seed=0,1 model": "model: needs an option, without spaces around the =; write model=...",
    "attention:lsh": "attention:lsh: write attention=lsh",
    "callbacks=null": "callbacks=null: each axis needs the name of an option (there are: ",
    "~seed": "~seed: every run has this setting; leave the word out, or write seed=...",
    "~name": "~name: every run has this setting",
    "-m seed=0,1 ~budget": "~budget: every run has this setting",
    "~tune": "~tune: every run has this setting",
    "trainer.accelerator=tpu": "trainer: ",
    "attention._partial_=maybe": "attention: ",
    "+logger.x=1": "logger.x: the option has no _target_",
    f"model.d_model={'9' * 24}": "model.d_model: a number of 24 digits is more than 2**63",
    "model.dropout={}": "model.dropout={}: must be a number",
    "-m seed=0,1 tune.lr={a:1}": "tune.lr={a:1}: ",
    "question=${question}": "question: Recursive interpolation detected",
    "-m seed=0,1 budget.match=time budget.pilot_steps=0": "budget.pilot_steps=0: must be at least 1",
    "task=text task.path=${oc.env:NOPE}": "task.path: Environment variable 'NOPE' not found",
    "-m task=text task.path=${oc.env:NOPE}": "task.path: Environment variable 'NOPE' not found",
    "budget.reference=attention=full": "a value with = in it needs quotes; write 'budget.reference=\"attention=full\"'",
    "optimizer._target_=torhc.optim.Adam": "there is no module torhc; did you mean torch?",
    "optimizer._target_=torch.optim.Adamm": "torch.optim has no Adamm; did you mean Adam",
    "optimizer._target_=nope": "optimizer._target_='nope': must be the dotted name of a class or function",
    "-m trainer.gradient_clip_val=1,1.0": "the same run as trainer.gradient_clip_val=1, with a value",
    "lr=0.1": "lr: no such setting; did you mean 'optimizer.lr' or 'tune.lr'?",
    "--lr 0.1": "--lr: settings are given without dashes; write optimizer.lr=0.1",
    "window=64": "window: no such setting; did you mean 'attention.window'?",
    "attention.window=64": "window: no such setting of attention; attention=csa, attention=dynamic, ",
    "-m variant=a,b": "variant: is no setting: a variant is what is swept over, as in attention=full,lsh",
    "-m seed=0,1 hydra.sweep.subdir=x": "hydra.sweep.subdir: puts seed=1 into the folder of seed=0 (",
    "-m seed=0,1 hydra.sweep.subdir=..": "hydra.sweep.subdir=..: must name a folder for each run",
    "-m seed=0,1 hydra.sweep.subdir=/tmp/x": "hydra.sweep.subdir=/tmp/x: must name a folder for each run",
    "-m attention=[full,lsh]": "must be the name of one option; -m sweeps over several, written attention=A,B",
    "-m trainer.limit_val_batches=1,1.0": "trainer.limit_val_batches=1.0: is printed like trainer.limit_val_batches=1",
    "-m optimizer.lr=3e-3,1e-3 'comparison.baseline=\"optimizer.lr=4e-3\"' attention=ful": "attention=ful",
}


@pytest.mark.filterwarnings("default:provider=:UserWarning")  # which a command itself makes an error
@pytest.mark.parametrize("words", LINES)
def test_a_mistake_in_the_words(tmp_path: Path, words: str) -> None:
    ended = end(tmp_path, [*SMALL, *shlex.split(words)])
    assert (ended.status, ended.out, ended.left) == (2, "", ())
    [line] = ended.err.splitlines()
    assert line.startswith("ablab: error: ")
    assert LINES[words] in line
    assert len(line) < 600


FILES = {
    PACKAGE + "comparison:\n\tbaseline: x\n": "study/mine.yaml, line 3: a tab",
    PACKAGE + "question: x\nquestion: y\n": "study/mine.yaml, line 3: question is given twice",
    PACKAGE + "question: what: now\n": "study/mine.yaml, line 2: ",
    "question: x\n": "study/mine.yaml: its first line must be # @package _global_",
    PACKAGE + "margin: 0.1\n": "study/mine.yaml: margin: belongs to comparison; write comparison: {margin: ...}",
    PACKAGE + "metric: val_loss\n": "study/mine.yaml: metric: belongs to comparison; write comparison: {metric: ...}",
    PACKAGE + "comparison: x\n": "study/mine.yaml: comparison: must hold settings, as in comparison: {baseline: ...}",
    PACKAGE + "budget: [params]\n": "study/mine.yaml: budget: must hold settings, as in budget: {match: ...}",
    PACKAGE + "quesion: x\n": "study/mine.yaml: quesion: no such setting; did you mean 'question'?",
    PACKAGE + "- a\n": "study/mine.yaml: a list stands where settings are wanted",
    PACKAGE + "defaults:\n  - attention: full\n": "chosen by a line such as '- override /attention: full'",
    PACKAGE + "attention: lsh\n": "attention: lsh is no option but a text; write attention=lsh in a command",
    PACKAGE + "design: pairwise\n": "design: is no option; choose one by design=...",
    PACKAGE
    + "name: 2024_01_15\n": "line 2: name: 2024_01_15 would be read as 20240115; put it in quotes, '2024_01_15'",
    PACKAGE + "design:\n  variants:\n    on: {}\n": "study/mine.yaml, line 4: design.variants.on: on would be read as",
    PACKAGE + "hydra: {sweeper: {params: {model: {d_model: 1}}}}\n": "params.model: holds settings, not values",
    PACKAGE + "hydra:\n": "the config cannot be put together",
    PACKAGE + "question: \xe9\n": "study/mine.yaml: is no UTF-8 text",
}


@pytest.mark.parametrize("text", FILES)
def test_a_mistake_in_a_study_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "c" / "study").mkdir(parents=True)
    (tmp_path / "c" / "study" / "mine.yaml").write_text(text, encoding="latin-1")
    ended = end(tmp_path, ["--config-dir", "c", "plan", "--no-probe", *SMALL, "study=mine"])
    assert (ended.status, ended.left) == (2, ())
    [line] = ended.err.splitlines()
    assert line.startswith("ablab: error: ")
    assert FILES[text] in line


def test_a_search_has_no_plan(tmp_path: Path) -> None:
    ended = end(tmp_path, ["plan", *SMALL, "hydra/sweeper=optuna", "optimizer.lr=interval(1e-4,1e-2)"])
    assert (ended.status, ended.left) == (2, ())
    assert ended.err == (
        "ablab: error: hydra/sweeper=optuna: a plan is of a sweep by ablab's own sweeper; leave it out\n"
    )


def test_a_command_may_stand_behind_the_folder_of_options() -> None:
    commands = ["plan", "compare"]
    assert command_first(["--config-dir", "plan", "plan", "a=b"], commands) == ["plan", "--config-dir", "plan", "a=b"]
    assert command_first(["-m", "a=b", "plan"], commands) == ["-m", "a=b", "plan"]
    assert command_first(["plan"], commands) == ["plan"]
    assert command_first([], commands) == []


def test_spellings_of_a_baseline(tmp_path: Path) -> None:
    """A baseline that is written in another way than the levels is found before anything is trained."""
    for baseline in ("optimizer.lr=3e-3", "optimizer.lr=0.0030", "optimizer.lr=.003"):
        words = ["plan", "--no-probe", *SMALL, "optimizer.lr=1e-3,0.003", f'comparison.baseline="{baseline}"']
        assert end(tmp_path, words).status == 0


@pytest.mark.parametrize(("home", "lent"), [("nowhere", "HOME"), ("locked", "MPLCONFIGDIR"), ("mine", None)])
def test_who_has_no_home_is_lent_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str, lent: str | None
) -> None:
    """While the command takes: packages ask for one in many ways, and each says in its own that there is none."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("locked") and access(path, mode))
    for name in ("locked", "mine"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / home))
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    before = dict(os.environ)
    with entry._home_for_packages():
        changed = {name for name in os.environ if os.environ[name] != before.get(name)}
        assert changed == ({lent} if lent else set())
        assert all(Path(os.environ[name]).is_dir() for name in changed)
    assert dict(os.environ) == before


def test_a_link_that_leads_to_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for words in (["resume", "loop"], ["--config-dir", "loop", *SMALL], ["compare", "loop"], ["generate", "loop"]):
        ended = end(tmp_path, words)
        assert (ended.status, ended.left, len(ended.err.splitlines())) == (2, (), 1), ended
        assert "loop" in ended.err
        assert "unforeseen" not in ended.err


@pytest.mark.parametrize("words", ["hydra.run.dir=taken", "-m seed=0,1 hydra.sweep.dir=taken"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, words: str) -> None:
    (tmp_path / "taken").write_text("mine")
    ended = end(tmp_path, [*SMALL, *words.split()])
    assert (ended.status, ended.left) == (2, ())
    assert ended.err.startswith("ablab: error: taken: a file is in the way of the ")
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_line_is_short_however_long_a_name_is(tmp_path: Path) -> None:
    ended = end(tmp_path, [*SMALL, "task=text", f"task.path='{'x' * 5000}'"])
    assert ended.status == 2
    assert len(ended.err) < 700
    assert ended.err.startswith("ablab: error: xxx")
    assert ended.err.endswith("xxx: File name too long\n")


def test_who_works_in_a_folder_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def gone() -> Path:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "cwd", gone)
    with pytest.raises(SystemExit) as ended:
        entry.main(["plan", "seed=0,1"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "ablab: error: the working folder is not there any more: change to one that is\n"
