"""From a run's overrides to its config and its folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf

from ablab.config import Node, RunConfig, resolve
from ablab.config.composed import to_plain
from ablab.config.redact import redact_override
from ablab.errors import UserError
from ablab.study.planning.expand import Run
from ablab.study.planning.recombine import Recombiner

Composed = tuple[RunConfig, Path]

_REFERENCE = re.compile(r"\$\{(\w+)(?:\.\w+)*\}")  # its first name
_SEED = "seed="
_HYDRAS_SUBDIR = "${hydra.job.num}"  # how Hydra names the folder of a job where nobody says otherwise


@dataclass(frozen=True)
class _Common:
    """What runs that are composed once have in common."""

    config: DictConfig
    hydra: Any  # what the resolver ${hydra:...} reads
    choices: dict[str, str | None]
    settled: Node  # the plain values that refer to nothing


class Composer:
    """Composes the runs of a multirun.

    Composing takes long. So runs that differ in their seed alone are composed once, and the seed, the number and the
    folder of each are set; everything that refers to them is resolved for each run. `Recombiner` saves more.

    Args:
        config: of the multirun as a whole, with Hydra's own node.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self.loader, self.config = loader, config
        self._parse = lru_cache(maxsize=None)(OverridesParser.create(config_loader=loader).parse_override)
        self._recombine = Recombiner(lambda overrides: loader.load_sweep_config(config, overrides))
        self._composed: dict[tuple[str, ...], _Common] = {}
        self._runs: dict[tuple[Any, ...], Composed] = {}
        plain: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        self._subdir: str = plain["subdir"]

    @property
    def names_folders(self) -> bool:
        """Whether the command says how the folders of its runs are named: hydra.sweep.subdir=..."""
        return self._subdir != _HYDRAS_SUBDIR

    def __call__(self, run: Run, number: int = 0) -> Composed:
        """The config and the folder of a run.

        Args:
            number: of the job, for a run of another sweeper than ours, which has no index.
        """
        number = number if run.context.index is None else run.context.index
        key = (number, run.folder, *run.overrides)
        if key not in self._runs:
            self._runs[key] = self._resolve(run, number)
        return self._runs[key]

    def _resolve(self, run: Run, number: int) -> Composed:
        rest = tuple(o for o in run.overrides if not o.startswith(_SEED))
        if rest not in self._composed:
            self._composed[rest] = self._compose(list(rest))
        common = self._composed[rest]
        for node in (common.config.hydra, common.hydra.hydra):
            node.job.num, node.job.id = number, str(number)
            node.sweep.subdir = self._subdir if run.folder is None else run.folder
            node.job.override_dirname = _dirname(run.overrides, node.job.config.override_dirname)
        for override in run.overrides:
            if override.startswith(_SEED):
                common.config.seed = self._parse(override).value()
        HydraConfig.instance().cfg = common.hydra
        asked = [o for o in run.overrides if not o.lstrip("+~").startswith(("hydra.", "hydra/"))]
        sources = common.hydra.hydra.runtime.config_sources
        config = resolve(common.config, common.choices, asked, common.settled, sources)
        sweep = common.config.hydra.sweep
        return config, _below(Path(sweep.dir), str(sweep.subdir))

    def _compose(self, overrides: list[str]) -> _Common:
        composed = self._recombine(tuple(overrides))
        HydraConfig.instance().set_config(composed)
        hydra: Any = HydraConfig.instance().cfg
        for node in (composed.hydra, hydra.hydra):  # our own, and written to for every run
            OmegaConf.set_readonly(node, False)
            OmegaConf.set_struct(node, False)
        choices: Any = OmegaConf.to_container(composed.hydra.runtime.choices)
        plain: Any = OmegaConf.to_container(composed, resolve=False)
        del plain["hydra"]
        settled = {key: to_plain(composed[key]) for key in plain if _is_settled(key, plain)}
        return _Common(composed, hydra, choices, settled)


def _dirname(overrides: list[str], settings: DictConfig) -> str:
    """What ${hydra:job.override_dirname} is for a run, whose seed is no part of what it is composed from."""
    left_out = set(settings.exclude_keys)
    named = [redact_override(o) for o in overrides if o.partition("=")[0].lstrip("+~") not in left_out]
    return str(settings.item_sep).join(sorted(named)).replace("=", settings.kv_sep)


def _below(study: Path, name: str) -> Path:
    """The folder of a run. Raises UserError where it is none below that of the study."""
    if not name.strip("./") or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"hydra.sweep.subdir={name}: must name a folder for each run, below that of the study")
    return study / name


def _is_settled(key: str, plain: Node) -> bool:
    """Whether a value at the top is the same for all runs that are composed once, and nothing in it is missing.

    It is if what it refers to, and what that refers to, is neither their seed nor beyond the config.
    """
    met, left = set(), {key}
    while left:
        name = left.pop()
        if name == "seed" or name not in plain:
            return False
        met.add(name)
        for text in _texts(plain[name]):
            named = _REFERENCE.findall(text)
            if text == MISSING or len(named) < text.count("${"):  # a resolver, or a place relative to its own
                return False
            left |= set(named) - met
    return True


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value
