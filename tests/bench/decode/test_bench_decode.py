"""`ablab bench decode` in small: what is timed, what is said of it, and that both models say the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ablab.bench.decode.command import Request, bench_decode, menu
from ablab.bench.decode.entries import Entry, Session, Sizes, attention_entry, recipe_entries
from ablab.bench.decode.measure import Timed, measure
from ablab.bench.decode.tables import lines, tables
from ablab.bench.layers.measure import Effort
from ablab.errors import UserError

SMALL = Sizes(width=32, heads=2, layers=1, words=20)


def timed(entry: str, *seconds: float, nbytes: int, length: int = 2048, ours: bool = True) -> Timed:
    return Timed(entry=entry, ours=ours, kind="token", batch=1, length=length, seconds=seconds, nbytes=nbytes)


def test_one_run_times_prompts_and_tokens_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = Request(
        sizes=SMALL, attentions=["windowed"], lengths=[70, 12], batches=[2], steps=2, effort=Effort(rounds=2),
        threads=1, json=tmp_path / "figures.json",
    )  # fmt: skip
    text = bench_decode(request)
    assert "prompt, batch 2: milliseconds" in text
    assert "one more token, batch 2: milliseconds" in text
    assert capsys.readouterr().err.splitlines() == ["batch 2: 12 tokens", "batch 2: 70 tokens"]
    rows = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    ours = {(row["entry"], row["kind"], row["length"]): row for row in rows if row["ours"]}
    assert {(entry, kind) for entry, kind, _ in ours} == {
        (entry, kind) for entry in ("llama: ours", "windowed") for kind in ("prefill", "token")
    }
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in ours.values())
    # Keys and values of two samples, of all tokens or of those that the window has.
    assert ours["llama: ours", "token", 70]["nbytes"] == 2 * 2 * 70 * 32 * 4
    assert ours["windowed", "token", 70]["nbytes"] == 2 * 2 * 64 * 32 * 4


def test_what_transformers_says_is_what_ours_says() -> None:
    pytest.importorskip("transformers", reason="the extra `bench` is not installed")
    for recipe in ("llama", "gpt2"):
        found = list(measure(list(recipe_entries(recipe, SMALL, 40)), 20, 2, 12, 1, Effort(rounds=1)))
        assert [row.skipped for row in found] == [""] * 4
        assert {row.entry for row in found} == {f"{recipe}: ours", f"{recipe}: transformers"}


def test_a_model_that_says_something_else_is_left_out() -> None:
    ours = next(iter(recipe_entries("llama", SMALL, 20)))
    other = attention_entry("windowed", SMALL, 20)
    assert isinstance(other, Entry)
    broken = next(iter(recipe_entries("gpt2", SMALL, 20)))
    peer = Entry(name="llama: transformers", ours=False, start=broken.start, beside=ours.name)
    rows = list(measure([ours, peer], 20, 1, 8, 1, Effort(rounds=1)))
    assert [row.skipped.partition(": ")[2][:20] for row in rows if row.entry == peer.name] == [
        "gives something else"
    ] * 2
    assert [line for line in lines(rows) if "left out: llama: transformers" in line]


def test_a_cache_that_does_not_keep_its_promise_is_named() -> None:
    """Ten times fewer bytes promise at least five times the speed."""
    full = timed("llama: ours", 10.0, 10.0, nbytes=1000)
    kept, unkept = timed("kept", 1.9, 1.9, nbytes=100), timed("unkept", 2.5, 2.5, nbytes=100)
    short = timed("unkept", 10.0, 10.0, nbytes=100, length=512)
    assert lines([full, kept, unkept, short]) == [
        "unkept at 2,048 tokens, batch 1: 10 times fewer bytes than full attention, and 4.00 times as fast, not 5: the "
        "rest of a token takes its time"
    ]


@pytest.mark.parametrize("option", ["full", "windowed", "gated_delta", "mla"])
def test_tokens_are_those_behind_the_prompt_in_every_round(option: str) -> None:
    """Whatever its cache is, it is as it was before the round."""
    made = attention_entry(option, SMALL, 100)
    assert isinstance(made, Entry)
    begun: list[Noting] = []

    def start(batch: int, capacity: int) -> Session:
        begun.append(Noting(made.start(batch, capacity)))
        return begun[-1]

    rows = list(measure([replace(made, start=start)], 20, 2, 70, 3, Effort(rounds=2)))
    assert [row.skipped for row in rows] == ["", ""]
    tokens = next(each.found for each in begun if len(each.found) > 1)[1:]
    assert len(tokens) == 3 * 3
    for place in range(3):
        assert all(torch.allclose(tokens[place], again, atol=1e-5) for again in tokens[place::3])
    assert not torch.allclose(tokens[0], tokens[1], atol=1e-5)


class Noting(Session):
    """Notes what another one gives."""

    def __init__(self, session: Session) -> None:
        self.found: list[torch.Tensor] = []
        self._session = session

    def extend(self, tokens: torch.Tensor) -> torch.Tensor:
        self.found.append(self._session.extend(tokens))
        return self.found[-1]

    def mark(self) -> None:
        self._session.mark()

    def back(self) -> None:
        self._session.back()

    @property
    def nbytes(self) -> int | None:
        return self._session.nbytes


def test_few_bytes_are_told_to_three_digits() -> None:
    table = tables([timed("small", 1.0, nbytes=100), timed("large", 1.0, nbytes=2**20)])[-1]
    assert [row[1] for row in table.rows] == ["0.0977", "1,024"]


def test_ratios_are_of_rounds() -> None:
    rows = [
        timed("llama: ours", 1.0, 3.0, 2.0, nbytes=1),
        timed("llama: transformers", 2.0, 3.0, 8.0, nbytes=1, ours=False),
    ]
    ratios = next(table for table in tables(rows) if "ours / transformers" in table.title)
    assert ratios.rows == [["llama", "0.50 (0.38–0.75)"]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attentions": ["ful"]}, "--attentions ful: no such option; did you mean 'full'"),
        ({"attentions": ["windowd"]}, "--attentions windowd: no such option; did you mean 'windowed'"),
        ({"lengths": [0]}, "--lengths 0: must be at least 1"),
        ({"steps": 0}, "--steps 0: must be at least 1"),
        ({"recipes": []}, "--recipes --attentions: name one at least"),
        ({"recipes": ["bert"]}, "--recipes bert: there are gpt2, llama"),
        ({"json": Path("nowhere/there.json")}, "no such folder"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    before = torch.get_num_threads()
    with pytest.raises(UserError, match=message):
        bench_decode(Request(**{"sizes": SMALL, "lengths": [8], "attentions": [], **settings}))  # type: ignore[arg-type]
    assert torch.get_num_threads() == before
    with pytest.raises(UserError, match="must be a multiple of twice"):
        Sizes(width=30, heads=4)


def test_the_menu_is_that_of_the_axis() -> None:
    assert {"windowed", "mla", "mamba2"} <= set(menu())
    assert not {"full", "pattern"} & set(menu())


def test_full_attention_can_be_asked_for_by_its_name() -> None:
    assert Request(attentions=["full"]).attentions == ["full"]
