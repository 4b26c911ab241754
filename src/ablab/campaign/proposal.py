"""From what a user proposes, a file of an option or overrides, to the config of its runs, and what it is known by."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ablab.config import AXES, RunConfig, conf_folder, fingerprint
from ablab.config.compose import composed, make_importable, resolved
from ablab.config.nearest import nearest
from ablab.config.schema import refuse_shadowed
from ablab.config.yaml_files import refuse_misread
from ablab.errors import UserError

NAME = "campaign"
_KEY = re.compile(r"[+~]*([\w./]+)(@[\w.]+)?(=|$)")
_OWN = {  # keys that no proposal or baseline chooses, and why
    "seed": "a campaign chooses the seeds",
    "seeds": "a campaign chooses the seeds",
    "name": "the runs of a campaign are named by it",
    "study": "a campaign is no study",
    "design": "a campaign is no study",
    "budget": "a campaign adjusts no budget",
    "tune": "a campaign tunes nothing",
    "hydra": "a campaign has its own folders",
    "comparison": "the metric and the margin of a campaign are declared by --metric and --margin",
}


@dataclass(frozen=True)
class Words:
    """Overrides, and the folders in which the options that they name are looked for."""

    overrides: tuple[str, ...]
    config_dirs: tuple[Path, ...] = ()

    def config(self, seed: int = 0) -> RunConfig:
        """The config of the run on a seed.

        Raises:
            UserError: it cannot be composed.
        """
        if seed not in self._configs:
            self._configs[seed] = self._resolved(seed)
        return self._configs[seed]

    @cached_property
    def _configs(self) -> dict[int, RunConfig]:
        return {}

    def _resolved(self, seed: int) -> RunConfig:
        return resolved(self._composed, [*self.overrides, f"name={NAME}", f"seed={seed}"], seed)

    @cached_property
    def _composed(self) -> DictConfig:
        """Composed once, for all seeds: that is what takes long."""
        own = [place for folder in self.config_dirs for place in (folder.resolve(), folder.resolve().parent)]
        make_importable([Path.cwd(), *own])
        config = composed([*self.overrides, f"name={NAME}"], self.config_dirs)
        sources = list(config.hydra.runtime.config_sources)
        refuse_shadowed(sources)
        refuse_misread(sources, OmegaConf.to_container(config.hydra.runtime.choices))  # type: ignore[arg-type]
        return config

    def upon(self, other: Words) -> Words:
        """Those of `other`, changed by these: who chooses an option takes back what was set of the former one."""
        keys = {_key(word) for word in self.overrides}
        chosen = {key for key in keys if key in AXES}
        kept = [w for w in other.overrides if _key(w) not in keys and _key(w).split(".")[0] not in chosen]
        return Words((*kept, *self.overrides), tuple(dict.fromkeys((*other.config_dirs, *self.config_dirs))))

    @property
    def label(self) -> str:
        return shlex.join(self.overrides)


def parse(words: Sequence[str], config_dirs: Sequence[Path] = ()) -> Words:
    """What the words of a command mean: `KEY=VALUE`, and paths of options' YAML files, "my_conf/activation/mine.yaml".

    Raises:
        UserError: a file is no option's, or a key is not theirs to choose.
    """
    overrides, folders = [], [Path(folder) for folder in config_dirs]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--config-dir {folder}: no such folder")
    for word in words:
        if "=" not in word and word.endswith((".yaml", ".yml")):
            path = _option_file(word)
            overrides.append(f"{path.parent.name}={path.stem}")
            folders += [] if path.parent.parent == conf_folder().resolve() else [path.parent.parent]
        else:
            overrides.append(_allowed(word))
    if not overrides:
        raise UserError("nothing is proposed: give the YAML file of an option, or overrides, as in activation=swiglu")
    return Words(tuple(overrides), tuple(dict.fromkeys(folder.resolve() for folder in folders)))


def beside_us(folder: Path) -> str:
    """A folder as a ledger names it: from the working folder, where it lies below that, so that both may move."""
    whole, here = folder.resolve(), Path.cwd().resolve()
    return str(whole.relative_to(here)) if here in (whole, *whole.parents) else str(whole)


def _option_file(word: str) -> Path:
    path = Path(word).resolve()
    if not path.is_file():
        raise UserError(f"{word}: no such file")
    if path.parent.name not in AXES:
        axes = nearest(path.parent.name, AXES)
        raise UserError(f"{word}: its folder must be named after an axis, as in my_conf/activation/mine.yaml{axes}")
    return path


def _allowed(word: str) -> str:
    first = _key(word).split(".")[0].split("/")[0]
    if not _KEY.match(word) or ("=" not in word and not word.startswith("~")):
        raise UserError(f"{word}: is neither KEY=VALUE nor the YAML file of an option")
    if first in _OWN:
        raise UserError(f"{word}: {_OWN[first]}; leave it out")
    return word


def _key(word: str) -> str:
    found = _KEY.match(word)
    return found[1] if found else word


def identity_of(config: RunConfig, sources: dict[str, str]) -> str:
    """What tells a proposal from every other: its config, whatever the seed, and the source of its components."""
    return _hashed([fingerprint(replace(config, seed=0)), sorted(sources.items())])


def joined(*identities: str) -> str:
    """One identity for several together."""
    return _hashed(list(identities))


def _hashed(told: object) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
