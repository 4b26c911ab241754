"""What a process sends to the others while it trains, counted where every collective passes.

`ring` says how many bytes a collective sends, `intervals` how long something was under way, and `counter` counts.
"""
