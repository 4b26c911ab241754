"""Combinations that a study leaves out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ablab.config.nearest import nearest
from ablab.errors import UserError
from ablab.study.designs.factors import plain

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
