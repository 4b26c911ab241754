"""Ladders: a plan of one size becomes one of several, and what follows the size is set for each by the ladder's rules.

Every run of the plan is made at every size. What is swept keeps its own proportions: a variant that is twice as deep as
the baseline is so at every size, and one with a rate of its own begins with that. Tokens are those of the baseline's
parameters at each size, so that all variants there are trained on as many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import yaml

from ablab.config import RunConfig, conf_folder
from ablab.config.explain import ConfigErrors
from ablab.config.ladder import WIDTH, LadderConfig
from ablab.config.overrides import BETWEEN_OVERRIDES, canonical
from ablab.config.schema import default_option
from ablab.errors import UserError
from ablab.results.run_context import LadderReport
from ablab.study.designs.factors import written
from ablab.study.planning.compose import Composer
from ablab.study.planning.expand import Run, folder_name
from ablab.study.planning.preflight import Preflight
from ablab.study.planning.rungs import EVERY, RATE, STEPS, Rung, rungs_of, scaled_rate
from ablab.study.planning.shapes import HEADS, shape_of

_AXIS = "parametrisation"
_BASE_WIDTH, _BASE_HEAD = f"{_AXIS}.base_width", f"{_AXIS}.base_head_size"


def climb(plan: list[Run], compose: Composer, preflight: Preflight, baseline: str | None) -> list[Run]:
    """The runs at each size, from the smallest on, and at each in the order of the plan; the plan without a ladder.

    Args:
        baseline: that the study declares.

    Raises:
        UserError: a size that the baseline cannot have, or a variant that sets what the ladder sets.
    """
    rules = compose(plan[0])[0].ladder
    if not rules.steps:
        return plan
    composed = _Composed(compose)
    runs = [_scheduled(run, rules, composed) for run in plan]
    _refuse_set(runs, rules)
    rungs = {
        task: _rungs(reference, rules, compose, preflight) for task, reference in _references(runs, baseline).items()
    }
    climbed = [
        _at(rungs[_task_of(run)][place], run, rules, composed) for place in range(len(rules.steps)) for run in runs
    ]
    return [replace(run, context=replace(run.context, index=index)) for index, run in enumerate(climbed)]


def refuse_for_one_run(config: RunConfig) -> None:
    """Raises UserError where a run by itself asks for several sizes."""
    if config.ladder.steps:
        raise UserError("ladder: one run has one size; sweeps by ablab's own sweeper have several: add -m")


class _Composed:
    """The configs of runs that are composed once for all of their seeds."""

    def __init__(self, compose: Composer) -> None:
        self._compose = compose
        self._known: dict[tuple[str, ...], RunConfig | None] = {}

    def __call__(self, run: Run) -> RunConfig | None:
        """The config of a run, but for its seed; None where it has none, which the check of the plan will say."""
        key = tuple(override for override in run.overrides if not override.startswith("seed="))
        if key not in self._known:
            try:
                self._known[key] = self._compose(run)[0]
            except (UserError, *ConfigErrors):
                self._known[key] = None
        return self._known[key]


def _scheduled(run: Run, rules: LadderConfig, composed: _Composed) -> Run:
    """The run with the ladder's schedule, where neither a command nor a file chooses another."""
    config = composed(run)
    if rules.schedule is None or config is None or _sets(run, "schedule"):
        return run
    if config.axes.get("schedule") != default_option("schedule"):
        return run
    return replace(run, overrides=[*run.overrides, f"schedule={rules.schedule}"])


@cache
def _usual(axis: str, option: str) -> dict[str, Any]:
    """The settings of an option where nobody says otherwise; none of an option of somebody's own."""
    path = conf_folder() / axis / f"{option}.yaml"
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def _refuse_set(runs: Sequence[Run], rules: LadderConfig) -> None:
    """Raises UserError where runs differ in what the ladder sets alike for all, or the command gives their steps."""
    counted = rules.tokens_per_parameter is not None and STEPS not in rules.steps[0]
    alike = {*rules.steps[0], *([STEPS] if counted else [])}
    alike |= {"model.n_layers"} if rules.aspect_ratio and rules.depth == "scaled" else set()
    alike |= {"model.n_heads"} if rules.d_head and rules.heads == "scaled" else set()
    for key in sorted(alike):
        values = {_value(run, key) for run in runs}
        if len(values) > 1:
            raise UserError(
                f"{key}: cannot be varied, since the ladder sets it for all variants; leave out one of them"
            )
        if key == STEPS and values != {None}:
            raise UserError(
                f"{STEPS}={values.pop()}: the ladder sets the steps, by ladder.tokens_per_parameter="
                f"{rules.tokens_per_parameter:g}; leave them out, or give ladder.tokens_per_parameter=null"
            )
    if len({_value(run, "model") for run in runs}) > 1 and any(key.startswith("model.") for key in alike):
        raise UserError("model: cannot be varied, since the ladder sets sizes of it; leave out one of them")


