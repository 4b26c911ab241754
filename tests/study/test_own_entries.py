"""Options of the user's own in a pattern: as any option of theirs, and no folder is needed once a run is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from ablab.config import RunConfig
from ablab.config.entries import filled_in
from ablab.config.trust import foreign
from ablab.errors import UserError
from ablab.study.planning.preflight import Preflight

MODULE = """
from ablab.model.attention.full import FullAttention
from ablab.model.feed_forward.base import Dense


class Louder(FullAttention):
    def __init__(self, spec, *, gain: float, steps: int = 0):
        super().__init__(spec)
        self.gain, self.steps = gain, steps

    def attend(self, *args, **kwargs):
        return self.gain * super().attend(*args, **kwargs)


class Plain(Dense):
    pass
"""
FILES = {
    "attention/louder": {
        "_target_": "own_entries.Louder",
        "_partial_": True,
        "gain": 2.0,
        "steps": "${trainer.max_steps}",
    },
    "attention/loudest": {"defaults": ["louder"], "gain": 9.0},
    "attention/narrow": {"defaults": ["_self_", "windowed"], "window": 3},
    "feed_forward/own": {"_target_": "own_entries.Plain", "_partial_": True},
}
PATTERN = ("attention=pattern", "attention.first=[]", "model.n_layers=4")


@pytest.fixture(scope="module")
def options(lab: Any) -> Path:
    """The folder of options, beside the module that they name."""
    (lab.folder / "own_entries.py").write_text(MODULE)
    for name, node in FILES.items():
        path = lab.folder / "options" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(node))
    folder: Path = lab.folder / "options"
    return folder


def test_a_run_has_layers_of_ones_own(lab: Any, options: Path) -> None:
    layers = "attention.layers=[louder,{loudest:{gain:4}},2*windowed]"
    own = ("feed_forward=pattern", "feed_forward.layers=[own]")
    ended = lab.ablab(*lab.words(*PATTERN, layers, *own, "name=own"))
    assert ended.status == 0, ended.err
    config = yaml.safe_load((lab.folder / "outputs/own/config.yaml").read_text())
    louder = {"_target_": "own_entries.Louder", "_partial_": True, "gain": 2.0, "steps": 4}
    assert config["attention"]["layers"] == [{"louder": louder}, {"loudest": louder | {"gain": 4}}, "2*windowed"]
    assert config["feed_forward"]["layers"] == [{"own": FILES["feed_forward/own"]}]
    assert config["feed_forward"]["first"] == ["dense"]
    assert f"attention.layers[0].louder._target_={louder['_target_']}" in set(foreign(config)), (
        "a stranger's is refused"
    )
    generated = ("generate", "outputs/own", "--prompt", "1", "--tokens", "2")
    refused, trusted = lab.ablab(*generated), lab.ablab(*generated, "--trust")
    assert (refused.status, trusted.status) == (2, 0), trusted.err
    assert "add --trust" in refused.err


def test_patterns_are_swept(lab: Any, options: Path) -> None:
    swept = ("attention.layers=[windowed],[louder,windowed]", "hydra.sweeper.probe=false", "seed=0")
    ended = lab.ablab("plan", *lab.words(*PATTERN, *swept))
    assert ended.status == 0, ended.err
    assert "attention.layers=[louder,windowed]" in ended.out


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["attention.layers=[{louder:{gian:3}}]"], r"attention\.layers\.louder\.gian: .*did you mean 'gain'"),
        (["attention.layers=[{louder:{gain:much}}]"], r"attention\.layers\.louder\.gain='much': must be a number"),
    ],
)
def test_settings_are_checked(lab: Any, options: Path, overrides: list[str], line: str) -> None:
    ended = lab.ablab(*lab.words(*PATTERN, *overrides, "name=wrong"))
    assert ended.status == 2
    assert len(ended.err.splitlines()) == 1
    assert re.search(line, ended.err), ended.err


def filled(folder: Path, *layers: Any) -> Any:
    node = {"_target_": "ablab.model.pattern.attention_pattern", "_partial_": True, "layers": list(layers)}
    sources = [{"schema": "file", "path": str(folder)}, {"schema": "pkg", "path": "hydra.conf"}]
    composed = OmegaConf.create({"trainer": {"max_steps": 7}, "attention": node})
    return filled_in({"attention": node}, composed, sources)["attention"]["layers"]


def test_files_may_build_on_others(options: Path) -> None:
    (loudest,), (narrow,) = filled(options, "2*loudest"), filled(options, {"narrow": {"dilation": 2}})
    louder = {"_target_": "own_entries.Louder", "_partial_": True, "steps": 7}
    assert loudest == {"2*loudest": louder | {"gain": 9.0}}
    assert narrow["narrow"].items() >= {"window": 64, "dilation": 2, "global_tokens": 0}.items()  # what is behind wins
    assert filled(options, "full", "2*windowed", {"a": {}, "b": {}}, 3) == ["full", "2*windowed", {"a": {}, "b": {}}, 3]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("gain: 2", r"attention/bad\.yaml: has no _target_"),
        ("[1, 2]", r"bad\.yaml: is no option"),
        ("defaults: [missing]", r"attention/missing\.yaml: is not there"),
        (
            "defaults: [{override /norm: rms}]",
            r"bad\.yaml: in a pattern, its defaults may name options of its own axis",
        ),
    ],
)
def test_files_that_cannot_be_are_named(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention" / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=line):
        filled(tmp_path, "bad")


def test_without_a_folder_the_name_is_unknown(tiny_config: Callable[..., RunConfig]) -> None:
    with pytest.raises(UserError, match="attention=louder: no such option"):
        Preflight().check(tiny_config("attention=pattern", "attention.layers=[louder]"))
