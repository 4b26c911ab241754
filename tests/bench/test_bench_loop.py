"""The harness beside a bare loop: the same work, whatever it costs."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest
import torch
from lightning import Callback
from torch import nn

from ablab.bench import loop, runners
from ablab.bench.loop import Round, bench_loop
from ablab.bench.runners import BareLoop, LightningRunner
from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.training import run


@pytest.fixture
def tiny(corpus: Path) -> list[str]:
    return [
        *("task=text", f"task.path={corpus}", "task.seq_len=32", "task.batch_size=4", "task.eval_tokens=256"),
        *("model.d_model=16", "model.n_heads=2", "model.n_layers=1"),
        *("trainer.accelerator=cpu", "trainer.val_check_interval=4", "trainer.log_every_n_steps=2"),
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["attention=lsh", "attention.bucket_size=8", "schedule=gradient_variance"],
        ["trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=null", "optimizer=sgd"],
        ["feed_forward=moe", "feed_forward.n_experts=4", "feed_forward.bias_speed=0.1"],  # moves after each step
    ],
)
def test_both_do_the_same_work(overrides: list[str], tiny: list[str], tmp_path: Path) -> None:
    """Had they not the same weights in the end, to the last bit, it would be refused."""
    output = tmp_path / "figures.json"
    said = bench_loop([*tiny, *overrides], steps=2, rounds=3, output=output)
    speed = r" +[\d.]+ ms a step, [\d,]+ tokens/s\n"
    assert re.search(rf"bare loop{speed}plain Lightning{speed}harness{speed}", said)
    figures = json.loads(output.read_text(encoding="utf-8"))
    assert (figures["rounds"], figures["steps"], figures["threads"]) == (3, 6, 1)
    assert figures["ratio"] == pytest.approx(figures["bare_step_ms"] / figures["harness_step_ms"])
    assert figures["ratio_plain"] == pytest.approx(figures["plain_step_ms"] / figures["harness_step_ms"])
    for ratio in ("ratio", "ratio_plain"):
        assert 0 < figures[f"{ratio}_min"] <= figures[ratio] <= figures[f"{ratio}_max"]
    batches = 3 if "trainer.accumulate_grad_batches=3" in overrides else 1
    tokens = figures["bare_tokens_per_second"] * figures["bare_step_ms"] / 1e3
    assert tokens == pytest.approx(batches * 4 * 32)
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_a_run_of_several_processes_or_a_compiled_one_is_refused(tiny: list[str]) -> None:
    line = r"^strategy=ddp: bench loop measures one process; ablab bench strategies compares several$"
    with pytest.raises(UserError, match=line):
        bench_loop([*tiny, "strategy=ddp", "trainer.devices=2"], steps=1, rounds=1, output=None)
    with pytest.raises(UserError, match=r"^trainer\.compile: bench loop compares loops as they are written"):
        bench_loop([*tiny, "trainer.compile=true"], steps=1, rounds=1, output=None)
    with pytest.raises(UserError, match=r"^trainer\.precision=bf16-mixed: bench loop compares loops in single precis"):
        bench_loop([*tiny, "trainer.precision=bf16-mixed"], steps=1, rounds=1, output=None)


def test_both_minimise_a_penalty(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "training"))
    shrinking = ["activation._target_=penalties.Shrinking", "trainer.accumulate_grad_batches=3"]
    assert "harness" in bench_loop([*tiny, *shrinking], steps=2, rounds=1, output=None)
    monkeypatch.setattr(runners, "has_penalties", lambda model: False)
    with pytest.raises(UserError, match="the loops did not do the same work"):
        bench_loop([*tiny, *shrinking], steps=2, rounds=1, output=None)


def test_loops_that_differ_are_refused(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    original = BareLoop.train

    def lazy(self: BareLoop, steps: int) -> float:
        return original(self, steps - 1)

    monkeypatch.setattr(BareLoop, "train", lazy)
    with pytest.raises(UserError, match=r"the loops did not do the same work: embedding\.weight differs"):
        bench_loop(tiny, steps=2, rounds=1, output=None)


def test_dropout_is_refused_in_one_line(tiny: list[str]) -> None:
    with pytest.raises(UserError, match=r"differs; leave out what each draws for itself \(dropout\)") as raised:
        bench_loop([*tiny, "model.dropout=0.1"], steps=2, rounds=1, output=None)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("steps", "rounds", "overrides", "words"),
    [
        (0, 1, [], "--steps 0 --rounds 1: both must be at least 1"),
        (1, 0, [], "--steps 1 --rounds 0: both must be at least 1"),
        (2, 1, ["attention=ful"], "attention=ful: no such option; did you mean 'full'"),
        (4, 2, ["optimizer.lr=1e30", "trainer.gradient_clip_val=null"], "the training diverged (train_loss became"),
        (2, 1, ["+callbacks.mine._target_=lightning.Callback"], "callbacks.mine: bench loop has none; leave it out"),
        (2, 1, ["model.n_heads=3"], "model.n_heads=3 does not divide model.d_model=16"),
    ],
)
def test_what_cannot_be(steps: int, rounds: int, overrides: list[str], words: str, tiny: list[str]) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        bench_loop([*tiny, *overrides], steps=steps, rounds=rounds, output=None)


def test_the_harness_is_watched_as_a_run_is(tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, seen = loop.compose_config([*tiny, "trainer.max_steps=4"]), list[list[type]]()

    def build_trainer(built: object, folder: Path, loggers: object, callbacks: list[Callback], *args: object) -> None:
        each = [one for callback in callbacks for one in getattr(callback, "_callbacks", [callback])]
        seen.append([type(one) for one in each if not isinstance(one, LightningRunner)])
        raise UserError("as far as that")

    for module in (loop, run):
        monkeypatch.setattr(module, "build_trainer", build_trainer)
    with pytest.raises(UserError, match="as far as that"):
        loop._harness(config, tmp_path / "bench", lambda *args: None)
    folder = tmp_path / "run"
    folder.mkdir()
    run.execute(config, folder, progress=lambda *args: None, beat=lambda: None)
    assert seen[0] == seen[1]


def test_a_folder_is_no_file_for_figures(tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is said before anything is measured."""
    monkeypatch.setattr(loop, "_measure", lambda *args: pytest.fail("was measured"))
    with pytest.raises(UserError, match=re.escape(f"--json {tmp_path}: is a folder")):
        bench_loop(tiny, steps=2, rounds=1, output=tmp_path)


