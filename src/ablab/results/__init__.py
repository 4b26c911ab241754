"""Records of runs: their schema, their files, and many of them in one table. Never imports torch."""
