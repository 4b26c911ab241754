"""What comes before the tests: their environment, and how they are collected. They share `shared_fixtures.py`."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator

import pytest

# Before anything reads them: processes that tests start inherit these.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TORCHINDUCTOR_VEC_ISA_OK"] = "1"  # else its first kernel waits for programs that try each out
os.environ["ABLAB_CACHE"] = tempfile.mkdtemp(prefix="ablab-tests-")
os.environ["HF_HOME"] = os.path.join(os.environ["ABLAB_CACHE"], "huggingface")
atexit.register(shutil.rmtree, os.environ["ABLAB_CACHE"], ignore_errors=True)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite started in the background would inherit none


_LONGEST = ("test_new_axis.py", "test_launchers.py", "test_pilot.py", "test_bench_links.py")  # tests of half a minute


def pytest_configure(config: pytest.Config) -> None:
    """Import what tests share, but for the process that hands them out to others: all that would wait for it."""
    if hasattr(config, "workerinput") or config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("shared_fixtures")


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart(session: pytest.Session) -> Generator[None, object, object]:
    """Fork the workers of xdist from one process, which imports libraries once for all of them."""
    if hasattr(session.config, "workerinput") or session.config.getoption("dist", "no") == "no":
        return (yield)
    import commands

    with commands.forking_workers():
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """A worker more than processors: each waits, almost half of its time, for processes that it has started."""
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None  # xdist reads it
    return 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is compiled of the tests, also where the environment says otherwise: it is half of the collection."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    gc.disable()
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = before
        gc.freeze()  # what is imported is no garbage, and looking through it takes longer than most tests
        gc.set_threshold(20_000)  # a run makes hundreds of thousands of objects, and little garbage
        gc.enable()


def _skip_without_cuda(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: where the last tests are short, no worker waits long for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    _skip_without_cuda([item for item in items if item.get_closest_marker("cuda")])
    items.sort(key=lambda item: (item.path not in slow, item.path.name not in _LONGEST))
