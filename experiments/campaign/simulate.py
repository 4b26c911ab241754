"""Campaigns of 200 proposals by simulation, beside keep-if-lower: what is kept falsely, what is found, at what cost.

    python experiments/campaign/simulate.py             # all settings, 400 campaigns each, into simulated.json
    python experiments/campaign/simulate.py 50          # 50 campaigns each, and prints them

Proposals are judged by the functions that judge real ones, one campaign beside the other, with fixed seeds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ablab.analysis.estimates import FloatArray
from ablab.analysis.online_fdr import ELond, Lord, OnlineLevels, Saffron
from ablab.analysis.simulated_campaigns import Campaigns, Flags, Setting, simulate

FILE = Path(__file__).with_name("simulated.json")
CAMPAIGNS = 400

SETTINGS = {
    "effects of 1.5 sd": Setting(effects=(1.5, 1.5)),
    "effects of 1.5 to 3 sd": Setting(),
    "effects of 0.5 sd": Setting(effects=(0.5, 0.5)),
    "effects of 1 sd": Setting(effects=(1.0, 1.0)),
    "effects of 2 sd": Setting(effects=(2.0, 2.0)),
    "effects of 3 sd": Setting(effects=(3.0, 3.0)),
    "no effects at all": Setting(real=0.0),
    "5% are real": Setting(real=0.05),
    "50% are real": Setting(real=0.5),
    "all real ones first": Setting(order="first"),
    "all real ones last": Setting(order="last"),
    "70% of the others do harm": Setting(harmful=0.7),
    "t noise, 3 degrees": Setting(noise="t3"),
    "skewed noise": Setting(noise="skewed"),
    "noise skewed the other way": Setting(noise="skewed the other way"),
    "sd of proposals differs 3 times": Setting(ratio=3.0),
    "the same, t noise": Setting(ratio=3.0, noise="t3"),
    "the baseline shares no noise": Setting(shared=0.0),
    "80% of the noise is the baseline's": Setting(shared=0.8),
}
PROCEDURES: dict[str, Callable[[int], OnlineLevels]] = {
    "e-LOND (as here)": ELond,
    "LORD++": Lord,
    "SAFFRON": Saffron,
}


def measured(setting: Setting, campaigns: int, levels: Callable[[int], OnlineLevels] = ELond) -> dict[str, object]:
    """The numbers of one row, those that are estimated with their standard errors."""
    found = simulate(setting, campaigns, seed=11, levels=levels)
    real = found.effect > 0
    return {
        "campaigns": campaigns,
        "false_share": _mean(_false_share(found.kept, real)),
        "any_false": _mean((found.kept & ~real).any(1).astype(float)),
        "found": _mean(_share_found(found, found.kept)),
        "runs": _mean(found.runs),
        "runs_of_lower": float(setting.proposals + 1),
        "seeds_of_others": float(found.seeds[~real].mean()),
        "seeds_of_real": float(found.seeds[real].mean()) if real.any() else None,
        "lower_false_share": _mean(_false_share(found.lower, real)),
        "lower_found": _mean(_share_found(found, found.lower)),
    }


def _false_share(kept: Flags, real: Flags) -> FloatArray:
    """Of each campaign; 0 where it keeps nothing."""
    return np.asarray((kept & ~real).sum(1) / np.maximum(kept.sum(1), 1))


def _share_found(found: Campaigns, kept: Flags) -> FloatArray:
    real = found.effect > 0
    return np.asarray((kept & real).sum(1) / np.maximum(real.sum(1), 1))


def _mean(values: FloatArray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def main(campaigns: int | None) -> None:
    rows: dict[str, dict[str, dict[str, object]]] = {"settings": {}, "procedures": {}}
    number = campaigns or CAMPAIGNS
    for name, setting in SETTINGS.items():
        rows["settings"][name] = measured(setting, number)
        print(name, rows["settings"][name], flush=True)
    for name, levels in PROCEDURES.items():
        for sizes in ((1.5, 1.5), (1.5, 3.0)):
            label = f"{name}, {sizes[0]:g}{'' if sizes[0] == sizes[1] else f' to {sizes[1]:g}'} sd"
            rows["procedures"][label] = measured(Setting(effects=sizes), number, levels)
            print(label, rows["procedures"][label], flush=True)
    if campaigns is None:
        FILE.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
