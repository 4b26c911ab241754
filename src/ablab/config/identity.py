"""The identity of a run: a hash of all that changes what it computes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ablab.config.redact import redact
from ablab.config.run_config import RunConfig
from ablab.config.schema import EXECUTION_KEYS, Node
from ablab.version import __version__

# Keys that do not change what a run computes: names of things, and where its results go.
IDENTITY_EXCLUDES = frozenset(
    {
        "name",
        "question",
        "comparison",
        *("baseline", "variant", "index"),  # of earlier versions
        "overrides",
        "design",
        *EXECUTION_KEYS,
        "budget",  # what these two bring about is where it was brought about
        "tune",
        "logger",
        "axes.logger",
        *("trainer.profiler", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
        "axes.callbacks",  # what they are stands in `callbacks`
    }
)

# The key by which a callback's node says that it changes nothing that is computed.
OBSERVER = "observer"


def fingerprint(config: RunConfig) -> str:
    """The identity of the run of a config: equal for equal computations, 16 hexadecimal digits.

    A hash of the config without `IDENTITY_EXCLUDES` and secrets, and of the package's version.
    """
    return identity_of(config.to_dict())


def identity_of(data: Node) -> str:
    """The same of a config as plain data."""
    canonical = json.dumps([__version__, redact(_identity(data, ""))], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _identity(node: Any, prefix: str) -> Any:
    if not isinstance(node, dict):
        return node
    return {
        key: _identity(value, f"{prefix}{key}.")
        for key, value in node.items()
        if f"{prefix}{key}" not in IDENTITY_EXCLUDES and not _only_observes(prefix, value)
    }


def _only_observes(prefix: str, node: Any) -> bool:
    return prefix == "callbacks." and isinstance(node, dict) and node.get(OBSERVER) is True
