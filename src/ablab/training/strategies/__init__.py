"""The axis `strategy`: how a run is spread over processes and devices.

An option is a function or class of its settings that gives what Lightning's Trainer takes as `strategy`. `processes` is
read by whoever starts the run: the processes exist before the strategy is built. What the training loop asks of a
strategy beside what Lightning does is in `base`.
"""
