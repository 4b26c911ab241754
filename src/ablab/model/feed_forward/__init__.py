"""The axis `feed_forward`: what a block computes for each token by itself, after its attention.

An option is `FeedForward(spec, *, activation, own_option, ...)` (`base`), where `activation` is the factory of the
model's own axis of that name. `base` has the plain one, `experts` those that give each token to a few of many, by what
`routing` chooses; `probe` tells what they give and to whom.
"""
