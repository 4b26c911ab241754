"""Trained models for others to read."""
