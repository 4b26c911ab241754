"""What jobs of other launchers read is what there was when their sweep began."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import pytest
from commands import forking_all
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from ablab.config import RunConfig, conf_folder, register_schema
from ablab.study.supervision import code
from ablab.study.supervision.code import (
    CONTEXT,
    SNAPSHOT_FOLDER,
    freeze_code,
    freeze_for_jobs,
    own_modules,
    warm_up,
)
from ablab.study.supervision.preload import _for

# As the process does that runs are forked from.
SEEN = """
import json, os
os.environ["ABLAB_PRELOAD"] = json.dumps({"path": [], "modules": ["users_own"]})
import ablab.study.supervision.preload
import ablab, ablab.config, users_own, hydra_plugins.ablab.plugins as plugins
from ablab.training.provenance import git_state
print(ablab.__file__, ablab.config.conf_folder(), plugins.__file__, users_own.VALUE, git_state(), sep="\\n")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_imports_ends_with_its_parent() -> None:
    """Else it would hear of the end of a command, which may be killed while it plans, only when it has imported all."""
    reader, writer = os.pipe()
    if (parent := os.fork()) == 0:
        place = os.getpid()
        if os.fork() == 0:
            with _for(place):
                sum(sum(range(1000)) for _ in range(10**6))  # as if it imported, for half a minute
            os.write(writer, b"all")
        os._exit(0)
    os.close(writer)
    os.waitpid(parent, 0)
    assert os.read(reader, 3) == b"", "it has imported all"
    os.close(reader)


def test_code_and_configs_are_those_of_the_beginning(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(conf_folder(), conf)
    options = conf / "activation"
    (options / "own.yaml").write_text("_target_: users_own.Own\nvalue: 1\n")
    (options / "record.json").write_text("{}")
    (tmp_path / "users_own.py").write_text("VALUE = 1\n")
    register_schema()
    with (
        initialize_config_dir(str(conf), version_base="1.3"),
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "path", [*sys.path, str(tmp_path)]),
    ):
        import users_own  # type: ignore[import-not-found]  # noqa: F401

        config = compose("config", return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        freeze_for_jobs(tmp_path, loader, [RunConfig(options={"activation": {"_target_": "users_own.Own"}}, axes={})])
        (options / "own.yaml").write_text("_target_: users_own.Own\nvalue: 2\n")
        (tmp_path / "users_own.py").write_text("VALUE = 2\n")
        assert loader.load_sweep_config(config, ["activation=own"]).activation.value == 1
        with forking_all():
            told = subprocess.run(
                [sys.executable, "-c", SEEN], capture_output=True, text=True, check=True, cwd=tmp_path
            )
    [copy] = (tmp_path / SNAPSHOT_FOLDER).iterdir()
    package, configs, plugins, value, _ = told.stdout.splitlines()
    assert [Path(package), Path(configs)] == [copy / "ablab" / "__init__.py", copy / "ablab" / "conf"]
    assert Path(plugins) == copy / "hydra_plugins" / "ablab" / "plugins.py"
    assert value == "1"
    assert not [*copy.rglob("record.json")]  # Hydra does not read it, and who collects records would


def test_what_is_installed_is_known(tiny_config: Callable[..., RunConfig]) -> None:
    """Else the process, which has imported for seconds, would be replaced before the first run of every sweep."""
    config = tiny_config()
    assert "lightning" in code.modules_of(config.to_dict())
    assert own_modules(config) == set()
    config.options["activation"] = {"_target_": "lightning_rod.Own"}
    assert own_modules(config) == {"lightning_rod"}


@pytest.mark.slow
def test_a_process_that_does_not_know_an_options_module_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_option.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(code, "_known", set(code._known))
    warm_up()
    first, known = in_a_child()
    assert not known
    importlib.import_module("users_option")
    freeze_code([RunConfig(options={"activation": {"_target_": "users_option.Own"}}, axes={})])
    del sys.modules["users_option"]
    second, knows = in_a_child()
    assert knows
    assert first != second
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def in_a_child() -> tuple[int, bool]:
    """From which process one is forked, and whether the module is there at once."""
    reader, writer = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_tell, args=(writer,))
    process.start()
    writer.close()
    found: tuple[int, bool] = reader.recv()
    process.join()
    return found


def _tell(writer: Connection) -> None:
    writer.send((os.getppid(), "users_option" in sys.modules))
