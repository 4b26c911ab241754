"""A folder from a stranger runs nothing: one of each kind, for each command that reads it."""

from __future__ import annotations

import ast
import contextlib
import json
import lzma
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from drawn import plain_figures
from strangers import Ended, Hostile, pickled

import ablab
from ablab.config.yaml_text import ConfigLoader
from ablab.results.store import EVALUATION_FOLDER, PLAN_FILE
from ablab.tasks.cache import cached
from ablab.training.checkpoint_folders import read_folder

Ablab = Callable[..., Ended]
Spoil = Callable[[Hostile], None]


def _at(*keys: str, value: Callable[[Hostile], Any] = lambda hostile: hostile.marker.node) -> Spoil:
    """Puts a value at a place of the run's config."""

    def spoil(hostile: Hostile) -> None:
        def change(config: dict[str, Any]) -> None:
            node = config
            for key in keys[:-1]:
                node = node.setdefault(key, {})
            node[keys[-1]] = value(hostile)

        hostile.edit_config(change)

    return spoil


def _target(*keys: str, target: str, **settings: Any) -> Spoil:
    return _at(*keys, value=lambda hostile: {"_target_": target, **settings})


# What the config of a run is spoilt by, and what the refusal names.
BUILT = {
    "a function in place of a task": (_at("task"), "task._target_=pathlib.Path.touch"),
    "nested in a setting of the task": (_at("task", "seq_len"), "task.seq_len._target_="),
    "nested in a list": (_at("task", "seq_len", value=lambda h: [[h.marker.node]]), "task.seq_len[0][0]._target_="),
    "nested under a plain key": (_at("model", "more", "deeper", "still"), "model.more.deeper.still._target_="),
    "an unpickler as a setting": (
        _target("task", "seq_len", target="pandas.read_pickle", filepath_or_buffer="x"),
        "task.seq_len._target_=pandas.read_pickle",
    ),
    "torch's own unpickler": (_target("activation", target="torch.load", f="x"), "activation._target_=torch.load"),
    "open": (_target("norm", target="builtins.open", file="x"), "norm._target_=builtins.open"),
    "a function of ablab": (
        _target("attention", target="ablab.results.store.clear", folder="x"),
        "attention._target_=ablab.results.store.clear",
    ),
    "a class of ablab in another's place": (
        _target("position", target="ablab.model.norm.RMSNorm"),
        "position._target_=ablab.model.norm.RMSNorm",
    ),
    "through a module of ablab to another": (
        _target("task", target="ablab.tasks.text.Path.home"),
        "task._target_=ablab.tasks.text.Path.home",
    ),
    "through torch to the system": (
        _target("activation", target="torch.nn.modules.module.os.system", command="true"),
        "activation._target_=torch.nn.modules.module.os.system",
    ),
    "no text for a target": (_target("task", target={"a": 1}), "task._target_="),  # type: ignore[arg-type]
    "arguments in order": (_at("task", "_args_", value=lambda h: [h.marker.node]), "task._args_="),
    "an environment variable": (_at("task", "path", value=lambda h: "${oc.env:HOME}"), "task.path=${oc.env:HOME}"),
}
TRAINED = {
    "a callback": (_at("callbacks", "mine"), "callbacks.mine._target_="),
    "within a callback": (
        _target("callbacks", "mine", target="lightning.pytorch.callbacks.LambdaCallback", setup={"_target_": "a.b"}),
        "callbacks.mine.setup._target_=a.b",
    ),
    "a callback that writes elsewhere": (
        _target(
            "callbacks", "mine", target="lightning.pytorch.callbacks.OnExceptionCheckpoint", dirpath="/tmp/elsewhere"
        ),
        "callbacks.mine.dirpath=/tmp/elsewhere",
    ),
    "a file name that leads elsewhere": (
        _target("callbacks", "mine", target="lightning.pytorch.callbacks.OnExceptionCheckpoint", filename="../../x"),
        "callbacks.mine.filename=../../x",
    ),
    "a logger": (_at("logger", "mine"), "logger.mine._target_="),
    "a logger that writes elsewhere": (
        _target("logger", "mine", target="lightning.pytorch.loggers.CSVLogger", save_dir="elsewhere"),
        "logger.mine.save_dir=elsewhere",
    ),
    "a logger that sends": (
        _target("logger", "m", target="lightning.pytorch.loggers.MLFlowLogger", tracking_uri="http://a.example"),
        "logger.m.tracking_uri=http://a.example",
    ),
    "an optimizer": (_at("optimizer"), "optimizer._target_="),
    "a schedule": (_at("schedule"), "schedule._target_="),
    "a strategy": (_at("strategy"), "strategy._target_="),
    "a trainer": (_at("trainer"), "trainer._target_="),
    "a profiler": (_at("trainer", "profiler"), "trainer.profiler._target_="),
    "a profiler that writes elsewhere": (
        _target("trainer", "profiler", target="lightning.pytorch.profilers.SimpleProfiler", dirpath="/tmp/x"),
        "trainer.profiler.dirpath=/tmp/x",
    ),
    "a design": (_at("design"), "design._target_="),
    "a key that nobody knows": (_at("comparison", "baseline"), "comparison"),
}


