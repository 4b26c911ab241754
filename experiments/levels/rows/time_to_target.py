"""Any ratio of times to the default target whose interval excludes 1, where no variant does anything."""

import sys
from pathlib import Path

import numpy as np
from counted import cell
from simulated import NOISES, Row, named

sys.path[:0] = [str(Path(__file__).parents[3] / "tests" / name) for name in ("analysis", "results")]

from curved import Curved  # noqa: E402

from ablab.analysis.time_to_target import time_to_target  # noqa: E402

STEPS = range(100, 1001, 100)
COURSE = 2 + 3 * (np.array(STEPS) / 100) ** -0.5


def row(studies: int) -> Row:
    cells = [
        cell(named(variants, seeds, noise), any_of(studies // 10, variants, seeds, noise))
        for variants in (1, 5)
        for seeds in (3, 5)
        for noise in NOISES
    ]
    return Row("time to target", "any interval of a ratio excludes 1, no variant does anything", 0.05, cells)


def any_of(studies: int, variants: int, seeds: int, noise: str) -> list[bool]:
    draw = np.random.default_rng([variants, seeds, list(NOISES).index(noise)])
    return [excludes(draw, variants, seeds, noise) for _ in range(studies)]


def excludes(draw: np.random.Generator, variants: int, seeds: int, noise: str) -> bool:
    """Curves that flatten, with noise of seeds, of runs and of evaluations."""
    study = Curved()
    for seed in range(1, seeds + 1):
        common = 0.02 * draw.normal()
        for option in ("base", *(f"v{place}" for place in range(variants))):
            own = 0.01 * float(NOISES[noise](draw, (1,))[0])
            values = COURSE + common + own + 0.004 * draw.normal(size=len(STEPS))
            study.add(option, seed, values.tolist(), steps=STEPS)
    found = time_to_target(study.runs, "language", "val_loss", "activation=base", reader=study.reader)
    return any(item.interval is not None and not item.interval[0] <= 1 <= item.interval[1] for item in found.items)
