"""Which values are no secrets though their key or the environment says so, and what is written in the place of one.

A setting of a component may be called `key` or `token`: what it says then counts, as every setting does.
"""

from __future__ import annotations

import hashlib
import re

from ablab.config.axes import AXES

HIDDEN = "***"

_WITH_SECRETS = frozenset({"task", "logger", "callbacks"})  # the axes whose options may speak to a service
_WITH_OTHERS_KEYS = frozenset({"logger", "callbacks"})  # ... and whose secrets change nothing that is computed
_WORD = re.compile(r"[a-z][a-z_]{0,15}")
_PARTS = re.compile(r"[./@+~\[\]]")
_MARKED = re.compile(r"\*\*\*(-[0-9a-f]{4})?")
# What only a service gives: twelve letters and digits in a row, of both kinds.
_GIVEN = re.compile(r"(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{12,}")


def is_choice(key: str, value: object) -> bool:
    """Whether a value at a dotted key says what is computed, in a word, and tells no secret whatever its key is called.

    So do the name of an option, the name of a class, and, in the options of all axes but `_WITH_SECRETS`, a word of up
    to 16 small letters and `_`. No service gives such a word for a key.
    """
    parts = _parts(key)
    if not isinstance(value, str) or not parts:
        return False
    if parts[-1] == "_target_" or parts[0] == "axes":
        return True
    axis = _axis(parts)
    names_option = axis is not None and parts[-1] == axis
    return axis is not None and (names_option or axis not in _WITH_SECRETS) and _WORD.fullmatch(value) is not None


def is_hidden(value: object) -> bool:
    """Whether a value is what `stand_in` wrote instead of a secret."""
    return isinstance(value, str) and _MARKED.fullmatch(value) is not None


def stand_in(key: str, value: object) -> str:
    """What is written instead of a secret at a dotted key.

    `***`; and where it may be a setting that changes what is computed, `***-1f3a` with a hash of it: other values make
    other runs. Sixteen bits tell two values apart, and too little to find a password by.
    """
    axis = _axis(_parts(key))
    if axis is None or axis in _WITH_OTHERS_KEYS or _GIVEN.search(str(value)):
        return HIDDEN
    digits = hashlib.sha256(f"ablab {key.lstrip('.')}={value}".encode()).hexdigest()
    return f"{HIDDEN}-{digits[:4]}"


def _parts(key: str) -> list[str]:
    return [part for part in _PARTS.split(key) if part]


def _axis(parts: list[str]) -> str | None:
    return next((part for part in parts if part in AXES), None)
