"""`ablab bench gpu`: the steps one after another, each in a process of its own, all of them within some minutes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ablab.bench.gpu.process import FAREWELL_S, StepProcess
from ablab.bench.gpu.results import BAD, JSON_FILE, LOG_FILE, MARKDOWN_FILE, Machine, Results, Status, StepResult, read
from ablab.bench.gpu.steps import Step, all_steps
from ablab.errors import UserError
from ablab.version import __version__

LIMIT_S = 480.0
DESCRIBE_S = 45.0  # for PyTorch to be imported, and a driver to answer
DESCRIBE = (sys.executable, "-m", "ablab.bench.gpu.describe", "machine.json")
_LEAST_S = 3 * FAREWELL_S  # a step that has less left is not begun
_TAIL = 25  # lines of the log of a step that did not end well
_WITHOUT = 5  # times its limit is what a step has on a CPU, where most others are skipped and it is slower
_WORK = ".work"  # in the results' folder: a folder for each step while it runs


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(kw_only=True)
class Check:
    """The whole of it. What is found is on the disk at any moment, however this ends.

    Args:
        folder: of the results, and of those of steps that are not run now.
        limit_s: of all steps together.
        say: is told of each step when it begins and when it ends.
        describe: the command that writes what machine this is.
    """

    steps: Sequence[Step]
    folder: Path
    limit_s: float = LIMIT_S
    say: Callable[[str], None] = _say
    describe: Sequence[str] = DESCRIBE
    results: Results = field(default_factory=Results)
    _began: float = field(default_factory=time.monotonic)

    def run(self, names: Sequence[str] = ()) -> Results:
        """Run the steps named, or all; the others keep what the folder has of them.

        Raises:
            UserError: there is no such step, or the folder cannot be used.
            KeyboardInterrupt: Ctrl-C or SIGTERM; what was found until then is written.
        """
        chosen = self._chosen(names)
        former = self._former() if names else None
        with _terminated_as_interrupted():
            try:
                self._describe(former)
                for step in chosen:
                    self._run(step, self._result(step))
            finally:
                self.results.write(self.folder)
                shutil.rmtree(self.folder / _WORK, ignore_errors=True)
        return self.results

    def _chosen(self, names: Sequence[str]) -> list[Step]:
        known = [step.name for step in self.steps]
        for name in names:
            if name not in known:
                raise UserError(f"--steps {name}: there are {', '.join(known)}")
        return [step for step in self.steps if not names or step.name in names]

    def _former(self) -> Results | None:
        former = read(self.folder)
        if former is not None:
            kept = {step.name: step for step in former.steps}
            self.results.machine = former.machine
            self.results.steps = [kept.get(step.name) or _waiting(step) for step in self.steps]
        return former

    def _describe(self, former: Results | None) -> None:
        """Find out what machine this is; without an answer all that needs CUDA is skipped."""
        self.results.steps = self.results.steps or [_waiting(step) for step in self.steps]
        self.results.version, self.results.began_at = __version__, _now()
        self.results.machine = self._machine()
        if former is not None and former.machine.device != self.results.machine.device:
            there, here = (found.machine.device or "no GPU" for found in (former, self.results))
            self.results = former  # which must stay
            raise UserError(f"{self.folder}: has results of {there}, and this is {here}; give another folder by --out")
        self.say(f"ablab bench gpu: {self.results.machine.sentence}")
        self.results.write(self.folder)

    def _machine(self) -> Machine:
        work = self._work("machine")
        with self._process(self.describe, work) as process:
            status = process.wait(DESCRIBE_S)
        try:
            return Machine(**json.loads((work / DESCRIBE[-1]).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            how = f"exit status {status}" if status is not None else f"no answer in {DESCRIBE_S:g} s"
            return Machine(reason=f"PyTorch and the driver could not be asked ({how}, see {LOG_FILE})")

    def _run(self, step: Step, result: StepResult) -> None:
        left = self.limit_s - (time.monotonic() - self._began)
        if reason := step.missing(self.results.machine):
            self._end(result, "skipped", reason)
        elif left < _LEAST_S:
            self._end(result, "waiting", f"not reached: {self.limit_s:g} s were over")
        else:
            patience = 1 if self.results.machine.device else _WITHOUT  # of those that are skipped there
            self._carry_out(step, result, min(patience * step.limit_s, left))

    def _carry_out(self, step: Step, result: StepResult, limit_s: float) -> None:
        work, log = self._work(step.name), self.folder / LOG_FILE
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n== {step.name}: {step.what}\n")
        start = log.stat().st_size
        result.status, result.began_at = "running", _now()
        self.results.write(self.folder)
        self.say(f"{step.name:10} {step.what} ({limit_s:.0f} s at most)")

        def look() -> None:
            rows = step.read(work, _from(log, start))
            if rows and rows != result.rows:
                result.rows = rows
                self.results.write(self.folder)

        gone, process = True, self._process(step.words, work)
        try:
            status = process.wait(limit_s - FAREWELL_S, look)
        except KeyboardInterrupt:
            result.status = "interrupted"
            raise
        finally:
            gone = process.end()
            look()
            result.seconds, result.log = round(process.seconds, 1), _from(log, start).splitlines()[-_TAIL:]
        self._end(result, *_outcome(status, limit_s, gone))

    def _end(self, result: StepResult, status: Status, reason: str = "") -> None:
        result.status, result.reason = status, reason
        if status == "ok":
            result.log = []
        took = f" in {result.seconds:.0f} s" if result.seconds is not None else ""
        self.say(f"{result.name:10} {status}{took}{f': {reason}' if reason else ''}")
        self.results.write(self.folder)

    def _result(self, step: Step) -> StepResult:
        """A new one in the place of that which was there."""
        place = [each.name for each in self.results.steps].index(step.name)
        self.results.steps[place] = _waiting(step)
        return self.results.steps[place]

    def _process(self, words: Sequence[str], work: Path) -> StepProcess:
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
        return StepProcess(
            words, work, self.folder / LOG_FILE, {"CUDA_VISIBLE_DEVICES": first, "PYTHONUNBUFFERED": "1"}
        )

    def _work(self, name: str) -> Path:
        folder = self.folder.resolve() / _WORK / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def bench_gpu(folder: Path, names: Sequence[str], limit_s: float) -> tuple[str, int]:
    """Run the steps; what is to be said at the end, and the exit status: 1 if a step did not end well.

    Raises:
        UserError, KeyboardInterrupt: as `Check.run` does.
    """
    if not limit_s >= _LEAST_S:
        raise UserError(f"--limit {limit_s:g}: must be at least {_LEAST_S:g} seconds")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be made ({error.strerror})") from error
    results = Check(steps=all_steps(), folder=folder, limit_s=limit_s).run(names)
    ran = [step for step in results.steps if not names or step.name in names]
    bad = [step.name for step in ran if step.status in BAD]
    skipped = [step.name for step in ran if step.status == "skipped"]
    words = [f"{sum(step.status == 'ok' for step in ran)} of {len(ran)} steps ended well"]
    words += [f"skipped: {', '.join(skipped)}"] if skipped else []
    words += [f"did not end well: {', '.join(bad)}"] if bad else []
    return f"{'; '.join(words)}\n{folder / MARKDOWN_FILE}, {folder / JSON_FILE}", int(bool(bad))


def _outcome(status: int | None, limit_s: float, gone: bool) -> tuple[Status, str]:
    """How a step ended, by its exit status; None: it did not, in its time."""
    if status is None:
        return "timeout", f"ended after {limit_s:.0f} s{'' if gone else ', and it could not be ended'}"
    return ("failed", f"exit status {status}") if status else ("ok", "")


def _waiting(step: Step) -> StepResult:
    return StepResult(name=step.name, what=step.what, limit_s=step.limit_s)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _from(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode("utf-8", "replace")


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Within it, SIGTERM is Ctrl-C: whoever lends a machine ends commands so."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
