"""Runs side by side: started, tried again, stopped, each with its reason, and none in another's way."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch

from ablab.config import RunConfig
from ablab.config.schema import ExecutionConfig
from ablab.errors import UserError
from ablab.results.communication import MEASURED
from ablab.results.record import Record
from ablab.results.store import CHECKPOINT_FOLDER, RECORD_FILE, read_record, write_record
from ablab.study.events import Observer, RunOutline
from ablab.study.plan_file import PlannedRun
from ablab.study.supervision import attempt, resources, supervisor
from ablab.study.supervision.code import warm_up
from ablab.study.supervision.packing.sharing import Sharing
from ablab.study.supervision.resources import Placement, side_by_side
from ablab.study.supervision.stack import Unit, units
from ablab.study.supervision.supervisor import Supervisor
from ablab.training.begin import new_record

TinyConfig = Callable[..., RunConfig]
Faulty = Callable[[str], dict[str, object]]


@dataclass
class Told(Observer):
    """What an observer was told, in words."""

    events: list[str] = field(default_factory=list)
    on_progress: Callable[[], None] = lambda: None

    def started(self, run: RunOutline, attempt: int) -> None:
        self.events.append(f"started {run.index} {attempt}")

    def progressed(self, run: RunOutline, step: int, steps: int, shown: str) -> None:
        self.on_progress()

    def waiting(self, run: RunOutline, reason: str, seconds: float) -> None:
        self.events.append(f"waiting {run.index} {seconds:g}")

    def ended(self, run: RunOutline, record: Record, seconds: float) -> None:
        self.events.append(f"ended {run.index} {record.status}")

    def stopping(self) -> None:
        self.events.append("stopping")


def planned(folder: Path, *configs: RunConfig) -> list[PlannedRun]:
    return [
        PlannedRun(
            info=RunOutline(index=index, variant="", task="text", seed=0, steps=4),
            config=config,
            folder=folder / str(index),
        )
        for index, config in enumerate(configs)
    ]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACK_OFF_S", 0.05)
    monkeypatch.setattr(attempt, "FAREWELL_S", 1.0)


def test_every_run_ends_with_its_reason_and_what_crashed_is_tried_again(
    tiny_config: TinyConfig, faulty: Faulty, tmp_path: Path
) -> None:
    options = ("raises", "diverges", "killed", "hangs")
    configs = [tiny_config(), *(tiny_config().with_values({"activation": faulty(option)}) for option in options)]
    told = Told()
    records = Supervisor(ExecutionConfig(jobs=2, retries=2, timeout=8.0), told).run(planned(tmp_path, *configs))
    assert [(records[i].status, records[i].cause, records[i].attempts) for i in range(5)] == [
        ("ok", None, 1),
        ("failed", "error", 3),
        ("diverged", None, 1),
        ("failed", "killed", 3),
        ("failed", "timeout", 1),
    ]
    assert records[4].reason == "timed out: it took longer than 8 s (timeout=8)"
    assert [event for event in told.events if event.split()[1] == "3"] == [
        *("started 3 1", "waiting 3 0.05", "started 3 2", "waiting 3 0.1", "started 3 3", "ended 3 failed"),
    ]
    assert (tmp_path / "1" / "run.log").read_text().count("the bulb is broken") >= 3, "an attempt's log is lost"
    for index in range(5):
        assert read_record(tmp_path / str(index) / RECORD_FILE) == records[index]


EXACT = (
    *("trainer.max_steps=20", "trainer.val_check_interval=6", "trainer.log_every_n_steps=3", "model.dropout=0.1"),
    *("schedule=gradient_variance", "task.workers=2"),
)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [(), ("strategy=ddp", "trainer.devices=2")], ids=["single", "ddp"])
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    tiny_config: TinyConfig, faulty: Faulty, tmp_path: Path, strategy: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the eighth step, from the checkpoint after the sixth, with data loaded by two processes."""
    monkeypatch.chdir(tmp_path)
    config = tiny_config(*EXACT, *strategy).with_values({"activation": faulty("killed_once")})
    ends = {}
    for name in ("whole", "killed"):
        folder = tmp_path / name
        config.options["activation"] = {**config.options["activation"]}
        if name == "killed":
            (tmp_path / f"kill-{len(strategy) // 2}").touch()
        told = Told()
        [record] = Supervisor(ExecutionConfig(retries=1), told).run(planned(folder, config)).values()
        assert (record.status, record.attempts) == ("ok", 1 + (name == "killed"))
        state = torch.load(folder / "0" / CHECKPOINT_FOLDER / "last.ckpt", weights_only=True)
        ends[name] = (state, record)
    (one, ours), (other, theirs) = ends.values()
    assert ours.metrics == theirs.metrics
    assert ours.notes == theirs.notes
    one_way, other_way = (
        {name: value for name, value in record.mechanism.items() if name not in MEASURED} for record in (ours, theirs)
    )
    assert one_way == other_way
    assert bool(ours.communication) == bool(strategy)
    assert ours.responses == theirs.responses
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())
    assert torch.equal(one["history"]["learning_rates"], other["history"]["learning_rates"])


