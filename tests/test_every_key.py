"""No key is accepted without effect: each one of each option, set to another value, changes what the run computes.

A component's key changes the model's outputs, its gradients or its parameters; a task's key its batches or its metrics;
an optimizer's and a schedule's the parameters or the rates of some steps. What changes none of these is listed below,
each with what it changes instead.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from other_values import hint_of, others
from torch import Tensor

from ablab.config import RunConfig, conf_folder
from ablab.config.axes import AXES, Axis
from ablab.errors import UserError
from ablab.results.factors import OF_SPEED
from ablab.study.planning.preflight import check_options
from ablab.training import build_model, build_option
from ablab.training.build import BuiltRun
from ablab.training.optimizers.groups import build_optimizer

TinyConfig = Callable[..., RunConfig]

STEPS = 40  # of an optimizer and its schedule
COMPONENTS = (
    "attention",
    "activation",
    "norm",
    "feed_forward",
    "residual",
    "position",
    "layer_fusion",
    "objective",
    "modal_fusion",
    "model",
)
OPTIONS = [
    (axis, path.stem)
    for axis in (*COMPONENTS, "task", "optimizer", "schedule")
    for path in sorted((conf_folder() / axis).glob("*.yaml"))
    if (axis, path.stem) != ("model", "small")  # has the keys of tiny
]

# Keys that change nothing of this, of every option that has them, and what they change.
ELSEWHERE = {
    "task.workers": "speed",
    "task.eval_batch_size": "speed and memory of an evaluation",
    "objective.total_steps": "the step from which on another weight holds",
    "attention.chunk": "speed and memory; results by rounding alone",
    "schedule.anneal_at": "which shorter runs a run gives on its way",
    "task=text.binary": "how a file is read that is packed or no text",
    "optimizer.foreach": "speed",
    "optimizer.fused": "speed",
    "optimizer.capturable": "where the optimizer's state lies",
    "optimizer.differentiable": "whether autograd sees the step",
}
# What an option takes to make a difference in something so small, and what single keys take beside it.
BESIDE: dict[str, tuple[str, ...]] = {
    "attention": ("task.seq_len=64", "task.eval_tokens=256"),
    "attention=block_sparse": ("attention.block=4",),
    "attention=csa": ("attention.keys=4", "attention.window=8"),
    "attention=dsa": ("attention.keys=4",),
    "attention=mla_dsa": ("attention.keys=4", "attention.q_rank=4"),
    "attention.output_groups": ("attention.output_rank=2",),
    "feed_forward=moe.top_groups": ("feed_forward.n_groups=4",),
    "feed_forward=moe.group_best": ("feed_forward.n_groups=2",),
    "attention=hca": ("attention.block=4", "attention.window=8"),
    "attention=dynamic": ("attention.window=8", "attention.bucket_size=4", "attention.dense_below=0"),
    "attention=lsh": ("attention.bucket_size=4", "attention.dense_below=0"),
    "attention=nsa": ("attention.compress_block=4", "attention.compress_stride=2", "attention.select_block=4"),
    "attention=pattern": ("attention.layers=[{windowed:{window:8}},full]", "model.n_layers=2"),
    "attention=pattern.first": ("attention.layers=[{windowed:{window:8}}]",),
    "attention=selected": ("attention.keys=16", "attention.block=4"),
    **{
        f"attention=selected.{key}": ("attention.scorer=indexer",)
        for key in ("index_heads", "index_weight", "warmup_steps")
    },
    "attention=topk": ("attention.keys=4",),
    "attention=windowed": ("attention.window=8",),
    "attention.dropout_on": ("attention.dropout=0.5",),
    "attention.fixed": ("attention.stride=3",),
    "attention.ramp": ("attention.initial_span=4",),
    "feed_forward=pattern": ("model.n_layers=2",),
    "layer_fusion": ("model.n_layers=3",),
    "modal_fusion": ("task=spoken_arithmetic", "model.n_layers=4"),
    "objective.end_share": ("objective.weight_end=0.1",),
    "objective.weight_end": ("objective.end_share=0.0",),
    "residual": ("model.n_layers=2",),
    "schedule": (f"trainer.max_steps={STEPS}",),
    "schedule=gradient_variance.min_factor": ("schedule.smoothing=0.1", "schedule.beta=0.5"),
    "schedule=gradient_variance.max_factor": (
        "schedule.smoothing=0.1",
        "schedule.beta=0.5",
        "schedule.warmup_share=0.5",
    ),
    "task.bpe_vocab_size": ("task.tokenizer=bpe",),
    "task=hf_text.val_fraction": ("task.val_split=null",),
    "optimizer": (f"trainer.max_steps={STEPS}", "schedule=constant", "schedule.warmup_share=0.5"),
}


# Values to try, where not any other one will do.
VALUES: dict[str, list[Any]] = {
    "task.bpe_vocab_size": [270],
    "task.segments": [[[64, 4]]],
    "activation.limit": [0.001],
    "attention.warmup_steps": [0],
    "attention.layers": [["full"]],
    "objective.end_share": [0.0],
    "objective.weight_end": [0.1],
    "attention.first": [["full"]],
    "feed_forward.layers": [["dense"]],
    "feed_forward.first": [[]],
}


_MADE: dict[tuple[str, str], Any] = {}  # the factory of an option, by the axis and what the option says


def made_of(built: BuiltRun, axis: str) -> Any:
    return {"optimizer": of_steps, "schedule": of_steps, "task": of_task}.get(axis, of_model)(built)


def of_model(built: BuiltRun) -> Any:
    """Loss, and parameters, states and outputs after a step."""
    torch.manual_seed(0)
    model, task = built.build_model().train(), copy.copy(built.task)
    task.batch_size = 2
    inputs, targets = next(iter(task.train_dataloader()))
    model.resample(0)
    loss = task.loss(model(inputs, targets=targets), targets) + model.penalty()
    loss.backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    model.after_step()
    model.resample(1)
    return [loss, model.state_dict(), model(inputs), model.eval()(inputs)]


def of_task(built: BuiltRun) -> Any:
    """Batches of each split, and what a model's metrics are on them."""
    task, model = built.task, built.build_model().eval()
    loaders = [task.train_dataloader(), *_listed(task.val_dataloader()), *_listed(task.test_dataloader())]
    batches = [batch for loader in loaders for batch in itertools.islice(loader, 2)]
    inputs, targets = batches[0]
    totals = {name: float(value) for name, value in task.totals(model(inputs), targets).items()}
    metrics = task.evaluation_metrics({subset: dict(totals) for subset in task.subsets("val")})
    rest = [task.loss(model(inputs), targets), metrics, task.subsets("val"), task.target, task.max_length]
    return [batches, rest, [len(loader) for loader in loaders[1:]], task.vocab_size, task.tokens_per_batch]


