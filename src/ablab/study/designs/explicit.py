"""The variants as a study lists them, each under a name: for what no way of combining levels would make.

They are listed whole (`Explicit`), or as named changes that build on each other (`Steps`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ablab.config.schema import TRIAL_FOLDERS
from ablab.errors import UserError
from ablab.study.designs.base import Conditions, Design, Designed, check_baseline
from ablab.study.designs.factors import Exclusions, Factor, Variant, in_words, plain, written

_EXAMPLE = "{base: {attention: full}, sparse: {attention: lsh}}"


@dataclass(frozen=True, kw_only=True)
class Explicit(Design):
    """The listed variants. The first is the reference, unless a declared baseline points at another.

    Args:
        variants: overrides of each, by name. Those of the first hold for the others, where they say nothing else.
    """

    option: ClassVar[str] = "explicit"

    variants: dict[str, Any] | None = None

    def _choose(self, factors: Sequence[Factor], fixed: Mapping[str, str], baseline: Mapping[str, str]) -> Designed:
        if factors:
            swept = ", ".join(key for factor in factors for key in factor.keys)
            lists = f"design={self.option} lists its variants itself"
            raise UserError(f"{lists}: do not sweep {swept}, or take another design")
        if self.zip:
            raise UserError(f"design.zip: design={self.option} varies no keys that could advance together")
        listed, rules = self._listed(), Exclusions(self.exclude)
        _refuse_equals(listed, fixed)
        values = _values(listed, fixed)
        rules.check(values, fixed)
        check_baseline(baseline, values, fixed)
        conditions = Conditions(rules=rules, fixed=fixed)
        led = _led_by(self._listed_as(baseline) or baseline, listed, fixed)
        conditions.demand("reference", next(iter(led.values())))
        names = [name for name, variant in led.items() if conditions.broken(variant) is None]
        return replace(conditions.sift(led.values()), names=names)

    def _listed(self) -> dict[str, Variant]:
        """By name, completed by those before."""
        if not isinstance(self.variants, Mapping) or not self.variants:
            raise UserError(f"design.variants: list them by name, as in design.variants={_EXAMPLE}")
        listed: dict[str, Variant] = {}
        for name, overrides in self.variants.items():
            if not str(name).strip() or str(name) in listed:
                raise UserError(f"design.variants: each variant needs a name of its own, and '{name}' is none")
            if name in TRIAL_FOLDERS:
                raise UserError(
                    f"design.variants: folders called {name} hold trials, which no comparison reads; choose another "
                    "name"
                )
            if not isinstance(overrides, Mapping):
                raise UserError(f"design.variants: {name} must hold overrides, as in {_EXAMPLE}")
            own = {str(key): written(value) for key, value in overrides.items()}
            listed[str(name)] = self._completed(own, list(listed.values()))
        return listed

    def _listed_as(self, baseline: Mapping[str, str]) -> str | None:
        """The variant that says just what the baseline does, among others that say more."""
        own = {str(name): _plainly(overrides) for name, overrides in (self.variants or {}).items()}
        return next((name for name, each in own.items() if baseline and each == _plainly(baseline)), None)

    def _completed(self, own: Variant, before: Sequence[Variant]) -> Variant:
        """A variant that says so much itself, given those that are listed before it."""
        return {**(before[0] if before else {}), **own}


@dataclass(frozen=True, kw_only=True)
class Steps(Explicit):
    """The listed changes, each kept from then on. The first is the reference, unless a baseline points at another.

    A step that chooses an option takes back what earlier steps set of the option that was there.

    Args:
        variants: what each step changes, by its name.
    """

    option: ClassVar[str] = "steps"

    def _completed(self, own: Variant, before: Sequence[Variant]) -> Variant:
        former = before[-1] if before else {}
        return {key: value for key, value in former.items() if key.partition(".")[0] not in own} | own


def _refuse_equals(listed: Mapping[str, Variant], fixed: Mapping[str, str]) -> None:
    met: dict[frozenset[tuple[str, str]], str] = {}
    for name, variant in listed.items():
        other = met.setdefault(frozenset({**fixed, **variant}.items()), name)
        if other != name:
            raise UserError(
                f"design.variants: {other} and {name} are the same ({in_words(variant) or 'no overrides'}); drop one"
            )


def _values(listed: Mapping[str, Variant], fixed: Mapping[str, str]) -> dict[str, list[str]]:
    """The values of each key that a variant sets, with that of `fixed` where another variant leaves it alone."""
    keys = dict.fromkeys(key for variant in listed.values() for key in variant)
    wholes = [{**fixed, **variant} for variant in listed.values()]
    return {key: list(dict.fromkeys(whole[key] for whole in wholes if key in whole)) for key in keys}


def _plainly(overrides: Mapping[Any, object]) -> Variant:
    return {str(key): plain(value) for key, value in overrides.items()}


def _led_by(
    baseline: str | Mapping[str, str], listed: dict[str, Variant], fixed: Mapping[str, str]
) -> dict[str, Variant]:
    """The variants, with the one of a name, or the first that has what a baseline says, before all others."""
    if isinstance(baseline, str):
        return {baseline: listed[baseline], **listed}
    for name, variant in listed.items():
        whole = {**fixed, **variant}
        if all(key in whole and plain(whole[key]) == plain(value) for key, value in baseline.items()):
            return {name: variant, **listed}
    raise UserError(f"baseline: no variant of design.variants has {in_words(baseline)}")
