"""Run the studies of this folder one after the other, and keep the results of each beside them, in a file.

    python experiments/five_claims/run.py               # everything; what is finished is kept
    python experiments/five_claims/run.py quick         # another scale: quick, gpu
    python experiments/five_claims/run.py cpu schedule  # one study

Each line of `STUDIES` is one command; this only says how long they will take, and gives them one after the other.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd

from ablab.report.formatting import duration

HERE = Path(__file__).parent
STUDIES = {
    "attention_text": ["study=attention_text"],
    "attention_time": ["study=attention_time", "jobs=1"],  # by itself, since its budget is time
    "attention_recall": ["study=attention_recall"],
    **{f"activation_depth_{n}": ["study=activation", f"model.n_layers={n}"] for n in (2, 6, 12)},
    "schedule": ["study=schedule"],
    "fusion": ["study=fusion"],
    "parallel": ["study=parallel", "jobs=1"],  # each run has two processes or more
    "layers": ["study=layers"],
    "together": ["study=together"],
    "together_spoken": ["study=together_spoken"],
}
MORE = {  # what a scale changes in one study alone
    # A budget is met to 2%, and a step must not be more.
    ("quick", "attention_time"): ["trainer.max_steps=60", "task.seq_len=1024", "task.batch_size=4", "design.zip=[]"],
    ("gpu", "attention_text"): ["task.seq_len=1024,4096,16384", "task.batch_size=16,4,1"],
}
ABLAB = [sys.executable, "-m", "ablab"]  # of this Python's environment, activated or not


def ablab(command: str, *words: str) -> list[str]:
    return [*ABLAB, command, "--config-dir", str(HERE), *words]


def left(words: list[str]) -> str:
    """What `ablab plan` says of the time that a study needs: "time left: about 28 min 14 s, ..."."""
    told = subprocess.run(ablab("plan", *words), capture_output=True, text=True, check=False)
    lines = (told.stdout + told.stderr).strip().splitlines() or ["it said nothing"]
    return next((line for line in lines if line.startswith("time left")), lines[-1])


def seconds(told: str) -> float | None:
    """The time that `left` names; None where it names none."""
    about = re.match(r"time left: about ([^,(]+)", told)
    return pd.Timedelta(about[1]).total_seconds() if about else None


def estimate(chosen: dict[str, list[str]]) -> None:
    """Print the time that each study will take, and all of them."""
    times = []
    for name, words in chosen.items():
        told = left(words)
        times.append(seconds(told))
        print(f"{name}: {told}", flush=True)
    unknown = " and what is unknown" if None in times else ""
    print(f"in all: {duration(sum(filter(None, times)))}{unknown}", flush=True)


class Ended(KeyboardInterrupt):
    """SIGTERM. A study has not got it, as it has Ctrl-C, which a terminal sends to every process."""


def end(*_: object) -> None:
    raise Ended


def train(words: list[str]) -> int:
    """The exit status of a study: 130 after Ctrl-C or SIGTERM, at which it waits for its runs to save themselves."""
    study = subprocess.Popen(ablab("-m", *words))
    while True:
        try:
            status = study.wait()
            break
        except Ended:
            study.terminate()
        except KeyboardInterrupt:
            continue
    if status == -signal.SIGTERM:  # before it was ready to do better
        return 130
    return 128 - status if status < 0 else status  # as a shell counts what a signal ended


def main(scale: str = "cpu", *names: str) -> int:
    scales = sorted(path.stem for path in HERE.glob("scale/*.yaml"))
    for word, known in [(scale, scales), *((name, [*STUDIES]) for name in names)]:
        if word not in known:
            print(f"{word}: there are {', '.join(known)}", file=sys.stderr)
            return 2
    chosen = {name: [*STUDIES[name], f"scale={scale}", *MORE.get((scale, name), [])] for name in names or STUDIES}
    status, finished = 0, []
    try:
        if scale != "quick":  # which takes less time than to estimate it
            estimate(chosen)
        for name, words in chosen.items():
            print(f"\n== {name}", flush=True)
            ended = train(words)
            status = max(status, ended)
            if ended == 130:
                break
            if ended < 2:  # 1: some run did not end well, which is a result
                finished.append(name)
    except KeyboardInterrupt:  # between the studies
        status = 130
    finally:
        if scale == "cpu":  # at the end, so that git finds no changes while others run
            for name in finished:
                study, kept = Path("outputs", "five_claims", name), HERE / "results" / f"{name}.jsonl.xz"
                subprocess.run([*ABLAB, "keep", study, kept], check=True)
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    sys.exit(main(*sys.argv[1:]))
