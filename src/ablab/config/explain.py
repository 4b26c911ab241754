"""Hydra's and OmegaConf's errors in one line each: what is wrong, and the name that was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import is_dataclass

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from ablab.config.axes import AXES, replacement
from ablab.config.nearest import nearest
from ablab.config.schema import conf_folder, known_settings, type_at
from ablab.config.value_types import type_name
from ablab.config.yaml_files import explain_file
from ablab.errors import UserError

ConfigErrors = (HydraException, OmegaConfBaseException)


# Keys of earlier versions -> what says the same now.
_MOVED = {
    "strategy.pieces": "strategy.microbatches",
    "baseline": "comparison.baseline",
    **{f"hydra.callbacks.conclude.{name}": f"comparison.{name}" for name in ("baseline", "metric", "margin", "last_k")},
}
_VARIANT = (
    "is no setting: a variant is what is swept over, as in attention=full,lsh; variants with names are listed, as in "
    "design=explicit 'design.variants={a: {attention: full}, b: {attention: lsh}}', of which "
    "'~design.variants.a' leaves one out"
)
_FEW = 4  # options that are named


def explain(error: Exception) -> str:
    """One line for an error that Hydra or OmegaConf raised while composing a config."""
    for one in _causes(error):
        if isinstance(one, UserError):  # of what Hydra has built
            return str(one)
        if said := moved(str(getattr(one, "full_key", ""))):
            return said
    if said := explain_file(error, _causes(error)):
        return said
    if isinstance(error, MissingConfigException):
        return _missing_config(error)
    if isinstance(error, OverrideParseException) and (quoted := _with_quotes(error.override)):
        return f"{error.override}: a value with = in it needs quotes; write '{quoted}'"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not an override; write KEY=VALUE, and quote values with spaces or commas"
    text = next((" ".join(str(one).split()) for one in _causes(error) if str(one)), type(error).__name__)
    # What Hydra says in words alone is put better where these are known, and shown as it is where they are not.
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found[1]}: several values; add -m to sweep over them, or write a list as KEY=[1,2]"
    if isinstance(error.__cause__, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(str(error.__cause__.full_key), error)
    if found := re.search(r"An item is already at '([^']+)'", text):
        return f"{found[1]}: is in the config already; leave out the +"
    if said := _wrong_type(error, text):
        return said
    if said := _other_kind(error, text):
        return said
    if found := re.search(r"Error merging override (\S+)", text):
        cause = error.__cause__
        why = " ".join(str(cause).split(" full_key:")[0].split()) if cause is not None else text
        return f"{found[1]}: {why.split(' full_key')[0]}"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {str(error).splitlines()[0]}"
    return text


def moved(key: str) -> str | None:
    """The line that says what is written instead of a key of an earlier version, or of none; None for any other key."""
    if key.lstrip("+") in ("variant", "variants"):
        return f"{key}: {_VARIANT}"
    if instead := replacement(key):
        return f"{key}: is an axis of its own now; write {instead}"
    if (now := _MOVED.get(key)) is None:
        return None
    return f"{key}: is now {now}; write {now}=... in a command, {now.replace('.', ': {')}: ...}} in a file"


def _with_quotes(override: str) -> str | None:
    """The override with its value quoted, where that has a second "=" and no quotes yet."""
    key, _, value = override.partition("=")
    return f'{key}="{value}"' if "=" in value and not {"'", '"'} & set(value) else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _wrong_type(error: Exception, text: str) -> str | None:
    for cause in _causes(error):
        if isinstance(cause, ValidationError) and (hint := type_at(str(cause.full_key))) is not None:
            override = re.search(r"Error merging override (\S+)", text)
            given = override[1] if override else str(cause.full_key)
            if is_dataclass(hint):
                return _by_name(given, str(cause.full_key))
            kind = type_name(hint)
            return f"{given}: must be {kind}{_in_brackets(given) if kind.startswith('a list') else ''}"
    return None


def _other_kind(error: Exception, text: str) -> str | None:
    """The line for a list or one value where settings stand by name, or the reverse."""
    override = re.search(r"Error merging override (\S+)", text)
    if override is None or not any(_CANNOT_MERGE.search(str(cause)) for cause in _causes(error)):
        return None
    key = override[1].partition("=")[0].lstrip("+")
    hint = type_at(key)
    if hint is not None and not is_dataclass(hint):
        return f"{override[1]}: must be {type_name(hint)}"
    return _by_name(override[1], key)


def _by_name(given: str, key: str) -> str:
    instead = "; the seeds of runs are seed=0,1,2" if key == "seeds" else ""
    return f"{given}: has settings by name; write {key}.NAME=...{instead}"


_CANNOT_MERGE = re.compile(r"Cannot merge \w+ with \w+")


def _in_brackets(override: str) -> str:
    """How one value is written where a list is asked for."""
    key, equals, value = override.partition("=")
    return f"; write {key}=[{value}]" if equals and value[:1] not in ("[", "{", "") else ""


def _missing_config(error: MissingConfigException) -> str:
    missing = (error.missing_cfg_file or "").removesuffix(".yaml")
    group, _, option = missing.rpartition("/")
    text = " ".join(str(error).split())
    options = [o for o in error.options or () if o]
    if group and not options:  # of several options, as in callbacks=[a,b], Hydra does not say them
        options = [path.stem for path in (conf_folder() / group).glob("*.yaml")]
    if options:
        return f"{group}={option}: no such option{nearest(option, options, see='ablab --help')}"
    if found := re.search(r"Could not override '([^']+)'", text):
        groups = [folder.name for folder in conf_folder().iterdir() if folder.is_dir()]
        return f"{found[1]}: no such setting or axis{nearest(found[1], groups, see='ablab --help')}"
    return text


def _unknown_key(key: str, error: Exception) -> str:
    """`key` is not in the config: name the keys that stand where it was looked for."""
    if said := moved(key):
        return said
    cause = error.__cause__
    node = getattr(cause, "parent_node", None)
    parent, _, last = key.rpartition(".")
    known: list[str] = []
    if isinstance(node, DictConfig):
        known = [str(name) for name in node if not str(name).startswith("_")]
    where = f" of {parent}" if parent else ""
    names = [name for name in known if name != "hydra"]
    everywhere = [] if parent else known_settings()
    others = _options_with(parent, last)
    has_it = f"; {', '.join(others[:_FEW])} {'has' if len(others) == 1 else 'have'} it" if others else ""
    return f"{key}: no such setting{where}{has_it}{nearest(last, [*names, *everywhere], names, see='ablab --cfg job')}"


def _options_with(axis: str, key: str) -> list[str]:
    """The options of an axis that have a setting which the chosen one has not, as "attention=windowed"."""
    files = sorted((conf_folder() / axis).glob("*.yaml")) if axis in AXES else []
    return [f"{axis}={path.stem}" for path in files if f"\n{key}:" in path.read_text(encoding="utf-8")]
