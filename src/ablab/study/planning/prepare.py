"""The plan of a study, composed and checked as a whole before anything is written or trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ablab.config import RunConfig, fingerprint
from ablab.config.composed import comparison_of
from ablab.config.explain import ConfigErrors, explain
from ablab.config.overrides import canonical
from ablab.config.schema import refuse_shadowed
from ablab.config.signature import check_signature
from ablab.config.yaml_files import refuse_misread
from ablab.errors import UserError
from ablab.results.collect import Runs, tabulate
from ablab.results.record import KEPT_EVALUATIONS, Cost, Record
from ablab.results.run_folder import check_ours
from ablab.results.store import RECORD_FILE, read_record
from ablab.study.designs import Design
from ablab.study.events import RunOutline
from ablab.study.plan_file import PlannedRun
from ablab.study.planning.budget import meet_budgets
from ablab.study.planning.compose import Composer
from ablab.study.planning.expand import Run, expand
from ablab.study.planning.ladder import climb
from ablab.study.planning.preflight import Preflight
from ablab.study.trials.carried import first_size
from ablab.study.trials.tuning import check_equal, check_tuning
from ablab.training.begin import variant_of
from ablab.training.warm_start import check_steps_left
from ablab.version import __version__

_IN_WORDS = ("flops_uncounted", "peak_memory_method")  # of a cost, what is no number


@dataclass
class Prepared:
    """A plan, and what there is to say of it."""

    runs: list[Run]
    excluded: list[str]  # combinations that the design left out
    errors: list[tuple[Run, str]] = field(default_factory=list)  # runs that cannot work, and why
    budgets: list[str] = field(default_factory=list)  # what was adjusted to meet a budget

    alone: list[str] = field(default_factory=list)  # variants whose seeds cannot be stacked, and why

    def refuse_errors(self) -> None:
        """Raises UserError with the first of the errors, if there is any."""
        if self.errors:
            run, error = self.errors[0]
            where = f" [in the run {asked(run, self.runs)}]" if len(self.runs) > 1 else ""
            rest = len(self.errors) - 1
            raise UserError(f"{error}{where}" + (f" (nor can {rest} more work: ablab plan shows them)" if rest else ""))


def prepare(compose: Composer, arguments: Sequence[str], preflight: Preflight) -> Prepared:
    """The plan of a multirun.

    Args:
        arguments: overrides, swept or not.

    Raises:
        UserError: there is no plan to speak of: the design, the budget or the tuning is refused. Runs that cannot
            work are listed instead, and nothing is then adjusted to a budget.
    """
    _refuse_files(compose.config.hydra.runtime)
    design = _design(compose.config)
    parser = OverridesParser.create(config_loader=compose.loader)
    declared = comparison_of(compose.config)
    expansion = expand(parser.parse_overrides(list(arguments)), design, declared.baseline, declared.within)
    runs = climb(expansion.runs, compose, preflight, declared.baseline)
    runs = [replace(run, folder=None) for run in runs] if compose.names_folders else runs
    prepared = Prepared(runs, expansion.excluded)
    configs = _check(prepared, compose, preflight)
    if not prepared.errors:
        check_tuning(first_size(prepared.runs), compose, preflight.check)
        met = meet_budgets(prepared.runs, configs, preflight)
        prepared.runs, prepared.budgets = met
        check_equal(prepared.runs, compose, preflight)
        prepared.alone = _alone([compose(run)[0] for run in prepared.runs], prepared.runs, preflight)
    return prepared


def _alone(configs: Sequence[RunConfig], runs: Sequence[Run], preflight: Preflight) -> list[str]:
    """A line for each variant whose seeds were to be stacked and cannot be."""
    found: dict[str, None] = {}
    for config, run in zip(configs, runs, strict=True):
        if config.execution.stack is not None and (reason := preflight.why_not_stacked(config)):
            own = " ".join(each for each in asked(run, runs).split() if not each.startswith("seed="))
            found[f"{own or 'all runs'}: seeds are trained one after the other, not stacked: {reason}"] = None
    return list(found)


def asked(run: Run, among: Sequence[Run] = ()) -> str:
    """The overrides that a run was asked for by, without those that all of several runs share."""
    own = [o for o in run.overrides if not o.startswith("hydra.")]
    shared = set(own).intersection(*(each.overrides for each in among)) if len(among) > 1 else set()
    return " ".join(o for o in own if o not in shared)


def info_of(config: RunConfig, index: int, variant: str | None = None) -> RunOutline:
    """What is shown of a run."""
    return RunOutline(
        index=index,
        variant=variant_of(config) if variant is None else variant,
        task=config.axes.get("task", ""),
        seed=config.seed,
        steps=config.trainer.max_steps,
    )


def as_if_run(planned: Sequence[PlannedRun], preflight: Preflight) -> Runs:
    """One run of each variant on each task as it will have been, so that the comparison can be asked for it.

    Its metrics have the names that it will have, and no values that mean anything.
    """
    firsts = {(run.config.axes.get("task"), run.info.variant): run for run in reversed(planned)}
    runs = sorted(firsts.values(), key=lambda run: run.info.index)
    return tabulate([(run.folder, _outcome(run, preflight)) for run in runs])


def _outcome(run: PlannedRun, preflight: Preflight) -> Record:
    config, task = run.config, preflight.task(run.config)
    names = preflight.metrics(config) or set()
    evaluations = min(math.ceil(config.trainer.max_steps / config.trainer.val_check_interval), KEPT_EVALUATIONS)
    return Record(
        status="ok",
        fingerprint="",
        study=config.name,
        variant=run.context.variant or run.info.variant,
        index=run.info.index,
        seed=config.seed,
        axes=config.axes,
        config=config.to_dict(),
        metrics={name: 0.0 for name in names if "/" not in name or name.startswith(("val_", "test_"))},
        mechanism={name: 0.0 for name in names if "/" in name},
        last={name: [0.0] * evaluations for name in names if name.startswith("val_")},
        cost=_every_cost(),
        primary=task.primary,
        rung=run.context.ladder.rung if run.context.ladder else None,
        ladder=asdict(run.context.ladder) if run.context.ladder else None,
    )


def _every_cost() -> Cost:
    numbers: dict[str, Any] = {each.name: 0 for each in fields(Cost) if each.name not in _IN_WORDS}
    return Cost(**numbers)


def make_folder(folder: Path) -> None:
    """Create `folder`. Raises UserError if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write there ({error.strerror}); choose another with hydra.sweep.dir=..."
        ) from error


