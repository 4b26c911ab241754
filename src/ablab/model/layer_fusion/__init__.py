"""The axis `layer_fusion`: what the head sees of the layers.

Each option is a `LayerFusion` (`base`, with those that learn nothing); `learned` are those with weights of their own,
and `probe` tells how the layers are weighed.
"""
