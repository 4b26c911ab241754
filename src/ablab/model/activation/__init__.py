"""The axis `activation`: what stands between the two layers of the feed-forward part.

An activation is `Activation(spec, *, own_option, ...)` with `forward(x) -> y`, both (B, T, d_ff): any module. One that
takes another number of features than it gives has attributes that say so, `inputs` and `width`. One with a true
attribute `by_unit` gives the same for a hidden unit whichever others it is given beside it, so that a process can hold
some of the units only. What else it may offer is in `ablab.model.protocols`.

The options are in `stateless` and `dynamic_sparse`; `probe` tells what they let through.
"""
