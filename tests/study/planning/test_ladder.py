"""Ladders: a plan at several sizes, what the rules make of each, what is refused, and what a study says of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablab.analysis.comparison import compare
from ablab.config import RunConfig
from ablab.config.ladder import LadderConfig, written_out
from ablab.errors import UserError
from ablab.report.study_notes import study_notes
from ablab.results.collect import tabulate
from ablab.results.run_context import LadderReport, RunContext, TuningReport
from ablab.study.planning.budget import meet_budgets
from ablab.study.planning.expand import Run
from ablab.study.planning.ladder import climb, refuse_for_one_run
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.shapes import shape_of
from ablab.study.trials.carried import carry_tuned
from ablab.training.begin import new_record
from ablab.training.build_model import build_model
from ablab.training.cost import count_body_parameters, count_flops

pytestmark = pytest.mark.usefixtures("_sizes_are_counted_once")

TinyConfig = Callable[..., RunConfig]
SHAPE = ("model.d_model=16", "model.n_heads=2", "model.n_layers=2")
VARIANTS = (["attention=full"], ["attention=windowed"])
SIZES = "ladder.sizes=[16,24,32]"
TWO = "ladder.sizes=[16,32]"


_CONFIGS: dict[tuple[str, ...], RunConfig] = {}
PREFLIGHT = Preflight()  # knows the data


class Climbed:
    """A plan that was brought to its sizes, with the config of each run.

    Args:
        settings: overrides of all runs, and of the study.
    """

    def __init__(
        self, make: TinyConfig, *settings: str, variants: Sequence[list[str]] = VARIANTS, seeds: Sequence[int] = (0, 1)
    ) -> None:
        self._make, self._settings = make, settings
        plan = [
            Run(
                overrides=[*variant, f"seed={seed}"],
                context=RunContext(variant=",".join(variant)),
                folder=f"{','.join(variant)}/seed={seed}",
            )
            for seed in seeds
            for variant in variants
        ]
        baseline = next(
            (word.partition("=")[2].strip("'") for word in settings if word.startswith("comparison.baseline=")), None
        )
        self.runs = climb(plan, self.compose, PREFLIGHT, baseline)  # type: ignore[arg-type]  # a stand-in

    def compose(self, run: Run) -> tuple[RunConfig, Path]:
        seed = next(word for word in run.overrides if word.startswith("seed="))
        others = tuple(word for word in run.overrides if word != seed)
        words = (*SHAPE, *self._settings, *others)
        if words not in _CONFIGS:
            _CONFIGS[words] = self._make(*words)
        return replace(_CONFIGS[words], seed=int(seed.removeprefix("seed="))), Path(run.folder or "")

    @property
    def configs(self) -> list[RunConfig]:
        return [self.compose(run)[0] for run in self.runs]

    @property
    def ladders(self) -> list[LadderReport]:
        return [run.context.ladder for run in self.runs if run.context.ladder is not None]


def model_of(config: RunConfig) -> dict[str, Any]:
    return {name: config.options["model"][name] for name in ("d_model", "n_layers", "n_heads")}


def test_every_variant_is_at_every_size_on_every_seed(tiny_config: TinyConfig) -> None:
    climbed = Climbed(tiny_config, SIZES)
    labels = ["d_model=16,n_layers=2", "d_model=24,n_layers=3", "d_model=32,n_layers=4"]
    assert [run.context.index for run in climbed.runs] == list(range(12))
    assert [run.variant for run in climbed.runs[:4]] == [f"{labels[0]},{each[0]}" for each in (*VARIANTS, *VARIANTS)]
    assert [report.rung for report in climbed.ladders[::4]] == labels
    assert climbed.runs[-1].folder == f"{labels[2]}/attention=windowed/seed=1"
    assert [model_of(config) for config in climbed.configs[::4]] == [
        {"d_model": 8 * heads, "n_layers": heads, "n_heads": heads} for heads in (2, 3, 4)
    ]
    assert {config.axes["schedule"] for config in climbed.configs} == {"warmup_stable_decay"}


def test_tokens_are_those_of_the_baselines_parameters(tiny_config: TinyConfig) -> None:
    """All variants of a size are trained on as many, a variant with more parameters too."""
    variants = [["feed_forward=dense"], ["feed_forward=moe"]]
    climbed = Climbed(tiny_config, TWO, "ladder.tokens_per_parameter=3", variants=variants, seeds=[0])
    assert len({*map(id, climbed.ladders)}) == 4
    for config, report in zip(climbed.configs, climbed.ladders, strict=True):
        dense = replace(config, options=config.options | {"feed_forward": climbed.configs[0].options["feed_forward"]})
        task = PREFLIGHT.task(dense)
        model = build_model(dense, task, device="meta")
        steps = round(3 * count_body_parameters(model) / task.tokens_per_batch)
        assert (config.trainer.max_steps, report.tokens) == (steps, steps * task.tokens_per_batch)
        assert report.parameters == count_body_parameters(model)
        assert report.flops == count_flops(model, task.loss, task.example())[0] * task.batch_size * steps
        assert -(-steps // config.trainer.val_check_interval) == 2  # evaluations, as in the config


def test_the_declared_baseline_sets_the_tokens(tiny_config: TinyConfig) -> None:
    variants = [["feed_forward=moe"], ["feed_forward=dense"]]
    first = Climbed(tiny_config, TWO, variants=variants, seeds=[0])
    declared = Climbed(tiny_config, TWO, "comparison.baseline='feed_forward=dense'", variants=variants, seeds=[0])
    assert declared.ladders[0].parameters < first.ladders[0].parameters


@pytest.mark.parametrize(
    ("words", "power", "of"),
    [
        ((), -0.125, "flops"),
        (("ladder.rate=compute", "ladder.rate_exponent=-0.2"), -0.2, "flops"),
        (("ladder.rate=width",), -1.0, "width"),
        (("ladder.rate=constant",), 0.0, "width"),
    ],
)
def test_rates_follow_their_rule_from_the_first_size_on(
    words: tuple[str, ...], power: float, of: str, tiny_config: TinyConfig
) -> None:
    """The base rate is each variant's own."""
    variants = [["optimizer.lr=0.01"], ["optimizer=lion"]]
    climbed = Climbed(tiny_config, TWO, *words, variants=variants, seeds=[0])
    for place in (0, 1):
        rates = [config.options["optimizer"]["lr"] for config in climbed.configs[place::2]]
        own = climbed.ladders[place::2]
        sizes = [report.flops if of == "flops" else [16, 32][report.place] for report in own]
        # Steps are whole, and the rule is of the tokens that were asked for.
        assert rates == pytest.approx([rates[0] * (size / sizes[0]) ** power for size in sizes], rel=1e-3)  # type: ignore[operator]
    assert climbed.configs[0].options["optimizer"]["lr"] == 0.01


