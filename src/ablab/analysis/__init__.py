"""From the table of runs to effects, intervals and verdicts: pure functions on records. Never imports torch."""
