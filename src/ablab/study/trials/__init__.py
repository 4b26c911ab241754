"""Runs that a study makes for itself before it compares: to choose a learning rate, to measure a speed."""
