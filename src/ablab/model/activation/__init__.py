"""The activation axis: what stands between the two layers of the feed-forward part.

An activation is `Activation(spec, *, own_option, ...)` with `forward(x) -> y`, both (B, T, d_ff), and optionally
`mechanism() -> dict[str, float]`, figures of its own for `ablab.model.mechanism`. One that takes another number of
features than it gives has attributes that say so, `inputs` and `width`.
"""
