"""`ablab new`: a project that works at once, and is not written by halves."""

from __future__ import annotations

import os
import sys
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ablab.cli import main, new
from ablab.cli.new import write_project
from ablab.config.compose import composed_sweep
from ablab.config.project import project_conf
from ablab.errors import UserError
from ablab.results.store import RECORD_FILE, read_record

WRITTEN = {
    *(".gitignore", "Makefile", "README.md", "pyproject.toml", "snakes.py", "tests/test_snakes.py"),
    *("conf/activation/snake.yaml", "conf/study/first.yaml"),
}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    with pytest.raises(SystemExit) as ended:
        main(["new", str(tmp_path / "snakes")])
    assert ended.value.code == 0
    return tmp_path / "snakes"


def test_everything_has_the_name_of_the_project(project: Path) -> None:
    assert files(project) == WRITTEN
    assert not any("my_project" in (project / file).read_text() for file in WRITTEN)
    assert [*project.parent.iterdir()] == [project]


def test_its_study_is_a_study_and_its_component_in_it(project: Path) -> None:
    conf = project_conf(project)
    assert conf == project / "conf"
    config = composed_sweep(["study=first", "activation=snake"], [project / "conf"])
    assert (config.name, config.activation._target_) == ("first", "snakes.Snake")
    assert config.hydra.sweeper.params.activation == "relu,gelu,snake"


@pytest.fixture
def shown(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """shown("--cfg", "job"): what a command prints that is given in the project's folder."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("GOMP_SPINCOUNT", "HYDRA_FULL_ERROR"):  # which it sets for its own process
        monkeypatch.setenv(name, os.environ.get(name, "0"))

    def show(*words: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(words)
        return "".join(capsys.readouterr())

    yield show
    sys.modules.pop("snakes", None)


def test_commands_in_its_folder_find_its_options(
    project: Path, shown: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "_target_: snakes.Snake" in shown("activation=snake", "--cfg", "job", "-p", "activation")
    monkeypatch.setenv("COMP_LINE", "ablab activation=sn")
    assert shown("-sc", "query=bash").split() == ["activation=snake"]
    (project / "other" / "experiment").mkdir(parents=True)
    (project / "other" / "experiment" / "long.yaml").write_text("# @package _global_\ntrainer:\n  max_steps: 77\n")
    others = ("--config-dir", "other", "--cfg", "job", "-p", "trainer.max_steps")
    for word in ("experiment=long", "+experiment=long"):
        assert "77" in shown(*others, word)
    assert "experiment=lang: no such option; did you mean 'long'?" in shown(*others, "experiment=lang")
    assert "activation=snake: no such option" in shown(*others, "activation=snake")  # whose folder is another one now


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("torch", "torch is the name of a module that is installed"),
        ("3d", "its name becomes a module's"),
        ("class", "its name becomes a module's"),
        ("a b", "its name becomes a module's"),
        ("there", "is there already; give another name"),
    ],
)
def test_a_name_that_cannot_be_leaves_nothing(tmp_path: Path, name: str, line: str) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match=line):
        write_project(tmp_path / name)
    assert [*tmp_path.iterdir()] == [tmp_path / "there"]


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def write(source: Path, project: Path, name: str) -> None:
        written.append(project)
        project.mkdir(exist_ok=True)
        if len(written) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(new, "_write", write)
    with pytest.raises(OSError, match="No space left"):
        write_project(tmp_path / "snakes")
    assert [*tmp_path.iterdir()] == []


SMALL = (
    *("task.seq_len=32", "task.batch_size=2", "task.eval_tokens=128", "model.d_model=16", "model.n_layers=1"),
    *("trainer.max_steps=2", "trainer.val_check_interval=1", "trainer.accelerator=cpu", "logger=csv"),
)


@pytest.mark.slow
@pytest.mark.usefixtures("_plain_figures")
def test_its_study_is_trained_and_reported(project: Path, shown: Callable[..., str]) -> None:
    said = shown("-m", "study=first", "activation=relu,snake", "seed=0", *SMALL)
    study = project / "outputs" / "first"
    records = {path.parent.parent.name: read_record(path) for path in study.rglob(RECORD_FILE)}
    assert {name: record.status for name, record in records.items()} == dict.fromkeys(
        ["activation=relu", "activation=snake"], "ok"
    ), said
    assert records["activation=snake"].config["activation"] == {
        "_target_": "snakes.Snake",
        "_partial_": True,
        "frequency": 1.0,
    }
    assert (study / "report.html").is_file()


@pytest.mark.slow
def test_its_own_test_passes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    result = unittest.TestResult()
    try:
        unittest.TestLoader().discover(str(project / "tests")).run(result)
    finally:
        for module in ("snakes", "test_snakes"):
            sys.modules.pop(module, None)
    assert (result.testsRun, result.failures, result.errors) == (1, [], [])
