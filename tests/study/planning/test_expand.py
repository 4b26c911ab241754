"""A plan: what a design chooses, on every task and seed, in order, each run in a folder of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hypothesis import given
from hypothesis import strategies as st
from synthetic import record

from ablab.config import conf_folder, register_schema
from ablab.config.overrides import alike, canonical
from ablab.errors import UserError
from ablab.results.store import write_record
from ablab.study.designs import (
    Cumulative,
    Design,
    Explicit,
    Factorial,
    LeaveOneOut,
    OneFactor,
    Pairwise,
    Steps,
)
from ablab.study.planning.compose import Composer
from ablab.study.planning.expand import Expansion, Run, expand, folder_name
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.prepare import make_folder, prepare

PARSER = OverridesParser.create()

KEYS = ("attention", "model.d_model", "optimizer.lr", "+task.extra", "seed")
VALUES = st.lists(
    st.sampled_from(["1", "2.5", "full", "null", "[1,2]", "{a:1}", "'x y'", "0.001"]), min_size=2, max_size=4
)
SWEPT = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4)


def expanded(*overrides: str, design: Design | None = None, baseline: str | None = None) -> Expansion:
    return expand(PARSER.parse_overrides(list(overrides)), design or Factorial(), baseline)


def plan(*overrides: str, design: Design | None = None, baseline: str | None = None) -> list[Run]:
    return expanded(*overrides, design=design, baseline=baseline).runs


def asked(run: Run) -> tuple[str, ...]:
    return tuple(run.overrides)


@given(SWEPT)
def test_the_plan_is_the_whole_product_in_order(swept: dict[str, list[str]]) -> None:
    runs = plan(*(f"{key}={','.join(values)}" for key, values in swept.items()))
    distinct = {key: list(dict.fromkeys(values)) for key, values in swept.items()}
    assert len(runs) == len({asked(run) for run in runs}) == prod(map(len, distinct.values()))
    assert [run.context.index for run in runs] == list(range(len(runs)))
    slowest_first = sorted(distinct, key=lambda key: (not key.startswith("+task"), key != "seed"))
    places = []
    for run in runs:
        value = dict(o.split("=", 1) for o in asked(run))
        places.append([distinct[key].index(value[key]) for key in slowest_first])
    assert places == sorted(places)  # tasks, then seeds, then variants, of which the last override varies fastest


@given(SWEPT)
def test_the_variant_names_what_varies_but_the_seed(swept: dict[str, list[str]]) -> None:
    varied = [key for key, values in swept.items() if key != "seed" and len(set(values)) > 1]
    for run in plan("strategy=single", *(f"{key}={','.join(values)}" for key, values in swept.items())):
        assert run.variant == ",".join(alike(o) for o in asked(run) if o.split("=")[0] in varied)


@given(SWEPT)
def test_each_run_has_a_folder_of_its_own_with_a_safe_name(swept: dict[str, list[str]]) -> None:
    runs = plan("seed=0", *(f"{key}={','.join(values)}" for key, values in swept.items()))
    folders = [run.folder for run in runs]
    assert len(set(folders)) == len(runs)
    assert all(re.fullmatch(r"([\w.,=+-]+/)?seed=[\w.,=+-]+", folder or "", re.ASCII) for folder in folders)


@given(st.text(), st.text())
def test_folder_names_are_safe_short_and_different(one: str, other: str) -> None:
    assert re.fullmatch(r"[\w.,=+-]{0,255}", folder_name(one), re.ASCII)
    assert (folder_name(one) == folder_name(other)) == (one == other)


def test_folder_names_that_only_differ_where_they_are_changed_or_cut() -> None:
    names = ["task.path=a/b", "task.path=a_b", "task.path=a:b", "x" * 300, "x" * 301, "attention=full,seed=1"]
    assert len({folder_name(name) for name in names}) == len(names)
    assert folder_name("attention=full,model.d_model=64") == "attention=full,model.d_model=64"


@given(st.text(st.sampled_from("ab'\"\\ ,=$/[]"), max_size=8))
def test_a_variant_comes_through_hydra_as_it_was(text: str) -> None:
    value = QuotedString(text=text, quote=Quote.single).with_quotes()
    [one, _] = plan(f"task.path={value},other")
    assert one.variant == f"task.path={canonical(value)}"


def test_a_variant_is_printed_alike_however_it_is_written_and_keeps_its_folder() -> None:
    runs = plan("optimizer.lr=1.0,3e-3", "optimizer.fused=True,false")
    assert runs[0].variant == "optimizer.lr=1,optimizer.fused=true"
    assert (runs[0].folder or "").startswith("optimizer.lr=1.0,")
    assert "optimizer.lr=1.0" in asked(runs[0])
    named = plan("seed=0", design=Explicit(variants={"a=1.0": {"seed": 1}, "b": {"attention": "lsh"}}))
    assert [run.variant for run in named] == ["a=1.0", "b"]


def test_the_later_override_of_a_key_counts() -> None:
    assert [asked(run) for run in plan("seed=0,1", "attention=full,lsh", "seed=5")] == [
        ("attention=full", "seed=5"),
        ("attention=lsh", "seed=5"),
    ]
    assert len(plan("attention=full", "attention=full,lsh")) == 2


def test_all_variants_come_on_the_first_seed_and_the_first_task() -> None:
    assert [asked(run) for run in plan("attention=b,a", "seed=1,0", "task=x,y")] == [
        (f"attention={attention}", f"seed={seed}", f"task={task}")
        for task in ("x", "y")
        for seed in (1, 0)
        for attention in ("b", "a")
    ]


def test_a_design_chooses_variants_on_every_task_and_seed() -> None:
    given = ("attention=full,lsh", "activation=relu,gelu,silu", "seed=0,1", "task=x,y")
    runs = plan(*given, design=OneFactor())
    assert len(runs) == 4 * 2 * 2
    assert runs[0].variant == "attention=full,activation=relu,task=x"
    assert {run.variant.rsplit(",", 1)[0] for run in runs} == {
        "attention=full,activation=relu",
        "attention=lsh,activation=relu",
        "attention=full,activation=gelu",
        "attention=full,activation=silu",
    }
    assert plan(*given, design=LeaveOneOut())[0].variant == "attention=lsh,activation=silu,task=x"


def test_the_declared_baseline_comes_first_where_it_is_among_the_values() -> None:
    declared: dict[str, Any] = {"design": OneFactor(), "baseline": "attention=lsh,activation=relu"}
    assert plan("attention=full,lsh", "activation=gelu,relu", **declared)[0].variant == (
        "attention=lsh,activation=relu"
    )
    assert len(plan("attention=full,topk", **declared)) == 2  # a command that leaves it out


def test_a_seed_is_one_however_it_is_given() -> None:
    """`++seed=` sets what is there: it makes no variant, and what came before it counts no longer."""
    given = plan("attention=full,lsh", "seed=7", "++seed=0,1")
    assert [(run.variant, run.folder) for run in given] == [
        (f"attention={attention}", f"attention={attention}/seed={seed}")
        for seed in (0, 1)
        for attention in ("full", "lsh")
    ]
    assert [run.variant for run in plan("++new.size=1,2")] == ["++new.size=1", "++new.size=2"]


def test_what_is_zipped_with_the_task_advances_with_it() -> None:
    design = OneFactor(zip=[["task", "trainer.max_steps"], ["model.d_model", "model.d_ff"]])
    given = ("task=x,y", "trainer.max_steps=10,20", "model.d_model=8,16", "model.d_ff=32,64", "seed=0")
    assert [asked(run) for run in plan(*given, design=design)] == [
        (f"task={task}", f"trainer.max_steps={steps}", f"model.d_model={width}", f"model.d_ff={4 * width}", "seed=0")
        for task, steps in (("x", 10), ("y", 20))
        for width in (8, 16)
    ]
    repeated = Factorial(zip=[["task", "task.batch_size"]])
    assert len(plan("task=x,y,z", "task.batch_size=8,64,64", design=repeated)) == 3
    with pytest.raises(UserError, match=r"design\.zip: the seed cannot be zipped"):
        plan("seed=0,1", "attention=a,b", design=Factorial(zip=[["seed", "attention"]]))


def test_exclusions_may_name_the_task_and_are_told() -> None:
    design = Factorial(exclude=[{"task": "y", "attention": "lsh"}])
    found = expanded("task=x,y", "attention=full,lsh", "seed=0,1", design=design)
    assert len(found.runs) == 6
    assert found.excluded == ["left out: task=y, attention=lsh"]


def test_named_variants_have_their_name_as_label_and_folder() -> None:
    design = Explicit(variants={"base": {"attention": "full"}, "wide": {"attention": "lsh", "model.d_model": 64}})
    runs = plan("seed=0,1", "optimizer.lr=0.1", design=design)
    assert [(run.variant, run.folder) for run in runs] == [
        (name, f"{name}/seed={seed}") for seed in (0, 1) for name in ("base", "wide")
    ]
    assert set(asked(runs[1])) == {"optimizer.lr=0.1", "seed=0", "attention=lsh", "model.d_model=64"}
    assert plan("seed=0", design=design, baseline="wide")[0].variant == "wide"
    assert plan("seed=0", "task=x,y", design=design)[3].variant == "task=y,wide"


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("a=choice(x,y)", ["x", "y"]),
        ("a=range(8,24,8)", ["8", "16"]),
        ("a=sort(3,1,2)", ["1", "2", "3"]),
        ("a=[1,2],[3]", ["[1,2]", "[3]"]),
        ("a=x,x,y", ["x", "y"]),
    ],
)
def test_hydras_ways_to_list_values(override: str, values: list[str]) -> None:
    assert [asked(run) for run in plan(override)] == [(f"a={value}",) for value in values]


def test_a_glob_takes_every_option(tmp_path: Path) -> None:
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        runs = expand(parser.parse_overrides(["activation=glob(*)"]), Factorial()).runs
    menu = sorted(path.stem for path in (conf_folder() / "activation").glob("*.yaml"))
    assert sorted(run.overrides[0] for run in runs) == [f"activation={option}" for option in menu]


def test_one_value_makes_no_variant_and_a_deletion_stays() -> None:
    [run] = plan("attention=lsh", "~recipe")
    assert asked(run) == ("attention=lsh", "~recipe")
    assert run.variant == ""
    assert run.folder == "seed=${seed}"  # Hydra fills in what the config says


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "optimizer.lr=interval(0,1)",
            r"optimizer\.lr=interval\(0,1\): needs a list of values, such as optimizer\.lr=1,",
        ),
        ("name=a,b", "name=a,b: a sweep is one study"),
        ("jobs=1,2", "jobs=1,2: holds for the study as a whole"),
        ("++jobs=1,2", "jobs=1,2: holds for the study as a whole"),
        ("++name=a,b", "name=a,b: a sweep is one study"),
    ],
)
def test_sweeps_that_are_no_plan_are_refused(override: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        plan(override)


def test_the_quickstart_study_is_fifteen_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", ["study=quickstart"], return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        given = [f"{key}={value}" for key, value in config.hydra.sweeper.params.items()]
        compose_run = Composer(loader, config)
        prepared = prepare(compose_run, [*given, "study=quickstart"], Preflight())
        prepared.refuse_errors()
        runs = prepared.runs
        composed = [compose_run(run) for run in runs]
    assert len(runs) == 15
    folders = [str(folder) for _, folder in composed]
    assert folders[:2] == [f"outputs/quickstart/attention={option}/seed=0" for option in ("full", "windowed")]
    assert [(c.axes["attention"], c.seed) for c, _ in composed] == [
        (option, seed) for seed in range(5) for option in ("full", "windowed", "lsh")
    ]
    assert {c.name for c, _ in composed} == {"quickstart"}
    assert [run.context.index for run in runs] == list(range(15))


def test_results_of_another_version_are_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finished = record(1)
    finished.versions["ablab"] = "0.0.1"
    write_record(tmp_path / "outputs" / "mine" / "seed=1", finished)
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", ["name=mine"], return_hydra_config=True)
        compose_run = Composer(GlobalHydra.instance().config_loader(), config)
        prepared = prepare(compose_run, ["name=mine", "seed=0,1"], Preflight())
    with pytest.raises(UserError, match=r"outputs/mine/seed=1: holds a run of ablab 0\.0\.1, and this is .* name="):
        prepared.refuse_errors()


def test_the_folder_of_a_run_names_the_seed_of_its_config(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "lucky.yaml").write_text("# @package _global_\nname: lucky\nseed: 7\n")
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", [f"hydra.searchpath=[{tmp_path}]", "study=lucky"], return_hydra_config=True)
        [run] = plan("study=lucky", "attention=lsh")
        frozen, folder = Composer(GlobalHydra.instance().config_loader(), config)(run)
    assert (frozen.seed, folder) == (7, Path("outputs/lucky/seed=7"))


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "outputs").touch()
    with pytest.raises(UserError, match=r"outputs/study: cannot write there \(Not a directory\); choose another"):
        make_folder(tmp_path / "outputs" / "study")
    make_folder(tmp_path / "fine")
    assert list((tmp_path / "fine").iterdir()) == []


@pytest.mark.parametrize("kind", [True, "draw", "order"])
@pytest.mark.parametrize(
    "design",
    [
        Factorial,
        OneFactor,
        LeaveOneOut,
        Cumulative,
        Pairwise,
        lambda **settings: Explicit(variants={"base": {"a": "2"}, "other": {"a": "3", "b": "1"}}, **settings),
        lambda **settings: Steps(variants={"base": {"a": "2"}, "other": {"b": "1"}}, **settings),
    ],
)
def test_every_design_takes_placebos_of_its_baseline(design: Callable[..., Design], kind: bool | str) -> None:
    """Behind the variants of each seed, which are the same without: in their order, with their names and folders."""
    listed = design in (Factorial, OneFactor, LeaveOneOut, Cumulative, Pairwise)
    words = ["seed=0,1", "task=x,y", *(["a=1,2", "b=1,2,3"] if listed else ["c=1"])]
    plain, runs = plan(*words, design=design()), plan(*words, design=design(placebo=kind))
    kinds = ["draw", "order"] if kind is True else [kind]
    placebos = [run for run in runs if "model.placebo" in run.variant]
    assert [run.overrides for run in runs if run not in placebos] == [run.overrides for run in plain]
    assert len(placebos) == 2 * 2 * len(kinds)
    assert [run.context.index for run in runs] == list(range(len(runs)))
    assert len({run.folder for run in runs}) == len(runs)
    per_seed = len(runs) // 4
    for place, run in enumerate(runs):
        if run not in placebos:
            continue
        base = runs[place - place % per_seed]
        added = kinds[place % per_seed - per_seed + len(kinds)]
        assert run.overrides == [*base.overrides, f"++model.placebo={added}"]
        assert run.variant == f"{base.variant},model.placebo={added}"


def test_chaos_is_an_arm_beside_the_baseline_off_by_rounding() -> None:
    runs = plan("attention=full,lsh", "seed=0,1", design=Factorial(chaos=True))
    assert [run.variant for run in runs] == [
        "attention=full",
        "attention=lsh",
        "attention=full,model.placebo=nudge",
    ] * 2
    both = plan("attention=full,lsh", design=Factorial(chaos=True, placebo="order"))
    assert [run.variant for run in both[2:]] == [f"attention=full,model.placebo={kind}" for kind in ("order", "nudge")]


def test_a_placebo_that_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match=r"design\.placebo=sugar: must be true, false, draw or order"):
        plan("attention=full,lsh", design=Factorial(placebo="sugar"))


def test_a_study_without_factors_may_be_of_placebos_alone() -> None:
    runs = plan("seed=0,1", design=Factorial(placebo=True))
    assert [run.variant for run in runs] == ["", "model.placebo=draw", "model.placebo=order"] * 2


def test_there_are_placebos_at_each_value_of_what_is_compared_within() -> None:
    words = PARSER.parse_overrides(["attention=full,lsh", "model.n_layers=2,4"])
    runs = expand(words, Factorial(placebo="order"), None, ["model.n_layers"]).runs
    assert [run.variant for run in runs if "placebo" in run.variant] == [
        "attention=full,model.n_layers=2,model.placebo=order",
        "attention=full,model.n_layers=4,model.placebo=order",
    ]


def test_what_changes_speed_alone_is_a_factor_and_no_task() -> None:
    runs = plan("task.workers=0,2", "attention=full,lsh", "seed=0,1", design=OneFactor())
    assert [run.variant for run in runs[:3]] == [
        "task.workers=0,attention=full",
        "task.workers=2,attention=full",
        "task.workers=0,attention=lsh",
    ]
