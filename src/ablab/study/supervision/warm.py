"""The process that all runs are forked from: it has imported everything, and has started no thread and no device.

That keeps the cost of a run low, and freezes the code: what is edited while a sweep runs is not read any more.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable
from multiprocessing import forkserver, resource_tracker
from typing import Any

from ablab.config import RunConfig
from ablab.study.supervision.preload import WANTED

CONTEXT = multiprocessing.get_context("forkserver")
_INSTALLED = ("ablab.", "torch.", "lightning.", "hydra.")

_known: set[str] = set()  # modules of options that are not of this package, and that the process has imported


def warm_up() -> None:
    """Start the process, which imports on another core. Optional: `freeze_code` or the first run does it otherwise."""
    if multiprocessing.get_start_method(allow_none=True) not in (None, *multiprocessing.get_all_start_methods()):
        # In a job of joblib it is one that processes are told of and do not know.
        multiprocessing.set_start_method("forkserver", force=True)
    CONTEXT.set_forkserver_preload(["ablab.study.supervision.preload"])
    # Unlike its children, it is not told where this process looks for modules.
    os.environ[WANTED] = json.dumps({"path": sys.path, "modules": sorted(_known)})
    resource_tracker.ensure_running()  # else the next line starts it, and it changes the mask
    # Runs unblock it when they are ready for it: Ctrl-C on a terminal goes to every process that was started there.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        del os.environ[WANTED]


def freeze_code(configs: Iterable[RunConfig]) -> None:
    """Make sure that the modules of these runs' options are imported before the first of the runs starts.

    Those of this package always are. A process that does not know the others yet is replaced by one that does.
    """
    modules = {
        module for config in configs for module in modules_of(config.to_dict()) if not module.startswith(_INSTALLED)
    }
    if not modules <= _known:
        _known.update(modules)
        _end()
    warm_up()


def _end() -> None:
    """End the process, if there is one; no run is on its way. The next start then finds it dead."""
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


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
