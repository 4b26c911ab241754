"""Predicted step times beside those over throttled links: what is compared with what, and a real link."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ablab.bench.links import network
from ablab.bench.links.command import Compared, Request, bench_links, blocks, described, predicted
from ablab.bench.links.network import BUCKET_BYTES, bytes_left_in_the_end, namespaces, payload_link, queue
from ablab.errors import UserError
from ablab.results.communication import Collective, Communication
from ablab.training.traffic.callback import is_timed

TINY = [
    *("task=text", "task.seq_len=32", "task.batch_size=4", "task.eval_tokens=256", "model.d_model=64"),
    *("model.n_layers=1", "model.n_heads=2", "trainer.accelerator=cpu"),
]


def why_not() -> str | None:
    """What this machine lacks for namespaces and throttled links."""
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        return f"no command {missing[0]}"
    try:
        with namespaces() as (name, _):
            words = ["ip", "netns", "exec", name, "tc", *queue(1e6)]
            ended = subprocess.run(words, capture_output=True, text=True, check=False)
            return ended.stderr.strip() or None
    except UserError as error:
        return str(error)


def all_namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout


def compared(rate: float, measured: float) -> Compared:
    return Compared(
        strategy="ddp",
        mbit_per_s=rate,
        delay_ms=0.0,
        payload_bytes=1e6,
        wire_bytes=1.07e6,
        free_s=0.1,
        overlap=0.5,
        predicted_s=0.2,
        shortest_s=0.1,
        longest_s=0.3,
        measured_s=measured,
        free_each_s=[0.1],
        measured_each_s=[measured],
    )


def test_headers_and_acknowledgements_take_their_part() -> None:
    """1448 bytes of 1514 + 33."""
    link = payload_link(8e6, 0.01)
    assert link.bytes_per_s == pytest.approx(1e6 * 1448 / 1547)
    assert link.latency_s == 0.01


def test_a_step_is_what_it_takes_without_throttle_and_what_is_not_hidden() -> None:
    reduced = Collective(
        kind="all-reduce", group=2, calls_per_step=1.0, payload_bytes_per_step=1448e3, sent_bytes_per_step=1448e3
    )
    record = Communication(processes=2, backend="gloo", steps=1, collectives=[reduced], overlap=0.25)
    told = predicted(record, 0.5, 8 * 1547e3)  # a second of bytes, of which none were sent in one go
    at_once = dataclasses.replace(record, collectives_per_step=2.0)
    assert told.longest - predicted(at_once, 0.5, 8 * 1547e3).longest == pytest.approx(BUCKET_BYTES / 1547e3)
    assert predicted(at_once, 0.5, 1e15).communication_s == pytest.approx(0, abs=1e-6)
    assert (told.seconds, told.shortest, told.longest) == pytest.approx((1.25, 1, 1.5))


@pytest.mark.parametrize("rounds", [1, 3])
def test_all_conditions_take_turns_and_time_in_communication_is_taken_without_throttle(rounds: int) -> None:
    conditions = [(1e6, 0.0), (2e6, 0.0)]
    planned = blocks(conditions, rounds)
    assert all(planned.count(each) == rounds for each in conditions)
    assert planned[0] == (None, 0.0)
    assert planned[1:].count((None, 0.0)) > rounds
    assert {planned[place] for place in range(len(planned)) if is_timed(place)} == {(None, 0.0)}


def test_the_furthest_from_one_is_told() -> None:
    text = described([compared(50, 0.21), compared(200, 0.16), compared(1000, 0.22)])
    assert text.splitlines()[-1] == "predicted / measured furthest from 1: 1.25, ddp at 200 Mbit/s"
    assert text.splitlines()[2].split() == ["ddp", "200", "100.0", "200.0", "(100.0", "...", "300.0)", "160.0", "1.25"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "--steps 0: must be at least 1"),
        ({"rounds": 0}, "--rounds 0: must be at least 1"),
        ({"rates": (0.0,)}, "--rates .*: must be above 0"),
        ({"rates": (math.nan,)}, "--rates .*: must be above 0"),
        ({"delay_ms": math.nan}, "--delay nan: must be at least 0"),
        ({"delay_ms": -1.0}, "--delay -1: must be at least 0"),
        ({"strategies": ("single",)}, "--strategies single: has nothing to send"),
        ({"strategies": ("local_sgd",), "steps": 5}, "--steps 5: must be a multiple of 10"),
        ({"output": Path("/nowhere/at/all.json")}, "no such folder"),
        ({"output": Path("/")}, "--json /: is a folder"),
    ],
)
def test_what_cannot_be_is_refused(corpus: Path, changes: dict[str, object], said: str) -> None:
    request = Request(overrides=[*TINY, f"task.path={corpus}"])
    with pytest.raises(UserError, match=said):
        bench_links(Request(**{**vars(request), **changes}))


def test_without_the_tools_it_is_said_what_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs the command ip"), namespaces():
        pass
    refuses = tmp_path / "ip"
    refuses.write_text("#!/bin/sh\necho mount: Operation not permitted >&2\nexit 1\n")
    refuses.chmod(0o755)
    (tmp_path / "tc").symlink_to(refuses)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    with pytest.raises(UserError, match=r"it needs root on Linux.*Operation not permitted"), namespaces():
        pass


def test_a_block_has_what_still_waits_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """A packet of 1514 bytes takes 12 ms at 1 Mbit/s: there is nothing more when several could have left."""
    told = [100, 1614, 3128, 3128, 9999]
    waited: list[float] = []
    monkeypatch.setattr(network, "bytes_left", lambda: told.pop(0))
    monkeypatch.setattr(time, "sleep", waited.append)
    assert bytes_left_in_the_end(1e6, 0.1) == 3128
    assert told == [9999]
    assert waited == [pytest.approx(0.1 + 4 * 1514 * 8 / 1e6)] * 3


@pytest.mark.slow
def test_a_slow_link_slows_a_run_down_by_what_it_sends(corpus: Path, tmp_path: Path) -> None:
    """A gradient of 0.2 MB at 2 Mbit/s takes 0.9 s, beside which computation is nothing; and nothing is left behind."""
    if (why := why_not()) is not None:
        pytest.skip(why)
    before = all_namespaces()
    output = tmp_path / "links.json"
    request = Request(
        overrides=[*TINY, f"task.path={corpus}"],
        strategies=("ddp",),
        rates=(2.0,),
        steps=2,
        rounds=1,
        output=output,
    )
    text = bench_links(request)
    (found,) = json.loads(output.read_text())
    assert found["payload_bytes"] > 200_000
    # Headers and acknowledgements, as counted on; a few hundred bytes of gloo's own.
    assert found["wire_bytes"] == pytest.approx(found["payload_bytes"] * 1547 / 1448, rel=0.03)
    assert found["measured_s"] > 0.85 * found["payload_bytes"] * 8 / 2e6  # it was throttled
    assert found["ratio"] == pytest.approx(found["predicted_s"] / found["measured_s"])
    assert found["measured_s"] > found["free_s"]  # by a factor of hundreds
    assert f"{found['ratio']:.2f}, ddp at 2 Mbit/s" in text
    assert all_namespaces() == before


def test_namespaces_are_removed_whatever_happens() -> None:
    if (why := why_not()) is not None:
        pytest.skip(why)
    made: list[str] = []

    def interrupted(by: type[BaseException]) -> None:
        with namespaces() as names:
            assert all(name in all_namespaces() for name in names)
            made[:] = names
            raise by

    for by in (KeyboardInterrupt, SystemExit, RuntimeError):
        with pytest.raises(by):
            interrupted(by)
        assert made
        assert not any(name in all_namespaces() for name in made)
