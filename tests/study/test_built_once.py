"""How often a run's model is built and its data are loaded: once for real, for counting, once in each process.

What a variant costs is counted by its first run alone.

Counted are the model itself, and that of the longest sequence that costs in use are told of.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Lab

# A part that each model has once, and a task: both leave a line for each time that they are made.
COUNTING = """
import os

import torch
from torch import nn

from ablab.tasks.text import Text


def count(what):
    with open(os.environ["COUNTS"], "a") as file:
        file.write(f"{os.getpid()} {what}\\n")


class Counted(nn.Module):
    def __init__(self, spec):
        super().__init__()
        count("counted" if torch.empty(0).is_meta else "model")

    def forward(self, x):
        return torch.relu(x)


class CountedText(Text):
    def _load(self):
        count("data")
        return super()._load()
"""
WORDS = ("activation=counted", "task._target_=counting.CountedText", "model.n_layers=1")


@pytest.fixture
def counts(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (lab.folder / "counting.py").write_text(COUNTING)
    option = "_target_: counting.Counted\n_partial_: true\n"
    (lab.folder / "options" / "activation" / "counted.yaml").write_text(option)
    monkeypatch.setenv("COUNTS", str(tmp_path / "counts"))
    return tmp_path / "counts"


def by_process(counts: Path) -> dict[int, Counter[str]]:
    found: dict[int, Counter[str]] = {}
    for line in counts.read_text().splitlines():
        process, what = line.split()
        found.setdefault(int(process), Counter())[what] += 1
    return found


ONCE = {"model": 1, "counted": 2, "data": 1}
AGAIN = ONCE | {"counted": 1}  # of a model whose costs an earlier run has counted


def test_one_run(lab: Lab, counts: Path) -> None:
    ended = lab.ablab(*lab.words("name=built_alone", *WORDS))
    assert ended.status == 0, ended.err
    assert by_process(counts) == {os.getpid(): ONCE}


def test_a_sweep_of_two_variants_on_two_seeds(lab: Lab, counts: Path) -> None:
    ended = lab.sweep("name=built", *WORDS, "attention=full,windowed", "seed=0,1")
    assert ended.status == 0, ended.err
    found = by_process(counts)
    assert found.pop(os.getpid()) == {"counted": 2, "model": 2, "data": 1}  # the supervisor's, for each variant
    assert list(found.values()) == [ONCE, ONCE, AGAIN, AGAIN]
