"""Seeds in blocks, `seed=auto`: when a study is looked at, and what ends the seeds of a variant."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from ablab.config.nearest import nearest
from ablab.config.overrides import canonical
from ablab.errors import UserError

AUTO = "auto"  # of `seed`: as many as it takes
RESOLVED, FUTILE, EQUIVALENT = "resolved", "futile", "equivalent"
STOPS = (RESOLVED, FUTILE, EQUIVALENT)
Spending = Literal["pocock", "obrien_fleming", "lan_demets_pocock", "lan_demets_obf", "anytime"]
SPENDING = get_args(Spending)
_FEWEST, _MOST = 3, 1000  # seeds: below there is no interval, beyond nobody means it


@dataclass(kw_only=True)
class SeedsConfig:
    """How many seeds a sweep with `seed=auto` makes at most, and after which of them it decides who gets more.

    Raises:
        UserError: a value out of range, or one that is none.
    """

    max: int = 10  # seeds of a variant at most
    looks: list[int] = field(default_factory=lambda: [3, 5, 8, 10])  # seeds after which verdicts are drawn; then at max
    stop: Any = field(default_factory=lambda: list(STOPS))  # what ends the seeds of a variant: one of these, or a list
    spending: str = "pocock"  # how the level is shared out among the looks: one of `SPENDING`

    def __post_init__(self) -> None:
        self.stop = [self.stop] if isinstance(self.stop, str) else self.stop
        if not _FEWEST <= self.max <= _MOST:
            raise UserError(f"seeds.max={self.max}: must be at least {_FEWEST}, and at most {_MOST}")
        self._check_looks()
        if not isinstance(self.stop, list) or not self.stop:
            raise UserError(f"seeds.stop={self.stop}: must name one at least of {', '.join(STOPS)}")
        for word in self.stop:
            _check_known("seeds.stop", word, STOPS)
        _check_known("seeds.spending", self.spending, SPENDING)

    def _check_looks(self) -> None:
        shown = f"seeds.looks={canonical(self.looks)}"
        if not self.looks or self.looks[0] < _FEWEST:
            raise UserError(f"{shown}: the first must be at {_FEWEST} seeds at least, fewer allow no verdict")
        if any(one >= other for one, other in zip(self.looks, self.looks[1:], strict=False)):
            raise UserError(f"{shown}: each must be at more seeds than the one before")
        if self.looks[-1] > self.max:
            fitting = [*(look for look in self.looks if look < self.max), self.max]
            raise UserError(
                f"{shown}: the last is beyond seeds.max={self.max}; write seeds.looks={canonical(fitting)}, or a "
                "larger seeds.max"
            )

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> SeedsConfig:
        """The settings in plain data; keys that it does not know are dropped. Raises UserError as the class does."""
        return cls(**{each.name: data[each.name] for each in fields(cls) if each.name in data})

    @property
    def every_look(self) -> list[int]:
        """The seeds at each look: the last is always at `max`, where all is over."""
        return self.looks if self.looks[-1] == self.max else [*self.looks, self.max]

    @property
    def plan_of_looks(self) -> dict[str, Any]:
        """What the record of each run says of the looks that its study has planned."""
        return {"looks": self.every_look, "max": self.max, "spending": self.spending}


def _check_known(key: str, word: Any, known: Collection[str]) -> None:
    if word not in known:
        raise UserError(f"{key}={word}: no such word{nearest(str(word), known)}")


def whole_seed(seed: object) -> int:
    """Return the seed of a run. Raises UserError where it is no whole number."""
    try:
        return int(str(seed))
    except ValueError:
        auto = "; auto is for sweeps by ablab's own sweeper: add -m" if seed == AUTO else ""
        raise UserError(f"seed={seed}: must be a whole number{auto}") from None


def with_seeds(arguments: list[str], seed: object, settings: Mapping[str, Any]) -> tuple[list[str], SeedsConfig | None]:
    """Return the overrides of a sweep with `seed=auto` written out, and its settings; None where seeds are given.

    Args:
        seed: of the config, which counts where no override gives one.
        settings: the section `seeds` of the config, as plain data.

    Raises:
        UserError: a value out of range, or one that is given on the command line and would have no effect.
    """
    given = [place for place, word in enumerate(arguments) if _key(word) == "seed"]
    last = arguments[given[-1]].partition("=")[2] if given else seed
    if AUTO in [word.strip() for word in str(last).strip("[]").split(",")] and canonical(last) != AUTO:
        raise UserError(f"seed={last}: auto stands alone; write seed=auto, or the seeds, as in seed=0,1,2")
    if canonical(last) != AUTO:
        if idle := next((word for word in arguments if _key(word).split(".")[0] == "seeds"), None):
            raise UserError(f"{idle}: is for seed=auto, and the seeds are given; leave one of them out")
        return arguments, None
    known = [each.name for each in fields(SeedsConfig)]
    if unknown := next((name for name in settings if name not in known), None):
        raise UserError(f"seeds.{unknown}: no such setting{nearest(unknown, known)}")
    seeds = SeedsConfig.of(settings)
    written = f"seed={','.join(map(str, range(seeds.max)))}"
    return [*(word for place, word in enumerate(arguments) if place not in given), written], seeds


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
