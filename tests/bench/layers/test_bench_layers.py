"""`ablab bench layers`: what is compared, timed, left out and shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.bench.attention.cost import CLOCKS
from ablab.bench.attention.implementation import PASSES
from ablab.bench.layers import pair
from ablab.bench.layers.command import Request, bench_layers, chosen
from ablab.bench.layers.measure import Effort, Ratio, Timed, exponent, in_rounds, measure
from ablab.bench.layers.pair import Kind, Layer, Sizes, peer
from ablab.bench.layers.tables import fastest, lines, tables
from ablab.cli import main
from ablab.errors import UserError

SIZES = Sizes(batch=2, width=32, heads=2, experts=4, chosen=2, units=8, window=4, keys=3)
ONCE = Effort(rounds=1)


def timed(layer: str, length: int, *seconds: float, ours: bool = False, **others: Any) -> Timed:
    given: dict[str, Any] = {"kind": "moe", "linear": False, "pass_": "forward"} | others
    return Timed(layer=layer, ours=ours, length=length, seconds=seconds, **given)


@pytest.mark.filterwarnings("ignore")  # of a package that is not ours
@pytest.mark.parametrize("kind", chosen(()), ids=lambda kind: kind.name)
def test_peers_give_what_ours_gives(kind: Kind) -> None:
    pytest.importorskip("transformers", reason="the extra `bench` is not installed")
    found = [row for rows in measure([kind], SIZES, [140], PASSES, ONCE) for row in rows]
    assert [row.skipped for row in found] == [""] * len(found)
    assert {row.layer for row in found} == {kind.name, *kind.peers}
    assert all(row.error is not None for row in found if not row.ours) == (kind.name != "dsa")


def test_without_the_package_ours_is_timed_and_one_line_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(pair, "import_module", missing)
    found = [row for rows in measure(chosen(()), SIZES, [9], ["forward"], ONCE) for row in rows]
    assert all(row.seconds for row in found if row.ours)
    assert not any(row.seconds for row in found if not row.ours)
    said = lines(found)
    assert (
        "left out of gated_delta: qwen3-next: transformers is not installed; pip install 'ablab[bench]' brings it"
        in said
    )
    assert len(said) == sum(len(kind.peers) for kind in chosen(()))


def kind_of(*peers: Callable[[Tensor], Tensor]) -> Kind:
    """Ours doubles."""

    def made(name: str, call: Callable[[Tensor], Tensor]) -> Callable[[Any, Sizes, int], Layer]:
        return lambda ours, sizes, length: peer(name, nn.Identity(), call)

    named = {f"peer-{place}": made(f"peer-{place}", each) for place, each in enumerate(peers)}
    return Kind(name="fake", ours=lambda sizes, length: nn.Identity(), call=lambda *_: lambda x: 2 * x, peers=named)


def broken(x: Tensor) -> Tensor:
    raise RuntimeError("no such kernel\nfor this")


def test_what_gives_something_else_is_not_timed() -> None:
    right_there_only = [lambda x: 2.0001 * x, lambda x: 2.1 * x, lambda x: (2 * x).detach() + 0 * x, broken]
    (found,) = measure([kind_of(*right_there_only)], SIZES, [5], PASSES, ONCE)
    by_name = {(row.layer, row.pass_): row for row in found}
    assert by_name["peer-0", "forward"].error == pytest.approx(5e-5, rel=0.01)
    assert by_name["peer-1", "forward"].skipped == "gives something else: off by 5.0e-02 of the largest number"
    assert by_name["peer-2", "forward"].skipped == ""  # the gradient alone is wrong
    assert "off by 1.0e+00" in by_name["peer-2", "forward_backward"].skipped
    assert by_name["peer-3", "forward"].skipped == "RuntimeError: no such kernel"
    assert all(bool(row.seconds) != bool(row.skipped) for row in found)


@pytest.mark.parametrize(("alike", "differs"), [(1.0, True), (0.5, False)])
def test_a_few_tokens_may_differ_where_keys_are_picked(alike: float, differs: bool) -> None:
    def otherwise_at_the_first(x: Tensor) -> Tensor:
        return torch.cat([3 * x[:, :1], 2 * x[:, 1:]], 1)

    kind = replace(kind_of(otherwise_at_the_first), alike=alike)
    (found,) = measure([kind], SIZES, [5], PASSES, ONCE)
    assert [bool(row.skipped) for row in found if not row.ours] == [differs, differs]


def test_rounds_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    clock = iter(range(100))
    monkeypatch.setitem(CLOCKS, "wall", lambda: float(next(clock)))
    found = in_rounds({name: partial(called.append, name) for name in "abc"}, Effort(rounds=2))
    assert "".join(called) == "abc" + "bca" + "cab"
    assert found == {name: [1.0, 1.0] for name in "abc"}


def test_ratios_are_of_rounds_and_beside_the_fastest() -> None:
    """A round in which the machine was slow is slow for both."""
    ours = timed("moe", 64, 1.0, 10.0, 2.0, ours=True)
    fast, slow = timed("fast", 64, 2.0, 20.0, 4.0), timed("slow", 64, 3.0, 30.0, 5.0)
    assert fastest([ours, slow, fast]) == (Ratio(0.5, 0.5, 0.5), "fast")
    assert fastest([ours]) is None
    assert len(tables([ours])) == 1  # of times; there is nothing to compare them with
    (times, ratios) = tables([ours, slow, fast])
    assert [row[:2] for row in times.rows] == [
        ["moe: ours", "2,000 ±112%"],
        ["moe: slow", "5,000 ±135%"],
        ["moe: fast", "4,000 ±112%"],
    ]
    assert ratios.rows == [["moe", "0.50 (0.50–0.50)", "fast"]]


def test_growth_is_fitted_where_it_shows() -> None:
    rows = [timed("moe", 512, 9.0), *(timed("moe", n, (n / 1024) ** 1.3) for n in (1024, 2048, 8192))]
    assert exponent(rows, 1024) == pytest.approx(1.3)
    assert exponent(rows[:2], 1024) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lengths": [0]}, "--lengths 0: must be at least 1"),
        ({"passes": ["back"]}, "--passes back: there are forward, forward_backward"),
        ({"threads": 0}, "--threads 0: must be at least 1"),
        ({"effort": Effort(rounds=0)}, "--rounds 0: must be at least 1"),
        ({"json": Path("/no/such/file")}, "--json /no/such/file: no such folder"),
    ],
)
def test_requests_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        Request(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"experts": 0}, "--experts 0: must be at least 1"),
        ({"experts": 2, "chosen": 3}, "--chosen 3: is more than there are, --experts 2"),
        ({"width": 100}, "--width 100: must be a multiple of 8 times --heads 4"),
    ],
)
def test_sizes_that_cannot_be(given: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        Sizes(**given)


def test_unknown_layers_are_listed() -> None:
    with pytest.raises(UserError, match=r"^--layers mo: there are dense, moe, .*gated_delta, .*hca$"):
        chosen(["mo"])


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, threads = tmp_path / "layers.json", torch.get_num_threads()
    words = "bench layers --layers mamba2 --lengths 8 16 --passes forward --rounds 2 --width 32 --threads 1 --json"
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), str(file)])
    assert not ended.value.code
    assert "forward: milliseconds" in capsys.readouterr().out
    ours = [row for row in json.loads(file.read_text()) if row["ours"]]
    assert [(row["kind"], row["length"], len(row["seconds"])) for row in ours] == [("mamba2", 8, 2), ("mamba2", 16, 2)]
    assert torch.get_num_threads() == threads


def test_an_interrupt_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        yield [timed("moe", 8, 1.0)]
        raise KeyboardInterrupt

    monkeypatch.setattr("ablab.bench.layers.command.measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench_layers(Request(json=tmp_path / "layers.json"))
    assert len(json.loads((tmp_path / "layers.json").read_text())) == 1
