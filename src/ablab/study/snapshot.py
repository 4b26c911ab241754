"""Copies of the code and the configs that jobs of other launchers read when they start, hours later perhaps.

Our own supervisor needs none: its runs are forked from a process that has imported everything.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path

from hydra.core.config_loader import ConfigLoader

from ablab import version
from ablab.config import RunConfig, conf_folder, studies_folder
from ablab.study.supervision.preload import SNAPSHOT
from ablab.study.supervision.warm import modules_of
from ablab.training.provenance import TOLD_GIT_STATE, git_state

SNAPSHOT_FOLDER = ".snapshot"
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")


def freeze_for_jobs(study: Path, loader: ConfigLoader, configs: Iterable[RunConfig]) -> Path:
    """Have the processes that this one starts, or has started elsewhere, read copies in the folder of the study.

    Code by their PYTHONPATH, configs by the search path of the loader, which they are sent. Once no job is left, the
    copies may go.

    Args:
        configs: of the runs; modules of the user's that their options are built from are copied, too.
    """
    parent = study / SNAPSHOT_FOLDER
    parent.mkdir(exist_ok=True)
    copy = Path(tempfile.mkdtemp(dir=parent, prefix="at-")).resolve()  # an earlier one may still be needed
    copy.chmod(0o755)
    _copy_package(copy)
    for module in {name.split(".")[0] for config in configs for name in modules_of(config.to_dict())}:
        _copy_module(module, copy)
    for number, source in enumerate(loader.get_sources()):
        if source.scheme() == "file" and Path(source.path).is_dir():
            shutil.copytree(source.path, copy / f"conf-{number}", ignore=_all_but_configs)
            source.path = str(copy / f"conf-{number}")
    os.environ[SNAPSHOT] = str(copy)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(copy), os.environ.get("PYTHONPATH")]))
    os.environ[TOLD_GIT_STATE] = json.dumps(git_state())
    return copy


def _all_but_configs(folder: str, names: list[str]) -> set[str]:
    """What Hydra does not read. Records among it, of results kept beside studies, are of no run of this study."""
    return {name for name in names if not name.endswith(".yaml") and not Path(folder, name).is_dir()}


def _copy_package(copy: Path) -> None:
    """This package as it is when installed, with its configs inside, and the plugins that Hydra looks for."""
    package = Path(version.__file__).parent
    shutil.copytree(package, copy / "ablab", ignore=_IGNORED)
    shutil.copytree(package.parent / "hydra_plugins" / "ablab", copy / "hydra_plugins" / "ablab", ignore=_IGNORED)
    shutil.copytree(conf_folder(), copy / "ablab" / "conf", ignore=_IGNORED, dirs_exist_ok=True)
    if (studies := studies_folder()) is not None:
        shutil.copytree(studies / "study", copy / "ablab" / "conf" / "study", ignore=_IGNORED, dirs_exist_ok=True)


def _copy_module(name: str, copy: Path) -> None:
    """A module of the user's; what is installed is left where it is."""
    file = getattr(sys.modules.get(name), "__file__", None)
    installed = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")]
    if name == "ablab" or file is None or any(Path(file).is_relative_to(place) for place in installed):
        return
    if Path(file).name == "__init__.py":
        shutil.copytree(Path(file).parent, copy / name, ignore=_IGNORED)
    else:
        shutil.copy(file, copy)
