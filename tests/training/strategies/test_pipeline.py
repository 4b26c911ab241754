"""A pipeline's steps are those of one process with the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import interrupt
from test_resume import TIMED, assert_same, left_behind

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.model.transformer import Transformer
from ablab.results.record import Record
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision.supervisor import supervise
from ablab.tasks.base import Task
from ablab.training.build import build_task
from ablab.training.build_model import build_model
from ablab.training.generation import load_run
from ablab.training.strategies.pipeline import Pipeline
from ablab.training.strategies.stages import Stage, merged, owners, share_layers_out

pytestmark = pytest.mark.usefixtures("_costs_are_known")

TinyConfig = Callable[..., RunConfig]
Run = Callable[[RunConfig, Path], Record]
SETTINGS = (
    *("trainer.max_steps=8", "trainer.val_check_interval=3", "trainer.accumulate_grad_batches=2", "model.n_layers=3"),
    *("optimizer=sgd", "activation=dynamic_sparse", "schedule=gradient_variance", "task.eval_batch_size=5"),
    *("trainer.gradient_clip_val=0.5", "task.batch_size=8", "task.eval_tokens=null"),
)
EXPERTS = ("feed_forward=moe", "feed_forward.bias_speed=0.05")  # which follows the loads of all microbatches


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("strategy.schedule=1f1b", *EXPERTS),
        ("strategy.schedule=gpipe", "layer_fusion=adaptive", "model.tie_embeddings=false", "attention=lsh"),
        ("task._target_=patchy.PatchyText", "layer_fusion=dense", "trainer.devices=3"),
    ],
    ids=["1f1b+experts", "gpipe+adaptive+lsh", "unequal targets+dense+3"],
)
def test_stages_learn_what_one_process_does(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, options: tuple[str, ...]
) -> None:
    shared = [option for option in options if not option.startswith(("strategy", "trainer.devices"))]
    one = run(tiny_config(*SETTINGS, *shared, *losses(tmp_path / "of_one")), tmp_path / "one")
    keeps = (
        "_target_=lightning.pytorch.callbacks.ModelCheckpoint",
        "save_weights_only=true",
        "every_n_train_steps=8",
    )
    watched = [*losses(tmp_path / "of_stages"), *(f"+callbacks.weights.{word}" for word in keeps)]
    config = tiny_config(*SETTINGS, "strategy=pipeline", *options, *watched)
    stages = supervise(config, tmp_path / "stages", lambda step, steps, shown: None)
    assert (one.status, stages.status) == ("ok", "ok"), (one.reason, stages.reason)
    first, second = (load_run(tmp_path / name, "last", trust=True)[0].state_dict() for name in ("one", "stages"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-6)
        assert value.any() or not name.endswith("router.bias")
    (kept,) = (tmp_path / "stages" / "checkpoints" / "weights").iterdir()
    assert_same(torch.load(kept, weights_only=True)["state_dict"], {f"model.{name}": second[name] for name in second})
    assert stages.metrics == pytest.approx(one.metrics, rel=1e-5)
    assert stages.evaluated == one.evaluated
    for name, figure in one.mechanism.items():
        assert stages.mechanism[name] == pytest.approx(figure, rel=1e-3, abs=0.02), name  # units die by a hair
    (alone,) = losses_in(tmp_path / "of_one")
    for each in losses_in(tmp_path / "of_stages"):
        assert each == pytest.approx(alone, abs=1e-5)


def losses(folder: Path) -> list[str]:
    """For a callback that writes into `folder` what it is given as the loss of each batch."""
    folder.mkdir()
    return ["+callbacks.losses._target_=recording.Losses", f"+callbacks.losses.folder={folder}"]


def losses_in(folder: Path) -> list[list[float]]:
    """The same by process."""
    return [[float(line) for line in path.read_text().splitlines()] for path in sorted(folder.iterdir())]


@pytest.mark.slow
def test_stopped_and_gone_on(tiny_config: TinyConfig, tmp_path: Path) -> None:
    """In the middle of a block, with a state of the optimizer and of the schedule in each stage."""
    steps = ("trainer.max_steps=12", "trainer.val_check_interval=6", "trainer.log_every_n_steps=3", "model.dropout=0.1")
    options = ("model.n_layers=2", "schedule=gradient_variance", "optimizer=soap", "optimizer.frequency=4")
    config = tiny_config(*steps, "strategy=pipeline", *options)
    assert supervise(config, tmp_path / "whole", lambda step, steps, shown: None).status == "ok"
    interrupt(config, tmp_path / "parts", step=9)
    assert supervise(config, tmp_path / "parts", lambda step, steps, shown: None).status == "ok"
    but = (*TIMED, "bytes_per_step")  # stages greet each other when they start
    assert_same(left_behind(tmp_path / "parts", but), left_behind(tmp_path / "whole", but))


def test_layers_are_shared_out_in_order() -> None:
    assert share_layers_out(7, 3) == [range(3), range(3, 5), range(5, 7)]
    assert share_layers_out(2, 2) == [range(1), range(1, 2)]


def test_every_parameter_has_an_owner(tiny_config: TinyConfig) -> None:
    config = tiny_config("model.n_layers=3", "layer_fusion=adaptive", "model.tie_embeddings=false")
    task: Task = build_task(config)
    model: Transformer = build_model(config, task)
    stage_of = owners(model, 2)
    assert stage_of.keys() >= dict(model.named_parameters()).keys()
    for name, stage in (
        *(("embedding.weight", 0), ("position.table.weight", 0), ("blocks.1.feed_forward.up.weight", 0)),
        *(("blocks.2.attention.query.weight", 1), ("layer_fusion.gate.weight", 1), ("head.weight", 1)),
    ):
        if name in stage_of:
            assert stage_of[name] == stage, name


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("residual", ["plain", "mhc", "attention"])
@pytest.mark.parametrize("fusion", ["last", "adaptive"])
def test_a_stage_gives_what_it_says(tiny_config: TinyConfig, fusion: str, residual: str, mixed: bool) -> None:
    config = tiny_config("model.n_layers=3", f"layer_fusion={fusion}", f"residual={residual}")
    task: Task = build_task(config)
    model: Transformer = build_model(config, task)
    first, last = Stage(model, range(2)), Stage(model, range(2, 3))
    piece = torch.zeros(2, 7, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        sent = first(piece, inputs=piece)
        streams = sent if isinstance(sent, tuple) else (sent,)
        logits = last(*streams, inputs=piece)
    said = [*first.streams(piece, 2), last.logits(piece)]
    assert [(x.shape, x.dtype) for x in said] == [(x.shape, x.dtype) for x in (*streams, logits)]
    if not mixed:
        torch.testing.assert_close(logits, model(piece))


def test_weights_of_several_types_are_sent_in_one_order(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is the same in every process: that of the model."""
    config = tiny_config("model.n_layers=2")
    model: Transformer = build_model(config, build_task(config))
    dtypes = (torch.float64, torch.float16, torch.float32, torch.bfloat16)
    for place, module in enumerate(model.modules()):
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtypes[place % len(dtypes)])
    sent: dict[int, list[torch.dtype]] = {0: [], 1: []}
    monkeypatch.setattr(Pipeline, "transformer", model)
    monkeypatch.setattr(dist, "broadcast", lambda flat, src: sent[src].append(flat.dtype))
    Pipeline(processes=2)._share_weights()
    stage_of, named = owners(model, 2), {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for stage, order in sent.items():
        assert order == list(dict.fromkeys(each.dtype for name, each in named.items() if stage_of[name] == stage))
        assert len(order) > 2


def test_states_of_stages_become_one() -> None:
    states = [
        {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
        {"state": {1: {"step": 3}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
    ]
    whole = {"state": {0: {"step": 3}, 1: {"step": 3}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    assert merged(states) == whole
    assert merged([{"parts": [each]} for each in states]) == {"parts": [whole]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("model.n_layers=1",), r"model\.n_layers=1 are fewer than the stages, trainer\.devices=2"),
        (("model.n_layers=2", "strategy.microbatches=1"), "microbatches=1: 1f1b needs at least as many as stages"),
        (("model.n_layers=2", "strategy.microbatches=3", "strategy.schedule=gpipe"), "microbatches=3 does not divide"),
        (("model.n_layers=2", "attention=dynamic"), "asks for a penalty, and the last stage alone"),
        (("model.n_layers=2", "attention=dsa"), "asks for a penalty, and the last stage alone"),
        (("model.n_layers=2", "residual=value"), "strategy=pipeline does not work with residual=value: what the first"),
        (("task=spoken_arithmetic", "model.n_layers=2"), "strategy=pipeline does not work with task=spoken_arithmetic"),
    ],
)
def test_what_cannot_work_is_refused(tiny_config: TinyConfig, options: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Preflight().check(tiny_config("strategy=pipeline", *options))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="microbatches=0 must be at least 1"):
        Pipeline(processes=2, microbatches=0)
    with pytest.raises(ValueError, match="schedule=zigzag: must be gpipe or 1f1b"):
        Pipeline(processes=2, schedule="zigzag")  # type: ignore[arg-type]
