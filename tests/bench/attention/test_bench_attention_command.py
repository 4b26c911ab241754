"""`ablab bench attention`, from the command line to the table, the figure and the file."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_fakes import cells, results

from ablab.bench.attention import command as command_module
from ablab.bench.attention.figure import draw
from ablab.bench.attention.results import Cell, write
from ablab.bench.attention.tables import lines, render, tables, three_digits
from ablab.cli import main

QUICK = ("--lengths", "8,16", "--heads", "2", "--head-size", "4", "--window", "4", "--chunk", "2", "--rounds", "2")
OURS = ("--implementations", "full", "windowed,sdpa")
MEASURED = {"implementation", "ours", "family", "pass", "length", "seconds", "seconds_min", "seconds_max", "peak_bytes"}

Bench = Callable[..., tuple[object, str, str]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """bench("--lengths", "8"): the exit status, and what went to stdout and stderr, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("GOMP_SPINCOUNT", os.environ.get("GOMP_SPINCOUNT", "0"))
    monkeypatch.setattr("ablab.bench.attention.command._PEERS", {})
    monkeypatch.setattr("ablab.bench.attention.cost.SIZE", {"cpu": 64})

    def run(*words: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["bench", "attention", *words])
        return (ended.value.code, *capsys.readouterr())

    return run


