"""A run's folder in which something is damaged: whatever it is, it is named in one line, and nothing is lost to it."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ablab.config import RunConfig, fingerprint
from ablab.errors import UserError
from ablab.report.commands import compare_command
from ablab.results.curves import read_curves
from ablab.results.keep import keep
from ablab.results.run_folder import check_ours, check_study, clear, damage_of, read_config, set_aside
from ablab.results.store import read_record
from ablab.study.launch import finished_record
from ablab.study.plan_reader import find_plan, read_plan
from ablab.study.planning.preflight import Preflight
from ablab.training.begin import prepare_folder, set_aside_before
from ablab.training.checkpoint_folders import consolidate
from ablab.training.checkpoint_list import Origin, newest_whole
from ablab.training.generation import load_run
from ablab.training.loggers.csv import CurvesLogger
from ablab.training.warm_start import check_origin

TinyConfig = Callable[..., RunConfig]

FILES = ["config.yaml", "record.json", "metrics.csv", "plan.json"]
FILES += [f"checkpoints/{name}" for name in ("last.ckpt", "previous.ckpt", "best.ckpt", "checksums.json")]
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
KINDS: dict[str, Callable[[bytes, int], bytes | None]] = {
    "flipped": lambda data, at: data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :],
    "cut": lambda data, at: data[:at],
    "twice": lambda data, at: data[:at] + data,
    "empty": lambda data, at: b"",
    "folder": lambda data, at: None,
    "nested": lambda data, at: b"[" * 100_000,
    "nested mappings": lambda data, at: b'{"a":' * 100_000,
    "list": lambda data, at: b"[1, 2]\n",
    "text": lambda data, at: b"a",
    "null": lambda data, at: b"null",
    "laughs": lambda data, at: LAUGHS.encode(),
    "tab": lambda data, at: data.replace(b"  ", b"\t", 1),
    "long": lambda data, at: re.sub(rb"\d+", b"9" * 400, data, count=1 + at % 40),
    "longer": lambda data, at: re.sub(rb"\d+", b"9" * 5000, data, count=1 + at % 40),
    "letters": lambda data, at: re.sub(rb"\d+", b"x", data, count=1 + at % 40),
    "no line": lambda data, at: b"".join(line for n, line in enumerate(data.splitlines(True)) if n != at % 80),
}


@contextlib.contextmanager
def damaged(finished: Any, file: str, kind: str, place: float) -> Iterator[Path]:
    """A copy of a finished run's folder, below one of a study, in which a file is damaged."""
    with tempfile.TemporaryDirectory() as study:
        folder = Path(study) / "run"
        shutil.copytree(finished.folder, folder)
        (folder / "plan.json").write_text('{"schema": 2, "command": [], "runs": null, "comparison": {}}')
        path = folder / file
        data = path.read_bytes()
        made = KINDS[kind](data, min(int(place * len(data)), len(data) - 1))
        path.unlink()
        if made is None:
            path.mkdir()
            (path / "within").write_text("x")
        else:
            path.write_bytes(made)
        yield folder


def readers(folder: Path, config: RunConfig, preflight: Preflight) -> dict[str, Callable[[], object]]:
    """All that reads a run's folder, the last of them so that it may be changed."""
    origin = Origin(run=read_record_or_none(folder), corpus="")
    other = replace(config, continue_from=str(folder), seed=config.seed)
    return {
        "compare": lambda: compare_command([folder]),
        "keep": lambda: keep(folder, folder.parent / "kept.jsonl.xz"),
        "curves": lambda: read_curves(folder / "metrics.csv", ["val_loss"]),
        "config": lambda: read_config(folder),
        "generate": lambda: load_run(folder, "best"),
        "consolidate": lambda: consolidate(folder, "last"),
        "continue_from": lambda: check_origin(other),
        "plan": lambda: (read_plan(folder), find_plan(folder)),
        "finished": lambda: (record := finished_record(config, folder, preflight, True)) and damage_of(folder, record),
        "checkpoint": lambda: newest_whole(folder / "checkpoints", origin),
        "curves go on": lambda: curves_go_on(folder),
        "prepare": lambda: prepare_folder(config, folder),
    }