def _check(prepared: Prepared, compose: Composer, preflight: Preflight) -> list[RunConfig]:
    """The configs of all runs; what is wrong with them is added to `prepared`."""
    configs = []
    met: dict[tuple[str, int, frozenset[str]], Run] = {}
    shown: dict[tuple[str, int, str | None], Run] = {}
    places: dict[Path, Run] = {}
    for run in prepared.runs:
        try:
            frozen, folder = compose(run)
            preflight.check(frozen)
            check_steps_left(frozen, folder)
            _refuse_repeated(met.setdefault(_value(run, frozen), run), run)
            _refuse_alike(shown.setdefault((run.variant, frozen.seed, frozen.axes.get("task")), run), run)
            _refuse_shared(places.setdefault(folder, run), run, folder)
            check_ours(folder)
            _refuse_older(folder)
        except UserError as error:
            prepared.errors.append((run, str(error)))
        except ConfigErrors as error:
            prepared.errors.append((run, explain(error)))
        else:
            configs.append(frozen)
    if configs and not any(config.processes > 1 for config in configs):
        refuse_devices(configs[0])
    return configs


def refuse_devices(config: RunConfig) -> None:
    """Raises UserError where a command gives a number of devices, and a strategy of one process takes no notice."""
    devices = config.options["trainer"].get("devices")
    given = any(override.lstrip("+").startswith("trainer.devices=") for override in config.overrides)
    if given and config.processes == 1 and devices != 1:
        raise UserError(
            f"trainer.devices={devices}: {config.chosen('strategy')} runs one process; choose strategy=ddp or another "
            "of several, or leave it out"
        )


def _value(run: Run, config: RunConfig) -> tuple[str, int, frozenset[str]]:
    """What is the same for runs that differ in the spelling of their values alone."""
    pairs = (override.partition("=") for override in run.overrides)
    return fingerprint(config), config.seed, frozenset(f"{key}={canonical(value)}" for key, _, value in pairs)


def _refuse_repeated(first: Run, run: Run) -> None:
    """Raises UserError where the values of an earlier run are those of this one, in another spelling."""
    if first is not run:
        raise UserError(f"{run.variant}: the same run as {first.variant}, with a value in another spelling; drop one")


def _refuse_alike(first: Run, run: Run) -> None:
    """Raises UserError where no table could tell a run from another, as 1 and 1.0 where they are not the same."""
    if first is not run:
        raise UserError(f"{asked(run, [run, first])}: is printed like {asked(first, [run, first])}; drop one")


def _refuse_shared(first: Run, run: Run, folder: Path) -> None:
    """Raises UserError where the command names the folders of two runs alike."""
    if first is not run:
        raise UserError(
            f"hydra.sweep.subdir: puts {asked(run, [run, first])} into the folder of {asked(first, [run, first])} "
            f"({folder}): leave it out, or use ${{hydra:job.override_dirname}}"
        )


def _refuse_older(folder: Path) -> None:
    """Raise UserError where a run of another version has ended well: it would be replaced, not re-used."""
    try:
        record = read_record(folder / RECORD_FILE)
    except UserError:  # no record, or none that can be read: nothing is lost
        return
    made_by = record.versions.get("ablab", __version__)
    if record.status == "ok" and made_by != __version__:
        raise UserError(
            f"{folder}: holds a run of ablab {made_by}, and this is {__version__}: give the study another name=..., or "
            "move the folder away"
        )


def _refuse_files(runtime: DictConfig) -> None:
    """Raises UserError where a file of the user's would be something else than it says."""
    refuse_shadowed(runtime.config_sources)
    refuse_misread(runtime.config_sources, runtime.choices)


def _design(config: DictConfig) -> Design:
    if not isinstance(config.design, DictConfig) or "_target_" not in config.design:
        raise UserError("design: is no option; choose one by design=..., or '- override /design: ...' in a file")
    node: Any = OmegaConf.to_container(config.design, resolve=True)
    check_signature("design", node)
    design = instantiate(node, _convert_="all")
    if not isinstance(design, Design):
        raise UserError(f"design._target_={node['_target_']}: is no design (a class below ablab.study.designs.Design)")
    return design
