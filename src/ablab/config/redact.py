"""Secrets, which a run is given and its folder never holds: API keys, tokens, passwords.

A value is a secret where a word of its key says so (`api_key`, `hf_token`, `password`), wherever in the config, in an
override or in a text of the form `key=value`; and so is the value of each variable of the environment that is named so,
under whatever key it came. What is written shows `***` instead. The identity of a run leaves secrets out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from ablab.config.axes import AXES
from ablab.config.schema import Node
from ablab.errors import UserError

HIDDEN = "***"

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_ALWAYS = frozenset({"secret", "secrets", "password", "passwords", "passwd", "passphrase", "credential", "credentials"})
_MOSTLY = frozenset({"key", "apikey", "token", "authorization"})
# What makes of a key or token something that is none: "pad_token", "sort_key".
_HARMLESS = frozenset(
    {
        *("bos", "cls", "end", "eos", "mask", "pad", "sep", "separator", "special", "start", "unk"),
        *("each", "first", "last", "max", "min", "multi", "n", "next", "num", "number", "per"),
        *("column", "d", "data", "dict", "group", "image", "index", "input", "label", "output", "primary", "sort"),
        *("state", "target", "text"),
    }
)
_LONG_NUMBER = 10**5  # a shorter one under a key that is mostly one of a secret is a size
_NO_VALUES = frozenset({"null", "None", "true", "false", "value", "VALUE"})  # the last two stand for any
_SHORTEST = 8  # characters of a secret that is looked for under other keys
_PAIR = re.compile(r"""(?P<key>[\w./@+~-]+)(?P<between>\s*=\s*)(?P<value>'[^']*'|"[^"]*"|[^,\s&{}\[\]'"]+)""")
_ENTRY = re.compile(r"""(?P<key>[\w./-]+)(?P<between>['"]?\s*:\s*)(?P<value>'[^']*'|"[^"]*"|[^,\s{}\[\]'"]+)""")


def is_secret(key: str, value: object = "") -> bool:
    """Whether a value at a dotted key, or of a variable of the environment, is a secret."""
    if value is None or isinstance(value, bool) or value in ("", HIDDEN):
        return False
    return any(_names_secret(part, value) for part in re.split(r"[./@+~\[\]]", key))


def _names_secret(name: str, value: object) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    if _ALWAYS & set(words):
        return True
    if not words or words[-1] not in _MOSTLY or _HARMLESS & set(words[-2:-1]):
        return False
    return isinstance(value, str) or (isinstance(value, int) and abs(value) >= _LONG_NUMBER)


def redact(data: Any, known: frozenset[str] = frozenset()) -> Any:
    """A copy of plain data without secrets.

    Args:
        known: further secrets, to be found in any text.
    """
    return _redacted("", data, known | _of_environment() | secrets_in(data))


_LINE = re.compile(r"^(?P<start>[\s-]*)(?P<key>[\w.-]+):[ \t]+(?P<value>[^\s#{\[|>&*!][^\n]*)$", re.MULTILINE)


def redact_yaml(text: str) -> str:
    """A config file without secrets, be they in lines of their own or within one."""

    def without(line: re.Match[str]) -> str:
        value = line["value"].strip().strip("'\"")
        return f"{line['start']}{line['key']}: '{HIDDEN}'" if is_secret(line["key"], value) else line[0]

    return redact_text(_LINE.sub(without, text))


def secrets_in(data: Any) -> frozenset[str]:
    """The secrets of plain data that are long enough to be looked for elsewhere."""
    found = (str(value) for key, value in _leaves("", data) if is_secret(key, value))
    return frozenset(each for each in found if len(each) >= _SHORTEST)


def redact_text(text: str, known: frozenset[str] = frozenset()) -> str:
    """A text without secrets: those of the environment, `known` ones, and what stands in it as `key=value`."""
    return _hide(text, known | _of_environment())


def filled_in(options: dict[str, Node]) -> dict[str, Node]:
    """The options of a run out of its folder, each secret that was left out taken from the environment.

    The variable of `logger.wandb.api_key` is LOGGER_WANDB_API_KEY, WANDB_API_KEY or API_KEY, the first that is there.

    Raises:
        UserError: there is none.
    """
    if not any(isinstance(value, str) and HIDDEN in value for _, value in _leaves("", options)):
        return options
    return {axis: _filled(axis, node, 2 if AXES[axis].several else 1) for axis, node in options.items()}


def hand_over(options: dict[str, Node]) -> None:
    """Put the secrets of a run's options where `filled_in` finds them, for processes that this one starts."""
    for axis, node in options.items():
        for key, value in _leaves(axis, node):
            if is_secret(key, value) and isinstance(value, str):
                os.environ.setdefault(_variable(key), value)


def _variable(key: str) -> str:
    return "_".join(key.upper().split("."))


def _filled(key: str, node: Any, depth: int) -> Any:
    """Down to the settings of options; what lies deeper is not for a folder to ask for."""
    if isinstance(node, dict):
        return {name: _filled(f"{key}.{name}", value, depth - 1) for name, value in node.items()}
    if not isinstance(node, str) or HIDDEN not in node:
        return node
    parts = key.upper().split(".")
    names = ["_".join(parts[start:]) for start in range(len(parts))]
    asked = names if depth == 0 and node == HIDDEN else []
    found = next((os.environ[name] for name in asked if name in os.environ), None)
    if found is None:
        raise UserError(
            f"{key}: is a secret, which no folder keeps: set the environment variable {_variable(key)} to it"
        )
    return found


def _of_environment() -> frozenset[str]:
    named = ((name, value) for name, value in os.environ.items() if len(value) >= _SHORTEST)
    return frozenset(value for name, value in named if not value.isspace() and is_secret(name, value))


def _leaves(key: str, data: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for name, value in data.items():
            yield from _leaves(f"{key}.{name}", value)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _leaves(key, value)
    else:
        yield key, data


def _redacted(key: str, data: Any, known: frozenset[str]) -> Any:
    if isinstance(data, dict):
        return {name: _redacted(f"{key}.{name}", value, known) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)([_redacted(key, value, known) for value in data])
    if is_secret(key, data):
        return HIDDEN
    return _hide(data, known) if isinstance(data, str) else data


def _hide(text: str, known: frozenset[str]) -> str:
    for secret in known:
        text = text.replace(secret, HIDDEN)
    if "=" in text:
        text = _PAIR.sub(_without_value, text)
    if "{" in text:
        text = _ENTRY.sub(_without_value, text)
    return text


def _without_value(pair: re.Match[str]) -> str:
    number = pair["value"].lstrip("-").isdecimal()
    value: object = int(pair["value"]) if number else pair["value"]
    if not is_secret(pair["key"], value) or pair["value"].rstrip(".;") in _NO_VALUES:
        return pair[0]
    return pair["key"] + pair["between"] + HIDDEN