def assert_nothing_ran(hostile: Hostile, ended: Ended, *parts: str) -> None:
    assert not hostile.marker.path.exists()
    assert ended.status == 2, ended
    [line] = ended.err.splitlines()
    for part in parts:
        assert part in line


@pytest.mark.parametrize("command", ["generate", "resume", "evaluate"])
@pytest.mark.parametrize("kind", BUILT)
def test_what_a_config_asks_for_is_not_built(hostile: Hostile, ablab: Ablab, kind: str, command: str) -> None:
    spoil, named = BUILT[kind]
    record = (hostile.run / "record.json").read_bytes()
    spoil(hostile)
    if command == "evaluate":  # which takes finished runs alone
        (hostile.run / "record.json").write_bytes(record)
    ended = ablab(command, str(hostile.study if command == "resume" else hostile.run))
    assert_nothing_ran(hostile, ended, named, "add --trust")
    assert not (hostile.run / EVALUATION_FOLDER).exists()


@pytest.mark.parametrize("place", ["run", "study"])
def test_no_evaluation_is_written_outside(hostile: Hostile, ablab: Ablab, place: str) -> None:
    """Neither through a link in the place of its folder, nor beside a run that a link in the study leads to."""
    outside = hostile.study.parent / "outside"
    if place == "run":
        outside.mkdir()
        (hostile.run / EVALUATION_FOLDER).symlink_to(outside)
    else:
        hostile.run.rename(outside)
        hostile.run.symlink_to(outside)
    before = sorted(outside.rglob("*"))
    ended = ablab("evaluate", str(hostile.study))
    assert_nothing_ran(hostile, ended, "evaluations: is no folder" if place == "run" else "leads out of")
    assert sorted(outside.rglob("*")) == before


@pytest.mark.parametrize("kind", TRAINED)
def test_what_a_plan_asks_for_is_not_built(hostile: Hostile, ablab: Ablab, kind: str) -> None:
    spoil, named = TRAINED[kind]
    spoil(hostile)
    assert_nothing_ran(hostile, ablab("resume", str(hostile.study)), named)


def test_a_module_beside_the_plan_is_not_imported(hostile: Hostile, ablab: Ablab) -> None:
    (hostile.study / "mine.py").write_text(hostile.marker.module)
    _target("activation", target="mine.Sine", _partial_=True)(hostile)
    hostile.edit_plan(lambda plan: plan.update(python_path=[str(hostile.study)], working_folder=str(hostile.study)))
    assert_nothing_ran(hostile, ablab("resume", str(hostile.study)), "activation._target_=mine.Sine", "add --trust")


