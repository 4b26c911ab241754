"""Runs with `trainer.compile`: what they learn, what they leave, and what is said where they cannot be."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from mixtures import Keep, fit
from test_resume import assert_same

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import FUNCTION, Record
from ablab.study.planning.check_trainer import check_trainer
from ablab.study.planning.preflight import Preflight
from ablab.training import compile as compiling
from ablab.training.build import BuiltRun, build_task
from ablab.training.build_model import build_model
from ablab.training.compile import check_compiler, compile_blocks
from ablab.training.module import TrainingModule
from ablab.training.restore import load_run
from ablab.training.trainer import quiet_lightning

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
TinyConfig = Callable[..., RunConfig]
Run = Callable[[RunConfig, Path], Record]
COMPILED = "trainer.compile=true"
# Half precision, accumulated batches, dropout, and a schedule that reads gradients.
HARD = (
    *("trainer.precision=bf16-mixed", "trainer.accumulate_grad_batches=2", "model.dropout=0.1"),
    *(
        "schedule=gradient_variance",
        "attention=dsa",
        "attention.warmup_steps=2",
        "attention.keys=4",
        "model.n_layers=2",
    ),
)


@pytest.fixture(autouse=True)
def _traced_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A compiler that takes the same graphs, and calls them as they are."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def near(one: dict[str, float], other: dict[str, float], rel: float = 1e-4) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=rel, abs=1e-4), name


def test_a_run_is_that_of_the_same_config_not_compiled(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    """Metrics, mechanism metrics, responses and curves; checkpoints of the same names, from which one can generate."""
    words = ("feed_forward=moe", "model.dropout=0.1", "trainer.max_steps=4", "trainer.val_check_interval=2")
    plain, compiled = (run(tiny_config(*words, *own), tmp_path / str(len(own))) for own in ((), (COMPILED,)))
    assert (plain.status, compiled.status, compiled.reason) == ("ok", "ok", None)
    near(plain.metrics, compiled.metrics)
    near(plain.mechanism, compiled.mechanism, rel=1e-3)
    assert all(plain.responses[name] == compiled.responses[name] for name in FUNCTION)
    assert [*plain.notes, "trainer.compile: blocks are several graphs (how many tokens an expert gets is data)"] == [
        *compiled.notes
    ]
    (model, _), (other, _) = (load_run(tmp_path / name, "last") for name in ("0", "1"))
    assert list(model.state_dict()) == list(other.state_dict())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-4, atol=1e-4, msg=name)
    prompt = torch.zeros(1, 3, dtype=torch.int64)
    assert torch.equal(model.generate(prompt, max_new_tokens=4), other.generate(prompt, max_new_tokens=4))


def test_a_run_that_goes_on_is_one_that_never_stopped(tiny_config: TinyConfig, tmp_path: Path) -> None:
    """To the last bit, where the branches of a component change between the two."""
    built = BuiltRun.of(tiny_config(*HARD, COMPILED, "trainer.max_steps=5"))
    whole = fit(built, Keep(tmp_path / "a.ckpt", 3))
    torch.compiler.reset()  # as in another process
    assert_same(whole, fit(built, origin=tmp_path / "a.ckpt"))
    plain = fit(BuiltRun.of(tiny_config(*HARD, "trainer.max_steps=5")))
    assert plain["rates"] == pytest.approx(whole["rates"], rel=1e-3)
    for name, value in plain["weights"].items():
        torch.testing.assert_close(whole["weights"][name], value, rtol=0, atol=2e-3, msg=name)


def scaled(config: RunConfig, scale: float, backend: str | None) -> list[torch.Tensor]:
    task = build_task(config)
    module = TrainingModule(
        build_model(config, task),
        task,
        instantiate(config.options["optimizer"], _convert_="all"),
        partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1.0),
    )
    compile_blocks(module.model, backend is not None, backend)
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    plugins: list[Any] = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))]
    with quiet_lightning():
        Trainer(
            accelerator="cpu", max_steps=3, limit_val_batches=0, gradient_clip_val=0.25, plugins=plugins,
            enable_model_summary=False, **quiet,
        ).fit(module, datamodule=task)  # fmt: skip
    return [parameter.detach() for parameter in module.parameters()]


def test_gradients_may_be_scaled_for_float16(tiny_config: TinyConfig) -> None:
    config = tiny_config("optimizer=sgd", "optimizer.lr=0.001")
    expected = scaled(config, 1024.0, None)
    for own, its in zip(scaled(config, 1024.0, "eager"), expected, strict=True):
        torch.testing.assert_close(own, its, rtol=1e-3, atol=1e-5)


def test_what_fails_in_the_compiler_is_the_reason(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("the linker found no libgomp\nand said so at length")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "BACKEND", broken)
        record = run(tiny_config(COMPILED), tmp_path)
    assert (record.status, record.cause, record.traceback) == ("failed", "refused", None)
    assert record.reason is not None
    assert record.reason.startswith("trainer.compile=true: torch.compile failed: ")
    assert "found no libgomp and said so" in record.reason


def test_what_is_missing_is_said_before_anything_runs(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tiny_config(COMPILED)
    check_trainer(config)
    monkeypatch.setenv("CXX", "cxx-of-nobody")
    with pytest.raises(UserError, match=r"^trainer\.compile=true: needs a C\+\+ compiler on a CPU, and cxx-of-nobody"):
        Preflight().check(config)
    check_trainer(tiny_config())
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="install one, name one in the environment variable CXX"):
        check_trainer(config)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs triton on a GPU, which is not installed"):
        check_compiler(True, on_gpu=True)


def test_cuda_graphs_are_refused_where_they_cannot_be(tiny_config: TinyConfig) -> None:
    with pytest.raises(UserError, match=r"^trainer\.compile=reduce-overhead: CUDA graphs need a GPU"):
        check_trainer(tiny_config("trainer.compile=reduce-overhead"))
    with pytest.raises(UserError, match=r"trainer\.accumulate_grad_batches=2 adds up several"):
        check_compiler("reduce-overhead", on_gpu=True, batches=2)


def test_a_component_that_cannot_be_compiled_is_refused_before_a_sweep(
    tiny_config: TinyConfig, faulty: Callable[..., RunConfig]
) -> None:
    dropping = ("attention.dropout=0.1", "attention.dropout_on=weights")
    with pytest.raises(UserError, match=r"^trainer\.compile=true: a component draws from PyTorch's own generators"):
        Preflight().check(tiny_config(COMPILED, *dropping))
    Preflight().check(tiny_config(*dropping))


@pytest.mark.slow
def test_what_the_compiler_makes_of_it_agrees(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor's own code, forward and backward, dropout included: weights agree within 1e-4 after three steps."""
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    words = ("model.dropout=0.1", "model.n_layers=2", "optimizer=sgd", "trainer.max_steps=3")
    plain, compiled = (fit(BuiltRun.of(tiny_config(*words, *own))) for own in ((), (COMPILED,)))
    for name, value in plain["weights"].items():
        torch.testing.assert_close(compiled["weights"][name], value, rtol=0, atol=1e-4, msg=name)
    assert compiled["loss"].item() == pytest.approx(plain["loss"].item(), rel=1e-4)
