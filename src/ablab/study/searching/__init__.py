"""Settings of each variant searched by Optuna.

`space` (what is searched), `search` (the trials), `best` (what comes of them), `refused` (what no search has).
"""
