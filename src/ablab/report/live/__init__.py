"""A study while it runs: on one screen where stdout is a terminal, a line per run that has ended elsewhere.

`state` takes in what happens, `remaining` works out how long the rest takes, `lines` says it in lines. `screen` draws a
`picture` below those lines: the `grid`, the runs that run, and the comparison so far (`effects`).
"""