def test_a_run_from_end_to_end(bench: Bench, tmp_path: Path) -> None:
    status, out, err = bench(*QUICK, *OURS, "--json", "figures.json", "--figure", "figure.svg")
    assert status == 0
    assert "1 threads, torch" in out
    assert re.search(
        r"reach [\d,]+ GFLOP/s\nbatch 1, 2 heads of 4, window 4, chunk 2, 2 rounds of hashing, float32", out
    )
    for title in ("forward: milliseconds", "forward and backward: peak memory", "forward: scaling", "how many times"):
        assert title in out
    assert re.search(r"ours: windowed +[\d.]+ ±\d+% +[\d.]+ ±\d+%\n", out)
    assert "16 forward_backward: timing 3 implementations" in err
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    order = [(each["length"], each["pass"], each["implementation"]) for each in found]
    passes, names = ("forward", "forward_backward"), ("full", "windowed", "sdpa")
    assert order == [(n, pass_, name) for n in (8, 16) for pass_ in passes for name in names]
    for each in found:
        assert set(each) == MEASURED
        assert each["ours"] is (each["implementation"] != "sdpa")
        assert each["family"] == ("windowed" if each["implementation"] == "windowed" else "full")
        assert 0 < each["seconds_min"] <= each["seconds"] <= each["seconds_max"]
        assert isinstance(each["peak_bytes"], int)
        assert each["peak_bytes"] > 0
    assert (tmp_path / "figure.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert {path.name for path in tmp_path.iterdir()} == {"figures.json", "figure.svg"}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--lengths", "0"], ["--lengths 0: must be at least 1"]),
        (["--lengths", "8,many"], ["--lengths many: not a whole number"]),
        (["--passes", "backward"], ["--passes backward: there are forward, forward_backward"]),
        (["--implementations", "sdpb"], ["--implementations sdpb: there are full, "]),
        (["--head-size", "0"], ["--head-size 0: must be at least 1"]),
        (["--rounds", "0"], ["--rounds 0: must be at least 1"]),
        (["--budget", "0"], ["--budget 0.0: must be above 0"]),
        (["--longest-call", "nan"], ["--longest-call nan: must be above 0"]),
        (["--threads", "0"], ["--threads 0: must be at least 1"]),
        (["--dtype", "int8"], ["--dtype int8: there are float32, bfloat16, float16"]),
        (["--device", "cuda"], ["--device cuda: PyTorch finds no CUDA device here"]),
        (["--json", "no/such/file"], ["--json no/such/file: no such folder"]),
        (["--json", "."], ["--json .: is a folder"]),
        (["--figure", "figure.txt"], ["--figure figure.txt: must end in .png or .svg"]),
        (["--window", "x"], ["--window", "'x'", "see ablab bench attention --help"]),
    ],
)
def test_mistakes(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], parts: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, out, err = bench(*words)
    assert (status, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith("ablab: error: ")
    for part in parts:
        assert part in line
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_what_was_measured(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, results: Any, **options: Any) -> None:
        results.cells += cells("full", {8: 0.5}, ours=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(command_module, "measure", interrupted)
    status, out, err = bench(*QUICK, *OURS, "--json", "figures.json", "--figure", "figure.png")
    assert (status, out) == (130, "")
    assert "interrupted" in err
    [found] = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert found["seconds"] == 0.5
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_peer_that_is_left_out_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: object) -> None:
        raise ModuleNotFoundError

    monkeypatch.setattr("ablab.bench.attention.command._PEERS", {"a-peer": missing})
    status, out, err = bench("--lengths", "8", "--passes", "forward", "--implementations", "full", "--rounds", "1")
    assert status == 0
    line = "left out: a-peer: not installed; pip install 'ablab[bench]' brings it"
    assert line in out.splitlines()
    assert line in err.splitlines()


def skipped(name: str, length: int, reason: str) -> Cell:
    return Cell(
        implementation=name, ours=False, family="lsh", causal=True, pass_="forward", length=length, skipped=reason
    )


def test_what_was_skipped_is_in_the_file_with_its_reason(tmp_path: Path) -> None:
    write(tmp_path / "figures.json", [skipped("peer", 8, "too long"), *cells("ours", {8: 0.25}, ours=True)])
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert found[0] == {
        "implementation": "peer",
        "ours": False,
        "family": "lsh",
        "pass": "forward",
        "length": 8,
        "skipped": "too long",
    }
    assert found[1]["seconds"] == 0.25
    write(tmp_path / "nothing.json", [])
    assert json.loads((tmp_path / "nothing.json").read_text(encoding="utf-8")) == []


def known() -> Any:
    """Full attention of T^2, ours of T that meets it at 4,096, a peer three times slower, one that is skipped."""
    lengths = (2048, 8192, 32768)
    return results(
        cells("mine", {n: n / 4096 for n in lengths}, ours=True, family="windowed"),
        cells("late", dict.fromkeys(lengths, 99.0), ours=True, family="lsh"),
        cells("early", {n: 1e-9 * n for n in lengths}, ours=True, family="dynamic"),
        cells("sdpa", {n: (n / 4096) ** 2 for n in lengths}),
        cells("peer", {n: 3 * n / 4096 for n in lengths}, family="windowed"),
        [skipped("other", 2048, "why"), skipped("other", 8192, "why")],
    )


def test_the_lines_say_where_an_option_does_not_pay_and_what_was_skipped() -> None:
    assert lines(known()) == [
        "mine, against sdpa: forward: does NOT pay below 4,096 tokens.",
        "late, against sdpa: forward: does NOT pay up to 32,768 tokens.",
        "early, against sdpa: forward: pays at all lengths, 2,048 tokens included.",
        "skipped: other, forward, at 2,048, 8,192: why",
    ]


def test_the_tables_show_growth_crossover_share_and_ratios() -> None:
    shown = render(tables(known(), matmul_peak=1e6))
    scaling = shown[shown.index("forward: scaling") :]
    assert re.search(
        r"ours: mine +T\^1\.00 +from 4,096 +12% +32,768", scaling
    )  # 1e6 operations in 8 s, of 1e6 a second
    assert re.search(r"sdpa +T\^2\.00 +– ", scaling)
    assert re.search(r"\nmine +sdpa / ours, time +0\.500 +2\.00 +8\.00", shown)
    assert re.search(r"\nmine +best peer / ours, time +3\.00 +3\.00 +3\.00 +peer", shown)
    assert re.search(r"\nours: mine +500 ±75% +2,000 ±75% +8,000 ±75%", shown)
    assert re.search(r"\nother +– +– +–\n", shown)


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234"), (0, "0")]
)
def test_three_digits(value: float, text: str) -> None:
    assert three_digits(value) == text


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_figure_names_every_implementation_with_its_growth(tmp_path: Path, suffix: str) -> None:
    draw(known(), path := tmp_path / f"figure.{suffix}")
    if suffix == "svg":
        drawn = path.read_text(encoding="utf-8")
        assert all(f"<!-- {name}" in drawn for name in ("mine", "sdpa", "peer", "other"))
        assert "T^{1.00}" in drawn
    else:
        assert path.read_bytes().startswith(b"\x89PNG")
