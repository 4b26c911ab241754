"""Levels of one test after another, so that few of all that is claimed so far is false, however long it goes on.

`ELond` is what campaigns use (Xu and Ramdas 2024): proposal t is claimed where its e-value reaches 1 / level_t, with
level_t = alpha * share_t * (claims so far + 1), and shares that add up to one. The expected share of false claims among
all claims is then at most alpha at any time, whatever the dependence between the tests, since 1{claimed} / claims is
at most share_t * alpha * e_t. Proposals of a campaign share the baseline's seeds, so that nothing less will do. Nor
does it matter in which order proposals end.

`Lord` (Ramdas et al. 2017, LORD++) and `Saffron` (Ramdas et al. 2018) earn level by claims and, the latter, save it
where p values are large. They hold it for independent p values; they stand here to be compared with
(`experiments/campaign`).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ablab.analysis.estimates import FloatArray

LEVEL = 0.05
PROPOSALS = 200  # that a campaign is planned for
_LATER = 0.1  # of the level, for proposals beyond those
_CANDIDATE = 0.5
_NUMBERS = np.arange(1, 100_001, dtype=float)


class OnlineLevels(Protocol):
    """Levels of tests in turn, of many campaigns side by side."""

    def level(self) -> FloatArray:
        """Of the next test, in each campaign."""

    def told(self, claimed: NDArray[np.bool_], p_value: FloatArray) -> None:
        """How the test has ended."""


def share(number: int, planned: int = PROPOSALS) -> float:
    """The share of the level that the test of a number, counted from 1, has: alike for all that are planned.

    What is beyond the plan divides what was kept back, and gets less and less of it: shares never end, and add up to 1.
    """
    return (1 - _LATER) / planned if number <= planned else _LATER * planned / (number * (number - 1))


def e_lond_level(number: int, claims: int, level: float = LEVEL, planned: int = PROPOSALS) -> float:
    """The level of the test of a number, counted from 1, after so many claims."""
    return level * share(number, planned) * (claims + 1)


class ELond:
    """e-LOND: levels grow with the number of claims so far."""

    def __init__(self, campaigns: int, level: float = LEVEL, planned: int = PROPOSALS) -> None:
        self._claims, self._number = np.zeros(campaigns), 1
        self._level, self._planned = level, planned

    def level(self) -> FloatArray:
        return self._level * share(self._number, self._planned) * (self._claims + 1)

    def told(self, claimed: NDArray[np.bool_], p_value: FloatArray) -> None:
        self._claims = self._claims + claimed
        self._number += 1


class Lord:
    """LORD++: a wealth that each test spends of, and each claim adds to."""

    def __init__(self, campaigns: int, level: float = LEVEL) -> None:
        log = np.log(np.maximum(_NUMBERS, 2))
        self._share = _shares(log / (_NUMBERS * np.exp(np.sqrt(log))))
        self._level, self._claimed = level, np.zeros((campaigns, 0))

    def level(self) -> FloatArray:
        campaigns, before = self._claimed.shape
        first = self._level / 2
        earned = np.where(np.cumsum(self._claimed, 1) <= 1, self._level - first, self._level) * self._claimed
        since = self._share[before - 1 - np.arange(before)] if before else np.zeros(0)
        return np.full(campaigns, self._share[before] * first) + earned @ since

    def told(self, claimed: NDArray[np.bool_], p_value: FloatArray) -> None:
        self._claimed = np.column_stack([self._claimed, claimed])


class Saffron:
    """SAFFRON: LORD that spends nothing on tests whose p value is no candidate, above `_CANDIDATE`."""

    def __init__(self, campaigns: int, level: float = LEVEL) -> None:
        self._share = _shares(_NUMBERS**-1.6)
        self._level = level
        self._claimed, self._candidate = np.zeros((campaigns, 0)), np.zeros((campaigns, 0))

    def level(self) -> FloatArray:
        campaigns, before = self._claimed.shape
        whole = (1 - _CANDIDATE) * self._level
        first = whole / 2
        earned = np.where(np.cumsum(self._claimed, 1) <= 1, whole - first, whole) * self._claimed
        spent = np.cumsum(1 - self._candidate[:, ::-1], 1)[:, ::-1] if before else np.zeros((campaigns, 0))
        later = np.column_stack([spent[:, 1:], np.zeros(campaigns)]) if before else spent  # after each claim
        from_start = spent[:, 0] if before else np.zeros(campaigns)
        level = first * self._share[from_start.astype(int)] + (earned * self._share[later.astype(int)]).sum(1)
        return np.asarray(np.minimum(level, _CANDIDATE))

    def told(self, claimed: NDArray[np.bool_], p_value: FloatArray) -> None:
        self._claimed = np.column_stack([self._claimed, claimed])
        self._candidate = np.column_stack([self._candidate, p_value <= _CANDIDATE])


def _shares(weights: FloatArray) -> FloatArray:
    """Weights of the tests in turn, of which there is no last one, so that they add up to 1."""
    return np.asarray(weights / weights.sum())
