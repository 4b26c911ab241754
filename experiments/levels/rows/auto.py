"""Any false verdict of studies with seed=auto, whose variants get seeds until they are decided.

The whole procedure, over `TIMES` as many studies as in other rows: looks at 3, 5, 8 and 10 seeds, Holm's correction of
sequential p values, futility, and no further seeds for what is decided. In one kind of study nothing has an effect; in
another every other variant has one of two standard deviations of a paired difference, which hands its share of the
level on. Beside each kind stand the seeds that a variant and its baseline were given of the ten that there may be.
"""

from __future__ import annotations

import numpy as np
from simulated import DIFFERENCE_SD, NOISES, VARIANTS, Cell, Row, tables

from ablab.analysis.course import course_of
from ablab.analysis.estimates import LEVEL
from ablab.config.seeds import SeedsConfig

SPENDING = ("pocock", "obrien_fleming", "anytime")
EFFECT = 2.0  # of those that have one, in standard deviations of a paired difference
TIMES, BLOCK = 40, 20_000


def row(studies: int) -> Row:
    kinds = [(variants, noise, spending) for variants in VARIANTS for noise in NOISES for spending in SPENDING]
    cells = [_cell(studies * TIMES, *kind, real) for kind in kinds for real in (False, True) if not real or kind[0] > 1]
    return Row("auto", "any false BETTER or WORSE, seeds until all is decided", LEVEL, cells)


def _cell(studies: int, variants: int, noise: str, spending: str, real: bool) -> Cell:
    seeds, size = SeedsConfig(spending=spending), min(studies, BLOCK)
    effects = np.where(np.arange(variants) % 2, EFFECT * DIFFERENCE_SD, 0.0) * real
    wrong, given, of_baseline, blocks = 0, 0.0, 0.0, -(-studies // size)
    for block in range(blocks):
        values = tables(size, variants, seeds.max, noise, key=1000 + block)
        went = course_of(values[:, 1:] - values[:, :1] + effects[:, None], seeds)
        wrong += int((went.resolved_at < len(seeds.every_look))[:, effects == 0].any(axis=1).sum())
        given += float(went.seeds.mean()) / blocks
        of_baseline += float(went.seeds.max(axis=1).mean()) / blocks
    who = f"{variants} variant{'s' if variants > 1 else ''}, {noise}, {spending}, {'every other' if real else 'none'}"
    where = f"{who} has an effect: {given:.1f} seeds a variant, {of_baseline:.1f} of the baseline"
    return Cell(where, wrong / (blocks * size), blocks * size)
