"""The command line: every mistake is one line on stderr and exit status 2, and leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from commands import Command

from ablab.cli import main
from ablab.cli.application import overrides_last
from ablab.cli.commands import COMMANDS
from ablab.config import RunConfig
from ablab.results.record import Metric, Record
from ablab.results.store import RECORD_FILE, write_record
from ablab.training.begin import new_record

TinyConfig = Callable[..., RunConfig]


@dataclass
class Ended:
    status: object
    out: str
    err: str


Ablab = Callable[..., Ended]


@pytest.fixture
def ablab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ablab:
    """ablab("attention=ful"): the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("GOMP_SPINCOUNT", "HYDRA_FULL_ERROR"):  # which it sets for its own process
        monkeypatch.setenv(name, os.environ.get(name, "0"))

    def run(*words: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main(words)
        return Ended(ended.value.code, *capsys.readouterr())

    return run


def assert_refused(ended: Ended, *parts: str) -> None:
    """The command ended with status 2 and one line that holds `parts`."""
    assert (ended.status, ended.out) == (2, "")
    [line] = ended.err.splitlines()
    assert line.startswith("ablab: error: ")
    for part in parts:
        assert part in line


MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "attention=ful": ([], ["attention=ful: no such option", "did you mean 'full'?", "full, lsh, mla"]),
    "callbacks=[ema,early_stoping]": ([], ["callbacks=early_stoping: no such option", "mean 'early_stopping'?"]),
    "attention=null": ([], ["attention=null: each axis needs the name of an option", "the nearest of "]),
    "attention=3": ([], ["attention=3: each axis needs the name of an option", "the nearest of "]),
    "~attention": ([], ["attention must be given"]),
    "model.d_modle=64": ([], ["model.d_modle: no such setting of model", "did you mean 'd_model'?"]),
    "model.n_heads=7": ([], ["model.n_heads=7 does not divide model.d_model=64", "1, 2, 4, 8, 16, 32, 64"]),
    "attention.window=0": (["attention=windowed"], ["window must be at least 1, got 0"]),
    "attention.window=big": (["attention=windowed"], ["attention.window='big': must be a whole number"]),
    "+attention.foo=1": ([], ["attention.foo: no such setting of attention"]),
    "+foo=1": ([], ["foo: no such setting (the nearest of", "ablab --cfg job shows all"]),
    "foo=1": ([], ["foo: no such setting"]),
    "foo": ([], ["foo: not an override, which is KEY=VALUE, nor a command"]),
    "rapport": ([], ["rapport: not an override", "did you mean 'report'?"]),
    "task=text": ([], ["task.path must be given: add task.path=... to the command"]),
    "task.path=missing.txt": (["task=text"], ["missing.txt: no such file, folder or match"]),
    "task.path=empty.txt": (["task=text"], ["empty.txt: empty"]),
    "seed=x": ([], ["seed=x", "must be a whole number"]),
    "seed=-1": ([], ["seed=-1: must be at least 0"]),
    "trainer.max_steps=0": ([], ["trainer.max_steps=0: must be at least 1"]),
    "trainer.precision=17": ([], ["trainer.precision=17: must be one of", "32-true"]),
    "strategy=ddp": (["trainer.devices=1"], ["strategy: needs at least 2 processes, got trainer.devices=1"]),
    "task.batch_size=3": (["strategy=ddp"], ["task.batch_size=3 cannot be shared equally by 2", "a multiple of 2"]),
    "position=rope": (["model.d_model=12", "model.n_heads=4"], ["even head size", "model.d_model=12"]),
    "name=": ([], ["name: must not be empty"]),
}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "empty.txt").touch()
    return ["empty.txt"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("first", ["-m", "plan"])
def test_a_range_with_a_slip_in_it_is_not_written_out(ablab: Ablab, tmp_path: Path, first: str) -> None:
    assert_refused(ablab(first, "seed=range(0,1e9)"), "seed=range(0,1e9): gives more than 100,000 values")
    assert names(tmp_path) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_run(ablab: Ablab, files: list[str], tmp_path: Path, mistake: str) -> None:
    others, parts = MISTAKES[mistake]
    assert_refused(ablab(*others, mistake), *parts)
    assert names(tmp_path) == files


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["attention=full,ful"], ["attention=ful: no such option", "did you mean 'full'?"]),
        (["model.n_heads=4,7", "seed=0,1"], ["model.n_heads=7 does not divide", "[in the run model.n_heads=7 seed=0]"]),
        (["attention=full,windowed", "attention.window=4"], ["attention.window: no such setting"]),
        (["+foo=1,2"], ["foo: no such setting"]),
        (["seed=0,x"], ["seed=x"]),
        (["task=text", "task.path=missing.txt,empty.txt"], ["missing.txt: no such file", "[in the run "]),
        (["trainer.max_steps=4,0"], ["trainer.max_steps=0: must be at least 1 [in the run trainer.max_steps=0]"]),
        (["strategy=single,ddp", "task.batch_size=3"], ["task.batch_size=3", "[in the run strategy=ddp]"]),
        (["optimizer.lr=interval(0,1)"], ["needs a list of values"]),
        (["study=experst"], ["study=experst: no such option; did you mean 'experts'? (the nearest of ", ": experts, "]),
        (["name=a,b"], ["a sweep is one study"]),
    ],
)
def test_one_mistake_in_a_plan_and_nothing_starts(
    ablab: Ablab, files: list[str], tmp_path: Path, words: list[str], parts: list[str]
) -> None:
    assert_refused(ablab("-m", *words), *parts)
    assert names(tmp_path) == files


