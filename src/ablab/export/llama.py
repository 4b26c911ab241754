"""Our weights and those of `transformers`, by name: GPT-2, and Llama with what grew out of it.

Each function yields the links of a whole model. What it says of a model it finds by looking at the model's own weights
and parts, so that it holds for any size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ablab.export.conversions import (
    FROM_ONE,
    JOINED,
    SAME,
    SQUEEZED,
    TRANSPOSED,
    Conversion,
    Halves,
    Link,
    Parts,
    Then,
    link,
)
from ablab.model.attention.gated_delta import GatedDeltaNet
from ablab.model.transformer import Transformer

_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
_KINDS = ("weight", "bias")


def existing(model: Transformer, links: Iterable[Link]) -> Iterator[Link]:
    """Those links whose weights the model has: biases may be missing."""
    names = model.state_dict().keys()
    return (each for each in links if names >= set(each.ours))


def pairs(own: str, its: str, names: Mapping[str, str], conversion: Conversion = SAME) -> Iterator[Link]:
    """A link for each pair of modules, of their weights and of their biases."""
    for name, public in names.items():
        for kind in _KINDS:
            yield link(f"{own}{name}.{kind}", f"{its}{public}.{kind}", conversion)


def gpt2(model: Transformer) -> Iterator[Link]:
    """Their linear layers are transposed, and queries, keys and values are one."""
    yield link("embedding.weight", "transformer.wte.weight")
    yield link("position.weight", "transformer.wpe.weight")
    yield from pairs("", "transformer.", {"norm": "ln_f"})
    if model.head.weight is not model.embedding.weight:
        yield link("head.weight", "lm_head.weight")
    for layer, _ in model.layers():
        own, its = f"blocks.{layer}.", f"transformer.h.{layer}."
        yield from pairs(own, its, {"attention_norm": "ln_1", "feed_forward_norm": "ln_2"})
        names = {"attention.output": "attn.c_proj", "feed_forward.up": "mlp.c_fc", "feed_forward.down": "mlp.c_proj"}
        yield from pairs(own, its, names, TRANSPOSED)
        for kind in _KINDS:
            parts = [f"{own}attention.{name}.{kind}" for name in ("query", "key", "value")]
            yield link(parts, f"{its}attn.c_attn.{kind}", Then(TRANSPOSED, Parts((1, 1, 1))))


def around(model: Transformer, norm: Conversion = SAME) -> Iterator[Link]:
    """What Llama and its descendants have around their layers."""
    yield link("embedding.weight", "model.embed_tokens.weight")
    yield link("norm.weight", "model.norm.weight", norm)
    if model.head.weight is not model.embedding.weight:
        yield link("head.weight", "lm_head.weight")


def norms(layer: int, conversion: Conversion = SAME) -> Iterator[Link]:
    """Those of a layer."""
    names = {"attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}
    yield from pairs(f"blocks.{layer}.", f"model.layers.{layer}.", names, conversion)


def attention(layer: int) -> Iterator[Link]:
    yield from pairs(f"blocks.{layer}.attention.", f"model.layers.{layer}.self_attn.", _ATTENTION)


def gated(own: str, its: str) -> Iterator[Link]:
    """A feed-forward part with a gate, whose two projections are one of ours."""
    for kind in _KINDS:
        yield link(f"{own}.up.{kind}", [f"{its}.gate_proj.{kind}", f"{its}.up_proj.{kind}"], JOINED)
    yield from pairs(f"{own}.", f"{its}.", {"down": "down_proj"})


def experts(own: str, its: str) -> Iterator[Link]:
    """Routed experts without biases; all of them are one tensor in both."""
    yield link(f"{own}.router.weight", f"{its}.gate.weight")
    yield link(f"{own}.experts.up", f"{its}.experts.gate_up_proj", TRANSPOSED)
    yield link(f"{own}.experts.down", f"{its}.experts.down_proj", TRANSPOSED)


def llama(model: Transformer) -> Iterator[Link]:
    yield from around(model)
    for layer, _ in model.layers():
        yield from norms(layer)
        yield from attention(layer)
        yield from gated(f"blocks.{layer}.feed_forward", f"model.layers.{layer}.mlp")


def gpt_oss(model: Transformer) -> Iterator[Link]:
    """Gates and values of their experts alternate."""
    yield from around(model)
    for layer, _ in model.layers():
        yield from norms(layer)
        yield from attention(layer)
        own, its = f"blocks.{layer}", f"model.layers.{layer}"
        yield link(f"{own}.attention.core.sinks", f"{its}.self_attn.sinks")
        own, its = f"{own}.feed_forward", f"{its}.mlp"
        yield link(f"{own}.router.weight", f"{its}.router.weight")
        yield link(f"{own}.router.logit_bias", f"{its}.router.bias")
        yield link(f"{own}.experts.up", f"{its}.experts.gate_up_proj", Halves(-1))
        yield link(f"{own}.experts.up_bias", f"{its}.experts.gate_up_proj_bias", Halves(-1))
        yield link(f"{own}.experts.down", f"{its}.experts.down_proj")
        yield link(f"{own}.experts.down_bias", f"{its}.experts.down_proj_bias")


def qwen3_next(model: Transformer) -> Iterator[Link]:
    """Norms are 1 + theirs, but for those of recurrences."""
    yield from around(model, FROM_ONE)
    for layer, block in model.layers():
        yield from norms(layer, FROM_ONE)
        if isinstance(block.attention, GatedDeltaNet):
            yield from _delta_rule(layer, block.attention)
        else:
            yield from _gated_attention(layer, model.n_heads)
        own, its = f"blocks.{layer}.feed_forward", f"model.layers.{layer}.mlp"
        yield from experts(own, its)
        yield from gated(f"{own}.shared", f"{its}.shared_expert")
        yield link(f"{own}.shared_gate.weight", f"{its}.shared_expert_gate.weight")


def _gated_attention(layer: int, heads: int) -> Iterator[Link]:
    """A head's query and its gate lie together."""
    own, its = f"blocks.{layer}.attention.", f"model.layers.{layer}.self_attn."
    for kind in _KINDS:
        yield link([f"{own}query.{kind}", f"{own}output_gate.{kind}"], f"{its}q_proj.{kind}", Parts((1, 1), heads))
    yield from pairs(own, its, {name: public for name, public in _ATTENTION.items() if name != "query"})
    yield from pairs(own, its, {"query_norm": "q_norm", "key_norm": "k_norm"}, FROM_ONE)


def _delta_rule(layer: int, attention: GatedDeltaNet) -> Iterator[Link]:
    """All that serves a head of keys lies together."""
    own, its = f"blocks.{layer}.attention.", f"model.layers.{layer}.linear_attn."
    heads = attention.widths[0] // attention.key_size  # of keys
    served = attention.heads // heads
    shares = (attention.key_size, attention.key_size, *2 * (served * attention.value_size,))
    content = [f"{own}{name}.weight" for name in ("query", "key", "value", "gate")]
    yield link(content, f"{its}in_proj_qkvz.weight", Parts(shares, heads))
    both = [f"{own}write.weight", f"{own}decay.project.weight"]
    yield link(both, f"{its}in_proj_ba.weight", Parts((1, 1), heads))
    yield link(f"{own}decay.bias", f"{its}dt_bias")
    yield link(f"{own}decay.log_rate", f"{its}A_log")
    yield link(f"{own}convolution.weight", f"{its}conv1d.weight", SQUEEZED)
    yield from pairs(own, its, {"norm": "norm", "output": "out_proj"})
