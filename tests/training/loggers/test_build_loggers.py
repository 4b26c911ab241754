"""Every option of the axis `logger`, from its file to what it leaves on the disk."""

import io
import json
import math
import os
import pty
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from commands import everything
from hydra import compose, initialize_config_dir
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from PIL import Image
from pythons import forking
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ablab.errors import UserError
from ablab.results import wandb_runs
from ablab.results.record import Cost, Record, Status
from ablab.results.store import METRICS_FILE
from ablab.training.loggers import TakesPictures, build_loggers, check_loggers, close_loggers

CONF = Path(__file__).parents[3] / "conf"
PICTURE = torch.tensor([[0, 1, 2], [127, 128, 255]], dtype=torch.uint8)
CONFIG = {"model": {"d_model": 64, "sizes": [1, 2]}, "seed": 3, "axes": {"task": "text"}}


def node(option: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+logger={option}"])
    container = OmegaConf.to_container(config.logger, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def log(option: dict[str, Any], folder: Path, status: Status = "ok", variant: str = "attention=lsh") -> list[Logger]:
    loggers = build_loggers(option, folder, "study", variant, 3, CONFIG)
    for step in range(3):
        for logger in loggers:
            logger.log_metrics({"val_loss": 2.0 - step / 2}, step)
            logger.log_hyperparams({"d_model": 64})
            logger.save()
    close_loggers(loggers, status, record(status))
    return loggers


def record(status: Status) -> Record:
    return Record(
        status=status,
        reason=None if status == "ok" else "boom",
        fingerprint="f",
        study="study",
        variant="attention=lsh",
        seed=3,
        axes={},
        config={},
        metrics={"val_loss": 1.25, "val_accuracy": math.nan},
        mechanism={"activation/zero_share": 0.5},
        cost=Cost(parameters=12, wall_time_s=2.5, tokens_per_second=math.inf),
    )


def show(option: dict[str, Any], folder: Path) -> None:
    loggers = build_loggers(option, folder, "study", "", 3, CONFIG)
    for logger in loggers:
        if isinstance(logger, TakesPictures):
            logger.log_picture("attention/layer_0", PICTURE, 7)
    close_loggers(loggers, "ok")


def inspect_wandb(folder: Path) -> dict[str, Any]:
    """What W&B's own reader finds of the one run in `folder`."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(file)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert isinstance(found, dict)
    return found


def test_csv_is_always_there_and_first(tmp_path: Path) -> None:
    loggers = log(node("csv"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [METRICS_FILE]
    assert len(loggers) == 1
    assert loggers[0].save_dir == str(tmp_path)


def test_tensorboard_writes_event_files_and_nothing_else(tmp_path: Path) -> None:
    log(node("tensorboard"), tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2  # no hparams.yaml
    assert names[0].startswith("events.out.tfevents.")
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("val_loss")] == [(0, 2.0), (1, 1.5), (2, 1.0)]
    assert events.Tags()["scalars"] == ["val_loss"]  # no placeholder metric, no hyper-parameters
    with pytest.raises(KeyError):
        events.PluginTagToContent("hparams")


def pixels(file: bytes) -> list[list[int]]:
    """The brightness of each pixel of a picture file."""
    image = Image.open(io.BytesIO(file)).convert("L")
    return np.asarray(image).tolist()  # type: ignore[no-any-return]


def test_tensorboard_shows_a_picture_as_it_is(tmp_path: Path) -> None:
    show(node("tensorboard"), tmp_path)
    (event,) = EventAccumulator(str(tmp_path)).Reload().Images("attention/layer_0")
    assert event.step == 7
    assert pixels(event.encoded_image_string) == PICTURE.tolist()


@pytest.mark.slow
def test_wandb_shows_a_picture_as_it_is(tmp_path: Path) -> None:
    show(node("wandb"), tmp_path)
    (file,) = tmp_path.glob("wandb/offline-run-*/files/media/images/attention/layer_0*.png")
    assert pixels(file.read_bytes()) == PICTURE.tolist()
    assert inspect_wandb(tmp_path)["summary"]["trainer/global_step"] == 7


@pytest.mark.parametrize("option", ["tensorboard", "wandb"])
def test_pictures_can_be_turned_off(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablab.training.loggers.wandb._start", lambda *settings: None)
    chosen = node(option)
    for wanted in (True, False):
        chosen[option]["pictures"] = wanted
        logger = build_loggers(chosen, tmp_path, "study", "", 0, {})[1]
        assert isinstance(logger, TakesPictures)
        assert logger.pictures is wanted


def told(summary: dict[str, Any]) -> dict[str, Any]:
    """What the record added to a summary."""
    return {name: value for name, value in summary.items() if name.startswith(("status", "reason", "final/", "cost/"))}


@pytest.mark.slow
def test_a_wandb_run_has_a_group_and_a_job_type(tmp_path: Path) -> None:
    log(node("wandb"), tmp_path)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    run = next(entry["run"] for entry in map(json.loads, lines) if entry["type"] == "run")
    assert (run["run_group"], run["job_type"]) == ("attention=lsh", "train")


@pytest.mark.slow
def test_wandb_online_without_a_key_asks_nobody(tmp_path: Path) -> None:
    """On a terminal, where W&B itself would ask for a key and wait."""
    code = """
        import sys
        from pathlib import Path
        from ablab.errors import UserError
        from ablab.training.loggers import build_loggers
        node = {"_target_": "ablab.training.loggers.wandb.RunsLogger", "offline": False}
        try:
            build_loggers({"wandb": node}, Path(sys.argv[1]), "study", "", 0, {})
        except UserError as error:
            print("REFUSED", error)
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    environment["MPLCONFIGDIR"] = matplotlib.get_configdir()  # or it tells of the fonts that it looks for
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "run")]
        terminal: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        with forking(everything, "all"):
            subprocess.run(command, env=environment, timeout=120, check=True, **terminal)
        said = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert said.split("\r\n") == [
        "REFUSED W&B could not start (no API key: log in with `wandb login` or set WANDB_API_KEY), "
        "or set logger.wandb.offline=true",
        "",
    ]
    assert not (tmp_path / "run" / "wandb").exists()


