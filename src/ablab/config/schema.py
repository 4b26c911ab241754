"""The schema of the config, as Hydra composes it, and where the options of each axis lie."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import MISSING, OmegaConf

from ablab.config.axes import AXES
from ablab.config.ladder import LadderConfig
from ablab.config.seeds import SeedsConfig
from ablab.config.tune import TUNABLE, TuneConfig, TuneSchema
from ablab.errors import UserError

Node = dict[str, Any]  # the option of an axis: `_target_` and its arguments; or any other tree of plain data


AUTO = "auto"  # of `runs_per_device`


@dataclass(kw_only=True)
class ExecutionConfig:
    """How the runs of a sweep are carried out. None of it changes what a run computes.

    Raises:
        UserError: a value out of range.
    """

    jobs: int | None = None  # runs side by side; None: as many as there are devices for, one without devices
    devices_per_run: int | None = None  # GPUs; None: one for each process
    runs_per_device: int | str = 1  # "auto": as many as trials find to fit on it and to pay
    stack: str | None = None  # "seeds": those of a variant in one process, by one pass for all; null: each by itself
    retries: int = 1  # of a run that crashed or was killed
    retry: str | None = None  # "failed": what an earlier supervisor left; None: nothing
    timeout: float | None = None  # seconds that an attempt at a run may take
    hang_timeout: float | None = 600.0  # seconds without progress after which a run is ended; None: never
    on_failure: str = "continue"  # or "stop"

    def __post_init__(self) -> None:
        self._check_sharing()
        for name, least in (("jobs", 1), ("devices_per_run", 1), ("retries", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name}={value}: must be at least {least}")
        for name in ("timeout", "hang_timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name}={value:g}: must be a number of seconds, more than 0")
        if self.retry not in (None, "failed"):
            raise UserError(f"retry={self.retry}: must be failed, or null")
        if self.stack not in (None, "seeds"):
            raise UserError(f"stack={self.stack}: must be seeds, or null")
        if self.on_failure not in ("continue", "stop"):
            raise UserError(f"on_failure={self.on_failure}: must be continue or stop")

    def _check_sharing(self) -> None:
        given = self.runs_per_device
        if isinstance(given, str) and given != AUTO:
            raise UserError(f"runs_per_device={given}: must be a whole number, or {AUTO}")
        if isinstance(given, int) and given < 1:
            raise UserError(f"runs_per_device={given}: must be at least 1, or {AUTO}")


EXECUTION_KEYS = tuple(each.name for each in fields(ExecutionConfig))
# Keys that one run by itself does not have.
FOR_SWEEPS = frozenset({"design", "seeds", "ladder", *EXECUTION_KEYS}) - {"hang_timeout"}
# Keys of a study as a whole, which cannot differ between its runs.
OF_THE_STUDY = FOR_SWEEPS | {"hang_timeout", "name", "question", "comparison", "tune", "budget"}
# Folders of a sweep for runs that choose a learning rate or measure a speed, and are no part of what is compared.
TUNING_FOLDER, PILOT_FOLDER = "tune", "pilot"
TRIAL_FOLDERS = (TUNING_FOLDER, PILOT_FOLDER)


@dataclass(kw_only=True)
class BudgetConfig:
    """Equal budgets in a sweep: what every variant gets as much of as the reference."""

    match: str | None = None  # params, active_params, flops, tokens, time, kv or decode_flops; None: nothing
    reference: str | None = None  # overrides of the variant that sets it; None: the first of the sweep
    adjust: str | None = None  # what is adjusted; None: the first that a variant has, see docs/fairness.md
    length: int = 8192  # tokens of the sequence for which match=kv and match=decode_flops count
    pilot_steps: int = 100  # of each of the short runs by which match=time measures a variant's speed

    def __post_init__(self) -> None:
        if self.pilot_steps < 1:
            raise UserError(f"budget.pilot_steps={self.pilot_steps}: must be at least 1")
        if self.length < 1:
            raise UserError(f"budget.length={self.length}: must be at least 1")


SPLITS = ("validation", "test")
INTERVALS = ("single", "simultaneous")


@dataclass(kw_only=True)
class ComparisonConfig:
    """What a study declares of the comparison that it ends with."""

    baseline: str | None = None  # that the others are compared with: "attention=full", or "previous"; None: the first
    metric: str | None = None  # None: the task's primary metric
    margin: float | None = None  # differences below it are equivalent, in the metric's unit
    split: str | None = None  # "validation" or "test", of the task's primary metric; None: the one that it is of
    intervals: str = "single"  # that are shown; "simultaneous": those of all comparisons hold together
    last_k: int = 1  # the mean of the last K evaluations is compared
    within: list[str] = field(default_factory=list)  # axes and settings with each value a condition, as a task is one

    def __post_init__(self) -> None:
        if self.split not in (None, *SPLITS):
            raise UserError(f"comparison.split={self.split}: must be {' or '.join(SPLITS)}, or null")
        if self.split and self.metric:
            raise UserError(
                f"comparison.split={self.split}: comparison.metric={self.metric} says of which split it is; "
                "leave one of the two out"
            )
        if self.intervals not in INTERVALS:
            raise UserError(f"comparison.intervals={self.intervals}: must be {' or '.join(INTERVALS)}")


@dataclass(kw_only=True)
class Settings(ExecutionConfig):
    """The keys at the config's top that are no axis."""

    budget: BudgetConfig = field(default_factory=BudgetConfig)
    tune: TuneConfig = field(default_factory=TuneSchema)
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    ladder: LadderConfig = field(default_factory=LadderConfig)
    design: Any = MISSING
    continue_from: str | None = None  # the folder of a run whose last checkpoint this one starts from
    seed: int | str = 0  # of parameters, data and everything else, each through a generator of its own; or "auto"
    name: str = MISSING  # of the study; its folder is outputs/<name>
    question: str = ""  # what the study asks, as the report's title


