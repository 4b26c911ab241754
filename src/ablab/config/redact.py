"""Secrets, which a run is given and its folder never holds: API keys, tokens, passwords.

A value is a secret where a word of its key says so (`api_key`, `hf_token`, `password`), wherever in the config, in an
override or in a text of the form `key=value`; and so is the value of each variable of the environment that is named so,
under whatever key it came. What is written shows `***` instead. What is none of the two all the same, and what of a
secret is part of a run's identity, is said in `plain_values`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import yaml

from ablab.config.axes import AXES
from ablab.config.overrides import canonical
from ablab.config.plain_values import HIDDEN, is_choice, is_hidden, stand_in
from ablab.config.schema import Node
from ablab.errors import UserError

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
# Named after a service's, and after no setting of a component.
_OF_SERVICE = re.compile(r"(?i)(api|access|auth|hf|private)[._-]?(key|token)$|authorization$")
_LONG_NUMBER = 10**5  # a shorter one under a key that is mostly one of a secret is a size
_NO_VALUES = frozenset({"null", "None", "true", "false", "value", "VALUE"})  # the last two stand for any
_SHORTEST = 8  # characters of a secret that is looked for under other keys
_PAIR = re.compile(r"""(?P<key>[\w./@+~-]+)(?P<between>\s*=\s*)(?P<value>'[^']*'|"[^"]*"|[^,\s&{}\[\]'"]+)""")
_ENTRY = re.compile(r"""(?P<key>[\w./-]+)(?P<between>['"]?[ \t]*:[ \t]*)(?P<value>'[^']*'|"[^"]*"|[^,\s{}\[\]'"]+)""")
# In an override the value is all that follows, and that of an entry ends with the entry.
_OVERRIDE = re.compile(r"(?P<key>[\w./@+~-]+)(?P<between>=)(?P<value>.*)", re.DOTALL)
_ENTRY_OF_IT = re.compile(
    r"""(?P<key>[\w./-]+)(?P<between>['"]?[ \t]*:[ \t]*)(?P<value>'[^']*'|"[^"]*"|(?:\\.|[^,{}\[\]'"])+)"""
)
# Of a config file that is no YAML as yet.
_LINE = re.compile(r"^(?P<start>[\s-]*)(?P<key>[\w.-]+):[ \t]+(?P<value>[^\s#{\[|>&*!][^\n]*)$", re.MULTILINE)
_ANCHOR = re.compile(r"&\S+\s+")


def is_secret(key: str, value: object = "") -> bool:
    """Whether a value at a dotted key, or of a variable of the environment, is a secret."""
    if value is None or isinstance(value, bool) or value == "" or is_hidden(value):
        return False
    always, mostly = _named_by(key)
    if always or not mostly:
        return always
    if isinstance(value, str):
        return not is_choice(key, value) or _OF_SERVICE.search(key) is not None
    return isinstance(value, int) and abs(value) >= _LONG_NUMBER


@lru_cache(maxsize=10_000)  # of one config and environment, again and again
def _named_by(key: str) -> tuple[bool, bool]:
    """Whether a part of a key names what is always a secret, and what is mostly one."""
    parts = [[word.lower() for word in _WORDS.findall(part)] for part in re.split(r"[./@+~\[\]]", key)]
    always = any(_ALWAYS & set(words) for words in parts)
    return always, any(words and words[-1] in _MOSTLY and not _HARMLESS & set(words[-2:-1]) for words in parts)


def redact(data: Any, known: frozenset[str] = frozenset()) -> Any:
    """A copy of plain data without secrets.

    Args:
        data: of a config, or the words of a command.
        known: further secrets, to be found in any text.
    """
    return _redacted("", data, known | _of_environment() | secrets_in(data))


def redact_yaml(text: str) -> str:
    """A config file without secrets, however many lines they take."""
    try:
        roots = [*yaml.compose_all(text, Loader=yaml.SafeLoader)]
        found = [change for root in roots for change in _changes("", root, text)]
    except (yaml.YAMLError, RecursionError):
        return redact_text(_LINE.sub(_without_end, text))
    found.sort(key=lambda change: change[2].strip() == f"'{HIDDEN}'")  # what is a secret under one of its keys is one
    for (start, end), instead in sorted({change[:2]: change[2] for change in found}.items(), reverse=True):
        text = text[:start] + instead + text[end:]
    return _hide_pairs(text, _of_environment())


def secrets_in(data: Any) -> frozenset[str]:
    """The secrets of plain data that are long enough to be looked for elsewhere; those of overrides as written, too."""
    found = [str(value) for key, value in _leaves("", data) if is_secret(key, value)]
    words = (_OVERRIDE.fullmatch(value) for key, value in _leaves("", data) if _holds_overrides(key, value))
    for word in filter(None, words):
        if is_secret(word["key"], word["value"]):
            found += word["value"], canonical(word["value"])
    return frozenset(each for each in found if len(each) >= _SHORTEST)


