"""The flags of Hydra that a command line may have: whatever else begins with a dash is refused, in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_type_hints

from ablab.config.axes import AXES
from ablab.config.nearest import nearest
from ablab.config.schema import Config, conf_folder, known_settings
from ablab.errors import UserError


@dataclass(frozen=True)
class Flag:
    """A flag under its names.

    Args:
        values: what may follow it; None: nothing does, and an empty tuple: anything.
        may_lack: it may stand alone all the same.
        mode: it says what is to be done, of which there can be one thing only.
    """

    names: tuple[str, ...]
    values: tuple[str, ...] | None = None
    may_lack: bool = False
    mode: bool = False


_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_FLAGS = (
    Flag(("--help", "-h")),
    Flag(("--hydra-help",)),
    Flag(("--version",)),
    Flag(("--cfg", "-c"), ("job", "hydra", "all"), mode=True),
    Flag(("--resolve",)),
    Flag(("--package", "-p"), ()),
    Flag(("--run", "-r"), mode=True),
    Flag(("--multirun", "-m"), mode=True),
    Flag(("--shell-completion", "-sc"), mode=True),
    Flag(("--config-path", "-cp"), ()),
    Flag(("--config-name", "-cn"), ()),
    Flag(("--config-dir", "-cd"), ()),
    Flag(("--info", "-i"), _INFO, may_lack=True, mode=True),
    Flag(("--no-probe",)),  # of ours, as are these two
    Flag(("--retry",), ("failed",)),
)
_BY_NAME = {name: flag for flag in _FLAGS for name in flag.names}


def parts(words: Sequence[str]) -> Iterator[tuple[str, Flag | None, str | None]]:
    """Yield each word with the flag that it is and the value that goes with it; None for a word that is no flag.

    Raises:
        UserError: a flag that there is not, or one without its value.
    """
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("-") or word == "-":
            yield word, None, None
            continue
        name, equals, value = word.partition("=")
        flag = _BY_NAME.get(name)
        if flag is None:
            raise UserError(_unknown(word, left[0] if left else None))
        if flag.values is None:
            if equals:
                raise UserError(f"{word}: {name} takes no value")
            yield name, flag, None
            continue
        follows = bool(left) and (left[0] in flag.values if flag.may_lack else not left[0].startswith("-"))
        given = value if equals else left.pop(0) if follows else None
        _check_value(name, flag, given)
        yield name, flag, given


def check_flags(words: Sequence[str]) -> None:
    """Raises UserError where the flags of a command line for Hydra are none, lack a value or exclude each other."""
    found = list(parts(words))
    flags = [flag for _, flag, _ in found if flag is not None]
    names = {name for flag in flags for name in flag.names}
    modes = list(dict.fromkeys(name for name, flag, _ in found if flag is not None and flag.mode))
    if len({_BY_NAME[name].names for name in modes}) > 1:
        raise UserError(f"{' '.join(modes)}: each asks for something else; give one of them")
    for name in ("--resolve", "--package"):
        if name in names and not names & {"--cfg", "--help"}:
            raise UserError(f"{name}: says how --cfg shows the config; write --cfg job {name}")
    if "--no-probe" in names:
        raise UserError("--no-probe: is for ablab plan, which shows a study before it is run")
    kinds = ("install=", "uninstall=", "query=")
    if "--shell-completion" in names and not any(word.startswith(kinds) for word in words):
        raise UserError("--shell-completion: say what it is to do, as in --shell-completion install=bash")


def check_overrides(words: Sequence[str]) -> None:
    """Raises UserError for an axis without the name of an option, and for what cannot be taken out of a config."""
    for word in (word for word, flag, _ in parts(words) if flag is None):
        key, equals, value = word.partition("=")
        if word in ("design", *AXES):
            raise UserError(f"{word}: needs an option, without spaces around the =; write {word}=...")
        if not equals and "=" not in key and key.partition(":")[0] in AXES and ":" in key:
            raise UserError(f"{word}: write {word.replace(':', '=', 1)}")
        if key in ("design", *AXES) and (value in ("null", "true", "false") or value.lstrip("-").isdecimal()):
            options = [path.stem for path in (conf_folder() / key).glob("*.yaml")]
            raise UserError(f"{word}: each axis needs the name of an option{nearest(value, options)}")
        if key.startswith("~") and (key[1:] in _settings() or key[1:] == "hydra") and key[1:] not in AXES:
            raise UserError(f"{word}: every run has this setting; leave the word out, or write {key[1:]}=...")


def command_first(words: Sequence[str], commands: Sequence[str]) -> list[str]:
    """The words with the command, which may stand behind flags with a value, in front: `--config-dir DIR plan ...`."""
    place = 0
    while place < len(words) and words[place].startswith("-"):
        flag = _BY_NAME.get(words[place])
        place += 2 if flag is not None and flag.values is not None and not flag.may_lack else 1
    if not 0 < place < len(words) or words[place] not in commands:
        return list(words)
    return [words[place], *words[:place], *words[place + 1 :]]


def _check_value(name: str, flag: Flag, value: str | None) -> None:
    if not value and not flag.may_lack:
        example = f": {', '.join(flag.values)}" if flag.values else ""
        raise UserError(f"{name}: needs a value{example}")
    if value and flag.values and value not in flag.values:
        raise UserError(f"{name} {value}: must be {' or '.join(flag.values)}")


def _unknown(word: str, after: str | None) -> str:
    """`--seed 3` is a setting that was meant, and `--multirum` a flag."""
    name, _, value = word.lstrip("-").partition("=")
    key = name.replace("-", "_")
    if "--experimental-rerun".startswith(word.partition("=")[0]) and len(name) > 2:  # it would unpickle a file
        return f"{word}: ablab does not take it; give the same command again to go on with its runs"
    if key not in _settings() and "." not in key:
        key = next(iter(each for each in known_settings() if each.endswith(f".{key}")), key)
    if key in _settings() or "." in key:
        value = value or (after if after and "=" not in after and not after.startswith("-") else "...")
        return f"{word}: settings are given without dashes; write {key}={value}"
    flags = [flag for flag in _BY_NAME if flag.startswith("--")]
    meant = nearest(word.partition("=")[0], flags, see="ablab --hydra-help")
    return f"{word}: no such flag{meant}; settings are written KEY=VALUE"


def _settings() -> set[str]:
    return {*AXES, *get_type_hints(Config)}