def test_a_turn_that_takes_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, runner = threading.Event(), LightningRunner(nn.Linear(1, 1))
    runner.fit = go_on.wait  # type: ignore[assignment]
    monkeypatch.setattr(runners, "PATIENCE_S", 0.01)
    with pytest.raises(UserError, match=r"^--steps 7: took more than 0\.01 seconds; give fewer, and more --rounds$"):
        runner.train(7)
    with pytest.raises(UserError, match=r"^the training did not end within"):
        runner.end()
    go_on.set()


def test_what_goes_wrong_behind_the_last_step_is_told() -> None:
    runner = LightningRunner(nn.Linear(1, 1))

    def fit() -> None:
        runner._done.put(1.0)
        raise RuntimeError("behind the last step")

    runner.fit = fit
    assert runner.train(1) == 1.0
    with pytest.raises(RuntimeError, match="behind the last step"):
        runner.end()


def of_one_batch() -> RunConfig:
    """Of a run whose steps take one batch."""
    counts = ("max_steps", "val_check_interval", "log_every_n_steps", "accumulate_grad_batches")
    return RunConfig(options={"trainer": dict.fromkeys(counts, 1) | {"gradient_clip_val": None}}, axes={})


@pytest.mark.parametrize(("count", "parts"), [(2, 2), (10, 10), (19, 10), (29, 10), (30, 10)])
def test_the_spread_is_over_ten_parts_of_all_rounds(count: int, parts: int) -> None:
    rounds = [Round(1, 1.0, 1.0, 1.0)] * (count - 1) + [Round(1, 1.0, 1.0, 100.0)]
    figures = loop._figures(rounds, of_one_batch(), tokens_per_batch=1)
    assert figures["parts"] == parts
    assert figures["ratio_max"] > 30  # the last one is in it


def test_figures_are_of_totals_and_their_spread_of_tenths() -> None:
    rounds = [Round(10, 2.0, 3.0, 1.0)] * 10 + [Round(10, 1.0, 3.0, 1.0)] * 10
    figures = loop._figures(rounds, of_one_batch(), tokens_per_batch=100)
    assert figures["harness_step_ms"] == 150.0
    assert figures["bare_step_ms"] == 100.0
    assert figures["bare_tokens_per_second"] == 1000.0
    assert (figures["ratio_min"], figures["ratio"], figures["ratio_max"]) == (0.5, pytest.approx(2 / 3), 1.0)
    assert (figures["ratio_plain_min"], figures["ratio_plain"], figures["ratio_plain_max"]) == (1.5, 2.0, 3.0)
    assert figures["threads"] == torch.get_num_threads()
