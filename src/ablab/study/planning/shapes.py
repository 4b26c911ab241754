"""The shape of a model at a size of a ladder: what is scaled with its width, in the proportions of its own config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ablab.config import RunConfig
from ablab.config.ladder import WIDTH, LadderConfig
from ablab.config.overrides import canonical
from ablab.errors import UserError

LAYERS, HEADS, KV_HEADS, D_FF = "model.n_layers", "model.n_heads", "model.n_kv_heads", "model.d_ff"
_EIGHTS = 8  # hidden units are a multiple of it where those of the config are


def shape_of(config: RunConfig, size: Mapping[str, Any], rules: LadderConfig) -> dict[str, Any]:
    """What a size sets of a run, and what follows for its model from the width, by dotted key.

    Args:
        config: of the run without a ladder, whose proportions are kept.
        size: of the ladder, by dotted key; what it sets itself follows from nothing.

    Raises:
        UserError: no whole number of heads is as wide as asked for.
    """
    shape, model = dict(size), config.options["model"]
    if WIDTH not in size or not isinstance(model.get("d_model"), int):
        return shape
    width, before = int(size[WIDTH]), int(model["d_model"])
    if rules.depth == "scaled" and LAYERS not in size and "n_layers" in model:
        ratio = rules.aspect_ratio or before / model["n_layers"]
        shape[LAYERS] = max(1, round(width / ratio))
    heads = int(model.get("n_heads", 1))
    if rules.heads == "scaled" and HEADS not in size and "n_heads" in model:
        shape[HEADS] = _heads(width, rules.d_head or before / heads)
    if (kv_heads := model.get("n_kv_heads")) is not None and KV_HEADS not in size:
        shape[KV_HEADS] = _nearest_divisor(shape.get(HEADS, heads), kv_heads / heads)
    if (d_ff := model.get("d_ff")) is not None and D_FF not in size:
        unit = _EIGHTS if d_ff % _EIGHTS == 0 else 1
        shape[D_FF] = max(1, round(d_ff * width / before / unit)) * unit
    return shape


def label_of(size: Mapping[str, Any], shape: Mapping[str, Any]) -> str:
    """A size in words: what it sets, and the depth that follows, "d_model=64,n_layers=3"."""
    named = {**size, **({LAYERS: shape[LAYERS]} if LAYERS in shape else {})}
    return ",".join(f"{key.removeprefix('model.')}={canonical(value)}" for key, value in named.items())


def _heads(width: int, d_head: float) -> int:
    heads = round(width / d_head)
    if heads < 1 or heads * d_head != width:
        raise UserError(
            f"ladder.sizes: a width of {width} has no whole number of heads of {d_head:g}: take multiples of it, "
            "another ladder.d_head, or ladder.heads=fixed"
        )
    return heads


def _nearest_divisor(heads: int, share: float) -> int:
    divisors = [count for count in range(1, heads + 1) if heads % count == 0]
    return min(divisors, key=lambda count: abs(count - heads * share))
