"""The table of this folder's README: what each remedy leaves of the standard error of a paired effect.

python experiments/pairing/table.py experiments/pairing/losses.xz
"""

from __future__ import annotations

import json
import lzma
import sys
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from ablab.analysis.chaos import chaos_share
from ablab.analysis.covariates import adjusted
from ablab.analysis.estimates import correlation, paired

REMEDIES = ("none", "averaged", "decay", "decay, averaged", "fork, decay", "fork, decay, averaged")
BASELINE, NUDGED, SHORT = "baseline", "perturbed", "short"
WITHOUT_FORK = {"fork, decay": "decay", "fork, decay, averaged": "decay, averaged"}  # the trunk itself


def read(path: str) -> dict[str, dict[int, dict[str, Any]]]:
    """arm -> seed -> its losses."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in map(json.loads, file):
            found.setdefault(line["arm"], {}).setdefault(line["seed"], {}).update(line)
    return found


def complete(found: dict[str, dict[int, dict[str, Any]]]) -> dict[str, dict[int, dict[str, Any]]]:
    """The seeds that every arm has every remedy for, so that all are compared on the same; and the short runs."""
    whole = set(found[BASELINE])
    for arm, own in found.items():
        wanted = set() if arm == SHORT else set(WITHOUT_FORK.values() if arm == BASELINE else REMEDIES)
        whole -= {seed for seed in whole if arm != SHORT and not wanted <= own.get(seed, {}).keys()}
    return {arm: own if arm == SHORT else {s: own[s] for s in sorted(whole)} for arm, own in found.items()}


def pairs(found: dict[str, dict[int, dict[str, Any]]], arm: str, remedy: str) -> tuple[np.ndarray, np.ndarray]:
    """The losses of an arm and of the baseline on the seeds that have both."""
    base = WITHOUT_FORK.get(remedy, remedy)
    seeds = [s for s, own in sorted(found[arm].items()) if remedy in own and base in found[BASELINE].get(s, {})]
    return (
        np.array([found[arm][seed][remedy] for seed in seeds]),
        np.array([found[BASELINE][seed][base] for seed in seeds]),
    )


def row(found: dict[str, dict[int, dict[str, Any]]], arm: str, remedy: str) -> dict[str, Any]:
    own, base = pairs(found, arm, remedy)
    if len(own) < 3:
        return {}
    estimate = paired((own - base).tolist())
    nudged, alone = pairs(found, NUDGED, remedy)
    chaos = chaos_share(own - base, nudged - alone) if arm != NUDGED else None
    return {
        "arm": arm,
        "remedy": remedy,
        "seeds": len(own),
        "effect": estimate.effect,
        "sd": estimate.sd,
        "t": estimate.effect / estimate.standard_error,
        "r": correlation(own.tolist(), base.tolist()),
        "chaos": chaos.share if chaos else None,
    }


def covariate_row(found: dict[str, dict[int, dict[str, Any]]], arm: str, name: str) -> dict[str, Any]:
    """What a covariate explains of the differences, and the standard error with it over that without."""
    own, base = pairs(found, arm, "none")
    seeds = [s for s in sorted(found[arm]) if "none" in found[arm][s] and "none" in found[BASELINE].get(s, {})]
    z = [found[BASELINE][seed][name] for seed in seeds]
    r = correlation((own - base).tolist(), z)
    more = [[each[name]] for each in found.get(SHORT, {}).values()]
    if r is None or len(more) < 2 or len(seeds) < 4:
        return {"arm": arm, "covariate": name, "r2": r and r * r}
    estimate = adjusted((own - base).tolist(), [[value] for value in z], more)
    plain = paired((own - base).tolist())
    return {"arm": arm, "covariate": name, "r2": r * r, "ratio": estimate.standard_error / plain.standard_error}


def main(path: str) -> None:
    found = complete(read(path))
    arms = [arm for arm in found if arm not in (BASELINE, SHORT)]
    table = pd.DataFrame([made for arm in arms for remedy in REMEDIES if (made := row(found, arm, remedy))])
    sds = table.pivot(index="arm", columns="remedy", values="sd").reindex(index=arms, columns=list(REMEDIES))
    print(table.round(4).to_markdown(index=False), end="\n\n")
    ratios = sds.div(sds["none"], axis=0)
    print("standard error over that without a remedy\n\n" + ratios.round(2).to_markdown(), end="\n\n")
    compared = ratios.drop(index=NUDGED, errors="ignore")
    for remedy in REMEDIES[1:]:
        known = compared[remedy].dropna()
        if len(known):
            print(f"{remedy}: median {median(known):.2f}; at most half in {(known <= 0.5).sum()} of {len(known)}")
    rows = [covariate_row(found, arm, name) for arm in arms if arm != NUDGED for name in ("untrained", "short")]
    print("\n" + pd.DataFrame(rows).round(2).to_markdown(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
