"""Campaigns of proposals by simulation, judged by the very functions that judge real ones, beside keep-if-lower.

An effect, and all that is said of it, is in standard deviations of the proposal's paired difference. Half the variance
of a difference is the baseline's, which all proposals share, unless it is said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ablab.analysis.campaign_noise import SEEDS, noise_of, order_of_seeds
from ablab.analysis.campaign_rule import FEWEST, FUTILE_BELOW, log_e_values
from ablab.analysis.estimates import FloatArray
from ablab.analysis.online_fdr import ELond, OnlineLevels

Flags = NDArray[np.bool_]
Counts = NDArray[np.int_]
Draw = Callable[[np.random.Generator, tuple[int, ...]], FloatArray]

NOISES: dict[str, Draw] = {  # of variance 1
    "normal": lambda generator, shape: generator.standard_normal(shape),
    "t3": lambda generator, shape: generator.standard_t(3, shape) / np.sqrt(3),
    "skewed": lambda generator, shape: generator.exponential(1, shape) - 1,
    "skewed the other way": lambda generator, shape: 1 - generator.exponential(1, shape),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the proposals of a simulated campaign are like.

    Args:
        real: the share of them that has an effect.
        effects: the least and the largest of these, uniform between them.
        order: where those stand among the others.
        harmful: the share of the others that do harm, of 2 standard deviations on average.
        ratio: of the largest standard deviation of paired differences to the smallest.
        shared: the share of the (smallest) variance that is the baseline's.
    """

    proposals: int = 200
    real: float = 0.1
    effects: tuple[float, float] = (1.5, 3.0)
    order: Literal["mixed", "first", "last"] = "mixed"
    harmful: float = 0.0
    noise: str = "normal"
    ratio: float = 1.0
    shared: float = 0.5


@dataclass(frozen=True)
class Campaigns:
    """What has come of simulated campaigns: arrays of (campaigns, proposals), but for `baseline_runs`, (campaigns,).

    Attributes:
        lower: what keep-if-lower keeps, which takes one run of each proposal and one of the baseline.
    """

    effect: FloatArray
    kept: Flags
    seeds: Counts
    baseline_runs: Counts
    lower: Flags

    @property
    def runs(self) -> FloatArray:
        """Of each campaign."""
        return np.asarray(self.seeds.sum(1) + self.baseline_runs)


def simulate(
    setting: Setting, campaigns: int, seed: int = 0, levels: Callable[[int], OnlineLevels] = ELond
) -> Campaigns:
    """Simulate campaigns side by side.

    Args:
        levels: makes the procedure that says at which level each proposal is tested.
    """
    generator = np.random.default_rng(seed)
    effect, improvements, lower = _drawn(setting, campaigns, generator)
    seen = np.full(improvements.shape, np.nan)
    kept, seeds = np.zeros(effect.shape, bool), np.zeros(effect.shape, int)
    procedure = levels(campaigns)
    for place in range(setting.proposals):
        order = order_of_seeds(place + 1)
        noise = noise_of(seen[:, :place], range(1, place + 1))
        path = log_e_values(improvements[:, place, order], order, noise)
        claimed, runs, p_value = _ended(path, procedure.level())
        procedure.told(claimed, p_value)
        kept[:, place], seeds[:, place] = claimed, runs
        run = np.empty((campaigns, SEEDS), bool)
        run[:, order] = np.arange(SEEDS) < runs[:, None]
        seen[:, place] = np.where(run, improvements[:, place], np.nan)
    baseline_runs = (~np.isnan(seen)).any(1).sum(1)
    return Campaigns(effect, kept, seeds, baseline_runs, lower)


def _drawn(setting: Setting, campaigns: int, generator: np.random.Generator) -> tuple[FloatArray, FloatArray, Flags]:
    """Effects, improvements on every seed, and whether the first seed of the baseline's is beaten."""
    shape = (campaigns, setting.proposals)
    draw = NOISES[setting.noise]
    effect = _effects(setting, shape, generator)
    deviation = setting.ratio ** generator.uniform(-0.5, 0.5, shape)
    shared = setting.shared / setting.ratio  # the variance of the baseline, at most that of the calmest
    luck = draw(generator, (campaigns, 1, SEEDS)) * np.sqrt(shared)
    own = draw(generator, (*shape, SEEDS)) * np.sqrt(deviation**2 - shared)[..., None]
    improvements = (effect * deviation)[..., None] + own - luck
    return effect, improvements, improvements[..., 0] > 0


def _effects(setting: Setting, shape: tuple[int, int], generator: np.random.Generator) -> FloatArray:
    real = round(setting.real * setting.proposals)
    ranks = np.broadcast_to(np.arange(setting.proposals), shape)
    if setting.order == "mixed":
        ranks = generator.permuted(ranks, axis=1)
    is_real = ranks >= setting.proposals - real if setting.order == "last" else ranks < real
    is_harmful = generator.random(shape) < setting.harmful
    others = np.where(is_harmful, -generator.exponential(2.0, shape), 0.0)
    return np.where(is_real, generator.uniform(*setting.effects, shape), others)


def _ended(path: FloatArray, level: FloatArray) -> tuple[Flags, Counts, FloatArray]:
    """Whether each campaign's proposal is kept, after how many seeds it ends, and its p value."""
    number = np.arange(1, path.shape[1] + 1)
    resolved = (path >= -np.log(level)[:, None]) & (number >= FEWEST)
    ends = resolved | (path < np.log(FUTILE_BELOW))
    ends[:, -1] = True
    at = ends.argmax(1)
    largest = np.where(number <= at[:, None] + 1, path, 0).max(1)
    return np.take_along_axis(resolved, at[:, None], 1)[:, 0], at + 1, np.exp(-np.maximum(largest, 0))
