"""What the tests put together of files is what Hydra composes."""

from __future__ import annotations

from typing import Any

import pytest
from composing import by_hydra, composed
from omegaconf import DictConfig, OmegaConf

from ablab.config import AXES, conf_folder

MENU = {axis: sorted(path.stem for path in (conf_folder() / axis).glob("*.yaml")) for axis in AXES}


def plain(config: DictConfig) -> Any:
    """All of it, with the options that were chosen, but not how it was asked for."""
    found: Any = OmegaConf.to_container(config, resolve=False)
    return {name: value for name, value in found.items() if name != "hydra"}, found["hydra"]["runtime"]


@pytest.mark.parametrize("number", range(max(map(len, MENU.values()))))
def test_options_put_in_by_hand_are_where_hydra_has_them(number: int) -> None:
    """Every option of every axis, in as many configs as the longest axis has options."""
    words = [f"{axis}={options[number % len(options)]}" for axis, options in MENU.items()]
    words += [f"seed={number}", "name=x"]
    assert plain(composed(words)) == plain(by_hydra(tuple(words)))
