"""The code that runs are made of: it is that of the moment in which their study began.

Our own supervisor forks runs from a process that has imported everything, and has started no thread and no device. That
keeps the cost of a run low, and what is edited while a sweep runs is not read any more. Jobs of other launchers, which
may start hours later, read copies of the code and the configs.
"""

from __future__ import annotations

import contextlib
import copy
import json
import multiprocessing
import os
import shutil
import signal
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict, read_write

from ablab import version
from ablab.config import RunConfig, conf_folder, studies_folder
from ablab.config.redact import redact, redact_yaml
from ablab.study.supervision.preload import SNAPSHOT, WANTED
from ablab.training.provenance import TOLD_GIT_STATE, git_state

CONTEXT = multiprocessing.get_context("forkserver")
_INSTALLED = ("ablab.", "torch.", "lightning.", "hydra.")

_started = False  # the process, by this one
_known: set[str] = set()  # modules of options that are not of this package, and that the process has imported
_replaced = 0  # how often the process made room for one that reads the code anew


def warm_up() -> None:
    """Start the process, which imports on another core. Optional: `freeze_code` or the first run does it otherwise."""
    global _started
    if multiprocessing.get_start_method(allow_none=True) not in (None, *multiprocessing.get_all_start_methods()):
        # In a job of joblib it is one that processes are told of and do not know.
        multiprocessing.set_start_method("forkserver", force=True)
    CONTEXT.set_forkserver_preload(["ablab.study.supervision.preload"])
    # Unlike its children, it is not told where this process looks for modules.
    os.environ[WANTED] = json.dumps({"path": sys.path, "modules": sorted(_known), "parent": os.getpid()})
    resource_tracker.ensure_running()  # else the next line starts it, and it changes the mask
    # Runs unblock them when they are ready for them: Ctrl-C on a terminal goes to every process that was started there,
    # and a scheduler's SIGTERM to all of a job.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        forkserver.ensure_running()
        _started = True
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        del os.environ[WANTED]


def freeze_code(configs: Iterable[RunConfig]) -> None:
    """Make sure that the modules of these runs' options are imported before the first of the runs starts.

    Those of this package always are. A process that does not know the others yet is replaced by one that does.
    """
    modules = {module for config in configs for module in own_modules(config)}
    if not modules <= _known:
        _known.update(modules)
        _end()
    warm_up()


def generation() -> int:
    """Return a number that is another once runs are made of code that was read anew."""
    return _replaced


def forget_modules(names: Iterable[str]) -> None:
    """Have modules of the user's read anew for runs to come: their files have changed."""
    _known.difference_update(names)


def own_modules(config: RunConfig) -> set[str]:
    """The modules of a run's options that the process does not import anyway: the user's."""
    return {module for module in modules_of(config.to_dict()) if not f"{module}.".startswith(_INSTALLED)}


def _end() -> None:
    """End the process; no run is on its way. The next start then finds it dead."""
    global _replaced
    _replaced += 1
    if not _started:
        return
    reader, writer = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=_tell_parent, args=(writer,))
    with without_script():
        child.start()
    writer.close()  # so that a child that dies is heard of
    with reader:
        pid: int = reader.recv()
    child.join()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _tell_parent(writer: Connection) -> None:
    """In a process that was forked: from which one. Python has no public name for it in the one that asks."""
    writer.send(os.getppid())


@contextlib.contextmanager
def without_script() -> Iterator[None]:
    """Within it, a process that is started does not run the script that this one was started as.

    multiprocessing has it do so, for what may be unpickled. A script that does its work without asking for its
    `__name__` would do all of it once more in each of its runs.
    """
    with _NO_SCRIPT:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script


_NO_SCRIPT = threading.RLock()  # threads that start processes would put the other's script in place of their own


def modules_of(node: Any) -> set[str]:
    """The modules of all targets in a config."""
    if isinstance(node, list):
        return {module for item in node for module in modules_of(item)}
    if not isinstance(node, dict):
        return set()
    found = {module for value in node.values() for module in modules_of(value)}
    target = node.get("_target_")
    return found | {_module_of(target)} if isinstance(target, str) else found


