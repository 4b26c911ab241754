"""The recipes of DeepSeek's models beside those of `transformers`: the same logits and gradients of all weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from public_deepseek import MODELS
from public_models import TOLERANCES, Public, compare

from ablab.config import RunConfig

pytest.importorskip("transformers", reason="the extra `bench` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a package that is not ours


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("public", MODELS, ids=lambda public: public.recipe)
def test_a_recipe_is_the_public_model(
    public: Public, dtype: torch.dtype, tiny_config: Callable[..., RunConfig]
) -> None:
    config = tiny_config("model=tiny", f"recipe={public.recipe}", *public.overrides)
    compare(public, config, dtype).check(TOLERANCES[dtype])