# The schema of the config's top level: a key that is not here is refused when the config is composed.
Config = make_dataclass(
    "Config",
    [(axis.name, Any, field(default_factory=dict) if axis.optional else MISSING) for axis in AXES.values()],
    bases=(Settings,),
    namespace={"__module__": __name__},  # where `pickle` looks for it
)


def type_at(key: str) -> Any:
    """The annotated type of a dotted key; None for one that the schema does not know, as of any option."""
    hint: Any = Config
    for name in re.sub(r"\[\d+\]", "", key).split("."):
        hint = get_type_hints(hint).get(name) if is_dataclass(hint) else None
    one_word = key in ("seed", "runs_per_device")  # beside numbers: auto
    return None if hint is Any else int if one_word else hint


def known_settings() -> list[str]:
    """Every setting below the top by its dotted key: of the options in conf/, then of the sections of the schema.

    Somebody may know one by its last part alone. Reads all of conf/ once, so it is for what has failed.
    """
    sections = {name: hint for name, hint in get_type_hints(Config).items() if is_dataclass(hint)}
    return [
        *_known_in(conf_folder()),
        *(f"{name}.{each.name}" for name, hint in sections.items() for each in fields(hint)),
    ]


@cache
def _known_in(folder: Path) -> list[str]:
    found: dict[str, None] = {}
    for axis in AXES.values():
        for path in sorted((folder / axis.name).glob("*.yaml")):
            node = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            nodes = {f"{axis.name}.{name}": each for name, each in node.items()} if axis.several else {axis.name: node}
            found |= {f"{name}.{key}": None for name, each in nodes.items() for key in each if key not in _NO_SETTINGS}
    return [*found]


_NO_SETTINGS = ("_target_", "_partial_", "_recursive_", "_convert_", "defaults")  # keys of an option's file


def without_former(axis: str, node: Any, choices: Mapping[str, str | None], overrides: Sequence[str]) -> Any:
    """An axis's node without what a recipe sets of the option that it chose, where an override chose another.

    What the other option has as well holds for it, too; a key that no built-in option has is left for its refusal.
    """
    option = choices.get(axis)
    if option is None or f"{axis}={option}" not in overrides or not isinstance(node, Mapping):
        return node
    own = _keys(conf_folder() / axis / f"{option}.yaml")
    if not own or "defaults" in own:
        return node
    asked = {override.partition("=")[0].lstrip("+") for override in overrides}
    others = {key for path in (conf_folder() / axis).glob("*.yaml") for key in _keys(path)}
    return {key: value for key, value in node.items() if key in own or key not in others or f"{axis}.{key}" in asked}


def _keys(path: Path) -> set[str]:
    return set(yaml.safe_load(path.read_text(encoding="utf-8")) or ()) if path.is_file() else set()


def check_name(name: str | None) -> None:
    """Raises UserError for a study that would lie in outputs/ itself, among those of others, or outside of it."""
    if name == "":
        raise UserError("name: must not be empty; leave it out to name the study by the time of day")
    parts = (name or "study").replace("\\", "/").split("/")
    if {"", ".", ".."} & set(parts) or parts[0].startswith("~"):
        raise UserError(f"name={name}: must be the name of a folder in outputs/, without '..' or a '/' in front")
    if taken := set(TRIAL_FOLDERS) & set(parts):
        raise UserError(
            f"name={name}: folders called {taken.pop()} hold trials, which no comparison reads; choose another"
        )


def register_schema() -> None:
    """Make the schema known to Hydra as the config `schema`, on which conf/config.yaml builds, unless it is."""
    known = ConfigStore.instance().repo.get("schema.yaml")
    if isinstance(known, ConfigNode) and OmegaConf.get_type(known.node) is Config:
        return
    schema = OmegaConf.structured(Config)
    for axis in TUNABLE:  # any key may stand there, as in the option that is chosen
        OmegaConf.set_struct(schema.tune[axis], False)
    ConfigStore.instance().store(name="schema", node=schema)


def refuse_shadowed(sources: Iterable[Any]) -> None:
    """Raise UserError for an option of the user's own that has the name of a built-in one, which Hydra would prefer.

    Args:
        sources: Hydra's `runtime.config_sources`.
    """
    ours = [folder for folder in (conf_folder(), studies_folder()) if folder is not None]
    known = {file.relative_to(folder): folder for folder in ours for file in folder.glob("*/*.yaml")}
    for folder in {Path(source["path"]) for source in sources if source["schema"] == "file"}:
        if folder.resolve() in (each.resolve() for each in ours):
            continue
        for file in sorted(folder.glob("*/*.yaml")):
            if (name := file.relative_to(folder)) in known:
                raise UserError(
                    f"{file}: {name.parent}={name.stem} shadows the built-in option: give yours another name, as in "
                    f"{name.parent}={name.stem}_2"
                )


def conf_folder() -> Path:
    """The folder of config groups: inside the package when installed, at the top of the repository when not."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent.parent / "conf"


def studies_folder() -> Path | None:
    """The folder that holds the group `study` where it does not lie in `conf_folder()`, else None."""
    folder = conf_folder().parent / "experiments"
    return folder if (folder / "study").is_dir() else None


@cache
def default_option(axis: str) -> str:
    """The option of an axis where nobody chooses one."""
    defaults = yaml.safe_load((conf_folder() / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return str(next(each[axis] for each in defaults if isinstance(each, dict) and axis in each))
