"""compose, run, sweep, compare: what the commands do, and exceptions of one line."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import everything
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from pythons import forking
from synthetic import record, write_runs
from synthetic import study as records_of

from ablab import compare, compose, run, sweep
from ablab.api import actions
from ablab.api.loaded import Study
from ablab.api.trained import Run
from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.store import PLAN_FILE

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "first_ablation.ipynb"
TINY = {
    "task.seq_len": 32,
    "task.batch_size": 2,
    "task.eval_tokens": 128,
    "model": "tiny",
    "model.d_model": 16,
    "model.n_layers": 1,
    "trainer.max_steps": 2,
    "trainer.val_check_interval": 1,
    "trainer.accelerator": "cpu",
    "logger": "csv",
}
SINE = """
from torch import nn

class Sine(nn.Module):
    def __init__(self, spec, *, rate: float = 1.0):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        return (self.rate * x).sin()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an option of the user's own, which its pyproject.toml tells of."""
    (tmp_path / "my_conf" / "activation").mkdir(parents=True)
    option = "_target_: sines_of_mine.Sine\n_partial_: true\nrate: 1.0\n"
    (tmp_path / "my_conf" / "activation" / "sine.yaml").write_text(option)
    (tmp_path / "sines_of_mine.py").write_text(SINE)
    (tmp_path / "pyproject.toml").write_text('[tool.ablab]\nconf = "my_conf"\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def _pythons_are_forked() -> Iterator[None]:
    with forking(everything, "all"):
        yield


def test_compose_gives_what_the_command_shows(capsys: pytest.CaptureFixture[str]) -> None:
    found = compose("attention=windowed", {"attention.window": 7}, seed=3, name="mine")
    assert isinstance(found, RunConfig)
    assert (found.axes["attention"], found.options["attention"]["window"], found.seed) == ("windowed", 7, 3)
    assert found.overrides == ["attention=windowed", "attention.window=7", "seed=3", "name=mine"]


def test_composing_leaves_hydra_and_the_path_as_they_were(project: Path) -> None:
    before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg, [*sys.path]
    assert compose("activation=sine").options["activation"]["rate"] == 1.0
    assert (GlobalHydra.instance().hydra, HydraConfig.instance().cfg, sys.path) == before


def test_threads_compose_side_by_side(project: Path) -> None:
    options = ["relu", "gelu", "silu", "sine"] * 2
    before = [*sys.path]
    with ThreadPoolExecutor(len(options)) as pool:
        found = [*pool.map(lambda option: compose(activation=option).axes["activation"], options)]
    assert (found, sys.path) == (options, before)


def test_a_folder_that_is_named_goes_before_that_of_the_project(project: Path) -> None:
    (project / "other").mkdir()
    with pytest.raises(UserError, match="activation=sine: no such option"):
        compose("activation=sine", config_dir="other")
    with pytest.raises(UserError, match="config_dir=nowhere: no such folder"):
        compose(config_dir="nowhere")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["attention=ful"], r"attention=ful: no such option; did you mean 'full'\?"),
        (["seed=0,1"], r"seed=0,1: several values; call sweep\(\) to sweep over them"),
        (["model.d_modle=3"], "model.d_modle: no such setting of model; did you mean 'd_model'"),
        (["study=quickstart"], r"study=quickstart: is a study of several runs; call sweep\(\)"),
    ],
)
def test_mistakes_are_found_before_a_process_is_started(
    words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=line):
        run(*words)
    assert (capsys.readouterr().out, [*tmp_path.iterdir()]) == ("", [])


