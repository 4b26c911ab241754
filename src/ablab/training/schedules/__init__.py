"""The axis `schedule`: the learning rate over the steps of a run.

An option is a factory that is called with the optimizer and returns a PyTorch scheduler, stepped once per optimizer
step. Factors multiply the optimizer's own learning rate. All options begin with the same linear warm-up. A scheduler
may offer `evaluated(value, lower_is_better)`, which hears of the primary metric at each evaluation of training, and
`mechanism() -> dict[str, float]`.
"""
