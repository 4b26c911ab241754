"""Hydra's words for what is searched, as Optuna's distributions."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from ablab.errors import UserError
from ablab.study.searching.space import as_overrides, corners, divide, near_end

optuna = pytest.importorskip("optuna", reason="the extra `optuna`")
Float, Int = optuna.distributions.FloatDistribution, optuna.distributions.IntDistribution
Choice = optuna.distributions.CategoricalDistribution


def divided(*words: str) -> tuple[dict[str, object], list[str]]:
    space, rest = divide(OverridesParser.create().parse_overrides(list(words)))
    return dict(space), [str(override.input_line) for override in rest]


@pytest.mark.parametrize(
    ("word", "distribution"),
    [
        ("lr=interval(1e-4, 1e-2)", Float(1e-4, 1e-2)),
        ("lr=tag(log, interval(1e-4, 1e-2))", Float(1e-4, 1e-2, log=True)),
        ("window=int(interval(8, 64))", Int(8, 64)),
        ("window=range(8, 64, 8)", Int(8, 56, step=8)),  # as in Hydra, the end is left out
        ("dropout=range(0.0, 0.5, 0.25)", Float(0.0, 0.25, step=0.25)),
        ("betas=choice([0.9,0.99],[0.8,0.9])", Choice(["[0.9,0.99]", "[0.8,0.9]"])),
    ],
)
def test_each_word_is_its_distribution(word: str, distribution: object) -> None:
    key = word.partition("=")[0]
    assert divided("attention=full,lsh", f"{key}=1", word, "seed=3") == (
        {key: distribution},
        ["attention=full,lsh", "seed=3"],
    )


def test_numbers_are_tried_to_four_digits_and_choices_as_they_were_written() -> None:
    found = as_overrides({"lr": 0.00123456789, "one": 1.0, "small": 1.23456e-7, "window": 12345, "norm": "'a b'"})
    assert found == {"lr": "0.001235", "one": "1.0", "small": "1.235e-07", "window": "12345", "norm": "'a b'"}


def test_both_ends_are_tried_out() -> None:
    space, _ = divide(OverridesParser.create().parse_overrides(["lr=interval(0.1, 1)", "norm=choice(rms,layer)"]))
    assert corners(space) == [{"lr": "0.1", "norm": "rms"}, {"lr": "1.0", "norm": "layer"}]
    ends = {value: near_end("lr", value, space) for value in (0.1, 0.14, 0.5, 0.96)}
    assert ends == {0.1: "low", 0.14: "low", 0.5: None, 0.96: "high"}
    assert near_end("norm", "rms", space) is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["attention=full,lsh"], r"nothing is to be searched; write a setting as 'optimizer\.lr=tag\(log, interval"),
        (["seed=interval(1,3)"], "seed says what is compared, and cannot be searched"),
        (["task.seq_len=range(16,64,16)"], "task says what is compared"),
        (["lr=interval(1, 0.1)"], r"lr=interval\(1, 0\.1\): cannot be searched"),
        (["lr=tag(log, interval(-1, 1))"], "cannot be searched"),
        (["w=tag(log, range(1, 9))"], "log is for an interval"),
        (["lr=interval(0, 1)", "lr=0.5"], "nothing is to be searched"),  # since the later one counts
    ],
)
def test_what_cannot_be_searched_is_refused(words: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        divided(*words)
