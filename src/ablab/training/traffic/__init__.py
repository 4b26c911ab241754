"""Counts what a process sends to the others while it trains, where every collective passes.

`callback` watches a run, `counter` counts, `intervals` says how long something was under way, and `totals` puts
together what all processes have found.
"""
