"""`ablab bench layers`: whole layers, experts and the newer attentions, beside those of `transformers`, in one run.

* `pair`: the sizes that all share, and a layer that is ready to be called.
* `experts`, `linear`, `compressed`: ours and theirs with the same weights, by what they are.
* `measure`: outputs are compared, then all layers of a kind take turns. `tables`: how it is shown.
* `command`: all of it together.
"""
