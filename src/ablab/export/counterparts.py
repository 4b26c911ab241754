"""The recipes that `transformers` has a model of, and how a run's model is written down as one of these.

A counterpart says no more of a recipe than what may differ from it: the settings that `config.json` has a place for,
and those that change nothing of a trained model's logits. All else must be as the recipe has it, which tests hold to
the model of `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from ablab.config import Node
from ablab.export import configs, deepseek, llama
from ablab.export.conversions import Link, Weights, to_theirs
from ablab.export.settings import Inexpressible, ModelSettings, of_recipe
from ablab.model.feed_forward.experts import HashedExperts
from ablab.model.feed_forward.routing import hashed_experts
from ablab.model.transformer import Transformer

# What changes nothing of a trained model's logits, wherever it is.
_SPENT = (
    *("model.dropout", "attention.dropout", "attention.dropout_on", "attention.chunk"),
    *("attention.index_weight", "attention.warmup_steps", "residual.own"),
    *("feed_forward.balance_weight", "feed_forward.sequence_weight"),
    *("objective", "objective.z_loss", "objective.depth", "objective.weight", "objective.weight_end"),
    *("objective.end_share", "objective.total_steps"),
)
_SIZES = tuple(f"model.{name}" for name in ("d_model", "n_heads", "n_layers", "d_ff", "tie_embeddings"))
_EXPERTS = tuple(f"feed_forward.{name}" for name in ("n_experts", "top_k", "d_expert"))
_SCALED = (*_EXPERTS, *(f"feed_forward.{name}" for name in ("n_shared", "scale", "n_groups", "top_groups")))
_LATENT = tuple(f"attention.{name}" for name in ("kv_rank", "q_rank", "rope_size", "rope_base"))
_INDEX = tuple(f"attention.{name}" for name in ("keys", "index_heads", "index_size"))
_COMPRESSED = tuple(
    f"attention.{name}"
    for name in ("block", "window", "q_rank", "rope_size", "rope_base", "output_groups", "output_rank")
)


@dataclass(frozen=True, kw_only=True)
class Counterpart:
    """A model of `transformers` and the recipe that is the same.

    Attributes:
        model: its class.
        links: of our weights and theirs.
        config: its settings, of our model and what it is made of; raises `Inexpressible`.
        free: keys that may differ from the recipe's, beside sizes.
        prepared: our weights by name, as they are to be linked.
    """

    recipe: str
    model: str
    links: Callable[[Transformer], Iterable[Link]]
    config: Callable[[Transformer, ModelSettings], Node]
    free: tuple[str, ...] = ()
    prepared: Callable[[Transformer, Weights], Weights] = lambda model, ours: ours

    def differences(self, settings: ModelSettings) -> list[Inexpressible]:
        """What of a run's model this one cannot express."""
        return settings.differences(of_recipe(self.recipe), frozenset((*_SPENT, *_SIZES, *self.free)))

    def links_of(self, model: Transformer) -> list[Link]:
        """Those whose weights the model has: biases may be missing."""
        names = model.state_dict().keys()
        return [each for each in self.links(model) if names >= set(each.ours)]

    def weights_of(self, model: Transformer) -> Weights:
        """Their weights by name, made of ours."""
        links = self.links_of(model)
        linked = {name for each in links for name in each.ours}
        left = {name for name, _ in model.named_parameters() if not name.startswith("objective.")} - linked
        assert not left, f"{self.recipe}: nothing of theirs is made of {sorted(left)}"
        return to_theirs(links, self.prepared(model, model.state_dict())) | dict(_hashes(model))


def _hashes(model: Transformer) -> Iterator[tuple[str, torch.Tensor]]:
    """The tables of experts by the token's id, which ours computes."""
    ids = torch.arange(model.vocab_size)
    for layer, block in model.layers():
        if isinstance(part := block.feed_forward, HashedExperts):
            table = hashed_experts(ids, part.n_experts, part.top_k, part.hash_seed)
            yield f"model.layers.{layer}.mlp.gate.tid2eid", table


_ALL = (
    Counterpart(recipe="gpt2", model="GPT2LMHeadModel", links=llama.gpt2, config=configs.gpt2, free=("norm.eps",)),
    Counterpart(
        recipe="llama",
        model="LlamaForCausalLM",
        links=llama.llama,
        config=configs.llama,
        free=("norm.eps", "position.base", "model.n_kv_heads", "model.bias"),
    ),
    Counterpart(
        recipe="gpt_oss",
        model="GptOssForCausalLM",
        links=llama.gpt_oss,
        config=configs.gpt_oss,
        free=("norm.eps", "position.base", "model.n_kv_heads", "attention.window", "activation.limit", *_EXPERTS),
    ),
    Counterpart(
        recipe="qwen3_next",
        model="Qwen3NextForCausalLM",
        links=llama.qwen3_next,
        config=configs.qwen3_next,
        free=(
            *("position.base", "position.share", "model.n_kv_heads", "feed_forward.n_shared", *_EXPERTS),
            *(f"attention.{name}" for name in ("key_heads", "key_size", "value_size", "conv_size")),
        ),
    ),
    Counterpart(
        recipe="deepseek_v2",
        model="DeepseekV2ForCausalLM",
        links=deepseek.deepseek_v2,
        config=configs.deepseek_v2,
        free=("norm.eps", *_LATENT, *_SCALED),
        prepared=deepseek.widened,
    ),
    Counterpart(
        recipe="deepseek_v3",
        model="DeepseekV3ForCausalLM",
        links=deepseek.deepseek_v3,
        config=configs.deepseek_v3,
        free=("norm.eps", "feed_forward.bias_speed", *_LATENT, *_SCALED),
        prepared=deepseek.widened,
    ),
    Counterpart(
        recipe="deepseek_v32",
        model="DeepseekV32ForCausalLM",
        links=deepseek.deepseek_v3,
        config=configs.deepseek_v32,
        free=("feed_forward.bias_speed", *_LATENT, *_INDEX, *_SCALED),
        prepared=deepseek.widened,
    ),
    Counterpart(
        recipe="deepseek_v4",
        model="DeepseekV4ForCausalLM",
        links=deepseek.deepseek_v4,
        config=configs.deepseek_v4,
        free=(
            *("feed_forward.bias_speed", "feed_forward.scale", "activation.limit"),
            *("residual.streams", "residual.rounds", *_COMPRESSED, *_INDEX, *_EXPERTS),
        ),
    ),
)

COUNTERPARTS: dict[str, Counterpart] = {each.recipe: each for each in _ALL}


def nearest_counterpart(settings: ModelSettings, recipe: str | None) -> Counterpart:
    """The counterpart that a run's model differs from least.

    Args:
        recipe: that the run was asked for by. Its own is meant where there is no other that has all of the model.
    """
    left = {each.recipe: len(each.differences(settings)) for each in _ALL}
    return COUNTERPARTS[min(left, key=lambda name: (left[name] > 0, name != recipe, left[name]))]