def test_rates_stay_where_the_parametrisation_carries_them(tiny_config: TinyConfig) -> None:
    """They are stated at the first size, unless the command says at which."""
    climbed = Climbed(tiny_config, TWO, "parametrisation=mup", seeds=[0])
    assert {report.rate_rule for report in climbed.ladders} == {"constant"}
    assert len({config.options["optimizer"]["lr"] for config in climbed.configs}) == 1
    nodes = [config.options["parametrisation"] for config in climbed.configs]
    assert {(node["base_width"], node["base_head_size"]) for node in nodes} == {(16, 8)}
    given = Climbed(tiny_config, TWO, variants=[["parametrisation=mup", "parametrisation.base_width=32"]], seeds=[0])
    assert [config.options["parametrisation"]["base_width"] for config in given.configs] == [32, 32]


def test_the_batch_grows_with_the_compute_where_asked_for(tiny_config: TinyConfig) -> None:
    climbed = Climbed(tiny_config, TWO, "ladder.batch=compute", seeds=[0])
    sizes = [config.options["task"]["batch_size"] for config in climbed.configs[::2]]
    flops = [report.flops or 0 for report in climbed.ladders[::2]]
    assert sizes == [round(4 * (each / flops[0]) ** 0.3271) for each in flops]
    tokens = [report.tokens for report in climbed.ladders[::2]]
    assert tokens == pytest.approx([20 * report.parameters for report in climbed.ladders[::2]], rel=0.01)


