"""Run the studies of a folder one after the other, and keep the results of each there, in a file.

    python experiments/run.py experiments/five_claims               # everything; what is finished is kept
    python experiments/run.py experiments/five_claims quick         # another scale: quick, gpu
    python experiments/run.py experiments/five_claims cpu schedule  # one study

`studies.yaml` in the folder has the words of each study's command, and what a scale changes in one study alone; this
only says how long they will take, and gives them one after the other.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from ablab.report.formatting import duration

ABLAB = [sys.executable, "-m", "ablab"]  # of this Python's environment, activated or not


@dataclass(frozen=True)
class Studies:
    """What the `studies.yaml` of a folder lists."""

    folder: Path
    words: dict[str, list[str]]  # of each study's command
    more: dict[str, dict[str, list[str]]]  # scale -> study -> words behind these

    @classmethod
    def of(cls, folder: Path) -> Studies:
        listed = yaml.safe_load((folder / "studies.yaml").read_text())
        return cls(folder, listed["studies"], listed.get("more") or {})

    @property
    def scales(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("scale/*.yaml"))

    def command(self, name: str, scale: str) -> list[str]:
        added = self.more.get(scale, {}).get(name, [])
        return ["--config-dir", str(self.folder), *self.words[name], f"scale={scale}", *added]

    def kept(self, name: str) -> Path:
        return self.folder / "results" / f"{name}.jsonl.xz"


def left(words: list[str]) -> str:
    """What `ablab plan` says of the time that a study needs: "time left: about 28 min 14 s, ..."."""
    told = subprocess.run([*ABLAB, "plan", *words], capture_output=True, text=True, check=False)
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
    study = subprocess.Popen([*ABLAB, "-m", *words])
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


def main(folder: str, scale: str = "cpu", *names: str) -> int:
    studies = Studies.of(Path(folder))
    for word, known in [(scale, studies.scales), *((name, [*studies.words]) for name in names)]:
        if word not in known:
            print(f"{word}: there are {', '.join(known)}", file=sys.stderr)
            return 2
    chosen = {name: studies.command(name, scale) for name in names or studies.words}
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
                runs = Path("outputs", studies.folder.name, name)
                subprocess.run([*ABLAB, "keep", runs, studies.kept(name)], check=True)
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) > 1 else __doc__)
