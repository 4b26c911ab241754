"""Configs put together from parts are those that Hydra composes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from ablab.config import conf_folder, register_schema
from ablab.config.explain import ConfigErrors
from ablab.study.planning.compose import Composer
from ablab.study.planning.expand import Run
from ablab.study.planning.recombine import Recombiner, _copier

# Options, settings of nodes that are exchanged, settings that only some options have, and what adds a key.
WORDS = {
    "attention": ["full", "windowed", "lsh"],
    "task": ["source_text", "recall"],
    "model": ["tiny", "small"],
    "strategy": ["single", "ddp"],
    "schedule": ["cosine", "constant"],
    "trainer.max_steps": ["20", "30"],
    "model.d_model": ["32", "64"],
    "+task.extra": ["1", "2"],
    "attention.window": ["16", "32"],
}


@pytest.fixture(scope="module")
def hydra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, DictConfig]]:
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", ["name=x"], return_hydra_config=True)
        yield GlobalHydra.instance().config_loader(), config


def frozen(composer: Composer, overrides: list[str], number: int) -> Any:
    try:
        return composer(Run(overrides=overrides), number)
    except ConfigErrors as error:
        return type(error)


def test_it_is_what_hydra_composes(hydra: tuple[Any, DictConfig]) -> None:
    loader, config = hydra
    draw = random.Random(0)
    combined, whole = Composer(loader, config), Composer(loader, config)
    keys = draw.sample(sorted(WORDS), 7)
    for number in range(12):
        if number % 4 == 3:
            keys = draw.sample(sorted(WORDS), 7)
        overrides = [
            "name=x",
            *(f"{key}={draw.choice(WORDS[key])}" for key in keys),
            f"seed={number}",
        ]
        whole._recombine = lambda words: loader.load_sweep_config(config, list(words))  # type: ignore[assignment]
        assert frozen(combined, overrides, number) == frozen(whole, overrides, number), overrides


def test_combinations_of_options_take_as_many_compositions_as_there_are_options(hydra: tuple[Any, DictConfig]) -> None:
    loader, config = hydra
    composed: list[list[str]] = []

    def counted(overrides: list[str]) -> DictConfig:
        composed.append(overrides)
        one: DictConfig = loader.load_sweep_config(config, overrides)
        return one

    recombine = Recombiner(counted)
    menu = {axis: WORDS[axis] for axis in ("attention", "task", "model", "schedule")}
    for attention in menu["attention"]:
        for task in menu["task"]:
            for model in menu["model"]:
                for schedule in menu["schedule"]:
                    words = (f"attention={attention}", f"task={task}", f"model={model}", f"schedule={schedule}")
                    recombine((*words, f"optimizer.lr=0.{len(attention + task)}", "model.d_model=64"))
    assert len(composed) == 1 + sum(len(options) - 1 for options in menu.values())
    assert recombine((*words, "model.d_model=96")).model.d_model == 96
    assert recombine(words).model.d_model != 96
    recombine((*words, "model={d_model: 32}", "model.d_model=48"))  # which of the two counts is not ours to say
    assert len(composed) == 2 + sum(len(options) - 1 for options in menu.values())


def test_a_setting_that_is_not_there_is_what_hydra_says(hydra: tuple[Any, DictConfig]) -> None:
    loader, config = hydra
    composer = Composer(loader, config)
    with pytest.raises(ConfigCompositionException, match=r"Could not override 'model\.d_modle'"):
        composer(Run(overrides=["model.d_modle=3"]))


def test_an_option_that_changes_others_is_composed_in_full(tmp_path: Path) -> None:
    """It does not only set what is below its name, so that two of its kind cannot be put side by side."""
    (tmp_path / "activation").mkdir()
    text = "# @package _global_\nactivation: {_target_: mine.Mine}\nmodel: {dropout: 0.3}\n"
    (tmp_path / "activation" / "meddling.yaml").write_text(text)
    register_schema()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", [f"hydra.searchpath=[{tmp_path}]"], return_hydra_config=True)
        composer = Composer(GlobalHydra.instance().config_loader(), config)
        composer(Run(overrides=["activation=relu", "attention=full"]))
        both, _ = composer(Run(overrides=["activation=meddling", "attention=lsh"]))
    assert (both.options["model"]["dropout"], both.axes["attention"]) == (0.3, "lsh")
    assert both.options["activation"] == {"_target_": "mine.Mine"}


def test_a_copy_is_the_config_and_shares_nothing(hydra: tuple[Any, DictConfig]) -> None:
    """Also of what cannot be pickled."""

    @dataclass
    class OfAFunction:
        value: int = 1

    _, config = hydra
    for whole in (config, OmegaConf.create({"seed": 0, "own": OmegaConf.structured(OfAFunction)})):
        copy, before = _copier(whole), OmegaConf.to_container(whole, resolve=False)
        copied = copy()
        assert OmegaConf.to_container(copied, resolve=False) == before
        assert OmegaConf.is_struct(copied) == OmegaConf.is_struct(whole)
        assert OmegaConf.get_type(copied) is OmegaConf.get_type(whole)
        assert all(copied[key]._get_parent() is copied for key in copied if isinstance(copied[key], DictConfig))
        copied.seed = 99
        for other in (whole, copy()):
            assert OmegaConf.to_container(other, resolve=False) == before


def test_what_refers_to_the_seed_follows_it(hydra: tuple[Any, DictConfig]) -> None:
    """Directly, through another value, and through Hydra's own; the rest is the same for all runs."""
    loader, config = hydra
    composer = Composer(loader, config)
    given = ["optimizer.lr=0.${seed}", "schedule.min_factor=${optimizer.lr}", "question='job ${hydra:job.num}'"]
    made = [composer(Run(overrides=[*given, f"seed={seed}"]), seed + 3)[0] for seed in (1, 2, 1)]
    assert [one.options["optimizer"]["lr"] for one in made] == ["0.1", "0.2", "0.1"]
    assert [one.options["schedule"]["min_factor"] for one in made] == ["0.1", "0.2", "0.1"]
    assert [one.question for one in made] == ["job 4", "job 5", "job 4"]
    assert [one.seed for one in made] == [1, 2, 1]
    assert made[0].options["model"] is made[1].options["model"]
    assert made[0].options["schedule"]["total_steps"] == made[0].trainer.max_steps


def test_a_command_may_name_the_folders_of_its_runs() -> None:
    """After their overrides, the seed included, though runs that differ in their seed are composed once."""
    register_schema()
    named = "hydra.sweep.subdir=${hydra:job.override_dirname}"
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", ["name=x", named], return_hydra_config=True)
        composer = Composer(GlobalHydra.instance().config_loader(), config)
        runs = [["name=x", "optimizer.betas=[0.9,0.99]", "trainer.gradient_clip_val=null", f"seed={n}"] for n in (1, 2)]
        folders = [composer(Run(overrides=overrides))[1] for overrides in runs]
        given = composer(Run(overrides=runs[0], folder="tune/lr=1"))[1]
        again = composer(Run(overrides=runs[0]))[1]
    assert composer.names_folders
    assert list(map(str, folders)) == [
        f"outputs/x/name=x,optimizer.betas=[0.9,0.99],seed={n},trainer.gradient_clip_val=null" for n in (1, 2)
    ]
    assert (str(given), again) == ("outputs/x/tune/lr=1", folders[0])
