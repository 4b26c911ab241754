"""Variants of equal budget: what is adjusted, by how much, and what is said of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest

from ablab.analysis.comparison import compare
from ablab.config import RunConfig, conf_folder, fingerprint
from ablab.errors import UserError
from ablab.report.notes import notes_of
from ablab.results.collect import collect
from ablab.results.run_context import BudgetReport, RunContext
from ablab.study.planning.budget import meet_budgets, refuse_for_one_run
from ablab.study.planning.expand import Run
from ablab.study.planning.preflight import Preflight
from ablab.training.begin import new_record
from ablab.training.build import build_task
from ablab.training.build_model import build_model
from ablab.training.cost import count_active_parameters, count_parameters

TinyConfig = Callable[..., RunConfig]
SIZES = ("model.d_model=64", "model.n_heads=4", "model.n_layers=2", "task.seq_len=64")


@dataclass(frozen=True)
class Met:
    """A run after its sweep has met its budget."""

    config: RunConfig
    context: RunContext

    @property
    def report(self) -> BudgetReport:
        assert self.context.budget is not None
        return self.context.budget


def met(tiny_config: TinyConfig, variants: list[list[str]], *settings: str) -> list[Met]:
    plan = [
        Run(overrides=[*variant, f"seed={seed}"], context=RunContext(variant=",".join(variant)))
        for variant in variants
        for seed in (0, 1)
    ]

    def composed(run: Run) -> RunConfig:
        seed = next(o for o in run.overrides if o.startswith("seed="))
        others = [o for o in run.overrides if o != seed]  # composed once for both seeds
        return replace(tiny_config(*SIZES, *settings, *others), seed=int(seed.removeprefix("seed=")))

    adjusted, lines = meet_budgets(plan, [composed(run) for run in plan], Preflight())
    print(*lines, sep="\n")
    return [Met(composed(run), run.context) for run in adjusted]


def options(axis: str) -> list[str]:
    return sorted(path.stem for path in (conf_folder() / axis).glob("*.yaml"))


def test_parameters_of_all_activations_and_attentions_are_within_two_percent(tiny_config: TinyConfig) -> None:
    variants = [["attention=full", f"activation={option}"] for option in ["relu", *options("activation")]]
    # What the sparse attention of `nsa` adds is more than a feed-forward part of this size can give back.
    variants += [[f"attention={option}", "activation=relu"] for option in options("attention") if option != "nsa"]
    runs = met(tiny_config, variants, "budget.match=params")
    counts = [count_parameters(build_model(r.config, build_task(r.config), device="meta")) for r in runs[::2]]
    assert all(abs(count / counts[0] - 1) <= 0.02 for count in counts)
    assert [run.report.value for run in runs[::2]] == counts
    assert {run.report.of for run in runs} == {counts[0]}


def test_experts_are_matched_by_all_their_parameters_or_by_those_of_a_token(tiny_config: TinyConfig) -> None:
    variants = [["feed_forward=dense"], ["feed_forward=moe", "feed_forward.n_experts=16"]]
    counted = {"params": count_parameters, "active_params": count_active_parameters}
    widths = {}
    for match, count in counted.items():
        dense, _, moe, _ = met(tiny_config, variants, f"budget.match={match}", "activation=swiglu")
        model = build_model(moe.config, build_task(moe.config), device="meta")
        assert count(model) == moe.report.value == pytest.approx(dense.report.value, rel=0.02)
        widths[match] = moe.config.options["model"]["d_ff"] or 4 * 64
    assert widths["params"] < widths["active_params"] / 4  # 17 experts in place of three


def test_the_stream_is_made_narrower_where_the_feed_forward_parts_cannot_give_enough(tiny_config: TinyConfig) -> None:
    settings = ("budget.match=params", "budget.adjust=d_model")
    full, _, nsa, _ = met(tiny_config, [["attention=full"], ["attention=nsa"]], *settings)
    assert full.report.changed == {}
    changed = nsa.report.changed
    assert changed is not None
    before, after = changed["model.d_model"]
    assert before == 64 > after == nsa.config.options["model"]["d_model"]
    assert after % (2 * 4) == 0  # pairs of features in each of four heads
    assert changed["model.d_ff"][1] == nsa.config.options["model"]["d_ff"]
    count = count_parameters(build_model(nsa.config, build_task(nsa.config), device="meta"))
    assert count == nsa.report.value == pytest.approx(full.report.value, rel=0.02)


def test_flops_are_met_by_steps_and_the_schedule_follows(
    tiny_config: TinyConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("budget.match=flops", "trainer.max_steps=500")
    full, *_, mla = met(tiny_config, [["attention=full"], ["attention=mla"]], *settings)
    assert full.config.trainer.max_steps == 500
    assert mla.config.trainer.max_steps < 500
    assert mla.config.options["schedule"]["total_steps"] == mla.config.trainer.max_steps
    value, wanted = mla.report.value, mla.report.of
    assert value == pytest.approx(wanted, rel=0.002)
    [line] = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"attention=mla: trainer.max_steps 500 -> {mla.config.trainer.max_steps} for {value:,} of {wanted:,} "
        r"FLOPs \([+-]0\.\d\d%\)",
        line,
    )


def test_each_condition_that_is_compared_within_has_a_budget_of_its_own(tiny_config: TinyConfig) -> None:
    variants = [[f"model.n_layers={n}", f"activation={name}"] for n in (1, 3) for name in ("relu", "swiglu")]
    runs = met(tiny_config, variants, "budget.match=params", "comparison.within=[model.n_layers]")[::2]
    assert [run.report.of for run in runs[::2]] == [run.report.value for run in runs[::2]]
    assert [run.report.of for run in runs[1::2]] == [run.report.of for run in runs[::2]]
    assert [run.report.changed or {} for run in runs[::2]] == [{}, {}]
    shallow, deep = runs[0].report.of, runs[2].report.of
    assert shallow is not None
    assert deep is not None
    assert shallow < deep / 2


def test_tokens_in_larger_batches_take_fewer_steps(tiny_config: TinyConfig) -> None:
    settings = ("budget.match=tokens", "trainer.max_steps=300")
    runs = met(tiny_config, [["task.batch_size=4"], ["task.batch_size=12"]], *settings)
    assert [run.config.trainer.max_steps for run in runs] == [300, 300, 100, 100]
    steps = {"trainer.max_steps": [300, 100]}
    assert [run.report.changed for run in runs] == [{}, {}, steps, steps]


def test_the_reference_may_be_any_variant(tiny_config: TinyConfig) -> None:
    settings = ("budget.match=params", "'budget.reference=\"attention=mla\"'".strip("'"))
    full, _, mla, _ = met(tiny_config, [["attention=full"], ["attention=mla"]], *settings)
    assert mla.report.changed == {}
    assert full.report.of == mla.report.value
    assert full.config.options["model"]["d_ff"] > 4 * 64


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["budget.match=energy"], "budget.match=energy: there are params, active_params, flops, tokens, time"),
        (["budget.match=params", "budget.adjust=depth"], "budget.adjust=depth: there are d_ff, d_model, steps"),
        (["budget.match=params", "budget.adjust=steps"], "budget.match=params is met by d_ff or d_model only"),
        (["budget.match=tokens", "budget.adjust=d_ff"], "budget.match=tokens is met by steps only"),
        (["budget.match=time", "budget.adjust=d_ff"], "budget.match=time is met by steps only"),
        (["budget.match=params", 'budget.reference="attention=lsh"'], "no run of the sweep has these overrides"),
    ],
)
def test_what_cannot_be_is_refused(tiny_config: TinyConfig, settings: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        met(tiny_config, [["attention=full"], ["attention=mla"]], *settings)


def test_a_budget_out_of_reach_is_refused_with_the_figures(tiny_config: TinyConfig) -> None:
    with pytest.raises(UserError, match=r"cannot meet the budget of [\d,]+ parameters by model.d_ff"):
        met(tiny_config, [["attention=full"], ["attention=nsa"]], "budget.match=params", "model.d_ff=16")


def test_one_run_has_nothing_to_be_equal_to(tiny_config: TinyConfig) -> None:
    refuse_for_one_run(tiny_config())
    with pytest.raises(UserError, match=r"budget\.match: there is nothing to be equal to in one run"):
        refuse_for_one_run(tiny_config("budget.match=params"))


def test_identity_is_what_is_trained_and_the_record_says_why(tiny_config: TinyConfig) -> None:
    _, _, mla, _ = met(tiny_config, [["attention=full"], ["attention=mla"]], "budget.match=params")
    by_hand = tiny_config(*SIZES, "attention=mla", f"model.d_ff={mla.config.options['model']['d_ff']}")
    assert fingerprint(mla.config) == fingerprint(by_hand)
    report = new_record(mla.config, mla.context).budget
    assert report == {**asdict(mla.config.budget), **asdict(mla.report)}
    assert new_record(by_hand).budget is None


def test_the_comparison_says_whether_budgets_are_equal(
    tiny_config: TinyConfig, run: Callable[..., Any], tmp_path: Any
) -> None:
    runs = met(tiny_config, [["attention=full"], ["attention=mla"]], "budget.match=params", "task.seq_len=32")
    for index, each in enumerate(runs):
        run(each.config, tmp_path / str(index), variant=each.context.variant, index=index, budget=each.report)
    (found,) = compare(collect([tmp_path])).items
    assert found.label == "mla"  # the width that was adjusted makes no variant of its own
    assert "EQUAL BUDGET  parameters within 2% of the baseline's." in notes_of(found)


def test_bytes_of_cache_are_met_by_what_an_attention_has(tiny_config: TinyConfig) -> None:
    """A layer keeps 2 d_model numbers of a token: 2 n_kv_heads heads, or a latent of as many less what is rotated."""
    variants = [["attention=full", "model.n_kv_heads=2"], ["attention=full"], ["attention=mla"], ["attention=windowed"]]
    runs = met(tiny_config, variants, "budget.match=kv", "budget.length=100", "position=rope")[::2]
    grouped, full, mla, windowed = runs
    assert grouped.report.value == grouped.report.of == 2 * (2 * 100 * 32) * 4
    assert full.report.changed == {"model.n_kv_heads": [4, 2]}
    assert mla.report.changed == {"attention.kv_rank": [32, 64 - 8]}
    assert mla.report.value == full.report.value
    assert windowed.report.changed == {"attention.window": [64, 50]}  # of 100 tokens, with twice the heads
    assert [run.config.options["model"]["n_kv_heads"] for run in runs] == [2, 2, None, None]


def test_flops_of_a_token_are_met_by_hidden_units(tiny_config: TinyConfig) -> None:
    variants = [["attention=full"], ["attention=full", "activation=swiglu"], ["attention=windowed"]]
    full, swiglu, windowed = met(tiny_config, variants, "budget.match=decode_flops", "activation=relu")[::2]
    assert full.report.changed == {}
    assert swiglu.report.changed is not None
    assert list(swiglu.report.changed) == ["model.d_ff"]
    assert windowed.report.changed is not None
    assert windowed.report.changed["model.d_ff"][1] > 256  # what 8,192 keys take goes into them
    for run in (swiglu, windowed):
        assert run.report.value == pytest.approx(full.report.value, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["budget.match=kv", "budget.adjust=window"], "attention=full has no such setting: take n_kv_heads or d_model"),
        (["budget.match=kv", "budget.adjust=d_ff"], "is met by kv_rank or window or n_kv_heads or d_model only"),
        (["budget.match=kv", "task=listops"], "asks for no text that goes on by tokens"),
    ],
)
def test_budgets_in_use_that_cannot_be_met(tiny_config: TinyConfig, settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        met(tiny_config, [["attention=full", "model.n_kv_heads=2"], ["attention=full"]], *settings)


def test_coarse_heads_are_refused(tiny_config: TinyConfig) -> None:
    with pytest.raises(UserError, match=r"cannot meet the budget of .* bytes of cache by model\.n_kv_heads"):
        met(tiny_config, [["attention=windowed"], ["attention=full"]], "budget.match=kv", "budget.length=100")
