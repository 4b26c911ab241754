"""Seeds in blocks: who gets further ones, and that a study which is killed comes to the same decisions and runs."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import record, runs_of

from ablab.analysis.course import course_of
from ablab.analysis.decisions import decide
from ablab.config import ComparisonConfig, RunConfig, fingerprint
from ablab.config.placebo import KINDS, NUDGE
from ablab.config.seeds import SeedsConfig, with_seeds
from ablab.errors import UserError
from ablab.results.collect import Runs
from ablab.results.interim import read_interim_analyses
from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, read_record, write_record
from ablab.study.events import Block, RunOutline
from ablab.study.plan_file import PlannedRun, write_looks, write_plan
from ablab.study.plan_reader import folders_of, read_plan
from ablab.study.seed_blocks import OPEN, Decide, Decision, SeedBlocks, refuse_undecidable

SEEDS = SeedsConfig(max=10)
TinyConfig = Callable[..., RunConfig]


class KilledError(Exception):
    """Stands for the end of the process."""


@dataclass
class World:
    """A study whose runs end at once, with values that depend on variant, task and seed alone."""

    folder: Path
    config: RunConfig
    effects: dict[str, float]  # of each variant, in standard deviations of a paired difference; the first is 0
    tasks: tuple[str, ...] = ("text",)
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)
    decide: Decide = decide
    statuses: dict[tuple[str, int], str] = field(default_factory=dict)  # of a variant's run on a seed, where not ok
    told: list[Block] = field(default_factory=list)
    blocks: list[list[PlannedRun]] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [(s, t, v) for s in range(self.seeds.max) for t in self.tasks for v in self.effects]
        self.planned = [
            PlannedRun(
                info=RunOutline(index=index, variant=f"{task},{name}", task=task, seed=seed, steps=1),
                config=replace(self.config, seed=seed, overrides=[task, name]),
                folder=self.folder / task / name / str(seed),
            )
            for index, (seed, task, name) in enumerate(names)
        ]
        write_plan(self.folder, self.comparison, self.planned, self.seeds)

    def carry_out(self, block: Sequence[PlannedRun], most: int = 10**6) -> bool:
        """Make the runs that are not made, `most` at most, and then be killed."""
        self.blocks.append(list(block))
        for run in block:
            if not (run.folder / RECORD_FILE).exists():
                if (most := most - 1) < 0:
                    raise KilledError
                write_record(run.folder, self.record(run))
        return True

    def record(self, run: PlannedRun) -> Record:
        task, name = run.config.overrides
        noise = random.Random(f"{task} {name} {run.info.seed}").gauss(0, 1)
        common = random.Random(f"{task} {run.info.seed}").gauss(0, 5)
        status = self.statuses.get((name, run.info.seed), "ok")
        placebo = {"settings": {"model": {"d_model": 64, "placebo": name}}} if name in (*KINDS, NUDGE) else {}
        loss = 100 + common + noise * bool(self.effects[name] or name != "base") + self.effects[name]
        return record(
            run.info.seed,
            loss,
            status=status,
            **({} if status == "ok" else {"metrics": {}, "reason": "the bulb is broken"}),
            **placebo,
            axes={"task": task, "activation": "base" if placebo else name},
            index=run.info.index,
            planned_looks=self.seeds.plan_of_looks,
            fingerprint=fingerprint(run.config),
        )

    def run(self, most: int = 10**6) -> list[PlannedRun]:
        blocks = SeedBlocks(
            study=self.folder,
            planned=self.planned,
            seeds=self.seeds,
            comparison=self.comparison,
            decide=self.decide,
        )
        left = most

        def carry_out(block: list[PlannedRun]) -> bool:
            nonlocal left
            before = self.made
            try:
                return self.carry_out(block, left)
            finally:
                left -= self.made - before

        return blocks.run(carry_out, self.told.append)

    @property
    def made(self) -> int:
        return len(list(self.folder.rglob(RECORD_FILE)))

    @property
    def seeds_of(self) -> dict[str, int]:
        """How many seeds each variant has, over all tasks."""
        return {name: len(list(self.folder.glob(f"*/{name}/*/{RECORD_FILE}"))) for name in self.effects}

    @property
    def outcome(self) -> object:
        """All that must not depend on how often the study was killed."""
        plan = read_plan(self.folder)
        records = {
            str(path.relative_to(self.folder)): read_record(path.parent / RECORD_FILE).to_dict()
            for path in self.folder.rglob(RECORD_FILE)
        }
        return plan.looks, [each.seeds for each in read_interim_analyses(self.folder)], records


def by_table(table: dict[int, set[str]]) -> Decide:
    """Decides at so many seeds that these variants are resolved."""

    def decide(runs: Runs, seeds: SeedsConfig, comparison: ComparisonConfig) -> list[Decision]:
        size = len({record.seed for record in runs.records})
        return [
            Decision(
                label=f"{variant} on {task}",
                cells=((task, variant),),
                baselines=((task, runs.variants[0]),),
                how="resolved" if variant.partition("=")[2] in table[size] else OPEN,
            )
            for task, variant in runs.places
            if variant != runs.variants[0]
        ]

    return decide


def test_only_who_is_open_gets_further_seeds_and_the_baseline_does_with_them(
    tiny_config: TinyConfig, tmp_path: Path
) -> None:
    table = {3: {"a"}, 5: {"b"}, 8: set[str](), 10: set[str]()}
    world = World(tmp_path, tiny_config(), {"base": 0.0, "a": 1.0, "b": 1.0, "c": 1.0}, decide=by_table(table))
    world.run()
    assert world.seeds_of == {"base": 10, "a": 3, "b": 5, "c": 10}
    assert [len(block) for block in world.blocks] == [12, 6, 6, 4]
    assert [sorted({run.info.seed for run in block}) for block in world.blocks] == [
        [0, 1, 2],
        [3, 4],
        [5, 6, 7],
        [8, 9],
    ]
    assert [(look.seeds, {each.variant for each in look.ended}) for look in read_plan(tmp_path).looks] == [
        (3, {"text,a"}),
        (5, {"text,b"}),
        (8, set()),
        (10, {"text,base", "text,c"}),
    ]
    assert [block.sentence() for block in world.told] == [
        "12 runs to the look at 3 seeds; 40 at most",
        "after 3 seeds: activation=a on text resolved; open: activation=b on text, activation=c on text; "
        "6 runs to the look at 5 seeds; 21 at most",
        "after 5 seeds: activation=b on text resolved; open: activation=c on text; 6 runs to the look at 8 seeds; "
        "10 at most",
        "after 8 seeds: nothing new is decided; open: activation=c on text; 4 runs to the look at 10 seeds; 4 at most",
        "after 10 seeds: nothing new is decided; still open: activation=c on text; 28 runs made, 12 of 40 saved",
    ]
    assert len(folders_of(tmp_path)) == world.made, "the end asks for runs that nobody needs"


def test_the_baseline_of_a_task_ends_with_the_last_that_needs_it(tiny_config: TinyConfig, tmp_path: Path) -> None:
    def decide(runs: Runs, seeds: SeedsConfig, comparison: ComparisonConfig) -> list[Decision]:
        every = by_table({size: set() for size in SEEDS.every_look})(runs, seeds, comparison)
        return [replace(one, how="futile") if "on one" in one.label else one for one in every]

    world = World(tmp_path, tiny_config(), {"base": 0.0, "a": 1.0}, tasks=("one", "two"), decide=decide)
    world.run()
    assert len(list((tmp_path / "one").rglob(RECORD_FILE))) == 6
    assert len(list((tmp_path / "two").rglob(RECORD_FILE))) == 20


def test_placebos_go_on_as_long_as_anybody_on_their_task_is_open(tiny_config: TinyConfig, tmp_path: Path) -> None:
    """On the seeds of the baseline, and no longer than that."""

    def decide(runs: Runs, seeds: SeedsConfig, comparison: ComparisonConfig) -> list[Decision]:
        every = by_table({3: set(), 5: {"a"}, 8: {"a"}, 10: {"a"}})(runs, seeds, comparison)
        return [replace(one, how="resolved") if "on one" in one.label else one for one in every]

    effects = {"base": 0.0, "a": 1.0, "order": 0.0, "nudge": 0.0}
    world = World(tmp_path, tiny_config(), effects, tasks=("one", "two"), decide=decide)
    world.run()
    assert world.seeds_of == dict.fromkeys(effects, 3 + 5)
    assert len(folders_of(tmp_path)) == world.made
    why = {(each.variant, each.why) for look in read_plan(tmp_path).looks for each in look.ended}
    assert ("two,order", "baseline") in why


def test_what_was_decided_once_is_not_asked_again(tiny_config: TinyConfig, tmp_path: Path) -> None:
    """A variant without new seeds may look different beside the others' new ones."""
    table = {3: {"a"}, 5: {"b"}}  # at five seeds a seems to be open
    world = World(tmp_path, tiny_config(), {"base": 0.0, "a": 1.0, "b": 1.0}, decide=by_table(table))
    world.run()
    assert world.seeds_of == {"base": 5, "a": 3, "b": 5}