def test_batches_and_rates_go_by_the_compute_that_a_run_has_where_its_steps_are_given(tiny_config: TinyConfig) -> None:
    words = ("ladder.batch=compute", "ladder.tokens_per_parameter=null", "ladder.rate=compute")
    climbed = Climbed(tiny_config, TWO, *words, seeds=[0])
    flops = [report.flops or 0 for report in climbed.ladders[::2]]
    grown, larger = climbed.configs[2].options["task"]["batch_size"] / 4, flops[1] / flops[0]
    assert len({config.trainer.max_steps for config in climbed.configs}) == 1
    assert grown == pytest.approx(larger**0.3271, rel=0.1)  # but for whole samples
    rates = [config.options["optimizer"]["lr"] for config in climbed.configs[::2]]
    assert rates[1] / rates[0] == pytest.approx(larger**-0.125, rel=1e-3)


def test_variants_keep_their_own_proportions(tiny_config: TinyConfig) -> None:
    variants = [["attention=full"], ["model.n_layers=4"], ["model.d_ff=48"], ["model.n_kv_heads=1"]]
    climbed = Climbed(tiny_config, TWO, variants=variants, seeds=[0])
    last = [config.options["model"] for config in climbed.configs[-4:]]
    assert [each["n_layers"] for each in last] == [4, 8, 4, 4]
    assert [each["d_ff"] for each in last] == [None, None, 96, None]
    assert [each["n_kv_heads"] for each in last] == [None, None, None, 2]
    assert len({report.tokens for report in climbed.ladders[-4:]}) == 1


def test_sizes_may_be_overrides_with_all_that_is_to_differ(tiny_config: TinyConfig) -> None:
    sizes = "{model.d_model:16,trainer.max_steps:3},{model.d_model:32,trainer.max_steps:5}"
    climbed = Climbed(tiny_config, f"ladder.sizes=[{sizes}]", "ladder.depth=fixed", seeds=[0])
    assert [report.rung for report in climbed.ladders[::2]] == [
        "d_model=16,trainer.max_steps=3",
        "d_model=32,trainer.max_steps=5",
    ]
    assert [config.trainer.max_steps for config in climbed.configs[::2]] == [3, 5]
    assert [config.options["model"]["n_layers"] for config in climbed.configs] == [2, 2, 2, 2]


@given(
    heads=st.integers(1, 8),
    size=st.integers(1, 16),
    layers=st.integers(1, 12),
    widths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    d_ff=st.sampled_from([None, 8, 13, 64, 100]),
)
def test_a_models_proportions_are_kept_at_every_width(
    heads: int, size: int, layers: int, widths: list[int], d_ff: int | None
) -> None:
    before = {"d_model": heads * size, "n_heads": heads, "n_layers": layers, "n_kv_heads": 1, "d_ff": d_ff}
    config = RunConfig(options={"model": before}, axes={})
    for count in widths:
        shape = shape_of(config, {"model.d_model": count * size}, LadderConfig())
        assert shape["model.n_heads"] * size == shape["model.d_model"]
        assert shape["model.n_heads"] % shape["model.n_kv_heads"] == 0
        assert abs(shape["model.n_layers"] - layers * count / heads) <= max(0.5, 1 - layers * count / heads)
        assert d_ff is None or abs(shape["model.d_ff"] - d_ff * count / heads) <= 8
    assert shape_of(config, {"model.d_model": heads * size}, LadderConfig())["model.n_layers"] == layers


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ladder.sizes=[16]",), "ladder.sizes=[16]: is no ladder; give 2 sizes at least, 4 or more as a rule"),
        (("ladder.sizes=[32,16]",), "from the smallest to the largest"),
        (("ladder.sizes=wide",), "must be a list of widths"),
        (("ladder.sizes=[16,wide]",), "'wide' does not go with the others"),
        (("ladder.sizes=[16,{model.d_model:32}]",), "does not go with the others"),
        (("ladder.sizes=[{model.d_model:16},{model.n_layers:2}]",), "do not both set model.d_model"),
        (("ladder.sizes=[{d_model:16},{d_model:32}]",), "d_model is no setting of an axis"),
        (("ladder.sizes=[{model.d_model:16},{model.d_model:16}]",), "is the same as one before it"),
        (("ladder.sizes=[{model.d_model:32},{model.d_model:16}]",), "is no larger than d_model=32"),
        (("ladder.sizes=[16,20]",), "a width of 20 has no whole number of heads of 8"),
        (("ladder.sizes=[16,18]", "ladder.heads=fixed", "model.n_heads=4"), "does not divide model.d_model=18"),
        ((SIZES, "ladder.rate=often"), "ladder.rate=often: no such rule"),
        ((SIZES, "ladder.rate_exponent=-1"), "is for ladder.rate=compute or width"),
        ((SIZES, "ladder.tokens_per_parameter=0"), "must be a number above 0, or null"),
        (("ladder.sizes=[{model.n_layers:1},{model.n_layers:2}]", "ladder.rate=width"), "the sizes say nothing of"),
    ],
)
def test_what_makes_no_ladder_is_refused_in_a_line(words: tuple[str, ...], said: str, tiny_config: TinyConfig) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        Climbed(tiny_config, *words, seeds=[0])


