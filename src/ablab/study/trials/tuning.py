"""Fair tuning: every variant is tried at the same points on the same seeds, and trains with its own best of them.

The grids of all variants grow together, so that they have one budget: while the best of one of them lies at an end of a
grid, all get the next value there, up to `tune.extend` of them. Tuning runs lie in the sweep's folder, below `tune/`,
are kept and used again like all others, and enter no comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ablab.config import RunConfig
from ablab.config.tune import said
from ablab.errors import UserError
from ablab.study.designs.factors import written
from ablab.study.planning.budget import TOLERANCE
from ablab.study.planning.compose import Composer
from ablab.study.planning.expand import Run
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.units import UNITS
from ablab.study.trials.choice import shown
from ablab.study.trials.search import Check, Search, own_keys
from ablab.study.trials.trial import first_of_each

FEWEST_TUNING_SEEDS = 2
_OF_LEARNING = ("optimizer.", "schedule.")  # settings that make no model larger, and no run longer


def check_tuning(plan: Sequence[Run], compose: Composer, check: Check) -> None:
    """Raises UserError where `tune` asks for what cannot be done, before anything is written."""
    configs = [compose(run)[0] for run in plan]
    search = Search(compose, plan, check)
    seeds_of(configs)
    for key in search.grids:
        if any(override.lstrip("+").startswith(f"{key}=") for run in plan for override in run.overrides):
            raise UserError(f"{said(key)} chooses {key}, which the command gives, too: leave one of them out")
    search.check_keys()
    search.check_values()


def check_equal(plan: Sequence[Run], compose: Composer, preflight: Preflight) -> None:
    """Raises UserError where a setting that is tuned moves what a budget has made equal: whatever is chosen counts.

    Args:
        plan: that meets its budgets.
    """
    for variant, run in first_of_each(plan).items():
        config, report = compose(run)[0], run.context.budget
        measure = UNITS[config.budget.match].measure if config.budget.match else None
        if measure is None or report is None or not report.of:
            continue  # of time nothing is known yet
        for key in own_keys(config, [key for key in config.tune.grids if not key.startswith(_OF_LEARNING)]):
            for value in config.tune.grids[key]:
                off = measure(config.with_values({key: value}), preflight.task(config)) / report.of - 1
                if abs(off) > TOLERANCE:
                    raise UserError(
                        f"{said(key)}: with {key}={shown(value)} {variant or 'the one variant'} would not be at equal "
                        f"{UNITS[str(config.budget.match)].plural} any more ({off:+.1%}), as budget.match="
                        f"{config.budget.match} asks: leave one of them out"
                    )


def refuse_for_one_run(config: RunConfig) -> None:
    """Raises UserError where a run by itself asks to be tuned."""
    for key in config.tune.grids:
        raise UserError(f"{said(key)}: one run is not tuned; add -m")


def seeds_of(configs: Sequence[RunConfig]) -> list[int]:
    """The tuning seeds. Raises UserError if there are fewer than two, or if some of the runs compare one of them."""
    if not configs[0].tune.grids:
        return []
    seeds: list[int] = list(configs[0].tune.seeds)
    if len(set(seeds)) < max(FEWEST_TUNING_SEEDS, len(seeds)):
        raise UserError(
            f"tune.seeds={seeds}: must be two different seeds at least, since what one seed prefers may be its noise; "
            "how much of it there is goes into the intervals"
        )
    shared = sorted({config.seed for config in configs} & set(seeds))
    if shared:
        raise UserError(
            f"tune.seeds: {', '.join(map(str, shared))} would also be compared on; choose tuning seeds of their own"
        )
    return seeds


def tune(
    compose: Composer, plan: list[Run], launch: Callable[[list[Run]], object], check: Check = lambda config: None
) -> list[Run]:
    """The plan with each variant's settings chosen, after its tuning runs; the plan itself where nothing is tuned.

    Args:
        launch: runs a plan to its end, and raises where not all of it comes to one.
        check: of a value by which a grid is extended.

    Raises:
        UserError: nothing that a variant was tried at ended well.
    """
    search = Search(compose, plan, check)
    if not search.grids:
        return plan
    print(search.outline())
    search.launch(launch)
    while search.grow():
        search.launch(launch)
    chosen = {variant: search.report(variant) for variant in search.variants}
    found = [(run, chosen[run.variant]) for run in plan]
    return [
        run.adjusted([f"{key}={written(value)}" for key, value in report.settings.items()], tuning=report)
        for run, report in found
    ]
