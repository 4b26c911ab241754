"""An export for transformers, opened by transformers: the same logits and the same tokens as the run's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from public_models import TOLERANCES, precision
from variants import CASES, LENGTH, as_trained, config_of

from ablab.config import RunConfig
from ablab.export.write import write_trained
from ablab.training.build_model import build_model

transformers = pytest.importorskip("transformers", reason="the extra `bench` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a package that is not ours

SCALES = {"qwen3_next": 0.05}  # as in tests/recipes
TEXT = "def f(x):\n    return x + 1  # é, 漢\n"


@pytest.mark.parametrize(("recipe", "number"), CASES)
def test_transformers_opens_it_and_gives_the_same_logits(
    recipe: str, number: int, tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    trained = as_trained(config_of(recipe, number, tiny_config), SCALES.get(recipe, 0.1))
    write_trained(trained, "transformers", tmp_path / "model")
    theirs, loading = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert {kind: names for kind, names in loading.items() if names} == {}
    assert type(theirs).__name__ == json.loads((tmp_path / "model" / "config.json").read_text())["architectures"][0]
    theirs.config._attn_implementation = theirs.config._experts_implementation = "eager"
    for dtype, tolerance in TOLERANCES.items():
        with precision(dtype), torch.no_grad():
            ours = build_model(trained.config, trained.task).eval()
            ours.load_state_dict(trained.model.state_dict())
            its = type(theirs)(theirs.config).eval()
            its.load_state_dict(theirs.state_dict())
            for length in (1, 7, 33, LENGTH):
                ids = torch.randint(256, (2, length), generator=torch.Generator().manual_seed(length))
                own = ours(ids)
                assert own.std() > 0.1
                assert (own - its(input_ids=ids, use_cache=False).logits).abs().max() <= tolerance


@pytest.mark.parametrize("recipe", ["gpt_oss", "deepseek_v2", "deepseek_v3", "qwen3_next"])
def test_it_generates_as_it_is_opened(recipe: str, tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """By what the folder says alone, whatever transformers takes for experts."""
    trained = as_trained(config_of(recipe, 0, tiny_config))
    write_trained(trained, "transformers", tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.tensor([[1, 2, 3]])
    found = theirs.generate(ids, max_new_tokens=8, do_sample=False)
    assert found.tolist() == trained.model.generate(ids, max_new_tokens=8).tolist()


def test_transformers_cuts_texts_as_the_run_does(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    trained = as_trained(config_of("llama", 0, tiny_config))
    write_trained(trained, "transformers", tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer(TEXT)["input_ids"] == trained.task.encode(TEXT).tolist()
    assert tokenizer.decode(trained.task.encode(TEXT)) == TEXT