def test_several_values_without_a_sweep(ablab: Ablab, tmp_path: Path) -> None:
    assert_refused(ablab("model=tiny,small"), "model=tiny,small: several values; add -m to sweep over them")
    assert names(tmp_path) == []


@pytest.mark.parametrize("words", [[], ["-m", "seed=0,1"]])
def test_a_file_where_the_outputs_should_go(ablab: Ablab, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "outputs").write_text("mine")
    assert_refused(ablab(*words, "name=x"), "outputs/x", "Not a directory")
    assert (tmp_path / "outputs").read_text() == "mine"


@pytest.mark.parametrize("words", [["--config-dir", "nowhere"], ["--config-dir", "nowhere", "-m", "seed=0,1"]])
def test_a_folder_of_options_that_is_not_there(ablab: Ablab, words: list[str]) -> None:
    assert_refused(ablab(*words), "nowhere' not found")


@pytest.mark.parametrize("command", ["compare", "report", "dashboard", "generate", "evaluate"])
def test_commands_on_folders_without_runs(ablab: Ablab, tmp_path: Path, command: str) -> None:
    assert_refused(ablab(command, "."), ".: no" if command != "generate" else ".: not the folder of a run")
    assert_refused(ablab(command, "missing"), "missing: no")
    assert names(tmp_path) == []


@pytest.mark.parametrize("command", ["compare", "report", "evaluate"])
def test_a_folder_without_a_name_is_not_the_working_folder(ablab: Ablab, grid: Path, command: str) -> None:
    assert_refused(ablab(command, ""), "the name of a folder is empty")


