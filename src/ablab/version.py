"""The version of the package, which is part of what identifies a run."""

__version__ = "0.2.0"
