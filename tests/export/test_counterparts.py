"""Recipes and the models of transformers that they are, without that library: names, shapes, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from variants import CASES, VARIANTS, as_trained, config_of

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.export.conversions import to_ours, to_theirs
from ablab.export.counterparts import COUNTERPARTS
from ablab.export.settings import ModelSettings, of_recipe
from ablab.export.write import transformers_config

WINDOWS = "attention.layers="
EXPERTS_OF_V2 = "{moe:{n_experts:16,top_k:4,n_shared:2,score:softmax,renormalise:false,group_best:1,bias_speed:0.0}}"
WIDER = EXPERTS_OF_V2.replace("}}", ",d_expert:33}}")

TinyConfig = Callable[..., RunConfig]


@pytest.mark.parametrize(("recipe", "number"), CASES)
def test_every_weight_has_one_place_in_both(recipe: str, number: int, tiny_config: TinyConfig) -> None:
    trained = as_trained(config_of(recipe, number, tiny_config))
    counterpart, config = transformers_config(trained)
    assert counterpart.recipe == recipe
    assert json.loads(json.dumps(config)) == config
    links, state = counterpart.links_of(trained.model), trained.model.state_dict()
    for side in (Counter(n for each in links for n in each.ours), Counter(n for each in links for n in each.theirs)):
        assert set(side.values()) == {1}
    left = {name for name, _ in trained.model.named_parameters()} - {name for each in links for name in each.ours}
    assert all(name.startswith("objective.") for name in left)
    again = to_ours(links, to_theirs(links, state))
    assert {name: tuple(each.shape) for name, each in again.items()} == {n: tuple(state[n].shape) for n in again}
    for name, each in again.items():
        torch.testing.assert_close(each, state[name], rtol=0, atol=2e-7)  # a norm's distance from 1 is rounded
    assert all(
        each.is_floating_point() or "tid2eid" in name for name, each in counterpart.weights_of(trained.model).items()
    )


def test_versions_of_transformers_that_know_no_rope_parameters_have_the_base_of_llama(tiny_config: TinyConfig) -> None:
    _, config = transformers_config(as_trained(tiny_config("model=tiny", "recipe=llama", "position.base=500.0")))
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 500.0


@pytest.mark.parametrize(("units", "said"), [(48, None), (50, "eager")])
def test_experts_of_odd_sizes_are_computed_one_by_one(units: int, said: str | None, tiny_config: TinyConfig) -> None:
    trained = as_trained(tiny_config("recipe=gpt_oss", "model.n_layers=2", f"feed_forward.d_expert={units}"))
    assert transformers_config(trained)[1].get("experts_implementation") == said


@pytest.mark.parametrize("recipe", COUNTERPARTS)
def test_every_key_that_may_differ_differs_somewhere(recipe: str, tiny_config: TinyConfig) -> None:
    """Else nobody has looked whether `config.json` says it."""
    differ = set()
    for number in range(len(VARIANTS[recipe])):
        settings = ModelSettings.of(config_of(recipe, number, tiny_config))
        differ |= {str(each).partition("=")[0] for each in settings.differences(of_recipe(recipe), frozenset())}
    assert set(COUNTERPARTS[recipe].free) - differ == set()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["recipe=gpt2", "activation=gelu"], "GPT2LMHeadModel of .* express activation=gelu: there it is gelu_tanh"),
        (
            ["recipe=deepseek_v2", "attention.layers=[{mla:{q_rank:32}},{mla:{q_rank:32,kv_rank:8}}]"],
            "DeepseekV2ForCausalLM .* attention.kv_rank=8: there it is the null of other layers in all of them",
        ),
        (
            ["recipe=deepseek_v2", "attention.layers=[{mla:{q_rank:32,rope_size:4}},{mla:{q_rank:32,rope_size:8}}]"],
            "attention.rope_size=8: there it is the 4 of other layers in all of them",
        ),
        (
            ["recipe=deepseek_v2", "feed_forward.first=[]", f"feed_forward.layers=[{EXPERTS_OF_V2},{WIDER}]"],
            r"feed_forward\.d_expert=33: there it is the null of other layers",
        ),
        (["recipe=llama", "attention=lsh"], "LlamaForCausalLM .* attention=lsh: there it is full"),
        (["recipe=llama", "attention.softcap=30.0"], r"attention\.softcap=30\.0: there it is null"),
        (["recipe=llama", "position.share=0.5"], r"position\.share=0\.5: there it is 1\.0"),
        (["recipe=llama", "norm.placement=post"], r"norm\.placement=post: there it is pre"),
        (["recipe=llama", "objective.softcap=30.0"], r"objective\.softcap=30\.0: there it is null"),
        (["recipe=llama", "objective=multi_token", "objective.softcap=30.0"], r"softcap=30\.0: there it is null"),
        (["recipe=deepseek_v3", "objective=next_token", "objective.softcap=30.0"], r"softcap=30\.0: there it is null"),
        (["recipe=llama", "layer_fusion=dense"], "layer_fusion=dense: there it is last"),
        (
            [
                "recipe=gpt_oss",
                f"{WINDOWS}[{{windowed:{{window:8,sinks:true}}}},{{windowed:{{window:16,sinks:true}}}}]",
            ],
            r"attention\.window=16: there it is the 8 of other layers in all of them",
        ),
        (
            ["recipe=gpt_oss", f"{WINDOWS}[{{windowed:{{window:[4,4,8,8],sinks:true}}}}]"],
            r"attention\.window=\[4, 4, 8, 8\]: there it is one for all layers",
        ),
        (
            ["recipe=qwen3_next", "attention.layers=[{full:{qk_norm:true,output_gate:feature}}]"],
            "Qwen3NextForCausalLM .* attention=full: there it is gated_delta in some layers",
        ),
        (["recipe=qwen3_next", "feed_forward.n_shared=0", "feed_forward.shared_gate=false"], r"shared_gate=false"),
        (
            ["recipe=deepseek_v2", "feed_forward.first=[]", f"feed_forward.layers=[{EXPERTS_OF_V2},dense]"],
            "DeepseekV2ForCausalLM .* feed_forward=dense behind experts",
        ),
        (["recipe=deepseek_v3", "feed_forward.layers=[{moe:{score:softmax}}]"], r"score=softmax: there it is sigmoid"),
        (["recipe=deepseek_v3", "model.bias=true"], r"model\.bias=true: there it is false"),
        (["recipe=deepseek_v4", "residual.eps=0.001"], r"residual\.eps=0\.001"),
        (["recipe=deepseek_v32", "attention.layers=[mla_dsa]"], r"attention\.q_rank=null: there it is a number"),
        (["attention=lsh", "activation=swiglu", "norm=rms", "position=rope"], "attention=lsh"),
        (["recipe=llama", "task=listops"], "task=listops: AutoModelForCausalLM of transformers is for models that"),
    ],
)
def test_what_a_counterpart_cannot_express_is_named(overrides: list[str], words: str, tiny_config: TinyConfig) -> None:
    config = tiny_config("model=tiny", *overrides)
    with pytest.raises(UserError, match=words) as refused:
        transformers_config(as_trained(config))
    assert str(refused.value).startswith("run: ")
    assert str(refused.value).endswith("; --format safetensors writes any model")


def test_a_model_is_known_without_the_name_of_its_recipe(tiny_config: TinyConfig) -> None:
    """Whatever made it what it is, and whatever recipe it was asked for by."""
    parts = ("norm=rms", "position=rope", "activation=swiglu", "model.bias=false", "model.tie_embeddings=false")
    plain = tiny_config("model=tiny", *parts, "attention=full")
    assert transformers_config(as_trained(plain))[0].recipe == "llama"
    further = tiny_config("model=tiny", "recipe=gpt2", *parts, "model.n_kv_heads=2")
    assert transformers_config(as_trained(further))[0].recipe == "llama"
