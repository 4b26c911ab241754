"""The identity of a run: a hash of all that changes what it computes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ablab.config.redact import redact
from ablab.config.run_config import RunConfig
from ablab.config.schema import EXECUTION_KEYS, Node
from ablab.errors import printable
from ablab.version import __version__

# Keys that do not change what a run computes: names of things, and where its results go.
IDENTITY_EXCLUDES = frozenset(
    {
        "name",
        "question",
        "comparison",
        "seeds",
        *("baseline", "variant", "index"),  # of earlier versions
        "overrides",
        "design",
        *EXECUTION_KEYS,
        "budget",  # what these three bring about is where it was brought about
        "tune",
        "ladder",
        "logger",
        "axes.logger",
        *("trainer.profiler", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
        "axes.callbacks",  # what they are stands in `callbacks`
    }
)

# Keys that a config of an earlier version has not, with the value by which all is as it was: they count where they are
# something else.
OFF: Mapping[str, Any] = {"trainer.compile": False}

# The key by which a callback's node says that it changes nothing that is computed.
OBSERVER = "observer"

_DERIVED = "schedule.total_steps"  # from what differs, too
_FEW = 3  # differences that are named
_LONGEST = 60  # characters of a value


def fingerprint(config: RunConfig) -> str:
    """The identity of the run of a config: equal for equal computations, 16 hexadecimal digits.

    A hash of the config without `IDENTITY_EXCLUDES` and secrets, and of the package's version. What may be a secret or
    a setting counts by a hash of its own (`ablab.config.plain_values`).
    """
    return identity_of(config.to_dict())


def identity_of(data: Node) -> str:
    """The same of a config as plain data."""
    found = [__version__, redact(_identity(data, ""))]
    try:
        canonical = json.dumps(found, sort_keys=True)
    except TypeError:  # numbers and texts as keys of one mapping, which have no order
        canonical = json.dumps(_ordered(found))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _ordered(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _ordered(node[key]) for key in sorted(node, key=str)}
    return [_ordered(each) for each in node] if isinstance(node, list) else node


def _identity(node: Any, prefix: str) -> Any:
    if not isinstance(node, dict):
        return node
    return {
        key: _identity(value, f"{prefix}{key}.")
        for key, value in node.items()
        if f"{prefix}{key}" not in IDENTITY_EXCLUDES
        and not _only_observes(prefix, value)
        and not is_off(f"{prefix}{key}", value)
    }


def is_off(key: str, value: Any) -> bool:
    """Whether the value of a dotted key says no more than that the key would if it were not there."""
    return key in OFF and value is OFF[key]


def _only_observes(prefix: str, node: Any) -> bool:
    return prefix == "callbacks." and isinstance(node, dict) and node.get(OBSERVER) is True


def differences(
    one: Node, other: Node, excluded: Collection[str] = IDENTITY_EXCLUDES
) -> Iterator[tuple[str, Any, Any]]:
    """Yield each dotted key in which two configs differ, but for `excluded`, and both values; an axis by its option."""
    options, others = one.get("axes", {}), other.get("axes", {})
    chosen = [axis for axis in options if options[axis] != others.get(axis) and f"axes.{axis}" not in excluded]
    for axis in chosen:
        yield axis, options[axis], others.get(axis)
    for key, value, instead in _differences(one, other, "", excluded):
        if key.split(".")[0] not in ("axes", *chosen):
            yield key, value, instead


def _differences(one: Any, other: Any, prefix: str, excluded: Collection[str]) -> Iterator[tuple[str, Any, Any]]:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        if one != other:
            yield prefix.removesuffix("."), one, other
        return
    for key in sorted(one.keys() | other.keys(), key=str):
        if (name := f"{prefix}{key}") not in excluded:
            off = OFF.get(name)
            yield from _differences(one.get(key, off), other.get(key, off), f"{name}.", excluded)


def what_differs(config: Node, other: Node) -> str:
    """Say in which settings a run is not that of the other config: "trainer.max_steps=12, not 6"."""
    found = [each for each in differences(config, other) if each[0] != _DERIVED] or [*differences(config, other)]
    said = [f"{key}={_shown(value)}, not {_shown(instead)}" for key, value, instead in found]
    more = f" and {len(said) - _FEW} more" if len(said) > _FEW else ""
    return "; ".join(said[:_FEW]) + more if said else "another version of ablab"


def _shown(value: Any) -> str:
    text = printable("null" if value is None else str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
