"""From what a user proposes, a file of an option or overrides, to the config of its runs, and what it is known by."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from ablab.config import AXES, RunConfig, conf_folder, fingerprint, register_schema, resolve
from ablab.config.explain import ConfigErrors, explain
from ablab.config.nearest import nearest
from ablab.config.schema import refuse_shadowed
from ablab.config.yaml_files import refuse_misread
from ablab.errors import UserError
from ablab.study.supervision.code import forget_modules, modules_of

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
        composed, words = self._composed, [*self.overrides, f"name={NAME}", f"seed={seed}"]
        with _hydra_as_before():
            HydraConfig.instance().set_config(composed)
            choices: Any = OmegaConf.to_container(composed.hydra.runtime.choices)
            plain = copy.deepcopy(composed)
            with open_dict(plain):
                del plain["hydra"]
                plain.seed = seed
            return resolve(plain, choices, words, sources=list(composed.hydra.runtime.config_sources))

    @cached_property
    def _composed(self) -> DictConfig:
        """Composed once, for all seeds: that is what takes long."""
        register_schema()
        make_importable(self.config_dirs)
        path = ",".join(f"file://{folder.resolve()}" for folder in self.config_dirs)
        words = [*self.overrides, f"name={NAME}", *([f"hydra.searchpath=[{path}]"] if path else [])]
        try:
            with _hydra_as_before(), initialize_config_dir(str(conf_folder()), version_base="1.3"):
                composed = compose("config", words, return_hydra_config=True)
        except ConfigErrors as error:
            raise UserError(explain(error)) from error
        sources = list(composed.hydra.runtime.config_sources)
        refuse_shadowed(sources)
        refuse_misread(sources, OmegaConf.to_container(composed.hydra.runtime.choices))  # type: ignore[arg-type]
        return composed

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
    told = json.dumps([fingerprint(replace(config, seed=0)), sorted(sources.items())])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def sources_of(config: RunConfig, baseline: RunConfig | None = None) -> dict[str, str]:
    """The modules that options are made of, each with the hash of its file, and what they import from their folder.

    Args:
        baseline: whose options are left out.
    """
    changed = [node for axis, node in config.options.items() if baseline is None or node != baseline.options.get(axis)]
    modules = {name for node in changed for name in modules_of(node) if not _is_installed(name)}
    files = {name: path for module in modules for name, path in _with_imports(module).items()}
    return {name: _hash(path) for name, path in sorted(files.items())}


def _is_installed(module: str) -> bool:
    return module.split(".")[0] in ("torch", "lightning", "hydra", "transformers")


def _with_imports(name: str) -> dict[str, Path]:
    """The file of a module, and those of the modules that it imports from its own folder or below."""
    first = _file_of(sys.modules.get(name))
    if first is None:
        return {}
    if _is_ours(name):
        return {name: first}
    found, left = {name: first}, [sys.modules[name]]
    while left:
        values = vars(left.pop()).values()
        names = {v.__name__ if isinstance(v, ModuleType) else getattr(v, "__module__", None) for v in values}
        for each in (each for each in names if isinstance(each, str) and each not in found):
            path = _file_of(sys.modules.get(each))
            if path is not None and first.parent in path.parents:
                found[each] = path
                left.append(sys.modules[each])
    return found


def _file_of(module: ModuleType | None) -> Path | None:
    name = getattr(module, "__file__", None)
    return Path(name).resolve() if isinstance(name, str) and name.endswith(".py") else None


def _hash(path: Path | None) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else ""


_read: dict[str, str] = {}  # modules of the user's that this process has imported, with the hash of what they held


def remember(sources: dict[str, str]) -> None:
    """Note what this process has imported."""
    _read.update({name: digest for name, digest in sources.items() if name not in _read and not _is_ours(name)})


def import_anew() -> None:
    """Forget the user's modules where the file of one has changed since this process imported it."""
    if all(_hash(_file_of(sys.modules.get(name))) == digest for name, digest in _read.items()):
        return
    for name in _read:  # all, since they may have imported from each other
        sys.modules.pop(name, None)
    forget_modules(_read)
    _read.clear()


def _is_ours(module: str) -> bool:
    return module.startswith("ablab.")


def make_importable(folders: Sequence[Path]) -> None:
    """Let components be found in the working folder, in that of the options and above, behind what is installed."""
    places = [Path.cwd(), *(place for folder in folders for place in (folder.resolve(), folder.resolve().parent))]
    sys.path += [each for each in dict.fromkeys(map(str, places)) if each not in sys.path]


@contextmanager
def _hydra_as_before() -> Iterator[None]:
    """Within it Hydra may be used, whoever uses it around it."""
    before, settings = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before
        HydraConfig.instance().cfg = settings
