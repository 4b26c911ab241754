"""The attention axis: cores that mix values over positions and have no parameters of their own.

A core is `Core(spec, *, own_option, ...)` with

* `forward(q, k, v) -> out`, all (B, H, T, D), q and k already rotated by the position; causal where `spec.causal`;
* optionally `visited(q, k, positions) -> mask`, bool, broadcastable to (B, H, S, T): which keys the S queries at
  `positions` give any weight to. The attention metrics of `ablab.model.mechanism` rest on it;
* optionally `resample(step)`, called before each training step by cores that draw at random.
"""
