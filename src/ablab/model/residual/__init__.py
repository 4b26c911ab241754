"""The axis `residual`: how what the parts of a block give is added to what goes from layer to layer.

`base` has the contract and the options that carry one stream, `streams` those that carry several side by side, `depth`
the one that carries what every part gave. `probe` tells what they do.
"""