def test_a_terminal_that_does_not_take_unicode(ablab: Ablab, grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert_refused(ablab("compare", str(grid)), "stdout takes latin-1 only; set PYTHONUTF8=1")


@pytest.mark.parametrize("command", ["compare", "report"])
def test_records_that_cannot_be_read(ablab: Ablab, tiny_config: TinyConfig, tmp_path: Path, command: str) -> None:
    record = new_record(tiny_config())
    record.schema = 99
    write_record(tmp_path, record)
    assert_refused(ablab(command, "."), f"{RECORD_FILE}: the record has schema 99", "upgrade ablab")
    (tmp_path / RECORD_FILE).write_text('{"schema": 1, "stat')
    assert_refused(ablab(command, "."), f"{RECORD_FILE}: not a record (damaged JSON")
    assert names(tmp_path) == [RECORD_FILE]


@pytest.fixture(scope="module")
def filled(tiny_config: TinyConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two activations, two learning rates, four seeds each."""
    folder = tmp_path_factory.mktemp("filled")
    for activation in ("relu", "gelu"):
        for rate in (0.1, 0.2):
            config = tiny_config(f"activation={activation}", f"optimizer.lr={rate}")
            for seed in range(4):
                overrides = [*config.overrides, f"seed={seed}"]
                record = new_record(replace(config, seed=seed, overrides=overrides))
                record.status, record.reason, record.index = "ok", None, int(activation == "gelu")
                record.metrics = {
                    "val_loss": 1 + seed / 10 + rate * (1 + seed / 50) + (activation == "gelu") * (0.1 + seed**2 / 999)
                }
                record.last = {"val_loss": [record.metrics["val_loss"] + 1, record.metrics["val_loss"]]}
                record.primary = Metric(name="val_loss", split="val", direction="min")
                write_record(folder / "/".join(overrides), record)
    return folder


@pytest.fixture
def grid(filled: Path, tmp_path: Path) -> Path:
    """The same in a folder that is named like a filter."""
    return Path(shutil.copytree(filled, tmp_path / "a=b"))


def test_words_with_an_equals_sign_are_filters(ablab: Ablab, grid: Path) -> None:
    every = ablab("compare", "./a=b", "--format", "csv").out
    ended = ablab("compare", "./a=b", "activation=gelu", "--format", "csv", "optimizer.lr=0.1,0.2", "seed=range(0,4)")
    assert ended.status == 0
    assert "2 of 3 comparisons are shown (activation=gelu optimizer.lr=0.1,0.2); p is adjusted for all 3." in ended.out
    assert "16 of 16 runs are compared (seed=range(0,4))" in ended.out
    kept = [line for line in every.splitlines() if "activation=gelu" in line]
    assert len(kept) == 2
    assert set(kept) <= set(ended.out.splitlines())
    assert not ended.out.endswith("\n\n")


def test_several_folders_and_the_mean_of_the_last(ablab: Ablab, grid: Path) -> None:
    first, second = (str(grid / f"activation={name}") for name in ("relu", "gelu"))
    ended = ablab("compare", first, second, "--last", "2", "--by", "task")
    assert ended.status == 0
    assert "mean of the last 2 evaluations" in ended.out
    assert ended.out.count("4/4 ok") == 4


def test_a_report_takes_filters_too(ablab: Ablab, grid: Path) -> None:
    ended = ablab("report", "./a=b", "activation=gelu", "--output", "out.html", "--last", "2")
    assert (ended.status, ended.err) == (0, "")
    page = Path("out.html").read_text()
    assert "2 of 3 comparisons are shown (activation=gelu); p is adjusted for all 3." in page
    assert "activation=relu,optimizer.lr=0.2" not in page


@pytest.mark.parametrize("command", ["compare", "report"])
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["activation=gelu"], ["activation=gelu: give the folder of the runs before it"]),
        (["./a=b", "activation=gel"], ["filter activation=gel: no run has activation=gel; did you mean 'gelu'?"]),
        (["./a=b", "activaton=gelu"], ["no run has a setting activaton; did you mean 'activation'?"]),
        (["./a=b", "~activation="], ["filter ~activation=: write it as key=value"]),
        (["./a=b", "seed=9"], ["no run has seed=9"]),
        (["./a=b", "--last", "11"], ["last 11: runs keep their last 10 evaluations"]),
        (["./a=b", "--last", "3"], []),
    ],
)
def test_filters_that_fit_nothing(ablab: Ablab, grid: Path, command: str, words: list[str], parts: list[str]) -> None:
    if parts:
        assert_refused(ablab(command, *words), *parts)
    else:  # a verdict on nothing, with the reason for it
        assert ablab(command, *words).status == 0


def test_a_suite_that_is_none(ablab: Ablab, grid: Path) -> None:
    assert_refused(ablab("compare", "./a=b", "--by", "suite"), "--by suite: one task is no suite")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["compare"], ["required: DIR|FILE|KEY=VALUE; see ablab compare --help"]),
        (["compare", ".", "--format", "xml"], ["--format", "'xml'", "json", "see ablab compare --help"]),
        (["dashboard", ".", "--port", "x"], ["--port", "'x'"]),
        (["bench"], ["see ablab bench --help"]),
        (["bench", "loop", "--steps", "many"], ["--steps", "'many'", "see ablab bench loop --help"]),
        (["bench", "loop", "attention=ful"], ["attention=ful: no such option; did you mean 'full'?"]),
    ],
)
def test_words_that_a_command_does_not_take(ablab: Ablab, words: list[str], parts: list[str]) -> None:
    assert_refused(ablab(*words), *parts)


def test_a_prompt_outside_the_vocabulary(
    ablab: Ablab, tiny_config: TinyConfig, run: Callable[[RunConfig, Path], Record], tmp_path: Path
) -> None:
    assert run(tiny_config("task.tokenizer=chars"), tmp_path / "run").status == "ok"
    assert_refused(ablab("generate", "run", "--prompt", "\N{SNOWMAN}"), "--prompt: ", "\N{SNOWMAN}")
    assert_refused(ablab("generate", "run", "--tokens", "-1"), "--tokens -1: must be at least 0")
    ended = ablab("generate", "run", "--prompt", "12", "--tokens", "5")
    assert ended.status == 0
    assert len(ended.out.removesuffix("\n")) == 7
    assert ended.out.startswith("12")


def test_a_finished_run_is_evaluated_elsewhere(
    ablab: Ablab, tiny_config: TinyConfig, run: Callable[[RunConfig, Path], Record], tmp_path: Path
) -> None:
    assert run(tiny_config(), tmp_path / "run").status == "ok"
    ended = ablab("evaluate", "--checkpoint", "last", "./run", "task.seq_len=16")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("[1/1] run: val_loss@checkpoint=last,task.seq_len=16 ")
    assert_refused(ablab("evaluate", "task.seq_len=16"), "task.seq_len=16: give the folder of the runs before it")
    assert_refused(ablab("evaluate", "run", "task.seq_len=33"), "position=learned: its weights (position.weight)")


def test_overrides_may_stand_on_both_sides_of_options(ablab: Ablab) -> None:
    words = ["name=x", "-m", "seed=0,1", "--config-dir", "a=b", "~recipe", "--cfg", "job"]
    assert overrides_last(words) == ["-m", "--config-dir", "a=b", "--cfg", "job", "name=x", "seed=0,1", "~recipe"]
    ended = ablab("seed=3", "--cfg", "job", "name=x")
    assert ended.status == 0
    assert {"seed: 3", "name: x"} <= set(ended.out.splitlines())


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], *([name, "--help"] for name in COMMANDS)])
def test_help(ablab: Ablab, words: list[str]) -> None:
    ended = ablab(*words)
    assert (ended.status, ended.err) == (0, "")
    assert "ablab" in ended.out


def test_help_lists_every_axis_with_its_options_and_every_command(ablab: Ablab) -> None:
    out = re.sub(" +", " ", ablab("--help").out)
    for line in (
        "attention block_sparse, csa, ",
        "parametrisation mup, standard",
        "strategy async_ddp, ddp, ddp_bf16, ddp_fp16, ddp_powersgd, ddp_topk, diloco, fsdp, hybrid, local_sgd, ",
        "study components, deepseek_v2_to_deepseek_v3, ",
    ):
        assert line in out
    assert all(f"ablab {name}" in out for name in COMMANDS)


def test_the_version(ablab: Ablab) -> None:
    assert ablab("--version").out.startswith("ablab ")


def test_help_waits_for_nothing_heavy() -> None:
    code = """
import json, sys
from ablab.cli import main
from ablab.cli.commands import COMMANDS
for words in (["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)):
    try:
        main(words)
    except SystemExit as ended:
        assert ended.code == 0
print(json.dumps(sorted({"torch", "lightning", "pandas", "numpy", "matplotlib", "hydra"} & set(sys.modules))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == ["hydra"]  # whose register of configs `ablab.config` needs


@pytest.mark.parametrize("words", [["attention=ful"], ["compare", "missing"]])
def test_a_mistake_from_a_shell(tmp_path: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "ablab", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert_refused(Ended(done.returncode, done.stdout, done.stderr), words[-1])
    assert names(tmp_path) == []


def _from_the_readme(folder: Path) -> str:
    """Run the lines that write a component of one's own; the command that comes after them."""
    text = (Path(__file__).parents[1] / "README.md").read_text()
    block = text.split("**A component of your own**")[1].split("\n\n")[1]
    *lines, command = [line.removeprefix("    ") for line in block.splitlines()]
    subprocess.run(["bash", "-euc", "\n".join(lines)], cwd=folder, check=True)
    return command


@pytest.mark.slow
def test_the_readmes_component_of_ones_own_works_as_written(tmp_path: Path, corpus: Path) -> None:
    """With smaller runs; from its folder it is trained, and from another one planned."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    words = _from_the_readme(home).split()
    small = ["task=text", f"task.path={corpus}", "task.seq_len=32", "task.batch_size=4", "task.eval_tokens=256"]
    small += ["model.d_model=16", "trainer.max_steps=4", "trainer.val_check_interval=2", "logger=csv", "seed=0,1"]
    words = [word for word in words[1:] if not word.startswith("seed=")]
    command = Command([*words, *small], home, dict(os.environ))
    out, err = command.communicate()
    assert command.returncode == 0, err
    folder = home / "outputs" / "sine"
    records = [json.loads(path.read_text()) for path in folder.rglob(RECORD_FILE)]
    assert sorted(record["axes"]["activation"] for record in records) == ["relu", "relu", "sine", "sine"]
    assert {record["status"] for record in records} == {"ok"}
    assert len({record["metrics"]["val_loss"] for record in records}) == 4
    assert "sine" in out
    words[words.index("my_conf")] = str(home / "my_conf")
    command = Command(["plan", *(word for word in words if word != "-m"), *small], work, dict(os.environ))
    out, err = command.communicate()
    assert command.returncode == 0, err
    assert "2 variants" in out