def _references(runs: Sequence[Run], baseline: str | None) -> dict[tuple[str, ...], Run]:
    """The baseline on each task: the first run that the declared one fits, else the first of the plan."""
    declared = [part.strip() for part in BETWEEN_OVERRIDES.split(baseline or "") if part.strip()]
    wanted = {(key, canonical(value)) for key, _, value in (part.partition("=") for part in declared)}
    references: dict[tuple[str, ...], Run] = {}
    fitting: set[tuple[str, ...]] = set()
    for run in runs:
        own = {(key, canonical(value)) for key, _, value in (each.partition("=") for each in run.overrides)}
        fits = bool(wanted) and (wanted <= own or baseline in run.variant.split(","))
        if (task := _task_of(run)) not in references or (fits and task not in fitting):
            references[task] = run
            fitting |= {task} if fits else set()
    return references


def _task_of(run: Run) -> tuple[str, ...]:
    return tuple(override for override in run.overrides if override.lstrip("+").split("=")[0].split(".")[0] == "task")


def _rungs(reference: Run, rules: LadderConfig, compose: Composer, preflight: Preflight) -> list[Rung]:
    def at(values: Mapping[str, Any]) -> RunConfig:
        return compose(_with(reference, values))[0]

    return rungs_of(compose(reference)[0], at, rules, preflight)


def _at(rung: Rung, run: Run, rules: LadderConfig, composed: _Composed) -> Run:
    """The run at a size of the ladder, with its place in the plan and on the disk."""
    config = composed(run)
    values = dict(rung.size) if config is None else shape_of(config, rung.size, rules)
    values |= rung.settings
    if config is not None:
        values |= _rate_at(rung, config)
        values |= _bases(run, rules, config)
        if _sets(run, EVERY):
            values.pop(EVERY, None)
    changed = {key: [_before(config, key), value] for key, value in values.items() if _before(config, key) != value}
    report = LadderReport(
        rung=rung.label,
        place=rung.place,
        parameters=rung.parameters,
        tokens=rung.tokens,
        flops=rung.flops,
        rate_factor=rung.rate_factor,
        rate_rule=rung.rate_rule,
        changed=changed,
    )
    context = replace(run.context, variant=",".join(filter(None, [rung.label, run.variant])), ladder=report)
    folder = None if run.folder is None else f"{folder_name(rung.label)}/{run.folder}"
    beside = {"schedule.anneal_at": rules.anneal_at} if _anneals(run, rules, config) else {}
    return replace(_with(run, values | beside), context=context, folder=folder)


def _rate_at(rung: Rung, config: RunConfig) -> dict[str, float]:
    """The learning rate at a size; nothing where it is to be found out by tuning, which carries it on itself."""
    rate = config.options["optimizer"].get("lr")
    if rung.rate_factor == 1 or RATE in config.tune.grids or not isinstance(rate, int | float):
        return {}
    return {RATE: scaled_rate(rate, rung.rate_factor)}


def _bases(run: Run, rules: LadderConfig, config: RunConfig) -> dict[str, Any]:
    """The sizes at which a parametrisation states its rates: those of the first one, unless somebody says."""
    width = rules.steps[0].get(WIDTH)
    if width is None:
        return {}
    heads = int(shape_of(config, rules.steps[0], rules).get(HEADS) or config.options["model"].get("n_heads") or 1)
    bases = {_BASE_WIDTH: width, _BASE_HEAD: max(1, width // heads)}
    usual = _usual(_AXIS, config.axes.get(_AXIS, ""))
    return {
        key: value
        for key, value in bases.items()
        if (before := _before(config, key)) is not None
        and not _sets(run, key)
        and before == usual.get(key.partition(".")[2], before)
    }


def _anneals(run: Run, rules: LadderConfig, config: RunConfig | None) -> bool:
    """Whether the run is to give shorter ones on its way: where its schedule can, and the command says nothing else."""
    known = config is not None and "anneal_at" in config.options["schedule"]
    return bool(rules.anneal_at) and known and not _sets(run, "schedule.anneal_at")


def _before(config: RunConfig | None, key: str) -> Any:
    axis, _, name = key.partition(".")
    return None if config is None else config.options.get(axis, {}).get(name)


def _with(run: Run, values: Mapping[str, Any]) -> Run:
    """The run with other values at some keys, whatever it was asked for there."""
    kept = [override for override in run.overrides if override.partition("=")[0] not in values]
    return replace(run, overrides=[*kept, *(f"{key}={_text(value)}" for key, value in values.items())])


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else written(value)


def _sets(run: Run, key: str) -> bool:
    return _value(run, key) is not None


def _value(run: Run, key: str) -> str | None:
    """What a run was asked for at a key, if it was."""
    values = (override.partition("=")[2] for override in run.overrides if override.startswith(f"{key}="))
    return next((canonical(value) for value in values), None)