def _listed(loaders: Any) -> list[Any]:
    return loaders if isinstance(loaders, list) else [loaders]


def of_steps(built: BuiltRun) -> Any:
    """Rates and parameters over the steps: gradients agree, are noise, and agree; evaluations gain less and less."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Linear(4, 6), torch.nn.LayerNorm(6))
    optimizer = build_optimizer(built.optimizer, net)
    schedule: Any = built.schedule(optimizer)
    seen: list[Any] = []
    getattr(optimizer, "train", lambda: None)()
    value = 1.0
    for step in range(STEPS - 1):
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape) + (3.0 if step < 10 else 0.0 if step < 25 else 30.0)
        optimizer.step()
        if step % 3 == 0:
            value *= 0.5 if step < 10 else 0.9985 if step < 15 else 1.0
            getattr(schedule, "evaluated", lambda *_: None)(value, True)
        schedule.step()
        seen.append([group["lr"] for group in optimizer.param_groups])
    seen.append([parameter.detach().clone() for parameter in net.parameters()])
    getattr(optimizer, "eval", lambda: None)()
    return [*seen, list(net.parameters())]


def digest(made: Any) -> str:
    hashing = hashlib.sha256()
    for part in parts(made):
        hashing.update(part)
    return hashing.hexdigest()


def parts(made: Any) -> Iterator[bytes]:
    if isinstance(made, Tensor):
        yield repr(made.shape).encode() + made.detach().double().numpy().tobytes()
    elif isinstance(made, dict):
        for name, value in sorted(made.items()):
            yield repr(name).encode()
            yield from parts(value)
    elif isinstance(made, list | tuple):
        for value in made:
            yield from parts(value)
    else:
        yield repr(made).encode()


@pytest.fixture(autouse=True)
def _options_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With each value of a key all options but its own are as before: Hydra would take a millisecond for each."""
    read, made = build_option.component, _MADE

    def component(axis: Axis, config: RunConfig) -> Any:
        key = axis.name, json.dumps(config.options[axis.name], sort_keys=True)
        if key not in made:
            made[key] = read(axis, config)
        return made[key]

    monkeypatch.setattr(build_model, "component", component)


@pytest.mark.parametrize(("axis", "option"), OPTIONS, ids=[f"{axis}={option}" for axis, option in OPTIONS])
@pytest.mark.filterwarnings("ignore")
def test_each_key_has_an_effect(axis: str, option: str, tiny_config: TinyConfig) -> None:
    chosen = f"{axis}={option}"
    base = (chosen, *BESIDE.get(axis, ()), *BESIDE.get(chosen, ()))
    node = tiny_config(*base).options[axis]
    before: dict[tuple[str, ...], tuple[BuiltRun, str]] = {}
    idle = []
    for key in node:
        if key.startswith("_") or f"{axis}.{key}" in ELSEWHERE or f"{chosen}.{key}" in ELSEWHERE:
            continue
        words = (*base, *BESIDE.get(f"{axis}.{key}", ()), *BESIDE.get(f"{chosen}.{key}", ()))
        if words not in before:
            built = BuiltRun.of(tiny_config(*words))
            before[words] = built, digest(made_of(built, axis))
        built, unchanged = before[words]
        tried = VALUES.get(f"{axis}.{key}") or others(built.config.options[axis][key], hint_of(node, key))
        valid = list(_until((_with(built, axis, key, other) for other in tried), unchanged))
        if valid and valid[-1] == unchanged:
            idle.append(key)
    assert idle == []


def test_keys_of_tasks_that_change_no_metric_make_no_other_task() -> None:
    """They are all that there are: the test above tries every other one."""
    assert {key for key in ELSEWHERE if key.startswith("task")} == {*OF_SPEED, "task=text.binary"}


def _until(digests: Iterator[str | None], before: str) -> Iterator[str]:
    for each in digests:
        if each is not None:
            yield each
            if each != before:
                return


def _with(before: BuiltRun, axis: str, key: str, other: Any) -> str | None:
    """The digest of the run with another value of the key; None where the value is refused."""
    config = before.config.with_values({f"{axis}.{key}": other})
    try:
        check_options(AXES[axis], config.options)
        built = BuiltRun.of(config) if axis == "task" else replace(before, config=config)  # of the same data
        return digest(made_of(built, axis))
    except (UserError, ValueError):
        return None
