"""Which variants are the baseline under another name: those whose whole function is the same, on any device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from synthetic import runs_of

from ablab.analysis.comparison import compare
from ablab.analysis.verdicts import Verdict
from ablab.config import RunConfig
from ablab.results.record import FUNCTION, Record
from ablab.training import function_probe
from ablab.training.build import BuiltRun
from ablab.training.function_probe import function_responses, summary

TinyConfig = Callable[..., RunConfig]
Run = Callable[..., Record]

BASE = ("trainer.max_steps=4", "trainer.val_check_interval=4", "schedule=constant", "schedule.warmup_share=0")
DROPPING = "attention.dropout=0.1"
SAME = {
    "renamed": "attention._target_=functions.Renamed",
    "another order": "attention._target_=functions.OtherOrder",
    "a window of all": "attention=windowed attention.window=32",
    "never fires": "schedule=plateau schedule.warmup_share=0",
}
OTHER = {
    "norm of queries": "attention._target_=functions.NormedQueries",
    "doubled scores": "attention._target_=functions.DoubledScores",
    "in training": "attention._target_=functions.OtherInTraining",
    "gradient": "attention._target_=functions.OtherGradient",
    "dropout": DROPPING,
    "dropout on weights": f"{DROPPING} attention.dropout_on=weights",
    "weight decay": "optimizer.weight_decay=0.3",
    "a window of less": "attention=windowed attention.window=31",
    "later": "schedule=warmup_stable_decay schedule.warmup_share=0 schedule.decay_share=0.5",
    "objective": "objective.z_loss=0.001",
}
WITH = {"adam": (), "signs": ("optimizer=lion",), "half": ("trainer.precision=bf16-mixed",), "dropout": (DROPPING,)}


@pytest.fixture(scope="module")
def record_of(
    tiny_config: TinyConfig, run: Run, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Record]]:
    met: dict[tuple[str, ...], Record] = {}

    def make(*overrides: str) -> Record:
        if overrides not in met:
            met[overrides] = run(tiny_config(*BASE, *overrides), tmp_path_factory.mktemp("run"))
            assert met[overrides].status == "ok", met[overrides].reason
            assert not met[overrides].notes
        return copy.deepcopy(met[overrides])

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield make


def verdict(base: Record, own: Record, *, device: str = "cpu", error: float = 0.0) -> Verdict:
    """Of the two as runs of a device, whose metrics differ by an error."""
    base.variant, own.variant, own.axes = "", "other", {**own.axes, "attention": "other"}
    for record in (base, own):
        record.machine = {**record.machine, "device": device}
    own.metrics = {name: value + error for name, value in own.metrics.items()}
    (item,) = compare(runs_of([base, own]), metric="val_loss").items
    return item.verdict


@pytest.mark.parametrize("device", ["cpu", "NVIDIA H200"])
@pytest.mark.parametrize("words", SAME.values(), ids=SAME)
def test_the_same_function_under_another_name(words: str, device: str, record_of: Callable[..., Record]) -> None:
    for error in (0.0, 1e-9, 1e-4):  # rounding grows
        base, own = record_of(), record_of(*words.split())
        assert verdict(base, own, device=device, error=error) is Verdict.NO_EFFECT


@pytest.mark.parametrize("device", ["cpu", "NVIDIA H200"])
@pytest.mark.parametrize("words", OTHER.values(), ids=OTHER)
def test_a_function_that_differs_anywhere(words: str, device: str, record_of: Callable[..., Record]) -> None:
    base, own = record_of(), record_of(*words.split())
    assert verdict(base, own, device=device, error=1e-9) is not Verdict.NO_EFFECT
    if "schedule" not in words:  # metrics that are equal to the last bit
        own.metrics = base.metrics
        assert verdict(base, own, device=device) is not Verdict.NO_EFFECT


@pytest.mark.parametrize("words", WITH.values(), ids=WITH)
def test_rounding_is_none_whatever_it_is_trained_with(words: tuple[str, ...], record_of: Callable[..., Record]) -> None:
    base, own = record_of(*words), record_of(SAME["another order"], *words)
    assert verdict(base, own, error=1e-9) is Verdict.NO_EFFECT
    assert verdict(record_of(*words), record_of(OTHER["norm of queries"], *words)) is not Verdict.NO_EFFECT


def test_a_number_drawn_in_vain_changes_no_digit(record_of: Callable[..., Record]) -> None:
    dropping = ("model.dropout=0.3", DROPPING, "attention.dropout_on=weights", "trainer.accumulate_grad_batches=2")
    base, own = (
        record_of("activation=relu", *dropping),
        record_of("activation._target_=functions.DrawingReLU", *dropping),
    )
    assert own.metrics == base.metrics
    assert own.last == base.last
    assert own.responses == base.responses
    assert verdict(base, own) is Verdict.NO_EFFECT


def test_without_an_answer_nothing_is_claimed(record_of: Callable[..., Record]) -> None:
    base, own = record_of(), record_of(SAME["renamed"])
    for name in FUNCTION:  # one of the two was not asked
        own.responses[name] = []
    assert verdict(base, own, device="NVIDIA H200", error=1e-9) is not Verdict.NO_EFFECT
    for record in (base, own):  # of an earlier version
        for name in FUNCTION:
            del record.responses[name]
    assert verdict(base, own, device="NVIDIA H200") is Verdict.NO_EFFECT
    assert verdict(base, own, device="cpu", error=1e-9) is not Verdict.NO_EFFECT


def test_nothing_is_left_of_the_asking(tiny_config: TinyConfig) -> None:
    built = BuiltRun.of(tiny_config("attention=lsh", "feed_forward=moe", "activation=dynamic_sparse"))
    model = built.build_model()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = function_responses(built, model, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(found) == list(FUNCTION)
    assert all(each[0] > 0 for each in found.values())
    assert function_responses(built, model, torch.device("cpu")) == found


def test_what_would_take_long_is_left_out(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function_probe, "LITTLE", 0)
    for steps, asked in ((10, False), (10_000, True)):
        built = BuiltRun.of(tiny_config(f"trainer.max_steps={steps}"))
        found = function_responses(built, built.build_model(), torch.device("cpu"))
        assert list(found) == list(FUNCTION)
        assert all(map(bool, found.values())) is asked


def test_a_summary_shows_any_number_that_changes() -> None:
    generator = torch.Generator().manual_seed(0)
    named = {"a": torch.randn(3, 1000, generator=generator), "b": torch.randn(7, generator=generator)}
    plain = summary(named)
    assert plain[0] == pytest.approx(torch.cat([x.flatten() for x in named.values()]).norm().item())
    for name, place in (("a", (2, 999)), ("a", (0, 0)), ("b", (3,))):
        changed = {key: value.clone() for key, value in named.items()}
        changed[name][place] += 0.1
        assert max(abs(x - y) for x, y in zip(summary(changed), plain, strict=True)) > 1e-3
    assert summary({"b": named["a"], "a": named["b"]}) != plain
