"""The axis `modal_fusion`: where in the model the modalities of an input meet.

All modalities lie in one stream, one after the other (`base.Layout`), and every layer maps that stream to itself. An
option says who sees whom in a layer: those of `options`, and `bottleneck`; `base` is what they share, and `probe` sees
how much of their attention the modalities give to one another. Blocks, attention and activation are the other axes'
own, and a model of text alone has no modal fusion.
"""