@pytest.mark.parametrize("start", [1, 14])
def test_killed_at_any_moment_a_study_comes_to_the_same_decisions_and_runs(
    start: int, tiny_config: TinyConfig, tmp_path: Path
) -> None:
    effects = {"base": 0.0, "large": 8.0, "none": 0.0, "some": 1.2}
    alone = World(tmp_path / "alone", tiny_config(), effects)
    alone.run()
    assert len(set(alone.seeds_of.values())) > 1, "nobody was dropped: the test shows nothing"
    killed = World(tmp_path / "killed", tiny_config(), effects)
    before = -1
    while killed.made > before:
        before = killed.made
        try:
            killed.run(most=start + 1 if before == 0 else 5)
        except KilledError:
            continue
        break
    assert killed.outcome == alone.outcome
    killed.run()
    assert killed.outcome == alone.outcome, "the same command again changes something"


@pytest.mark.parametrize("place", ["count_interim_analysis", "write_looks"])
def test_killed_around_a_look(
    place: str, tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is counted, and between that and the plan that tells of it."""
    effects = {"base": 0.0, "large": 8.0, "none": 0.0, "some": 1.2}
    alone, killed = (World(tmp_path / name, tiny_config(), effects) for name in ("alone", "killed"))
    alone.run()

    def kill(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(f"ablab.study.seed_blocks.{place}", kill)
        with pytest.raises(KilledError):
            killed.run()
    killed.run()
    assert killed.outcome == alone.outcome


def test_a_look_waits_for_runs_that_were_stopped_and_not_for_those_that_failed(
    tiny_config: TinyConfig, tmp_path: Path
) -> None:
    effects = {"base": 0.0, "a": 0.1}
    stopped = World(tmp_path / "stopped", tiny_config(), effects, statuses={("a", 1): "interrupted"})
    stopped.run()
    assert stopped.seeds_of == {"base": 3, "a": 3}
    assert read_plan(stopped.folder).looks == []
    assert read_interim_analyses(stopped.folder) == []

    failed = World(tmp_path / "failed", tiny_config(), effects, statuses={("a", 1): "failed"})
    failed.run()
    assert failed.seeds_of["a"] > 3, "two pairs allow no verdict, more may"
    broken = World(tmp_path / "broken", tiny_config(), effects, statuses={("a", seed): "failed" for seed in range(10)})
    broken.run()
    assert broken.seeds_of == {"base": 3, "a": 3}, "a variant that always fails is tried again"
    [look] = read_plan(broken.folder).looks
    assert {each.variant: each.why for each in look.ended} == {"text,base": "baseline", "text,a": "without pairs"}


def test_runs_of_other_settings_are_no_runs_of_the_study(tiny_config: TinyConfig, tmp_path: Path) -> None:
    """As where a run is not started, since another process works in its folder."""
    world = World(tmp_path, tiny_config(), {"base": 0.0, "a": 1.0})
    write_record(world.planned[0].folder, replace(world.record(world.planned[0]), fingerprint="another"))
    world.run()
    assert read_interim_analyses(tmp_path) == []


def test_real_decisions_on_several_tasks_and_their_suite(tiny_config: TinyConfig, tmp_path: Path) -> None:
    """A variant goes on everywhere as long as the suite is open, and its baseline with it."""
    world = World(tmp_path, tiny_config(), {"base": 0.0, "large": 9.0, "some": 1.0}, tasks=("one", "two"))
    world.run()
    assert world.seeds_of["large"] < world.seeds_of["base"]
    assert world.seeds_of["base"] == world.seeds_of["some"]


@pytest.mark.parametrize("spending", ["pocock", "obrien_fleming"])
def test_real_decisions_are_those_that_levels_and_power_are_measured_of(
    spending: str, tiny_config: TinyConfig, tmp_path: Path
) -> None:
    """Who is resolved when, and who gives up when, in the loop as in the simulation of it."""
    effects = {"base": 0.0, "large": 6.0, "some": 1.6, "none": 0.0, "less": -1.2}
    world = World(tmp_path, tiny_config(), effects, seeds=SeedsConfig(spending=spending))
    world.run()
    losses = {(run.config.overrides[1], run.info.seed): world.record(run).metrics["val_loss"] for run in world.planned}
    names = [name for name in effects if name != "base"]
    values = [[[losses[name, seed] - losses["base", seed] for seed in range(10)] for name in names]]
    went = course_of(np.array(values), world.seeds)
    assert world.seeds_of == dict(zip(names, went.seeds[0].tolist(), strict=True)) | {"base": int(went.seeds.max())}
    looks = read_plan(tmp_path).looks
    resolved = {
        each.variant: place for place, look in enumerate(looks) for each in look.ended if each.why == "resolved"
    }
    expected = {f"text,{name}": place for name, place in zip(names, went.resolved_at[0].tolist(), strict=True)}
    assert resolved == {name: place for name, place in expected.items() if place < len(SEEDS.every_look)}


def test_plans_keep_looks_and_seeds(tiny_config: TinyConfig, tmp_path: Path) -> None:
    world = World(
        tmp_path, tiny_config(), {"base": 0.0, "a": 1.0}, seeds=SeedsConfig(max=4, looks=[3], stop="resolved")
    )
    world.run()
    plan = read_plan(tmp_path)
    assert plan.seeds == SeedsConfig(max=4, looks=[3], stop=["resolved"])
    assert [look.seeds for look in plan.looks] == [3, 4]
    write_looks(tmp_path, [])
    assert read_plan(tmp_path).looks == []
    data = json.loads((tmp_path / "plan.json").read_text())
    for wrong in ({"seeds": {"max": "many"}}, {"seeds": {"looks": 3}}, {"looks": [3]}, {"looks": [{"seeds": 3}]}):
        (tmp_path / "plan.json").write_text(json.dumps(data | wrong))
        with pytest.raises(UserError, match="the plan cannot be read"):
            read_plan(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "seed", "written"),
    [
        (["seed=auto"], 0, ["seed=0,1,2"]),
        (["a=1", "seed='auto'", "b=2"], 0, ["a=1", "b=2", "seed=0,1,2"]),
        (["a=1"], "auto", ["a=1", "seed=0,1,2"]),
        (["seed=auto", "seed=5,6"], 0, None),
        (["seed=1,2"], "auto", None),
        (["tune.seeds=[9]", "seeds=1"], 0, "seeds=1: is for seed=auto"),
        (["seed=auto,3"], 0, "seed=auto,3: auto stands alone"),
        (["seed=0,1", "seeds.max=4"], 0, "seeds.max=4: is for seed=auto, and the seeds are given"),
    ],
)
def test_where_the_seeds_come_from(arguments: list[str], seed: object, written: list[str] | str | None) -> None:
    settings = {"max": 3, "looks": [3]}
    if isinstance(written, str):
        with pytest.raises(UserError, match=written):
            with_seeds(arguments, seed, settings)
        return
    expected = (arguments, None) if written is None else (written, SeedsConfig.of(settings))
    assert with_seeds(arguments, seed, settings) == expected


def test_a_setting_that_there_is_not_is_refused_and_not_dropped() -> None:
    with pytest.raises(UserError, match=r"seeds\.maxx: no such setting; did you mean 'max'"):
        with_seeds(["seed=auto", "+seeds.maxx=5"], 0, {"max": 3, "looks": [3], "maxx": 5})


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"max": 2}, "seeds.max=2: must be at least 3, and at most 1000"),
        ({"looks": []}, r"seeds.looks=\[\]: the first must be at 3 seeds at least"),
        ({"looks": [2, 5]}, r"seeds.looks=\[2,5\]: the first must be at 3 seeds at least"),
        ({"looks": [3, 5, 5]}, r"seeds.looks=\[3,5,5\]: each must be at more seeds than the one before"),
        ({"max": 5}, r"the last is beyond seeds.max=5; write seeds.looks=\[3,5\], or a larger seeds.max"),
        ({"stop": []}, r"seeds.stop=\[\]: must name one at least of resolved, futile, equivalent"),
        ({"stop": "futil"}, "seeds.stop=futil: no such word; did you mean 'futile'"),
        ({"spending": "pocok"}, "seeds.spending=pocok: no such word; did you mean 'pocock'"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line):
        SeedsConfig.of(settings)


def test_studies_that_nothing_would_decide() -> None:
    one, two = runs_of([record()]), runs_of([record(), record(axes={"activation": "gelu"})])
    refuse_undecidable(two, SEEDS, ComparisonConfig())
    for runs, stop, comparison, line in (
        (one, ["futile"], ComparisonConfig(), "there is one variant"),
        (two, ["equivalent"], ComparisonConfig(), "nothing is equivalent without a margin"),
        (two, ["futile"], ComparisonConfig(metric="val_loss@task.seq_len=64"), "is of evaluations after training"),
    ):
        with pytest.raises(UserError, match=line):
            refuse_undecidable(runs, SeedsConfig(stop=stop), comparison)
    refuse_undecidable(two, SeedsConfig(stop="equivalent"), ComparisonConfig(margin=0.1))
