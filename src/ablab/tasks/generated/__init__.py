"""Diagnostic tasks, generated: each needs one ability, and what can be reached with or without it is known."""
