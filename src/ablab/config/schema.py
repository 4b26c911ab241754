"""The keys at the top of the config, and where the options of each axis lie."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from ablab.config.axes import AXES

# How the runs of a sweep are carried out: none of it changes what a run computes.
CARRIED_OUT = (
    *("jobs", "devices_per_run", "runs_per_device", "retries", "retry", "timeout", "hang_timeout", "on_failure"),
)


@dataclass(kw_only=True)
class ComparisonConfig:
    """What a study declares of the comparison that it ends with."""

    baseline: str | None = None  # the variant that the others are compared with, "attention=full"; None: the first
    metric: str | None = None  # None: the task's primary metric
    margin: float | None = None  # differences below it are equivalent, in the metric's unit
    last_k: int = 1  # the mean of the last K evaluations is compared


@dataclass
class Settings:
    """The keys at the config's top that are no axis."""

    budget: Any = MISSING
    tune: Any = MISSING
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)
    design: Any = MISSING
    jobs: Any = None
    devices_per_run: Any = None
    runs_per_device: Any = 1
    retries: Any = 1
    retry: Any = None
    timeout: Any = None
    hang_timeout: Any = 600
    on_failure: Any = "continue"
    continue_from: str | None = None  # the folder of a run whose last checkpoint this one starts from
    seed: int = 0  # of parameters, data and everything else, each through a generator of its own
    name: str = MISSING  # of the study; its folder is outputs/<name>
    question: str = ""  # what the study asks, as the report's title


# The schema of the config's top level: a key that is not here is refused when the config is composed.
Config = make_dataclass(
    "Config",
    [(axis.name, Any, field(default_factory=dict) if axis.optional else MISSING) for axis in AXES.values()],
    bases=(Settings,),
)


def register_schema() -> None:
    """Make the schema known to Hydra as the config `schema`, on which conf/config.yaml builds."""
    ConfigStore.instance().store(name="schema", node=Config)


def conf_folder() -> Path:
    """The folder of config groups: inside the package when installed, at the top of the repository when not."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent.parent / "conf"


def studies_folder() -> Path | None:
    """The folder that holds the group `study` where it does not lie in `conf_folder()`, else None."""
    folder = conf_folder().parent / "experiments"
    return folder if (folder / "study").is_dir() else None