def test_what_the_working_folder_holds_is_not_imported(
    hostile: Hostile, ablab: Ablab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is the stranger's, and holds what is imported only where it is there, and what always is."""
    for name in ("aim", "mine", "bottleneck", "wandb", "torch", "lightning"):
        (hostile.study / f"{name}.py").write_text(hostile.marker.module)
    (hostile.run / "record.json").unlink()
    hostile.edit_plan(lambda plan: plan.update(working_folder=str(hostile.study), python_path=[str(hostile.study)]))
    monkeypatch.chdir(hostile.study)
    for words in (
        ["resume", "."],
        ["generate", str(hostile.run)],
        ["compare", "."],
        ["report", "."],
        ["keep", ".", "a.jsonl.xz"],
        ["evaluate", "."],
    ):
        with contextlib.nullcontext() if words[0] == "report" else plain_figures():  # it imports what writes them
            ended = ablab(*words)
        assert not hostile.marker.path.exists(), words
        assert ended.status == 0, ended


@pytest.mark.parametrize("place", ["../..", "../elsewhere", "/tmp/elsewhere", ".", "a/../../b", "link", "link/below"])
@pytest.mark.parametrize("trust", [[], ["--trust"]])
def test_a_run_lies_below_its_study(hostile: Hostile, ablab: Ablab, place: str, trust: list[str]) -> None:
    outside = hostile.study.parent / "outside"
    outside.mkdir()
    (hostile.study / "link").symlink_to(outside)
    before = sorted(hostile.study.parent.rglob("*"))
    hostile.edit_plan(lambda plan: plan["runs"][0].update(folder=place))
    ended = ablab("resume", str(hostile.study), *trust)
    assert_nothing_ran(hostile, ended, "outside")
    assert sorted(hostile.study.parent.rglob("*")) == [path for path in before if path.name != "record.json"]


@pytest.mark.parametrize("name", ["run.log", "checkpoints", "metrics.csv", "record.json", "config.yaml", "pictures"])
def test_a_link_out_of_the_study_is_not_written_through(hostile: Hostile, ablab: Ablab, name: str) -> None:
    outside = hostile.study.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    hostile.edit_plan(lambda plan: None)
    path = hostile.run / name
    if path.exists():
        path.rename(outside / name)
    path.symlink_to(outside if name in ("checkpoints", "pictures") else outside / "file")
    assert_nothing_ran(hostile, ablab("resume", str(hostile.study)), f"{path}: leads out of the study")
    assert (outside / "file").read_text() == "mine"


def test_a_command_in_a_folder_is_not_given(hostile: Hostile, ablab: Ablab) -> None:
    words = ["-m", "+callbacks.a._target_=mine.A", "--config-dir=x"]
    hostile.edit_plan(lambda plan: plan.update(runs=None, command=words))
    assert_nothing_ran(hostile, ablab("resume", str(hostile.study)), shlex.join(words), "add --trust")


@pytest.mark.parametrize("command", ["generate", "consolidate", "evaluate", "export --format=safetensors"])
@pytest.mark.parametrize("kind", ["index", "rest", "bytes", "another's file", "an odd type", "no pickle"])
def test_nothing_in_shards_is_unpickled(hostile: Hostile, ablab: Ablab, kind: str, command: str) -> None:
    folder = hostile.shard()
    if kind == "index":
        (folder / ".metadata").write_bytes(pickled(hostile.marker))
    elif kind == "rest":
        (folder / "rest.pt").write_bytes(pickled(hostile.marker))
    elif kind == "an odd type":
        rest = torch.load(folder / "rest.pt", weights_only=True)
        next(iter(rest["state_dict"].values()))["dtype"] = "load"
        torch.save(rest, folder / "rest.pt")
    elif kind == "no pickle":
        (folder / ".metadata").write_bytes(b"\x80\x04]")
    else:
        index = (folder / ".metadata").read_bytes()
        swap = {"bytes": (b"TensorStorage", b"Bytes1Storage"), "another's file": (b"__0_0.distcp", b"../../a.dist")}[
            kind
        ]
        (folder / ".metadata").write_bytes(index.replace(*swap))
    assert_nothing_ran(hostile, ablab(*command.split(), str(hostile.run)), "a damaged checkpoint")


@pytest.mark.filterwarnings("ignore")  # that one process alone is meant
@pytest.mark.parametrize("place", [None, lambda parameter, shape, dtype: torch.empty(shape, dtype=dtype)])
def test_a_run_that_goes_on_from_shards_unpickles_none(hostile: Hostile, place: Any) -> None:
    """As a whole, and as each of several processes takes what is its own."""
    folder = hostile.shard()
    (folder / ".metadata").write_bytes(pickled(hostile.marker))
    with pytest.raises(Exception, match=r"."):
        read_folder(folder, place)
    assert not hostile.marker.path.exists()


def _pickles(node: ast.expr) -> bool:
    return ast.unparse(node).startswith("pickle.dumps(")


def test_nothing_in_the_package_reads_what_may_run() -> None:
    """Each call that could unpickle is told not to, wherever it stands."""
    read = {
        "torch.load": "weights_only=True",
        "dcp.load": "storage_reader=SafeReader(folder)",
        "yaml.load": "Loader=ConfigLoader",
    }
    assert issubclass(ConfigLoader, yaml.constructor.SafeConstructor)
    for path in sorted(Path(ablab.__file__).parent.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        own = {ast.unparse(node.targets[0]) for node in nodes if isinstance(node, ast.Assign) and _pickles(node.value)}
        for node in nodes:
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and called == "pickle.loads":  # what it has written itself is nobody's file
                assert _pickles(node.args[0]) or ast.unparse(node.args[0]) in own, path
            assert called not in ("pickle.load", "joblib.load", "pandas.read_pickle"), path
            assert called not in ("yaml.unsafe_load", "yaml.full_load"), path
            if called in read:
                assert read[called] in ast.unparse(node), path
            if called == "np.load":
                assert "allow_pickle=True" not in ast.unparse(node), path


def test_shards_are_read_as_they_were_written(hostile: Hostile) -> None:
    whole = torch.load(hostile.run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    read = read_folder(hostile.shard())["state_dict"]
    assert read.keys() == whole.keys()
    assert all(torch.equal(read[name], whole[name]) for name in whole)


@pytest.mark.parametrize("command", ["generate", "consolidate", "evaluate", "export --format=transformers"])
def test_no_checkpoint_is_unpickled(hostile: Hostile, ablab: Ablab, command: str) -> None:
    path = hostile.run / "checkpoints" / "best.ckpt"
    torch.save({"state_dict": {}, "mine": hostile.marker}, path)
    ended = ablab(*command.split(), str(hostile.run))
    assert not hostile.marker.path.exists()
    if command != "consolidate":
        assert_nothing_ran(hostile, ended, "a damaged checkpoint")


def test_no_cache_is_unpickled(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLAB_CACHE", str(hostile.study))
    make = {"a": np.arange(3)}
    cached("kind", {"of": 1}, lambda: make)
    [entry] = (hostile.study / "kind").iterdir()
    np.save(entry / "a.npy", np.array([hostile.marker], dtype=object), allow_pickle=True)
    import hashlib

    (entry / "manifest.json").write_text(json.dumps({"a": hashlib.blake2b((entry / "a.npy").read_bytes()).hexdigest()}))
    assert cached("kind", {"of": 1}, lambda: make)["a"].tolist() == [0, 1, 2]
    assert not hostile.marker.path.exists()


@pytest.mark.parametrize("flag", ["--experimental-rerun", "--experimental-rerun=", "--exp", "--e"])
@pytest.mark.parametrize("before", [[], ["plan"]])
def test_hydra_reruns_no_pickle(hostile: Hostile, ablab: Ablab, flag: str, before: list[str]) -> None:
    path = hostile.study / "config.pickle"
    path.write_bytes(pickled(hostile.marker))
    words = [f"{flag}{path}"] if flag.endswith("=") else [flag, str(path)]
    assert_nothing_ran(hostile, ablab(*before, *words), "--e")


@pytest.mark.usefixtures("_plain_figures")
@pytest.mark.parametrize("command", ["compare", "report", "keep"])
def test_readers_of_records_build_nothing(hostile: Hostile, ablab: Ablab, command: str) -> None:
    """Whatever a record's config names, in a folder or in a file of kept results."""
    path = hostile.run / "record.json"
    record = json.loads(path.read_text())
    record["config"]["task"] = record["config"]["callbacks"]["a"] = hostile.marker.node
    record["config"]["logger"] = {"a": hostile.marker.node}
    path.write_text(json.dumps(record))
    kept = hostile.study.parent / "kept.jsonl.xz"
    for words in ([command, str(hostile.study)], ["keep", str(hostile.study), str(kept)], ["compare", str(kept)]):
        ended = ablab(*words, *([str(kept)] if words == ["keep", str(hostile.study)] else []))
        assert ended.status == 0, ended
    assert not hostile.marker.path.exists()


def test_kept_results_name_no_place_outside(hostile: Hostile, ablab: Ablab) -> None:
    kept = hostile.study.parent / "kept.jsonl.xz"
    assert ablab("keep", str(hostile.study), str(kept)).status == 0
    text = (
        lzma.decompress(kept.read_bytes()).decode().replace(f'"folder":"{"activation=relu/seed=0"}"', '"folder":"../x"')
    )
    kept.write_bytes(lzma.compress(text.encode()))
    assert_nothing_ran(hostile, ablab("compare", str(kept)), "a run outside the study")


OWN = """
import pathlib
import torch
from ablab.model.activation.stateless import ReLU
pathlib.Path({marker!r}).touch()
class Mine(ReLU):
    pass
"""


@pytest.mark.usefixtures("_plain_figures")
@pytest.mark.parametrize("command", ["generate", "resume", "evaluate"])
def test_trust_runs_what_it_names(hostile: Hostile, ablab: Ablab, command: str) -> None:
    """And only then: the same test says that the marker is made where code does run."""
    record = (hostile.run / "record.json").read_bytes()
    (hostile.study / "owned.py").write_text(OWN.format(marker=str(hostile.marker.path)))
    _target("activation", target="owned.Mine", _partial_=True)(hostile)
    hostile.edit_plan(lambda plan: plan.update(python_path=[str(hostile.study)]))
    import sys

    folder = str(hostile.study if command == "resume" else hostile.run)
    if command != "resume":
        sys.path.append(str(hostile.study))
    if command == "evaluate":
        (hostile.run / "record.json").write_bytes(record)
    assert_nothing_ran(hostile, ablab(command, folder), "activation._target_=owned.Mine", "--trust")
    ended = ablab(command, folder, "--trust")
    sys.modules.pop("owned", None)
    assert ended.status == 0, ended
    assert "ablab: trusted: activation._target_=owned.Mine (asked for by " in ended.err
    assert hostile.marker.path.exists()


@pytest.mark.usefixtures("_plain_figures")
def test_a_clean_study_takes_no_trust(hostile: Hostile, ablab: Ablab) -> None:
    hostile.edit_plan(lambda plan: None)
    (hostile.run / "record.json").unlink(missing_ok=True)
    ended = ablab("resume", str(hostile.study))
    assert ended.status == 0, ended
    assert "trust" not in ended.err
    assert (hostile.study / PLAN_FILE).is_file()
    assert ablab("generate", str(hostile.run), "--tokens", "3").status == 0
