"""An optimizer is asked itself whether pieces of a matrix are as good as the whole."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ablab.config import conf_folder
from ablab.training.optimizers.cautious import CautiousAdamW
from ablab.training.optimizers.elementwise import is_elementwise

OPTIONS = sorted(path.stem for path in (conf_folder() / "optimizer").glob("*.yaml"))


WHOLE = {"cautious_adamw", "muon", "normuon", "soap"}  # look at a parameter as a whole


@pytest.mark.parametrize("option", OPTIONS)
def test_all_of_the_menu_but_those_for_matrices(option: str) -> None:
    factory = instantiate(OmegaConf.load(conf_folder() / "optimizer" / f"{option}.yaml"), _convert_="all")
    state = torch.get_rng_state()
    assert is_elementwise(factory) == (option not in WHOLE)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("factory", "elementwise"),
    [
        (partial(torch.optim.RMSprop, lr=0.01), True),
        (partial(torch.optim.Adafactor, lr=0.01), False),  # divides by means over rows and columns
        (partial(CautiousAdamW, cautious_update=False), True),
        (partial(torch.optim.LBFGS, lr=0.01), False),  # wants a closure, and one group
    ],
)
def test_others(factory: Any, elementwise: bool) -> None:
    assert is_elementwise(factory) == elementwise
