"""Recipes, and the studies that go from one to the next by steps: each step builds, and the last is the recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from ablab.config import AXES, RunConfig, conf_folder
from ablab.study.designs import Steps
from ablab.training.build_model import build_model
from ablab.training.cost import count_parameters

STUDIES = sorted((conf_folder().parent / "experiments" / "study").glob("*_to_*.yaml"))
RUNS = {"nanogpt_shakespeare"}  # published runs, whose task and steps belong to them
RECIPES = sorted({path.stem for path in (conf_folder() / "recipe").glob("*.yaml")} - RUNS)
OF_A_MODEL = [name for name, axis in AXES.items() if axis.caller != "run" or name == "model"]


def parameters(config: RunConfig) -> int:
    task: Any = SimpleNamespace(vocab_size=40, max_length=64, causal=True, padding=None, pooled=False)
    task.n_outputs, task.modalities = None, {}
    return count_parameters(build_model(config, task, device="meta"))


def model_of(config: RunConfig) -> dict[str, Any]:
    return {axis: config.options[axis] for axis in OF_A_MODEL}


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_each_step_builds_a_model_of_its_own_and_the_last_is_the_recipe(
    study: Path, tiny_config: Callable[..., RunConfig]
) -> None:
    former, _, recipe = study.stem.partition("_to_")
    node: Any = OmegaConf.to_container(OmegaConf.load(study))
    assert {"override /recipe": former} in node["defaults"]
    designed = Steps(variants=node["design"]["variants"]).choose([])
    assert (designed.names[0], designed.names[-1]) == (former, recipe)
    assert node["comparison"]["baseline"] == former
    first = [f"{key}={value}" for key, value in designed.variants[0].items()]
    models = []
    for variant in designed.variants:
        config = tiny_config("model=tiny", f"recipe={former}", *(f"{key}={value}" for key, value in variant.items()))
        assert parameters(config) > 0
        assert model_of(config) not in models, f"{variant} changes nothing"
        models.append(model_of(config))
    for whole, made in ((former, models[0]), (recipe, models[-1])):
        assert made == model_of(tiny_config("model=tiny", f"recipe={whole}", *first))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_of_a_model_leaves_the_task_to_its_user(recipe: str, tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config("model=tiny", f"recipe={recipe}", "task=induction")
    plain = tiny_config("model=tiny", "task=induction")
    rest = [axis for axis in AXES if axis not in OF_A_MODEL]
    assert {axis: config.options[axis] for axis in rest} == {axis: plain.options[axis] for axis in rest}
