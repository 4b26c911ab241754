"""One real campaign: 200 generated YAML files are judged, 180 of which do nothing, and each run is really trained.

    python experiments/campaign/run.py calibrate                 # what a rate is worth, in sd of paired differences
    python experiments/campaign/run.py outputs/proposals         # writes the proposals into that folder and judges them
    python experiments/campaign/run.py outputs/proposals --keep  # the same, and writes ledger.xz beside this file

Runs take about a second each and are trained in this process; stopped, the same command goes on.
"""

from __future__ import annotations

import lzma
import math
import os
import random
import sys
import tempfile
from pathlib import Path

import numpy as np

os.environ["OMP_NUM_THREADS"] = "1"

from ablab.campaign import judge
from ablab.campaign.proposal import parse
from ablab.results.ledger import LEDGER_FILE
from ablab.training.begin import prepare_folder
from ablab.training.run import execute

HERE = Path(__file__).parent
KEPT = HERE / "ledger.xz"
PROPOSALS = 200
RATES = (0.01, 0.0105, 0.011, 0.012, 0.013, 0.015, 0.018)
BASELINE = (
    *("activation=flipped", "task=sorting", "task.seq_len=16", "task.symbols=8", "task.batch_size=8"),
    *("task.eval_samples=200", "model.d_model=16", "model.n_heads=2", "model.n_layers=1", f"optimizer.lr={RATES[0]}"),
    *("trainer.accelerator=cpu", "trainer.max_steps=30", "trainer.val_check_interval=30", "logger=csv"),
)
# Effects in standard deviations of a paired difference, and the learning rates that have them: `calibrate` finds 1.3 at
# a rate 5% higher, 2.4 at 10%, so 26 for each unit of its logarithm, with standard errors of .3.
PLANTED = {1.5 + 1.5 * step / 19: RATES[0] * math.exp((1.5 + 1.5 * step / 19) / 26) for step in range(20)}
OPTION = "_target_: components.Flipped\n_partial_: true\nsalt: {salt}\n"


def write_options(folder: Path) -> list[Path]:
    """The baseline's option, and the proposals', each with other signs, in the order in which they are judged."""
    place = folder / "conf" / "activation"
    place.mkdir(parents=True, exist_ok=True)
    (folder / "components.py").write_text((HERE / "components.py").read_text(encoding="utf-8"), encoding="utf-8")
    (place / "flipped.yaml").write_text(OPTION.format(salt=0), encoding="utf-8")
    files = [place / f"proposal_{number:03d}.yaml" for number in range(1, PROPOSALS + 1)]
    for number, file in enumerate(files, 1):
        file.write_text(OPTION.format(salt=number), encoding="utf-8")
    return files


def rates() -> list[float | None]:
    """The learning rate of each proposal; None where it is the baseline's, and the proposal does nothing."""
    found = [*PLANTED.values(), *[None] * (PROPOSALS - len(PLANTED))]
    random.Random(0).shuffle(found)
    return found


def calibrate(seeds: int = 12) -> None:
    """Print, for each rate, the mean paired difference of models with other signs, in standard deviations of it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_options(folder)

        def loss(salt: int, rate: float, seed: int) -> float:
            words = parse([*BASELINE, f"activation.salt={salt}", f"optimizer.lr={rate}"], [folder / "conf"])
            config = words.config(seed)
            place = folder / "runs" / f"{salt}-{rate}-{seed}"
            prepare_folder(config, place)
            return execute(config, place).metrics["val_loss"]

        base = np.array([loss(0, RATES[0], seed) for seed in range(seeds)])
        for rate in RATES:
            found = np.array([loss(1000 + seed, rate, seed) for seed in range(seeds)]) - base
            mean, deviation = found.mean(), found.std(ddof=1)
            print(f"lr {rate}: {mean:+.4f}, sd {deviation:.4f}, in sd {mean / deviation:+.2f}", flush=True)


def main(folder: Path, keep: bool) -> None:
    for file, rate in zip(write_options(folder), rates(), strict=True):
        judged = judge(
            [str(file)] if rate is None else [str(file), f"optimizer.lr={rate:.6f}"],
            campaign=folder / "campaign",
            baseline=BASELINE,
            metric="val_loss",
            proposals=PROPOSALS,
            certify=False,
            config_dirs=[folder / "conf"],
            in_process=True,
        )
        print(judged.proposal.number, judged.decision, judged.judgement.reason, len(judged.proposal.runs), flush=True)
    if keep:
        with lzma.open(KEPT, "wb") as kept:
            kept.write((folder / "campaign" / LEDGER_FILE).read_bytes())


if __name__ == "__main__":
    if sys.argv[1] == "calibrate":
        calibrate()
    else:
        main(Path(sys.argv[1]), keep="--keep" in sys.argv)
