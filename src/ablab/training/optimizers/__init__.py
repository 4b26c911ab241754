"""The axis `optimizer`: PyTorch's own and others, over the groups of parameters that `groups` makes.

An option is a factory that is called with the groups and returns a PyTorch optimizer. One that trains with other
weights than it evaluates with offers `train()` and `eval()`, and is in evaluation mode except while it takes steps.
"""