def test_a_study_is_compared_anew_and_shown_in_a_notebook(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, records_of({"relu": [1.0, 1.1], "<gelu>": [0.9, 1.0]}))
    study = compare(folder)
    assert study.comparisons.baseline == "activation=relu"
    assert compare(study, baseline="activation=<gelu>").comparisons.baseline == "activation=<gelu>"
    assert len(compare(study, only="seed=1").runs) == 2
    page = study._repr_html_()
    assert all(part in page for part in ("<table", "val_loss", "activation=&lt;gelu&gt;", "<li>"))
    assert "<gelu>" not in page
    assert len(compare(Run(next(folder.rglob("record.json")).parent)).runs) == 1
    with pytest.raises(UserError, match=r'compare\("outputs/quickstart"\)'):
        compare()
    with pytest.raises(UserError, match="split=tset: must be validation or test"):
        compare(folder, split="tset")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="intervals=all: must be single or simultaneous"):
        compare(folder, intervals="all")  # type: ignore[arg-type]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of commands that are asked for: no process is started, and a study of records is there at once."""
    words: list[str] = []

    def carry_out(flags: list[str], settings: list[str], config_dir: object) -> None:
        words.extend([*flags, *settings])
        losses = {"relu": [2.0, 2.1, 2.2], "gelu": [1.9, 2.0, 2.11]}
        found = [
            record(seed, loss, axes={"activation": option})
            for option, each in losses.items()
            for seed, loss in enumerate(each)
        ]
        write_runs(tmp_path / "outputs" / "notebook", found)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(actions, "_carry_out", carry_out)
    return words


def test_the_notebook_runs_and_was_run(asked: list[str]) -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    for source in ("".join(cell["source"]) for cell in code):
        if ".model()" not in source:  # which these records have not
            exec(source, names)
    assert asked[:2] == ["-m", "activation=relu,gelu"]
    assert asked[-2:] == ["seed=0,1,2", "name=notebook"]
    assert isinstance(names["study"], Study)
    kinds = [{*output.get("data", {}), output["output_type"]} for cell in code for output in cell["outputs"]]
    assert len(kinds) == len(code)
    assert [sum(kind in each for each in kinds) for kind in ("image/png", "text/html", "stream")] == [2, 3, 2]


def test_what_depends_on_the_time_of_day_is_settled_here(asked: list[str]) -> None:
    with pytest.raises(UserError, match=r"outputs/\d{4}-.*: no such folder"):  # the records lie elsewhere
        sweep("activation=relu,gelu")
    assert [*map(str.split, asked)][:2] == [["-m"], ["activation=relu,gelu"]]
    assert re.fullmatch(r"name='\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d'", asked[2])
    sweep("name=notebook", {"hydra.sweep.dir": "outputs/notebook"})
    assert asked[3:] == ["-m", "name=notebook", "hydra.sweep.dir=outputs/notebook"]


@pytest.mark.slow
@pytest.mark.usefixtures("_pythons_are_forked")
def test_a_sweep_and_a_run_do_what_the_commands_do(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ), [*sys.path], [*sys.argv]
    study = sweep("activation=relu,sine", TINY, seed=[0, 1], name="mine")
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("ablab -m activation=relu,sine task.seq_len=32")
    assert [line.split()[1] for line in lines[1:5]] == ["ok"] * 4
    assert lines[5:] == ["report: outputs/mine/report.html"]  # the table is for the study to show
    assert err == ""
    assert isinstance(study, Study)
    assert (len(study.runs), list(study.effects()["variant"])) == (4, ["activation=relu", "activation=sine"])
    assert study.run(activation="sine", seed=1).model(trust=True) is not None

    plan = project / "outputs" / "mine" / PLAN_FILE  # by which `ablab resume` goes on
    assert '"command": ["--config-dir", "my_conf", "-m", "activation=relu,sine"' in plan.read_text()
    assert sweep("activation=relu,sine", TINY, seed=[0, 1], name="mine").runs.equals(study.runs)
    assert capsys.readouterr().out.count("kept") == 4

    one = run("activation=sine", TINY, seed=5)  # without a name: that of the time of day, which is known here
    assert (one.record.status, one.record.seed) == ("ok", 5)
    with pytest.raises(UserError, match=r"model\.n_heads=3 does not divide model\.d_model=16"):
        sweep(TINY, {"model.n_heads": [2, 3]}, name="other")
    assert not (project / "outputs" / "other").exists()
    assert (dict(os.environ), sys.path, sys.argv) == before


@pytest.mark.slow
@pytest.mark.usefixtures("_pythons_are_forked")
def test_a_run_that_does_not_end_well_is_given_all_the_same(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(TINY, {"optimizer.lr": 1e30, "trainer.max_steps": 8, "trainer.gradient_clip_val": None}, name="wild")
    assert found.record.status == "diverged"
    assert "diverged: " in capsys.readouterr().err