@pytest.mark.parametrize(
    ("variants", "words", "said"),
    [
        ([["model.d_model=16"], ["model.d_model=32"]], (), "model.d_model: cannot be varied"),
        ([["attention=full"], ["model.d_model=32"]], (), "model.d_model: cannot be varied"),
        ([["trainer.max_steps=3"], ["trainer.max_steps=4"]], (), "trainer.max_steps: cannot be varied"),
        ([["trainer.max_steps=3"]], (), "trainer.max_steps=3: the ladder sets the steps"),
        ([["model.n_layers=1"], ["model.n_layers=2"]], ("ladder.aspect_ratio=8",), "model.n_layers: cannot be varied"),
        ([["model=tiny"], ["model=small"]], (), "model: cannot be varied"),
    ],
)
def test_what_the_ladder_sets_cannot_be_varied(
    variants: list[list[str]], words: tuple[str, ...], said: str, tiny_config: TinyConfig
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        Climbed(tiny_config, SIZES, *words, variants=variants, seeds=[0])


def test_steps_may_be_given_where_no_rule_sets_them(tiny_config: TinyConfig) -> None:
    variants = [["trainer.max_steps=3"], ["trainer.max_steps=4"]]
    climbed = Climbed(tiny_config, SIZES, "ladder.tokens_per_parameter=null", variants=variants, seeds=[0])
    assert [config.trainer.max_steps for config in climbed.configs] == [3, 4] * 3


def test_a_schedule_that_somebody_chose_stays(tiny_config: TinyConfig) -> None:
    variants = [["schedule=cosine"], ["schedule=linear"], ["attention=full"]]
    climbed = Climbed(tiny_config, TWO, variants=variants, seeds=[0])
    assert [config.axes["schedule"] for config in climbed.configs[:3]] == ["cosine", "linear", "warmup_stable_decay"]
    shares = [config.options["schedule"].get("anneal_at") for config in climbed.configs[:3]]
    assert shares == [None, None, [0.25, 0.5]]
    for option in ("cosine", "linear"):  # chosen by a file
        config = Climbed(tiny_config, TWO, "ladder.schedule=null", f"schedule={option}", seeds=[0]).configs[-1]
        assert config.axes["schedule"] == option


def test_a_tuned_rate_is_found_at_the_first_size_and_carried_on(tiny_config: TinyConfig) -> None:
    climbed = Climbed(tiny_config, TWO, "tune.lr=[0.1,0.01]")
    assert not any(override.startswith("optimizer.lr=") for run in climbed.runs for override in run.overrides)
    asked: list[Run] = []

    def tune(runs: list[Run]) -> list[Run]:
        asked.extend(runs)
        rates = {"attention=full": 0.5, "attention=windowed": 0.25}
        return [
            run.adjusted(
                [f"optimizer.lr={(rate := rates[run.variant.rpartition(',')[2]])!r}", "optimizer.weight_decay=0.2"],
                tuning=TuningReport(chosen=rate, tried=[]),
            )
            for run in runs
        ]

    tuned = carry_tuned(climbed.runs, tune)
    assert [run.variant for run in asked] == [run.variant for run in climbed.runs[:4]]
    configs = [climbed.compose(run)[0].options["optimizer"] for run in tuned]
    factors = [report.rate_factor for report in climbed.ladders]
    assert [each["lr"] for each in configs] == pytest.approx(
        [(0.5, 0.25)[place % 2] * factor for place, factor in enumerate(factors)], rel=1e-5
    )
    assert {each["weight_decay"] for each in configs} == {0.2}
    assert {run.context.tuning.chosen for run in tuned if run.context.tuning} == {0.5, 0.25}
    assert [run.overrides for run in carry_tuned(climbed.runs, list)] == [run.overrides for run in climbed.runs]


def test_budgets_are_met_at_each_size(tiny_config: TinyConfig) -> None:
    climbed = Climbed(
        tiny_config, TWO, "budget.match=params", variants=[["model.n_kv_heads=2"], ["model.n_kv_heads=1"]]
    )
    met, lines = meet_budgets(climbed.runs, climbed.configs, PREFLIGHT)
    assert len(lines) == 2
    reports = [run.context.budget for run in met]
    wanted = [report.of or 0.0 for report in reports if report is not None]
    assert wanted == sorted(wanted)
    assert len({*wanted}) == 2
    assert all(abs((report.value or 0) / (report.of or 1) - 1) < 0.02 for report in reports if report is not None)


def test_each_size_is_compared_by_itself_and_makes_no_variants(tiny_config: TinyConfig) -> None:
    """Rates, depths, batches and steps that the ladder has set are no factors; those that were asked for are."""
    variants = [["optimizer.lr=0.01"], ["optimizer.lr=0.02"]]
    climbed = Climbed(tiny_config, TWO, "ladder.batch=compute", variants=variants, seeds=[0, 1, 2])
    found = []
    for run, config in zip(climbed.runs, climbed.configs, strict=True):
        record = new_record(config, run.context)
        assert record.rung == run.context.ladder.rung  # type: ignore[union-attr]
        better = 0.1 if "0.02" in run.variant else 0.0
        task = PREFLIGHT.task(config)
        record.status, record.primary = "ok", task.primary
        record.metrics = {task.primary.name: 2.0 - better - 0.01 * config.seed * better}
        found.append((Path(run.folder or ""), record))
    runs = tabulate(found)
    assert runs.factors == ["optimizer.lr"]
    assert runs.variants == ["optimizer.lr=0.01", "optimizer.lr=0.02"]
    assert runs.tasks == [f"text,{report.rung}" for report in climbed.ladders[::6]]
    found_of = compare(runs)
    assert [item.verdict for item in found_of.items] == ["BETTER"] * 2
    assert len(found_of.suite) == 1
    assert study_notes(found_of)[-1] == (
        "LADDER  by rules: 20 tokens for each parameter of the baseline outside of embeddings; layers and heads in "
        "proportion to the width; a learning rate that goes as compute^-0.125, batches that grow with the compute."
    )


def test_the_short_form_is_for_the_sizes() -> None:
    assert written_out(["ladder=[16,32]", "ladder=null", "ladder={rate:width}", "ladder.rate=width"]) == [
        "ladder.sizes=[16,32]",
        "ladder.sizes=null",
        "ladder={rate:width}",
        "ladder.rate=width",
    ]
    with pytest.raises(UserError, match=re.escape("ladder=16,32: write the sizes as a list, ladder=[16,32]")):
        written_out(["ladder=16,32"])


def test_one_run_has_one_size(tiny_config: TinyConfig) -> None:
    refuse_for_one_run(tiny_config())
    with pytest.raises(UserError, match="one run has one size"):
        refuse_for_one_run(tiny_config(SIZES))