def curves_go_on(folder: Path) -> None:
    logger = CurvesLogger(folder, 1)
    logger.check(7)
    logger.close("ok")


def read_record_or_none(folder: Path) -> str:
    try:
        return read_record(folder / "record.json").fingerprint
    except UserError:
        return ""


@pytest.fixture(scope="module")
def preflight() -> Preflight:
    return Preflight()


UNHURRIED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


# Each example reads a whole folder, so that to look for the smallest that fails would take minutes.
@settings(max_examples=20, phases=[Phase.explicit, Phase.generate], suppress_health_check=UNHURRIED)
@given(st.sampled_from(FILES), st.sampled_from(sorted(KINDS)), st.floats(0, 1))
def test_nothing_but_one_line_comes_of_damage(
    finished: Any, preflight: Preflight, file: str, kind: str, place: float
) -> None:
    with damaged(finished, file, kind, place) as folder:
        for read in readers(folder, finished.config, preflight).values():
            with contextlib.suppress(UserError):
                read()


@pytest.mark.parametrize(
    "kind", sorted(set(KINDS) - {"flipped", "cut", "twice", "letters", "no line", "long", "longer"})
)
def test_a_damaged_config_is_named(finished: Any, kind: str) -> None:
    with damaged(finished, "config.yaml", kind, 0.5) as folder, pytest.raises(UserError, match=r"config\.yaml"):
        load_run(folder, "best")


@pytest.mark.parametrize("key", ["task", "seed", "axes", "attention", "trainer"])
def test_a_config_without_a_key_is_named(finished: Any, tmp_path: Path, key: str) -> None:
    text = (finished.folder / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(re.sub(rf"(?m)^{key}:.*\n(?:[ -].*\n)*", "", text))
    with pytest.raises(UserError, match=rf"config\.yaml: damaged, no config of a run \(it has no '?{key}"):
        read_config(tmp_path)


@settings(max_examples=12, phases=[Phase.explicit, Phase.generate], suppress_health_check=UNHURRIED)
@given(st.sampled_from(["last.ckpt", "best.ckpt"]), st.floats(0, 1))
def test_a_flipped_bit_of_the_weights_is_noticed_wherever_they_are_read(
    finished: Any, preflight: Preflight, name: str, place: float
) -> None:
    with damaged(finished, f"checkpoints/{name}", "flipped", place) as folder:
        for read in (load_run, consolidate):
            with pytest.raises(UserError, match=f"{name}: a damaged checkpoint"):
                read(folder, name.removesuffix(".ckpt"))
        if name == "last.ckpt":
            assert damage_of(folder, finished.record) == ["checkpoints/last.ckpt is damaged"]


def test_weights_of_a_list_that_is_damaged_are_not_trusted(finished: Any) -> None:
    with damaged(finished, "checkpoints/checksums.json", "nested", 0) as folder:
        with pytest.raises(UserError, match=r"checksums\.json: damaged, so that best\.ckpt cannot be checked"):
            load_run(folder, "best")
        (folder / "checkpoints" / "checksums.json").unlink()
        load_run(folder, "best")


@pytest.mark.parametrize("file", ["config.yaml", "metrics.csv", "checkpoints/last.ckpt"])
def test_what_is_damaged_of_a_finished_run_is_named(finished: Any, file: str) -> None:
    with damaged(finished, file, "cut", 0.3) as folder:
        assert damage_of(folder, finished.record) == [f"{file} is damaged"]
    assert damage_of(finished.folder, finished.record) == []


def test_an_interrupted_run_of_a_damaged_config_begins_anew_and_keeps_what_was_there(
    finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with damaged(finished, "config.yaml", "cut", 0.5) as folder:
        before = (folder / "checkpoints" / "last.ckpt").read_bytes()
        (folder / "record.json").unlink()
        prepare_folder(finished.config, folder)
        assert (folder / "damaged-1" / "checkpoints" / "last.ckpt").read_bytes() == before
        assert (folder / "damaged-1" / "metrics.csv").exists()
        assert not (folder / "metrics.csv").exists()
        assert read_config(folder) == finished.config
        [note] = set_aside_before(folder, fingerprint(finished.config))
        assert "damaged-1, which may be removed" in note
        assert set_aside_before(folder, "another run's, which takes the folder") == []
        shutil.rmtree(folder / "damaged-1")
        assert set_aside_before(folder, fingerprint(finished.config)) == []
    assert "begins anew, since config.yaml: damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text, None),
        (lambda text: "".join(text.splitlines(True)[:3]), "metrics.csv was damaged: the rows of steps"),
        (lambda text: text.replace("\n3,", "\n\x00,", 1), "metrics.csv was damaged: the rows of step 3 are lost"),
        (lambda text: "x" + text[1:].replace("step", "stop"), "metrics.csv was damaged: the rows of steps 1 to 7"),
        (lambda text: "", "metrics.csv was damaged: the rows of steps 1 to 7"),
    ],
)
def test_lost_rows_are_told_and_the_rest_goes_on(
    tmp_path: Path, damage: Callable[[str], str], said: str | None
) -> None:
    whole = "step,epoch,train_loss\n" + "".join(f"{step},0,{step / 8}\n" for step in range(1, 8))
    (tmp_path / "metrics.csv").write_text(damage(whole))
    logger = CurvesLogger(tmp_path, 1)
    notes = logger.check(7)
    assert [note.startswith(said) for note in notes] == [True] if said else notes == []
    if said:
        assert (tmp_path / "metrics.damaged.csv").read_text() == damage(whole)
    logger.log_metrics({"train_loss": 1.0}, step=8)
    logger.close("ok")
    curves = read_curves(tmp_path / "metrics.csv", ["train_loss"])
    assert curves["train_loss"].step[-1] == 8


