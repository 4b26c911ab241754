"""A run from its config to its folder, however it ends."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import logging
import math
import platform
import re
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ablab
from ablab.analysis.comparison import compare
from ablab.analysis.verdicts import Verdict
from ablab.config import RunConfig, fingerprint
from ablab.report.sentences import verdict_sentence
from ablab.results.collect import collect
from ablab.results.record import KEPT_EVALUATIONS, Cost, Metric, Record, Status
from ablab.results.store import read_record
from ablab.tasks.corpus import SourceFile
from ablab.tasks.corpus import fingerprint as corpus_fingerprint
from ablab.tasks.text import Text
from ablab.training.begin import prepare_folder
from ablab.training.build import build_task
from ablab.training.build_model import build_model
from ablab.training.cost import count_flops
from ablab.training.loggers import close_loggers
from ablab.training.provenance import git_state
from ablab.training.run import execute

TinyConfig = Callable[..., RunConfig]
Run = Callable[[RunConfig, Path], Record]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# The folder and its record.


def test_the_folder_is_the_contract(finished: Any) -> None:
    found = {re.sub(r"tfevents\..*?(\.hparams)?$", r"tfevents\1", name) for name in files(finished.folder)}
    assert found == {
        *("config.yaml", "metrics.csv", "record.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"),
        *("checkpoints/previous.ckpt", "checkpoints/checksums.json"),
        *("events.out.tfevents", "events.out.tfevents.hparams", "pictures/attention_layer_0.png"),
    }
    assert OmegaConf.to_container(OmegaConf.load(finished.folder / "config.yaml")) == finished.config.to_dict()
    assert read_record(finished.folder / "record.json") == finished.record


def test_the_record_is_written_last(finished: Any) -> None:
    times = {name: (finished.folder / name).stat().st_mtime_ns for name in files(finished.folder)}
    assert max(times, key=lambda name: times[name]) == "record.json"


def test_every_field_of_the_record_is_filled(finished: Any, corpus: Path) -> None:
    record, config = finished.record, finished.config
    assert (record.status, record.reason) == ("ok", None)
    assert record.fingerprint == fingerprint(config)
    assert (record.study, record.seed, record.index) == ("tests", 0, None)
    assert record.variant.startswith("activation=dynamic_sparse,attention=lsh,")
    assert record.axes == config.axes
    assert record.config == config.to_dict()
    assert record.primary == Metric(name="val_loss", split="val", direction="min")
    data = corpus.read_bytes()
    assert record.corpus is not None
    assert record.corpus.sha256 == corpus_fingerprint([SourceFile(corpus.name, data)])
    assert record.corpus.sha256 != hashlib.sha256(data).hexdigest()  # the name counts too
    assert (record.corpus.size_bytes, record.corpus.files) == (len(data), 1)
    assert record.versions.items() >= {"ablab": ablab.__version__, "torch": torch.__version__}.items()
    assert record.versions["python"] == platform.python_version()
    assert record.git == git_state()
    assert record.machine["device"] == "cpu"
    assert record.machine["threads"] == 1
    assert record.machine["processor"]
    assert record.started_at is not None
    assert record.finished_at is not None
    assert datetime.fromisoformat(record.started_at) <= datetime.fromisoformat(record.finished_at)
    assert datetime.fromisoformat(record.finished_at).utcoffset() is not None


def test_the_cost_is_complete(finished: Any) -> None:
    cost = finished.record.cost
    for field in dataclasses.fields(Cost):  # what runs on its way have cost is held to by test_anneal.py
        assert getattr(cost, field.name) or field.name.startswith("annealing_"), field.name
    assert cost.steps == 7
    assert cost.tokens == 7 * 4 * 32
    assert cost.flops_total == 7 * cost.flops_per_step
    task = build_task(finished.config)
    of_a_window, _ = count_flops(build_model(finished.config, task, device="meta"), task.loss, task.example())
    assert cost.flops_per_step == 4 * of_a_window
    assert cost.wall_time_s > cost.train_time_s


def test_metrics_and_mechanisms_are_of_the_end(finished: Any) -> None:
    record = finished.record
    figures = {"loss", "perplexity", "accuracy", "bits_per_byte"}
    assert record.metrics.keys() == {f"{split}_{name}" for split in ("val", "test") for name in figures}
    assert record.metrics["val_perplexity"] == pytest.approx(math.exp(record.metrics["val_loss"]))
    assert record.mechanism.keys() >= {
        *("attention/keys_visited", "attention/mass_captured"),
        *("activation/zero_share", "activation/dead_share", "activation/threshold"),
        *("schedule/learning_rate_min", "schedule/learning_rate_max", "schedule/learning_rate_last"),
    }
    assert record.mechanism["schedule/learning_rate_max"] == pytest.approx(0.01)


def test_the_last_evaluations_are_those_of_the_curves(finished: Any) -> None:
    with (finished.folder / "metrics.csv").open() as file:
        curve = [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    record = finished.record
    assert record.last["val_loss"] == pytest.approx(curve)
    assert len(curve) == 3  # after steps 3, 6 and 7
    assert {name: values[-1] for name, values in record.last.items()} == {
        name: value for name, value in record.metrics.items() if name.startswith("val_")
    }


def test_no_more_evaluations_are_kept_than_are_ever_asked_for(
    tiny_config: TinyConfig, run: Run, tmp_path: Path
) -> None:
    steps = KEPT_EVALUATIONS + 2
    config = tiny_config(f"trainer.max_steps={steps}", "trainer.val_check_interval=1", "trainer.log_every_n_steps=1")
    record = run(config, tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        curve = [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    assert len(curve) == steps
    assert record.last["val_loss"] == pytest.approx(curve[-KEPT_EVALUATIONS:])


def test_curves_are_in_the_event_files_too(finished: Any) -> None:
    events = EventAccumulator(str(finished.folder), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2, 3, 4, 5, 6, 7]
    assert [event.step for event in events.Scalars("val_loss")] == [3, 6, 7]
    assert events.Scalars("final/val_loss")[0].value == pytest.approx(finished.record.metrics["val_loss"])


def test_the_same_config_gives_the_same_figures(finished: Any, run: Run, tmp_path: Path) -> None:
    torch.manual_seed(12345)  # whatever happened in the process before
    again = run(finished.config, tmp_path)
    assert again.metrics == finished.record.metrics
    assert again.mechanism == finished.record.mechanism
    assert again.fingerprint == finished.record.fingerprint
    assert (tmp_path / "metrics.csv").read_bytes() == (finished.folder / "metrics.csv").read_bytes()


def test_dropout_is_repeatable_and_depends_on_the_seed(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    settings = ("model.dropout=0.3", "trainer.max_steps=2")
    losses = [
        run(tiny_config(*settings, f"seed={seed}"), tmp_path / str(number)).metrics["val_loss"]
        for number, seed in enumerate((5, 5, 6))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_a_folder_is_cleared_for_a_new_run(finished: Any, tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    run(finished.config, tmp_path)
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    prepare_folder(tiny_config(), tmp_path)
    assert files(tmp_path) == {"config.yaml", "notes.txt"}


def test_without_a_test_split_there_are_no_test_metrics(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    record = run(tiny_config("task.test_fraction=0"), tmp_path)
    assert record.status == "ok"
    assert {name.split("_")[0] for name in record.metrics} == {"val"}


# How runs end.


def test_an_exploding_loss_is_an_outcome(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    record = run(tiny_config("optimizer.lr=1e30", "trainer.max_steps=50"), tmp_path)
    assert record.status == "diverged"
    assert re.fullmatch(r"(train|val)_loss became (nan|inf) at step \d+", record.reason or "")
    assert record.cost.steps < 50
    assert record.cost.tokens == record.cost.steps * 4 * 32
    assert read_record(tmp_path / "record.json") == record


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("BecomesNaN", "train_loss became nan at step 3"), ("NaNInEvaluation", "val_loss became nan at step 2")],
)
def test_a_loss_that_is_no_number_ends_the_run(
    fault: str, reason: str, faulty: TinyConfig, run: Run, tmp_path: Path
) -> None:
    record = run(faulty(fault), tmp_path)
    assert (record.status, record.reason) == ("diverged", reason)


def test_a_diverged_model_is_not_kept(faulty: TinyConfig, run: Run, tmp_path: Path) -> None:
    run(faulty("NaNInEvaluation"), tmp_path)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_an_error_is_named_with_its_place(
    faulty: TinyConfig, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(faulty("Raises"), tmp_path)
    assert record.status == "failed"
    line = (Path(__file__).parent / "faults.py").read_text(encoding="utf-8").split("the cat")[0].count("\n") + 1
    assert record.reason == f"RuntimeError: the cat stepped on the keyboard (faults.py:{line})"
    assert record.cost.steps == 2
    assert record.cost.parameters
    assert "Traceback" in capsys.readouterr().err
    assert read_record(tmp_path / "record.json").status == "failed"


def test_ctrl_c_leaves_a_record_and_its_handler(faulty: TinyConfig, run: Run, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    assert handler is signal.default_int_handler
    record = run(faulty("Interrupts"), tmp_path)
    assert (record.status, record.reason) == ("interrupted", "stopped before it was finished")
    assert signal.getsignal(signal.SIGINT) is handler
    assert record.cost.steps == 2
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()  # of the evaluation after step 2


def test_ctrl_c_before_lightning_has_begun_to_listen(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning then ignores Ctrl-C and does not know what to put back."""
    original = Text.setup

    def setup(self: Text, stage: str | None = None) -> None:
        if self.trainer is not None:
            raise KeyboardInterrupt
        original(self, stage)

    monkeypatch.setattr(Text, "setup", setup)
    record = run(tiny_config(), tmp_path)
    assert (record.status, record.cost.steps) == ("interrupted", 0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_lightnings_loggers_are_as_they_were(faulty: TinyConfig, run: Run, tmp_path: Path) -> None:
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        run(faulty("BecomesNaN"), tmp_path)
        assert logger.level == logging.DEBUG
    finally:
        logger.setLevel(before)


def test_a_mistake_of_the_users_is_told_without_a_traceback(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(tiny_config("task.path=nowhere.txt"), tmp_path)
    assert record.status == "failed"
    assert record.reason is not None
    assert record.reason.startswith("nowhere.txt: no such file")
    assert "Traceback" not in capsys.readouterr().err
    assert record.primary is None
    assert record.cost.parameters is None


def test_a_logger_that_cannot_be_built_is_a_reason(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    config = tiny_config("logger=tensorboard")
    config.options["logger"]["tensorboard"]["_target_"] = "ablab.training.loggers.nothing"
    record = run(config, tmp_path)
    assert record.status == "failed"
    assert record.reason is not None
    assert record.reason.startswith("logger.tensorboard._target_: ablab.training.loggers has no nothing")
    assert read_record(tmp_path / "record.json") == record


def test_a_logger_that_cannot_end_costs_no_result(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(loggers: list[Logger], status: Status, record: Record) -> None:
        close_loggers(loggers, status, record)
        raise OSError("no such service")

    monkeypatch.setattr("ablab.training.run.close_loggers", break_down)
    assert run(tiny_config(), tmp_path).status == "ok"
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["status"] == "ok"


def test_only_the_first_process_writes(
    tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later one has nothing to say, but for why it failed."""
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    config = tiny_config("task.path=nowhere.txt")
    prepare_folder(config, tmp_path)
    assert execute(config, tmp_path).status == "failed"
    assert files(tmp_path) == {"config.yaml", ".failure-1.json"}


# What a schedule and a target hear of evaluations.


def test_the_first_evaluation_that_reaches_the_target_is_recorded(
    tiny_config: TinyConfig, run: Run, tmp_path: Path
) -> None:
    figures = [
        run(tiny_config(f"task.target={target}", "trainer.max_steps=6"), tmp_path / target).mechanism
        for target in ("100", "0.001")
    ]
    assert figures[0]["schedule/steps_to_target"] == 2
    assert "schedule/steps_to_target" not in figures[1]


def test_an_evaluation_behind_the_training_can_be_the_first_that_reaches_it(
    tiny_config: TinyConfig, run: Run, tmp_path: Path
) -> None:
    config = tiny_config("task.target=100", "trainer.max_steps=3", "trainer.val_check_interval=4")
    assert run(config, tmp_path).mechanism["schedule/steps_to_target"] == 3


def test_a_plateau_hears_of_evaluations_and_of_nothing_else(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    """No evaluation can be a gain here, so that each after the first lowers the rate."""
    settings = ("schedule.patience=0", "schedule.threshold=1e9", "schedule.warmup_share=0.0", "schedule.decay=0.5")
    config = tiny_config("schedule=plateau", *settings, "trainer.max_steps=8", "optimizer.lr=0.001")
    figures = run(config, tmp_path).mechanism
    assert figures["schedule/reductions"] == 3
    assert figures["schedule/learning_rate_last"] == pytest.approx(0.001 / 4)  # of step 7; the last fall came after it


def test_a_plateau_that_outlasts_the_run_is_the_constant_rate(
    tiny_config: TinyConfig, run: Run, tmp_path: Path
) -> None:
    constant = run(tiny_config("schedule=constant"), tmp_path / "constant")
    plateau = run(tiny_config("schedule=plateau", "schedule.patience=1000"), tmp_path / "plateau")
    assert constant.metrics == plateau.metrics


# What should have differed and did not.


@pytest.mark.parametrize(
    ("baseline", "variant", "words"),
    [
        (["attention=full"], ["attention=windowed", "attention.window=32"], "what a query attends to"),
        (["activation=relu"], ["activation=dynamic_sparse", "activation.scale=0.0"], "what the activation gives"),
        (["schedule=constant"], ["schedule=plateau", "schedule.patience=99"], "the learning rate"),
    ],
)
def test_a_swap_without_effect_is_told_by_what_it_never_changed(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, baseline: list[str], variant: list[str], words: str
) -> None:
    for index, overrides in enumerate((baseline, variant)):
        for seed in (0, 1):
            config = tiny_config(*overrides, f"seed={seed}")
            context = {"variant": ",".join(overrides), "index": 2 * index + seed}
            run(config, tmp_path / str(index) / str(seed), **context)
    (found,) = compare(collect([tmp_path])).items
    assert found.verdict is Verdict.NO_EFFECT
    assert verdict_sentence(found).endswith(f"never changed {words}; this variant is the baseline under another name.")
