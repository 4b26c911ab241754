"""Any interaction resolved on two tasks, where two factors of three and two options add up."""

import numpy as np
from counted import cell
from simulated import NOISES, Row

from ablab.analysis.estimates import LEVEL, holm, paired

SEEDS = (3, 5, 10)


def row(studies: int) -> Row:
    cells = [
        cell(f"2 tasks, {seeds} seeds, {noise}", (any_resolved(noise, seeds, study) for study in range(studies // 2)))
        for seeds in SEEDS
        for noise in NOISES
    ]
    return Row("interaction", "any of 4 resolved on 2 tasks, where effects add up", 0.05, cells)


def any_resolved(noise: str, seeds: int, study: int) -> bool:
    """Differences of differences as `ablab.analysis.interactions` judges them: paired t, Holm over both tasks."""
    draw = np.random.default_rng([seeds, list(NOISES).index(noise), study])
    values = NOISES[noise](draw, (2, 3, 2, seeds))  # [tasks, options, options, seeds]
    apart = (values[:, 1:, 1] - values[:, :1, 1]) - (values[:, 1:, 0] - values[:, :1, 0])
    return min(holm([paired(each.tolist()).p_value for each in apart.reshape(-1, seeds)])) < LEVEL
