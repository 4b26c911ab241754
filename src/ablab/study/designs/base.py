"""What a design is asked and what it answers, and what all of them need for that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ablab.config.nearest import nearest
from ablab.config.placebo import KINDS, NUDGE
from ablab.errors import UserError
from ablab.study.designs.factors import Exclusions, Factor, Variant, in_words, plain


@dataclass(frozen=True)
class Designed:
    """What a design chose.

    Args:
        variants: the reference first, none twice.
        excluded: each combination that was left out, and in words what of it a rule forbids.
        names: of the variants, where the design has names for them; else empty.
    """

    variants: list[Variant]
    excluded: list[tuple[Variant, str]]
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Design(ABC):
    """Which of all combinations a study runs.

    Args:
        zip: groups of keys that advance together: the second value of one with the second value of the others.
        exclude: combinations that are left out, see `Exclusions`.
        placebo: arms that cannot matter beside the baseline: those of `ablab.config.placebo`, or the one named.
        chaos: an arm beside the baseline that is off by one rounding at its start; see `ablab.analysis.chaos`.
    """

    zip: list[list[str]] | None = None
    exclude: list[dict[str, object]] | None = None  # by names that a subclass in any file knows
    placebo: bool | str = False  # the same
    chaos: bool = False

    @property
    def placebos(self) -> list[str]:
        """The kinds of placebo that are asked for. Raises UserError for one that there is not."""
        if self.placebo not in (True, False, *KINDS):
            raise UserError(f"design.placebo={self.placebo}: must be true, false, {' or '.join(KINDS)}")
        asked = {*(KINDS if self.placebo is True else ()), *((NUDGE,) if self.chaos else ()), self.placebo}
        return [kind for kind in (*KINDS, NUDGE) if kind in asked]

    def choose(
        self,
        factors: Sequence[Factor],
        fixed: Mapping[str, str] | None = None,
        baseline: Mapping[str, str] | None = None,
    ) -> Designed:
        """The variants of these factors.

        Args:
            factors: what varies, each key in one factor only.
            fixed: keys that do not vary, which rules and the baseline may name.
            baseline: the levels that the study declares to be the baseline, of some factors or all.

        Raises:
            UserError: a setting, a rule or the baseline does not fit the factors, or the reference is excluded.
        """
        return self._choose(factors, fixed or {}, baseline or {})

    @abstractmethod
    def _choose(self, factors: Sequence[Factor], fixed: Mapping[str, str], baseline: Mapping[str, str]) -> Designed:
        """See `choose`."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a variant has to meet: rules, some of which may be about keys that do not vary."""

    rules: Exclusions
    fixed: Mapping[str, str]

    def broken(self, variant: Variant) -> str | None:
        """What of the variant, which may be partial, a rule forbids, in words; None if nothing."""
        whole = {**self.fixed, **variant}
        rule = self.rules.forbids(whole)
        return None if rule is None else in_words({key: whole[key] for key in rule})

    def demand(self, role: str, variant: Variant) -> None:
        """Raises UserError where a rule forbids a variant without which there is nothing to compare with."""
        broken = self.broken(variant)
        if broken is not None:
            raise UserError(
                f"design.exclude: {broken} leaves out the {role} ({in_words(variant) or 'the only variant'}), "
                "which the others are compared with; drop the rule or choose another baseline"
            )

    def sift(self, variants: Iterable[Variant]) -> Designed:
        """The variants that no rule forbids, and those that one does."""
        designed = Designed([], [])
        for variant in variants:
            broken = self.broken(variant)
            if broken is None:
                designed.variants.append(variant)
            else:
                designed.excluded.append((variant, broken))
        return designed


def check_baseline(
    baseline: Mapping[str, str], varied: Mapping[str, Collection[str]], fixed: Mapping[str, str]
) -> None:
    """Raises UserError where a declared baseline names a key that no variant has, or a value that it never has."""
    for key, value in baseline.items():
        if key not in varied and key not in fixed:
            raise UserError(f"baseline: {key} is neither varied nor fixed{nearest(key, [*varied, *fixed])}")
        if key not in varied and plain(value) != plain(fixed[key]):
            raise UserError(f"baseline: {key}={value}, but every variant has {key}={fixed[key]}")
        known = [plain(one) for one in varied.get(key, [value])]
        if plain(value) not in known:
            raise UserError(f"baseline: no variant has {key}={value}{nearest(plain(value), known)}")
