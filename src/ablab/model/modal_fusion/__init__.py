"""The axis `modal_fusion`: where in the model the modalities of an input meet.

All modalities lie in one stream, one after the other (`layout`), and every layer maps that stream to itself. An option
says who sees whom in a layer; `base` is what they share. Blocks, attention and activation are the other axes' own.
"""
