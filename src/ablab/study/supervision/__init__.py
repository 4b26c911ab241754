"""Runs in processes of their own, seen to their end: side by side, again where they were killed, stopped in order."""