def _module_of(target: str) -> str:
    """The longest beginning of a dotted name that is a module; it was imported when the config was checked."""
    parts = target.split(".")
    names = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next((name for name in names if name in sys.modules), names[-1])


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
    place = Path(tempfile.mkdtemp(dir=parent, prefix="at-")).resolve()  # an earlier one may still be needed
    place.chmod(0o755)
    _copy_package(place)
    for module in {name.split(".")[0] for config in configs for name in modules_of(config.to_dict())}:
        _copy_module(module, place)
    for number, source in enumerate(loader.get_sources()):
        if source.scheme() == "file" and Path(source.path).is_dir():
            shutil.copytree(source.path, place / f"conf-{number}", ignore=_all_but_configs, copy_function=_copy_config)
            source.path = str(place / f"conf-{number}")
    os.environ[SNAPSHOT] = str(place)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")]))
    os.environ[TOLD_GIT_STATE] = json.dumps(git_state())
    return place


@contextlib.contextmanager
def hidden_secrets(launcher: Any) -> Iterator[None]:
    """Within it, what a launcher pickles for its jobs holds no secrets: they find their runs in the plan.

    Args:
        launcher: of Hydra's, which keeps the config of the study.
    """
    hydra = HydraConfig.instance()
    before = launcher.config, hydra.cfg
    launcher.config, hydra.cfg = map(_without_secrets, before)
    try:
        yield
    finally:
        launcher.config, hydra.cfg = before


def _without_secrets(config: Any) -> Any:
    """A copy of a config as Hydra composed it."""
    if config is None:
        return None
    copied = copy.deepcopy(config)
    plain = OmegaConf.to_container(copied, resolve=False)
    with read_write(copied), open_dict(copied):
        for place, value in _differing(plain, redact(plain)):
            OmegaConf.update(copied, place, value, merge=False)
    return copied


def _differing(one: Any, other: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the places where plain data differ, each with the other's value; a list is one value."""
    if not isinstance(one, dict):
        if one != other:
            yield place, other
        return
    for key, value in one.items():
        yield from _differing(value, other[key], f"{place}.{key}" if place else str(key))


def _copy_config(source: str, target: str) -> str:
    """Without the secrets in it, which a job has from its environment."""
    shutil.copy2(source, target)
    with contextlib.suppress(UnicodeDecodeError):
        text = Path(source).read_text(encoding="utf-8")
        Path(target).write_text(redact_yaml(text), encoding="utf-8")
    return target


def _all_but_configs(folder: str, names: list[str]) -> set[str]:
    """What Hydra does not read. Records among it, of results kept beside studies, are of no run of this study."""
    return {name for name in names if not name.endswith(".yaml") and not Path(folder, name).is_dir()}


def _copy_package(place: Path) -> None:
    """This package as it is when installed, with its configs inside, and the plugins that Hydra looks for."""
    package = Path(version.__file__).parent
    shutil.copytree(package, place / "ablab", ignore=_IGNORED)
    shutil.copytree(package.parent / "hydra_plugins" / "ablab", place / "hydra_plugins" / "ablab", ignore=_IGNORED)
    shutil.copytree(conf_folder(), place / "ablab" / "conf", ignore=_IGNORED, dirs_exist_ok=True)
    if (studies := studies_folder()) is not None:
        shutil.copytree(studies / "study", place / "ablab" / "conf" / "study", ignore=_IGNORED, dirs_exist_ok=True)


def _copy_module(name: str, place: Path) -> None:
    """A module of the user's; what is installed is left where it is."""
    file = getattr(sys.modules.get(name), "__file__", None)
    installed = [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")]
    if name == "ablab" or file is None or any(Path(file).is_relative_to(each) for each in installed):
        return
    if Path(file).name == "__init__.py":
        shutil.copytree(Path(file).parent, place / name, ignore=_IGNORED)
    else:
        shutil.copy(file, place)
