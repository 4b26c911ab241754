"""Settings of each variant searched by Optuna.

`space` (what is searched), `variant` (its trials, and the best of them), `search` (how trials are run), `best` (what is
said and written of them), `refused` (what no search has).
"""
