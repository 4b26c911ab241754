"""What a study needs at its end is asked for before its first step, and what works is not refused for how it works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.study.planning.preflight import Preflight
from ablab.training.build import BuiltRun

if TYPE_CHECKING:
    from conftest import Lab

TinyConfig = Callable[..., RunConfig]

# Activations and cores as their users may have written them.
WRITTEN = """
import torch
from torch import nn

from ablab.model.attention.base import AttentionCore
from ablab.model.attention.full import FullAttention


class ReadsValues(nn.Module):
    def __init__(self, spec):
        super().__init__()

    def forward(self, x):
        return torch.relu(x) * float(x.detach().abs().max()) / x.abs().max().item()


class ChoosesRows(nn.Module):
    by_unit = True

    def __init__(self, spec):
        super().__init__()

    def forward(self, x):
        return torch.zeros_like(x).masked_scatter(x > 0, x[x > 0])


class OtherArguments(nn.Module):
    def __init__(self, spec):
        super().__init__()

    def forward(self, x, scale):
        return x * scale


class NoVisited(AttentionCore):
    def attend(self, q, k, v, key_padding_mask):
        return v


class WeighsWrongly(FullAttention):
    def weights(self, q, k, positions):
        return q.no_such_method()


class TellsText(nn.Module):
    def __init__(self, spec):
        super().__init__()

    def forward(self, x):
        return torch.relu(x)

    def mechanism(self):
        return {"mood": "good"}


class RaisesBackward(nn.Module):
    def __init__(self, spec):
        super().__init__()

    def forward(self, x):
        return x.detach() if not self.training else Backwards.apply(x)


class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise ValueError("no way back")
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> None:
    import sys

    folder = tmp_path_factory.mktemp("written")
    (folder / "written.py").write_text(WRITTEN)
    sys.path.insert(0, str(folder))


@pytest.fixture
def mine(tiny_config: TinyConfig, written: None) -> Callable[[str, str], RunConfig]:
    def make(axis: str, name: str) -> RunConfig:
        config = tiny_config()
        config.options[axis] = {"_target_": f"written.{name}", "_partial_": True}
        config.axes[axis] = "mine"
        return config

    return make


@pytest.mark.parametrize(
    ("axis", "name", "line"),
    [
        ("activation", "OtherArguments", r"^activation=mine fails .*missing 1 .*'scale'"),
        ("attention", "NoVisited", r"^attention=mine fails .*NotImplementedError"),
        (
            "attention",
            "WeighsWrongly",
            r"^attention=mine fails .*what it tells .*no_such_method.*written\.py, line \d+",
        ),
        ("activation", "TellsText", r"TellsText\.mechanism\(\) gives mood as str"),
        ("activation", "RaisesBackward", r"^activation=mine fails .*no way back"),
    ],
)
def test_a_component_that_cannot_do_what_is_asked_at_the_end_is_refused(
    mine: Callable[[str, str], RunConfig], axis: str, name: str, line: str
) -> None:
    with pytest.raises(UserError, match=line) as caught:
        Preflight().check(mine(axis, name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["ReadsValues", "ChoosesRows"])
def test_a_component_that_reads_values_trains_and_its_flops_are_measured(
    mine: Callable[[str, str], RunConfig],
    name: str,
    run: Callable[..., Record],
    tmp_path: Path,
    tiny_config: TinyConfig,
) -> None:
    config = mine("activation", name)
    Preflight().check(config)
    record = run(config, tmp_path / "run")
    assert record.status == "ok", record.reason
    assert record.cost.flops_per_step == BuiltRun.of(tiny_config()).cost.flops_per_step  # an activation has none


def test_trying_a_run_leaves_no_trace(tiny_config: TinyConfig, run: Callable[..., Record], tmp_path: Path) -> None:
    """A model that was tried, with components that follow their inputs, is trained as one that was not."""
    import torch

    config = tiny_config("attention=lsh", "activation=dynamic_sparse", "model.dropout=0.1")
    torch.manual_seed(7)
    before = torch.get_rng_state()
    built = Preflight().build(config)
    assert torch.equal(before, torch.get_rng_state())
    fresh, tried = BuiltRun.of(config).build_model(), built.build_model()
    assert fresh.state_dict().keys() == tried.state_dict().keys()
    assert all(torch.equal(value, tried.state_dict()[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("comparison.baseline=activation=rellu", "did you mean 'relu'"),
        ("comparison.baseline=activation=silu", "silu"),
        ("comparison.baseline=actvation=relu", "did you mean 'activation'"),
        ("comparison.baseline=relu", "relu"),
        ("comparison.metric=val_los", "did you mean 'val_loss'"),
        ("comparison.metric=activation/zero_shar", "did you mean 'activation/zero_share'"),
        ("comparison.margin=-1", "margin -1"),
        ("comparison.margin=nan", "comparison.margin=nan"),
        ("comparison.last_k=0", "last 0"),
        ("comparison.last_k=11", "last 11"),
        ("comparison.last_k=3", "is evaluated 2 times"),
        ("comparison.split=tests", "must be validation or test, or null"),
        ("comparison.intervals=both", "must be single or simultaneous"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused_before_anything_is_trained(
    lab: Lab, words: str, line: str
) -> None:
    key, _, value = words.partition("=")
    ended = lab.ablab("plan", "--no-probe", *lab.words("activation=relu,gelu", "name=early", f"{key}='{value}'"))
    assert ended.status == 2, ended.err
    assert all(line in each for each in ended.err.splitlines())  # of each run, or of all together
    assert not (lab.folder / "outputs" / "early").exists()


def test_a_condition_that_no_run_has_is_refused_before_anything_is_trained(lab: Lab) -> None:
    terms = ("activation=relu,gelu", "name=early", "comparison.within=[model.n_layer]")
    ended = lab.ablab("plan", "--no-probe", *lab.words(*terms))
    assert ended.status == 2
    assert "comparison.within: no run has a setting model.n_layer; did you mean 'model.n_layers'" in ended.err


def test_what_can_be_compared_is_planned(lab: Lab) -> None:
    for metric in ("val_loss", "activation/zero_share", "schedule/learning_rate_last", "parameters", "wall_time_s"):
        terms = ("comparison.baseline='activation=gelu'", f"comparison.metric={metric}", "comparison.margin=0.1")
        ended = lab.ablab("plan", "--no-probe", *lab.words("activation=relu,gelu", "name=fine", *terms))
        assert ended.status == 0, ended.err


def test_a_sweep_with_a_wrong_baseline_trains_nothing(lab: Lab) -> None:
    ended = lab.sweep("activation=relu,gelu", "name=never", "comparison.baseline='activation=rellu'")
    assert ended.status == 2
    assert not (lab.folder / "outputs" / "never").exists()