@pytest.mark.slow
def test_two_wandb_runs_of_one_process_stay_apart(tmp_path: Path) -> None:
    still_open = build_loggers(node("wandb"), tmp_path / "open", "study", "", 0, {})
    log(node("all"), tmp_path / "a", "ok")
    log(node("wandb"), tmp_path / "b", "diverged", variant="")
    close_loggers(still_open, "interrupted")
    good, bad = inspect_wandb(tmp_path / "a"), inspect_wandb(tmp_path / "b")
    assert good["run_id"] != bad["run_id"]
    for run, name, exit_code in ((good, "attention=lsh seed=3", 0), (bad, "default seed=3", 1)):
        assert run["name"] == name
        assert run["exit_code"] == exit_code
        assert run["config"] == CONFIG
        assert run["project"] == "ablab"
        assert run["tags"] == ["study", "task=text", *(["attention=lsh"] if run is good else [])]
        assert run["summary"]["trainer/global_step"] == 2
        assert run["summary"]["val_loss"] == 1.0
    cost = {"cost/parameters": 12, "cost/steps": 0, "cost/tokens": 0, "cost/wall_time_s": 2.5}
    final = {"final/val_loss": 1.25, "final/activation/zero_share": 0.5}
    assert told(good["summary"]) == {"status": "ok", "reason": "", **final, **cost}
    assert told(bad["summary"]) == {"status": "diverged", "reason": "boom", **cost}
    assert list((tmp_path / "a").glob("events.out.tfevents.*"))


def test_wandb_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuse(**settings: Any) -> None:
        raise wandb.errors.CommError("no\nroute")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match=r"could not start \(no route\): log in .* or set logger.wandb.offline=true"):
        build_loggers(node("wandb"), tmp_path, "study", "", 0, {})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            {"_target_": "ablab.training.loggers.gone.Logger"},
            r"logger.mine._target_: ablab\.training\.loggers has no gone",
        ),
        ({"_target_": "ablab.training.loggers.tensorboard.EventsLogger", "flush": 1}, "unexpected keyword.*'flush'"),
    ],
)
def test_a_logger_that_cannot_be_built(tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        build_loggers({"mine": wrong}, tmp_path, "study", "", 0, {})
    assert "\n" not in str(error.value)


def test_every_logger_is_closed_though_one_fails(tmp_path: Path) -> None:
    first, second = (build_loggers({}, tmp_path / name, "study", "", 0, {})[0] for name in "ab")
    second.log_metrics({"val_loss": 1.0}, 0)

    def fail(status: Status) -> None:
        raise OSError("disk full")

    first.close = fail  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="disk full"):
        close_loggers([first, second], "failed")
    assert second._file is None  # type: ignore[attr-defined]


def test_a_key_that_is_missing_is_missed_before_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_runs, "has_key", lambda: False)
    node = {"_target_": "ablab.training.loggers.wandb.RunsLogger", "offline": True}
    check_loggers({"wandb": node, "csv": {"_target_": "ablab.training.loggers.csv.CurvesLogger"}})
    with pytest.raises(UserError, match=r"^W&B could not start \(no API key: .*logger.wandb.offline=true$"):
        check_loggers({"wandb": node | {"offline": False}})


def test_what_wandb_reads_wrong_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def setup() -> None:
        wandb.Settings().update_from_env_vars({"WANDB_MODE": "of-line"})

    monkeypatch.setattr(wandb, "setup", setup)
    node = {"_target_": "ablab.training.loggers.wandb.RunsLogger", "offline": True}
    with pytest.raises(UserError, match=r"^W&B could not start \(mode: Input should be .*\): mend WANDB_MODE, or "):
        check_loggers({"wandb": node})
