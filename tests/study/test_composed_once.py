"""What the tests take for composed is what Hydra composes, and files that have changed are read again."""

from __future__ import annotations

import shutil
from pathlib import Path

import composed_once
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, Node, OmegaConf

from ablab.config import conf_folder, register_schema

WORDS = [
    [],
    ["attention=lsh", "attention.bucket_size=8", "seed=3"],
    ["attention=lsh", "attention.bucket_size=16", "name=other"],
    ["+callbacks@callbacks.stop=early_stopping", "trainer.max_steps=7"],
    ["~logger", "hydra/launcher=basic", "hydra.sweep.dir=there"],
    ["study=quickstart", "task=copying"],
]


@pytest.fixture
def _by_hydra_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_loader_impl, "create_defaults_list", composed_once._choose)
    monkeypatch.setattr(defaults_list, "_create_interpolation_map", composed_once._refer)
    monkeypatch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", composed_once._compose)
    monkeypatch.setattr(OverridesParser, "parse_rule", composed_once._parse)
    monkeypatch.setattr(ConfigStore, "load", composed_once._load_stored)
    for scheme in ("file", "pkg"):
        source, load = composed_once._of(scheme)
        monkeypatch.setattr(source, "load_config", load)


def composed(words: list[str], conf: Path | None = None) -> DictConfig | str:
    register_schema()
    with initialize_config_dir(str(conf or conf_folder()), version_base="1.3"):
        try:
            return compose("config", words, return_hydra_config=True)
        except HydraException as error:
            return str(error)


@pytest.mark.usefixtures("_by_hydra_alone")
def test_lists_of_defaults_that_part_are_merged_as_hydra_merges_them() -> None:
    """Each goes on from where it leaves one before it: early, late, and at the very end."""
    lists: list[list[str]] = [["task=copying"], ["schedule=constant"], ["task=copying", "schedule=constant"], []]
    lists += [["+callbacks@callbacks.a=early_stopping"]]
    expected = [composed(words) for words in lists]
    with composed_once.composed_once():
        for words, whole in zip(lists, expected, strict=True):
            found = composed(words)
            assert isinstance(found, DictConfig), found
            assert isinstance(whole, DictConfig)
            assert plain(found) == plain(whole)
            assert kinds(found) == kinds(whole)


@pytest.mark.usefixtures("_by_hydra_alone")
@pytest.mark.parametrize("words", [*WORDS, ["attention=no_such"], ["attention.no_such=1"]])
def test_it_is_what_hydra_composes(words: list[str]) -> None:
    expected = composed(words)
    with composed_once.composed_once():
        for _ in range(2):
            found = composed(words)
            assert plain(found) == plain(expected)
            if isinstance(found, DictConfig) and isinstance(expected, DictConfig):
                assert kinds(found) == kinds(expected)
                found.seed += 1  # of a copy, which nobody else sees


@pytest.mark.parametrize("option", ["gelu", "relu"])
def test_what_refers_to_another_choice_follows_it(tmp_path: Path, option: str) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(conf_folder(), conf)
    first = "defaults:\n"
    whole = (conf / "config.yaml").read_text()
    (conf / "config.yaml").write_text(whole.replace(first, f"{first}  - activation@again: ${{activation}}\n", 1))
    found = composed([f"activation={option}"], conf)
    assert isinstance(found, DictConfig), found
    assert found.again == found.activation
    assert found.hydra.runtime.choices["activation@again"] == option


def plain(config: DictConfig | str) -> object:
    """As it is written: references to the time are not followed."""
    return config if isinstance(config, str) else OmegaConf.to_container(config, resolve=False)


def kinds(node: Node) -> object:
    """What may be set in it, of which type, and where it lies."""
    own = type(node), node._metadata.ref_type, node._metadata.object_type, node._metadata.flags, node._metadata.optional
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
        return own
    below = {key: node._get_node(key) for key in node}
    assert all(each._get_parent() is node for each in below.values() if isinstance(each, Node))
    return own, {key: kinds(each) for key, each in below.items() if isinstance(each, Node)}


def test_files_that_have_changed_are_read_again(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(conf_folder(), conf)
    own = conf / "attention" / "own.yaml"
    for value in (1, 2):
        own.write_text(f"_target_: somewhere.Own\nvalue: {value}\n")
        found = composed(["attention=own"], conf)
        assert isinstance(found, DictConfig)
        assert found.attention.value == value
    own.unlink()
    assert "own" in str(composed(["attention=own"], conf))