def test_a_config_is_read_anew_where_it_has_changed_and_is_nobody_elses(
    tmp_path: Path, tiny_config: TinyConfig
) -> None:
    for steps in (4, 6):
        config = tiny_config(f"trainer.max_steps={steps}")
        prepare_folder(config, tmp_path)
        for _ in range(2):
            found = read_config(tmp_path)
            assert found == config
            found.options["trainer"]["max_steps"] = 8


# Folders of others.


@pytest.mark.parametrize(
    "name",
    [
        "run.log",
        "pictures/cat.png",
        "events.out.tfevents.1.host",
        "wandb-run-id",
        "record.json",
        "profile/a-profile-1.txt",
    ],
)
def test_a_strangers_files_are_left_alone(tmp_path: Path, tiny_config: TinyConfig, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    for act in (check_ours, clear, set_aside, lambda folder: prepare_folder(tiny_config(), folder)):
        with pytest.raises(UserError, match=f"holds {name}, which no run of ablab wrote"):
            act(tmp_path)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    "text", ["", '{"schema": 2, "command": ["-m", "seed=', '{\n  "schema": 2,\n  "command": [],\n  "runs": 1}']
)
def test_a_plan_of_ours_is_taken_over_also_where_it_was_cut(tmp_path: Path, text: str) -> None:
    """The study's own command writes it anew, and keeps the runs that are done."""
    (tmp_path / "plan.json").write_text(text)
    check_study(tmp_path)


@pytest.mark.parametrize("text", ["precious", '{"resource_changes": []}', '{"schema": 2}', "[]"])
def test_a_plan_of_another_program_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match=r"plan.json: is no plan of ablab's; choose another name="):
        check_study(tmp_path)
