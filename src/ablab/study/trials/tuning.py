"""Fair learning rates: each variant of a sweep gets the same grid on the same tuning seeds, and then its own best.

Tuning runs lie in the sweep's folder, below `tune/`, are kept and used again like all others, and enter no comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.find import TUNING_FOLDER
from ablab.results.record import Record
from ablab.results.run_context import TuningReport, edge_of
from ablab.study.planning.compose import Composer
from ablab.study.planning.expand import Run
from ablab.study.trials.trial import first_of_each, record_in, trial

RATE = "optimizer.lr"


def check_tuning(plan: Sequence[Run], configs: Sequence[RunConfig]) -> None:
    """Raises UserError where `tune` asks for what cannot be done, before anything is written."""
    seeds_of(configs)
    given = any(override.startswith(f"{RATE}=") for run in plan for override in run.overrides)
    if rates_of(configs[0]) and given:
        raise UserError(f"tune.lr chooses {RATE}, which the command gives, too: leave one of them out")


def refuse_for_one_run(config: RunConfig) -> None:
    """Raises UserError where a run by itself asks to be tuned."""
    if config.tune.lr:
        raise UserError("tune.lr: one run is not tuned; add -m")


def rates_of(config: RunConfig) -> list[float]:
    """The grid, in ascending order; empty where nothing is tuned. Raises UserError if it is none."""
    rates = config.tune.lr
    if rates is None:
        return []
    rates = rates if isinstance(rates, list) else [rates]
    if len(set(rates)) < 2 or not all(isinstance(rate, int | float) and 0 < rate < math.inf for rate in rates):
        raise UserError(f"tune.lr={rates}: must be a list of at least two different positive numbers")
    return sorted({float(rate) for rate in rates})


def seeds_of(configs: Sequence[RunConfig]) -> list[int]:
    """The tuning seeds. Raises UserError if there are none, or if some of the runs compare one of them."""
    if configs[0].tune.lr is None:
        return []
    seeds: list[int] = list(configs[0].tune.seeds)
    if not seeds:
        raise UserError("tune.seeds: must name at least one seed")
    shared = sorted({config.seed for config in configs} & set(seeds))
    if shared:
        raise UserError(
            f"tune.seeds: {', '.join(map(str, shared))} would also be compared on; choose tuning seeds of their own"
        )
    return seeds


def tune(compose: Composer, plan: list[Run], launch: Callable[[list[Run]], object]) -> list[Run]:
    """The plan with each variant's learning rate chosen, after its tuning runs; the plan itself without `tune.lr`.

    Args:
        launch: runs a plan to its end.

    Raises:
        UserError: all rates of a variant failed.
    """
    configs = [compose(run)[0] for run in plan]
    grid, seeds = rates_of(configs[0]), seeds_of(configs)
    if not grid:
        return plan
    variants = first_of_each(plan)
    keys = [(variant, rate, seed) for variant in variants for rate in grid for seed in seeds]
    trials = {key: _trial(configs[0], variants[key[0]], *key, index) for index, key in enumerate(keys)}
    print(f"tuning {RATE}: {len(variants)} x {len(grid)} rates on {len(seeds)} seeds")
    launch(list(trials.values()))
    folders = {key: compose(run)[1] for key, run in trials.items()}
    chosen: dict[str, TuningReport] = {}
    for variant in variants:
        results = {rate: [record_in(folders[variant, rate, seed]) for seed in seeds] for rate in grid}
        chosen[variant] = _choose(variant or "the one variant", results)
    found = [(run, chosen[run.variant]) for run in plan]
    return [run.adjusted([f"{RATE}={report.chosen!r}"], tuning=report) for run, report in found]


def score(records: Sequence[Record | None]) -> float:
    """How bad a learning rate is: the mean of the primary metric over the seeds, its sign such that less is better.

    Infinite where a run did not end well.
    """
    mean = _mean(records)
    if mean is None:
        return math.inf
    return -mean if any(r and r.primary and r.primary.direction == "max" for r in records) else mean


def _mean(records: Sequence[Record | None]) -> float | None:
    values = []
    for record in records:
        if record is None or record.status != "ok" or record.primary is None:
            return None
        values.append(record.metrics.get(record.primary.name, math.nan))
    mean = fmean(values)
    return mean if math.isfinite(mean) else None


def _choose(name: str, results: dict[float, list[Record | None]]) -> TuningReport:
    """The rate of a variant and what was tried. Of equal rates the smallest."""
    scores = {rate: score(records) for rate, records in results.items()}
    best = min(sorted(scores), key=lambda rate: scores[rate])
    if math.isinf(scores[best]):
        raise UserError(f"{name}: no learning rate of tune.lr ended well; lower them, or see the logs below tune/")
    edge = edge_of(best, scores)
    hint = f"; it is the {edge} of the grid: widen tune.lr" if edge else ""
    print(f"{name}: {RATE}={best:g} of {', '.join(f'{rate:g}' for rate in scores)}{hint}")
    tried: list[list[float | None]] = [[rate, _mean(records)] for rate, records in results.items()]
    return TuningReport(chosen=best, tried=tried, edge=edge)


def _trial(config: RunConfig, run: Run, variant: str, rate: float, seed: int, index: int) -> Run:
    steps = config.tune.max_steps
    shorter = [] if steps is None else [f"trainer.max_steps={steps}"]
    return trial(
        run,
        label=f"tune {variant} lr={rate:g}".replace("  ", " "),
        seed=seed,
        index=index,
        folder=[TUNING_FOLDER, variant, f"lr={rate:g}", f"seed={seed}"],
        without=(f"{RATE}=", "tune."),
        settings=[*shorter, "tune.lr=null", f"{RATE}={rate!r}"],
    )