def test_the_first_failure_ends_a_study_that_asks_for_it(
    tiny_config: TinyConfig, faulty: Faulty, tmp_path: Path
) -> None:
    configs = [tiny_config().with_values({"activation": faulty("raises")}), tiny_config(), tiny_config()]
    made = Supervisor(ExecutionConfig(retries=0, on_failure="stop"), told := Told())
    assert list(made.run(planned(tmp_path, *configs))) == [0]
    assert told.events == ["started 0 1", "ended 0 failed", "stopping"]
    assert made.stopped_by == "default seed=0 failed (on_failure=stop)"


def test_ctrl_c_once_lets_runs_save_themselves(tiny_config: TinyConfig, tmp_path: Path) -> None:
    """From a run that would take minutes, whose next run is not started."""
    config = tiny_config("trainer.max_steps=1000000", "trainer.val_check_interval=1000000")
    told = Told(on_progress=once(lambda: os.kill(os.getpid(), signal.SIGINT)))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        Supervisor(ExecutionConfig(), told).run(planned(tmp_path, config, config))
    assert told.events == ["started 0 1", "stopping", "ended 0 interrupted"]
    assert (tmp_path / "0" / CHECKPOINT_FOLDER / "last.ckpt").is_file()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_scheduler_that_ends_every_process_lets_runs_save_themselves(tiny_config: TinyConfig, tmp_path: Path) -> None:
    """As systemd does, and whoever takes a machine away: SIGTERM to runs and what they are forked from, too."""
    config = tiny_config("trainer.max_steps=1000000", "trainer.val_check_interval=1000000")

    def end_all() -> None:
        server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # as below
        for pid in [*(process.pid for process in multiprocessing.active_children()), server, os.getpid()]:
            os.kill(pid, signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        Supervisor(ExecutionConfig(), told := Told(on_progress=once(end_all))).run(planned(tmp_path, config))
    assert told.events == ["started 0 1", "stopping", "ended 0 interrupted"]
    assert (tmp_path / "0" / CHECKPOINT_FOLDER / "last.ckpt").is_file()


def test_ctrl_c_twice_ends_them_at_once(
    tiny_config: TinyConfig, faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that hangs would have a minute's grace."""
    config = tiny_config().with_values({"activation": faulty("hangs")})
    ended = threading.Event()

    def interrupt() -> None:
        while not (tmp_path / "0" / "run.log").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        if not ended.wait(0.5):  # else the run was asked before it could hang; a second one would hit another test
            os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Supervisor(ExecutionConfig(), Told()).run(planned(tmp_path, config))
    assert time.monotonic() - begun < attempt.GRACE_S / 2
    ended.set()
    interrupting.join()
    assert read_record(tmp_path / "0" / RECORD_FILE).status == "interrupted"


def test_how_many_run_side_by_side(tiny_config: TinyConfig) -> None:
    config = tiny_config()
    config = config.with_values({"trainer.accelerator": "auto"})
    two = config.with_values({"strategy": {"processes": 2}})
    assert side_by_side([config], ExecutionConfig(), devices=0) == 1
    assert side_by_side([config], ExecutionConfig(jobs=3), devices=0) == 3
    assert side_by_side([config], ExecutionConfig(), devices=4) == 4
    assert side_by_side([config, two], ExecutionConfig(), devices=4) == 2
    assert side_by_side([config], ExecutionConfig(runs_per_device=3), devices=2) == 6
    assert side_by_side([tiny_config()], ExecutionConfig(), devices=4) == 1  # on the CPU


def test_what_auto_is_before_anything_is_measured(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 8)
    auto, config = ExecutionConfig(runs_per_device="auto"), tiny_config()
    two = config.with_values({"strategy": {"processes": 2}})
    assert side_by_side([config], auto, devices=0) == 8  # a core for each process
    assert side_by_side([config, two], auto, devices=0) == 4
    assert side_by_side([config], ExecutionConfig(runs_per_device="auto", jobs=3), devices=0) == 3
    on_gpus = config.with_values({"trainer.accelerator": "auto"})
    assert side_by_side([on_gpus], auto, devices=4) == 4
    assert side_by_side([on_gpus], auto, devices=4, sharing=3) == 12
    for wrong, words in ((0, "must be at least 1, or auto"), ("many", "must be a whole number, or auto")):
        with pytest.raises(UserError, match=f"runs_per_device={wrong}: {words}"):
            ExecutionConfig(runs_per_device=wrong)


def test_a_run_that_finds_no_memory_beside_others_is_tried_with_fewer(
    tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that has room for two, where trials had found some for four: all end well, and at their first try."""
    alive: list[Crowded] = []
    most: list[int] = []

    class Crowded:
        started = 0.0
        handles: list[Any] = []  # noqa: RUF012
        orphaned = False

        def __init__(self, unit: Unit, placement: Placement, hang_timeout: Any) -> None:
            assert dict(placement.environment) == {"MPS": "there"}
            alive.append(self)
            most.append(len(alive))
            self.room, self.ended, self.polls = len(alive) <= 2, False, 0

        def poll(self) -> list[Any]:
            self.polls += 1
            self.ended = not self.room or self.polls > 3
            return []

        def kill(self) -> None:
            pytest.fail("nothing is left to be ended")

        def close(self) -> list[Record]:
            alive.remove(self)
            found = Record(status="ok", fingerprint="", study="", variant="", seed=0, axes={}, config={})
            if not self.room:
                found.status, found.cause, found.reason = "failed", "memory", "out of memory"
            return [found]

    shared = Sharing(names=["0"], runs_per_device=4, environment={"MPS": "there"}, measured=True)
    monkeypatch.setattr(supervisor, "Attempt", Crowded)
    monkeypatch.setattr(supervisor, "sharing", lambda *_: contextlib.nullcontext(shared))
    config = tiny_config().with_values({"trainer.accelerator": "auto"})
    settings = ExecutionConfig(runs_per_device="auto", retries=0, on_failure="stop")
    records = Supervisor(settings, told := Told(), names=["0"]).run(planned(tmp_path, *[config] * 6))
    assert [records[index].status for index in range(6)] == ["ok"] * 6
    assert {event.split()[2] for event in told.events if event.startswith("started")} == {"1"}
    assert max(most) == 4
    assert max(most[4:]) <= 2  # from then on


def test_runs_have_devices_of_their_own(
    tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs on two devices: never more than two at a time, never on the same."""
    placed: list[tuple[str, ...]] = []
    open_ones: list[str] = []

    class Quick:
        started = 0.0
        handles: list[Any] = []  # noqa: RUF012
        ended = True
        orphaned = False

        def __init__(self, unit: Unit, placement: Any, hang_timeout: Any) -> None:
            placed.append(placement.devices)
            open_ones.extend(placement.devices)
            assert len(set(open_ones)) == len(open_ones) <= 2
            self.mine = placement.devices

        def poll(self) -> list[Any]:
            return []

        def close(self) -> list[Record]:
            for name in self.mine:
                open_ones.remove(name)
            return [Record(status="ok", fingerprint="", study="", variant="", seed=0, axes={}, config={})]

    monkeypatch.setattr(supervisor, "Attempt", Quick)
    config = tiny_config()
    config = config.with_values({"trainer.accelerator": "auto"})
    Supervisor(ExecutionConfig(), Told(), names=["4", "7"]).run(planned(tmp_path, config, config, config))
    assert placed == [("4",), ("7",), ("4",)]


def once(act: Callable[[], None]) -> Callable[[], None]:
    left = [act]
    return lambda: left.pop()() if left else None


def test_the_death_of_what_runs_are_forked_from_costs_no_attempt(
    tiny_config: TinyConfig, faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_config().with_values({"activation": faulty("kills_parent_once")})
    records = Supervisor(ExecutionConfig(retries=0), told := Told()).run(planned(tmp_path, config))
    assert (tmp_path / "killed-parent").exists()
    assert [event for event in told.events if "waiting" not in event] == ["started 0 1", "started 0 1", "ended 0 ok"]
    assert records[0].attempts == 1


def test_what_runs_are_forked_from_is_killed_while_one_starts(tiny_config: TinyConfig, tmp_path: Path) -> None:
    """Before it has said which process it has made."""
    warm_up()
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # Python has no public name for it
    os.kill(server, signal.SIGSTOP)
    killer = threading.Timer(0.5, os.kill, (server, signal.SIGKILL))
    killer.start()
    records = Supervisor(ExecutionConfig(retries=0), told := Told()).run(planned(tmp_path, tiny_config()))
    killer.join()
    assert records[0].reason is None
    assert told.events == ["started 0 1", "ended 0 ok"]
    assert records[0].status == "ok"


def test_attempts_of_a_supervisor_that_died_count(tiny_config: TinyConfig, faulty: Faulty, tmp_path: Path) -> None:
    """Of a run that was tried once, and failed, when the supervisor was killed, too."""
    [run] = planned(tmp_path, tiny_config().with_values({"activation": faulty("raises")}))
    left = new_record(run.config)
    left.attempts = 1
    write_record(run.folder, left)
    records = Supervisor(ExecutionConfig(retries=1), told := Told()).run([run])
    assert told.events == ["started 0 2", "ended 0 failed"]
    assert records[0].attempts == 2


def test_a_full_disk_ends_the_study(tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is queued would fail, too, and nothing is tried again."""

    def full(*args: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(supervisor, "Attempt", full)
    made = Supervisor(ExecutionConfig(retries=3), told := Told())
    records = made.run(planned(tmp_path, tiny_config(), tiny_config()))
    assert told.events == ["started 0 1", "ended 0 failed", "stopping"]
    assert (records[0].cause, str(records[0].reason)[:25]) == ("disk", "no space left on device (")
    assert made.stopped_by == "default seed=0 failed (there is no space left on device)"


# Runs that are stacked.


def test_what_is_stacked_shares_a_process_and_nothing_else(tiny_config: TinyConfig, tmp_path: Path) -> None:
    runs = planned(tmp_path, *(tiny_config(f"seed={seed}", "trainer.max_steps=2") for seed in range(3)))
    told = Told()
    found = Supervisor(ExecutionConfig(), told, names=()).run(units(runs, runs, lambda config: True))
    assert [(found[place].status, found[place].seed, found[place].stacked) for place in range(3)] == [
        ("ok", 0, 3),
        ("ok", 1, 3),
        ("ok", 2, 3),
    ]
    assert told.events[:3] == ["started 0 1", "started 1 1", "started 2 1"]
    assert sorted(told.events[3:]) == ["ended 0 ok", "ended 1 ok", "ended 2 ok"]
    assert [read_record(run.folder / RECORD_FILE) for run in runs] == [found[place] for place in range(3)]


def test_what_of_a_plan_is_stacked(tiny_config: TinyConfig, tmp_path: Path) -> None:
    configs = [tiny_config(f"seed={seed}", f"activation={name}") for name in ("relu", "gelu") for seed in range(3)]
    runs = planned(tmp_path, *configs, tiny_config("activation=silu"))

    def seats(left: list[PlannedRun], may: bool = True) -> list[tuple[list[int], tuple[int, ...], int]]:
        found = units(runs, left, lambda config: may)
        return [([run.info.index for run in unit.runs], unit.places, unit.size) for unit in found]

    assert seats(runs) == [([0, 1, 2], (0, 1, 2), 3), ([3, 4, 5], (0, 1, 2), 3), ([6], (0,), 1)]
    assert seats(runs, may=False) == [([index], (0,), 1) for index in range(7)]
    assert seats([runs[1], runs[2], runs[6]]) == [([1, 2], (0, 1), 2), ([6], (0,), 1)]
    last = runs[2].folder / CHECKPOINT_FOLDER / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()  # it goes on, in the place that it had
    assert seats([runs[1], runs[2]]) == [([1, 2], (1, 2), 3)]


@pytest.mark.parametrize(
    ("seeds", "side_by_side", "sizes"),
    [
        (9, 1, [9]),
        (9, 2, [4, 5]),
        (9, 8, [4, 5]),  # not of less than four
        (3, 2, [3]),
        (34, 1, [11, 11, 12]),
    ],
)
def test_stacks_are_as_many_as_there_is_room_for(
    tiny_config: TinyConfig, tmp_path: Path, seeds: int, side_by_side: int, sizes: list[int]
) -> None:
    runs = planned(tmp_path, *(tiny_config(f"seed={seed}") for seed in range(seeds)))
    found = units(runs, runs, lambda config: True, side_by_side)
    assert [unit.size for unit in found] == sizes
    assert [run for unit in found for run in unit.runs] == runs
    last = runs[1].folder / CHECKPOINT_FOLDER / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()  # it goes on: what is left of the others stays where it was
    again = units(runs, runs[1:], lambda config: True, side_by_side)
    assert [unit.size for unit in again] == sizes
    assert [seat for unit in again for seat in unit.places] == [seat for size in sizes for seat in range(size)][1:]


def test_of_a_stack_those_are_tried_again_that_failed(
    tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[tuple[int, ...], int]] = []

    class Second:
        """The second fails once."""

        started = 0.0
        handles: list[Any] = []  # noqa: RUF012
        ended = True
        orphaned = False

        def __init__(self, unit: Unit, placement: Any, hang_timeout: Any) -> None:
            self._unit = unit
            made.append((unit.places, unit.size))

        def poll(self) -> list[Any]:
            return []

        def close(self) -> list[Record]:
            failed = [len(made) == 1 and place == 1 for place in self._unit.places]
            blank = {"fingerprint": "", "study": "", "variant": "", "seed": 0, "axes": {}, "config": {}}
            return [Record(status="failed" if bad else "ok", **blank) for bad in failed]  # type: ignore[arg-type]

    monkeypatch.setattr(supervisor, "Attempt", Second)
    monkeypatch.setattr(supervisor, "BACK_OFF_S", 0.0)
    monkeypatch.setattr(supervisor, "POLL_S", 0.0)
    runs = planned(tmp_path, *(tiny_config(f"seed={seed}") for seed in range(3)))
    found = Supervisor(ExecutionConfig(), Told(), names=()).run(units(runs, runs, lambda config: True))
    assert made == [((0, 1, 2), 3), ((1,), 3)]
    assert {place: record.status for place, record in found.items()} == {0: "ok", 1: "ok", 2: "ok"}


def test_a_trial_of_a_stack_is_of_all_its_runs(tiny_config: TinyConfig, tmp_path: Path) -> None:
    runs = planned(tmp_path, *(tiny_config(f"seed={seed}") for seed in range(3)))
    [unit] = units(runs, runs, lambda config: True)
    copy = replace(runs[0], config=runs[0].config.with_values({"logger": {}}), folder=tmp_path / "trial")
    tried = supervisor._tried(unit, copy)
    assert (tried.places, tried.size, tried.head) == (unit.places, unit.size, copy)
    assert [run.config.seed for run in tried.runs] == [0, 1, 2]
    assert [run.config.options["logger"] for run in tried.runs] == [{}] * 3
    assert [run.folder for run in tried.runs[1:]] == [tmp_path / "trial" / "1", tmp_path / "trial" / "2"]
