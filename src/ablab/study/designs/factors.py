"""Factors: what a study varies, the levels of each, and the combinations that it leaves out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from ablab.config.nearest import nearest
from ablab.config.overrides import canonical
from ablab.errors import UserError

Level = dict[str, str]  # key -> value, as Hydra writes overrides: {"model.d_model": "64"}
Variant = dict[str, str]  # a full choice: one level of every factor, in the factors' order


@dataclass(frozen=True)
class Factor:
    """One thing that varies. Its first level is its baseline.

    Args:
        levels: at least one, all with the same keys: several where keys advance together.
    """

    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        assert self.levels, "a factor has at least one level"
        assert all(level.keys() == self.levels[0].keys() for level in self.levels), "levels differ in their keys"

    @classmethod
    def of(cls, key: str, values: Iterable[str]) -> Factor:
        """The factor of one key."""
        return cls(tuple({key: value} for value in values))

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.levels[0])

    def distinct(self) -> Factor:
        """Without the levels that repeat an earlier one."""
        met: dict[tuple[str, ...], Level] = {}
        for level in self.levels:
            met.setdefault(tuple(level[key] for key in self.keys), level)
        return Factor(tuple(met.values()))

    def led_by(self, wanted: Mapping[str, str]) -> Factor:
        """With the first level that has what is wanted of its keys in front. Raises UserError if none has all of it."""
        asked = {key: wanted[key] for key in self.keys if key in wanted}
        for place, level in enumerate(self.levels):
            if all(plain(level[key]) == plain(value) for key, value in asked.items()):
                return Factor((level, *self.levels[:place], *self.levels[place + 1 :]))
        raise UserError(f"baseline: no variant has {in_words(asked)}, as these keys advance together")


def zip_factors(factors: Sequence[Factor], groups: Sequence[Sequence[str]]) -> list[Factor]:
    """The factors, those with keys of one group joined into one whose levels advance together.

    It takes the place of the first of them, and its keys stay in the factors' order.

    Raises:
        UserError: a group has fewer than two keys, a key is not varied or given twice, or the numbers of values differ.
    """
    joined = list(factors)
    met: set[str] = set()
    for group in groups:
        if isinstance(group, str) or len(group) < 2:
            raise UserError(f"design.zip: {group} is no group of keys; write a list such as [[attention, position]]")
        for key in group:
            if key in met:
                raise UserError(f"design.zip: {key} is given twice; a key advances with one group")
            met.add(key)
        joined = _join(joined, group)
    return joined


def _join(factors: list[Factor], group: Sequence[str]) -> list[Factor]:
    varied = list(chain.from_iterable(factor.keys for factor in factors))
    for key in group:
        if key not in varied:
            raise UserError(f"design.zip: {key} is not varied{nearest(key, varied)}")
    members = [factor for factor in factors if not set(group).isdisjoint(factor.keys)]
    first = members[0]
    for other in members[1:]:
        if len(other.levels) != len(first.levels):
            names = [next(key for key in group if key in factor.keys) for factor in (first, other)]
            raise UserError(
                f"design.zip: {names[0]} has {len(first.levels)} values and {names[1]} has {len(other.levels)}; "
                "keys that advance together need as many"
            )
    levels = (dict(chain.from_iterable(map(dict.items, row))) for row in zip(*(m.levels for m in members), strict=True))
    whole = Factor(tuple(levels))
    return [whole if factor is first else factor for factor in factors if factor is first or factor not in members]


def values_of(choices: Iterable[Factor]) -> dict[str, Collection[str]]:
    """The values of each varied key, as `plain` has them."""
    return {key: list(dict.fromkeys(plain(level[key]) for level in f.levels)) for f in choices for key in f.keys}


def in_words(choice: Mapping[str, str]) -> str:
    """`attention=lsh, position=alibi`"""
    return ", ".join(f"{key}={value}" for key, value in choice.items())


def plain(value: object) -> str:
    """A value as text to compare: however it was quoted or written, `True` is `true` and `'x y'` is `x y`."""
    return canonical(value)


def written(value: object) -> str:
    """A value of a config as Hydra's overrides write it: what is read from it is the value again, of the same type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value if value.lower() not in _WORDS and _UNQUOTED.fullmatch(value) else _quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(content)}" for key, content in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(written, value)) + "]"
    return str(value)


_WORDS = ("true", "false", "null")
_UNQUOTED = re.compile(r"(?!(inf|nan)$)[a-z_/][\w./+-]*", re.ASCII | re.IGNORECASE)


def _quoted(text: str) -> str:
    # A backslash stands for itself, but in front of a quote two stand for one.
    doubled = re.sub(r"(\\+)(?='|\Z)", r"\1\1", text)
    return "'" + doubled.replace("'", r"\'") + "'"


Rule = dict[str, tuple[str, ...]]  # key -> the values that it is about, as `plain` has them


class Exclusions:
    """Rules such as `{attention: lsh, position: [alibi, rope]}`.

    A rule forbids what has, for every key of it, that value or one of those values. Values are compared as text.

    Args:
        rules: as the config has them.

    Raises:
        UserError: a rule is no mapping, is empty, or lists no value for a key.
    """

    def __init__(self, rules: Iterable[object] | None = None) -> None:
        self.rules = tuple(_rule(entry) for entry in rules or ())

    def forbids(self, chosen: Mapping[str, str]) -> Rule | None:
        """The first rule that forbids the choice, which may be partial: a key that is not chosen breaks no rule."""
        compared = {key: plain(value) for key, value in chosen.items()}
        return next((r for r in self.rules if all(compared.get(key) in values for key, values in r.items())), None)

    def check(self, varied: Mapping[str, Collection[str]], fixed: Mapping[str, str]) -> None:
        """Refuse a rule that no choice could break because something in it is misspelt.

        A rule about another value of a *fixed* key is let pass: a study whose sweep is narrowed keeps its rules.

        Args:
            varied: the values of each key that varies.
            fixed: keys with one value.

        Raises:
            UserError: a rule names a key that is neither varied nor fixed, or a value that a varied key never has.
        """
        for rule in self.rules:
            for key, values in rule.items():
                if key not in varied and key not in fixed:
                    raise UserError(
                        f"design.exclude: {key} is neither varied nor fixed{nearest(key, [*varied, *fixed])}"
                    )
                known = [plain(value) for value in varied.get(key, values)]
                for value in values:
                    if value not in known:
                        raise UserError(f"design.exclude: no variant has {key}={value}{nearest(value, known)}")


def rule_in_words(rule: Rule) -> str:
    """`attention=lsh, position=alibi or rope`"""
    return ", ".join(f"{key}={' or '.join(values)}" for key, values in rule.items())


def _rule(entry: object) -> Rule:
    if not isinstance(entry, Mapping) or not entry:
        raise UserError(
            f"design.exclude: {entry} is no combination; write a list such as [{{attention: lsh, position: alibi}}]"
        )
    return {str(key): _values(str(key), value) for key, value in entry.items()}


def _values(key: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return (plain(value),)
    if not value:
        raise UserError(f"design.exclude: {key} has an empty list of values, so that nothing would be left out")
    return tuple(plain(one) for one in value)