def redact_override(word: str, known: frozenset[str] = frozenset()) -> str:
    """An override without its secret: that is all of its value, with commas and blanks."""
    return _hide_in_override(word, known | _of_environment())


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


def command_filled_in(words: list[str]) -> list[str]:
    """The command of a study out of its folder, with its secrets from the environment, as `filled_in` takes them.

    Raises:
        UserError: there is none, or it was a part of a word.
    """
    return [_word_filled(word) if HIDDEN in word else word for word in words]


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
    found = _from_environment(key, depth == 0 and is_hidden(node))
    if node != HIDDEN and stand_in(key, found) != node:
        raise UserError(f"{key}: is a secret, and that of the environment is not the one that the run had")
    return found


def _word_filled(word: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString  # slow to import, and readers import this file

    start, _, value = word.partition("=")
    key = start.lstrip("+")
    if value != HIDDEN or not is_secret(key, "text"):
        raise UserError(f"{word}: held a secret, which no folder keeps: give the command of the study again")
    found = QuotedString(text=_from_environment(key, True), quote=Quote.single)
    return f"{start}={found.with_quotes()}"


def _from_environment(key: str, asked: bool) -> str:
    """The secret of a dotted key; `asked`: as the variables of the environment have it whole."""
    parts = key.upper().split(".")
    names = ["_".join(parts[start:]) for start in range(len(parts))] if asked else []
    found = next((os.environ[name] for name in names if name in os.environ), None)
    if found is None:
        raise UserError(
            f"{key}: is a secret, which no folder keeps: set the environment variable {_variable(key)} to it"
        )
    return found


def _of_environment() -> frozenset[str]:
    """Without places that there are (SSH_KEY=/home/me/key): a path tells no secret, and configs have many of them."""
    named = ((name, value) for name, value in os.environ.items() if len(value) >= _SHORTEST and is_secret(name, value))
    return frozenset(value for _, value in named if not value.isspace() and not _is_place(value))


def _is_place(value: str) -> bool:
    return os.sep in value and os.path.exists(value)


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
        return HIDDEN if _named_by(key)[0] else stand_in(key, data)
    if is_choice(key, data):
        return data
    if _holds_overrides(key, data):
        return _hide_in_override(data, known)
    return _hide(data, known) if isinstance(data, str) else data


def _hide(text: str, known: frozenset[str]) -> str:
    text = _hide_pairs(text, known)
    return _ENTRY.sub(_without_value, text) if "{" in text else text


def _hide_pairs(text: str, known: frozenset[str]) -> str:
    for secret in sorted(known, key=lambda each: (-len(each), each)):  # one may begin as another does
        text = text.replace(secret, HIDDEN)
    return _PAIR.sub(_without_value, text) if "=" in text else text


def _holds_overrides(key: str, data: object) -> bool:
    """Whether data at a key are an override: one of a command's words, of a config's `overrides`, or of Hydra's."""
    return isinstance(data, str) and (not key or "overrides" in key.split("."))


def _hide_in_override(word: str, known: frozenset[str]) -> str:
    if (whole := _OVERRIDE.fullmatch(word)) is not None:
        if (hidden := _without_value(whole)) == word and is_choice(whole["key"], whole["value"]):
            return word
        word = hidden
    if "{" in word:
        word = _ENTRY_OF_IT.sub(_without_value, word)
    return _hide(word, known)


def _without_value(pair: re.Match[str]) -> str:
    number = pair["value"].lstrip("-").isdecimal()
    value: object = int(pair["value"]) if number else pair["value"].strip("'\"")
    if not is_secret(pair["key"], value) or pair["value"].rstrip(".;") in _NO_VALUES:
        return pair[0]
    return pair["key"] + pair["between"] + HIDDEN


def _without_end(line: re.Match[str]) -> str:
    value = line["value"].strip().strip("'\"")
    return f"{line['start']}{line['key']}: '{HIDDEN}'" if is_secret(line["key"], value) else line[0]


def _changes(key: str, node: yaml.Node, text: str) -> Iterator[tuple[int, int, str]]:
    """(from, to, what is written instead): the values of a config file that are secrets, or have some in them."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _changes(f"{key}.{name.value}", value, text)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _changes(key, value, text)
    else:
        anchor = _ANCHOR.match(text, node.start_mark.index)
        start, end = anchor.end() if anchor else node.start_mark.index, node.end_mark.index
        if is_secret(key, _plain(node)):
            of_block = "\n" if text[start:end].endswith("\n") else ""
            yield start, end, f"'{HIDDEN}'{of_block}"
        elif "{" in node.value:
            yield start, end, _hide(text[start:end], frozenset())


def _plain(node: yaml.Node) -> object:
    kind = node.tag.rpartition(":")[2]
    if kind in ("null", "bool"):
        return None
    number = node.value.lstrip("+-").replace("_", "")
    return int(number) if kind == "int" and number.isdecimal() else node.value
