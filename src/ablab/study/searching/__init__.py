"""Settings of each variant searched by Optuna: `space` (what is searched), `search` (trials), `best` (what comes of it)."""
