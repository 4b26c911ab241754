"""Budgets of time: how fast each variant trains is measured by short runs, and steps are adjusted by it.

The machine may be busier in one minute than in the next. So every variant is measured in each of several rounds, and
what counts is the median over the rounds of its time relative to the reference's in the same round.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from ablab.config import RunConfig
from ablab.config.schema import PILOT_FOLDER
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.run_context import BudgetReport
from ablab.study.planning.budget import TOLERANCE, Adjustment, adjustment, references_of, task_of
from ablab.study.planning.compose import Composer
from ablab.study.planning.expand import Run
from ablab.study.planning.levers import STEPS
from ablab.study.planning.preflight import Preflight
from ablab.study.trials.trial import first_of_each, record_in, trial
from ablab.training.trainer import untimed_steps

ROUNDS = 3


def match_time(compose: Composer, plan: list[Run], launch: Callable[[list[Run]], object]) -> list[Run]:
    """The plan with steps that take every variant as long as the reference; the plan itself without `match=time`.

    Every variant is held against the reference on its own task.

    A variant whose pilot did not end well keeps its steps; its own runs will show the reason.

    Args:
        plan: whose pilots `check_pilots` has nothing against.
        launch: runs a plan to its end, and raises where not all of it comes to one.

    Raises:
        UserError: the reference's pilots did not end well, or a variant cannot come within 2%.
    """
    configs = [compose(run)[0] for run in plan]
    if configs[0].budget.match != "time":
        return plan
    variants, pilots = first_of_each(plan), _pilots(configs[0], plan)
    frozen = {key: compose(run) for key, run in pilots.items()}
    print(f"budget.match=time: measuring {len(variants)} variants in {ROUNDS} rounds")
    before = {key: _started(folder) for key, (_, folder) in frozen.items()}
    launch(list(pilots.values()))
    kept = {key for key, at in before.items() if at and at == _started(frozen[key][1])}
    seconds = {
        variant: [seconds_per_step(record_in(frozen[number, variant][1])) for number in range(1, ROUNDS + 1)]
        for variant in variants
    }
    by_variant = {run.variant: config for run, config in zip(plan, configs, strict=True)}
    adjusted: dict[str, Adjustment] = {}
    for task, (reference, _) in references_of(plan, configs).items():
        own = {name: seconds[name] for name, run in variants.items() if task_of(run, by_variant[name]) == task}
        for name in own:
            _tell_apart(name, reference.variant, kept, frozen[1, name][1])
        adjusted |= steps_for(reference.variant, by_variant, own)
    found = [(run, adjusted[run.variant]) for run in plan]
    return [run.adjusted(overrides, budget=report) for run, (overrides, report) in found]


def check_pilots(compose: Composer, plan: Sequence[Run]) -> None:
    """Raises UserError where the pilots of `match=time` cannot be built, or are too short to be timed."""
    config, preflight = compose(plan[0])[0], Preflight()
    if config.budget.match == "time":
        for (number, _), pilot in _pilots(config, plan).items():
            if number == 1:  # the other rounds are the same
                check_pilot(compose(pilot)[0], preflight)


def check_pilot(config: RunConfig, preflight: Preflight) -> None:
    """Raises UserError where a pilot cannot be built, or is too short to be timed."""
    steps, untimed = config.trainer.max_steps, untimed_steps(config)
    if steps < 2 * untimed:
        raise UserError(
            f"budget.pilot_steps={steps}: must be at least {2 * untimed}, twice what lies between two moments at "
            "which something is logged or evaluated"
        )
    try:
        preflight.check(config)
    except UserError as error:
        raise UserError(f"{error} [in a pilot of budget.pilot_steps={steps}]") from error


def seconds_per_step(record: Record | None) -> float | None:
    """How long a step of a pilot took; None if it did not end well."""
    if record is None or record.status != "ok" or not record.cost.train_time_s or not record.cost.steps:
        return None
    return record.cost.train_time_s / record.cost.steps


def steps_for(
    reference: str, configs: dict[str, RunConfig], seconds: dict[str, list[float | None]]
) -> dict[str, Adjustment]:
    """The adjustments that give each variant the reference's time; one line for each is printed.

    Args:
        configs: by variant.
        seconds: by variant, of a step in each round; None where a pilot did not end well.

    Raises:
        UserError: the reference was not timed, or a variant's steps are too few to come within 2%.
    """
    base = [step for step in seconds[reference] if step is not None]
    if len(base) < len(seconds[reference]):
        raise UserError(
            f"budget.match=time: the reference {reference} did not train in its pilot; see the logs below pilot/"
        )
    wanted = median(base) * configs[reference].trainer.max_steps
    adjusted: dict[str, Adjustment] = {}
    for variant, each in seconds.items():
        before = configs[variant].trainer.max_steps
        timed = [own / other for own, other in zip(each, base, strict=True) if own is not None]
        if len(timed) < len(each):
            print(f"{variant}: did not train in its pilot, and keeps {STEPS}={before:,}")
            adjusted[variant] = ([], BudgetReport())
            continue
        step = median(timed) * median(base)
        after = before if variant == reference else max(1, round(wanted / step))
        off = after * step / wanted - 1
        if abs(off) > TOLERANCE:
            raise UserError(
                f"{variant}: cannot meet the budget of {wanted:.3g} seconds by {STEPS}: one step takes {step:.3g}; "
                f"give the reference more steps"
            )
        changes = {STEPS: (before, after)} if after != before else {}
        if changes:
            spread = f"{min(timed):.2f} to {max(timed):.2f}"
            print(
                f"{variant}: {STEPS} {before:,} -> {after:,} for {after * step:.1f} of {wanted:.1f} s "
                f"(a step takes {median(timed):.2f} times the reference's, {spread})"
            )
        adjusted[variant] = adjustment(changes, round(after * step, 3), round(wanted, 3))
    return adjusted


def _tell_apart(variant: str, reference: str, kept: set[tuple[int, str]], folder: Path) -> None:
    """Say in a line where a variant and the reference were not measured beside each other in some round.

    Args:
        kept: the pilots that were made before.
        folder: of a pilot.
    """
    apart = [number for number in range(1, ROUNDS + 1) if ((number, variant) in kept) != ((number, reference) in kept)]
    if apart:
        new, old = (reference, variant) if (apart[0], variant) in kept else (variant, reference)
        place = next(each for each in folder.parents if each.name == PILOT_FOLDER)
        print(
            f"{variant}: the pilots of {new} are new, and those of {old} were made before: where the machine is "
            f"another or was busier, steps follow that; remove {place} to measure all of them anew"
        )


def _started(folder: Path) -> str | None:
    """When the run was started that left a record."""
    with contextlib.suppress(UserError):
        if (record := record_in(folder)) is not None:
            return record.started_at
    return None


def _pilots(config: RunConfig, plan: Sequence[Run]) -> dict[tuple[int, str], Run]:
    """The pilots of a study, by round and variant."""
    variants = first_of_each(plan)
    keys = [(number, variant) for number in range(1, ROUNDS + 1) for variant in variants]
    return {key: _pilot(config, variants[key[1]], *key, index) for index, key in enumerate(keys)}


def pilots_done(config: RunConfig, plan: Sequence[Run], ended: Callable[[Run], bool]) -> Counter[str]:
    """The pilots of each variant that are done with, as `ended` tells of each."""
    return Counter(key[1] for key, run in _pilots(config, plan).items() if ended(run))


def _pilot(config: RunConfig, run: Run, number: int, variant: str, index: int) -> Run:
    return trial(
        run,
        label=f"pilot {number} {variant}".rstrip(),
        seed=config.seed,
        index=index,
        folder=[PILOT_FOLDER, variant, f"round={number}"],
        without=("budget.", f"{STEPS}=", "tune."),
        settings=["budget.match=null", "tune.trials=0", f"{STEPS}={config.budget.pilot_steps}"],
    )
