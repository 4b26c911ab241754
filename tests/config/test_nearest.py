"""Did you mean ...?"""

import pytest

from ablab.config.nearest import meant_by, nearest
from ablab.config.schema import known_settings

TOP = ["model", "seed", "name", "optimizer", "attention", "jobs", "question", "task"]


def test_the_nearest_name_and_all_of_them_sorted() -> None:
    assert nearest("ful", ["windowed", "full", "lsh"]) == "; did you mean 'full'? (there are: full, lsh, windowed)"


def test_nothing_is_guessed_where_nothing_is_near() -> None:
    assert nearest("nope", ["windowed", "full"]) == " (there are: full, windowed)"


def test_a_thing_without_names_says_so() -> None:
    assert nearest("foo", []) == " (it has none)"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("lr", ["optimizer.lr", "tune.lr"]),
        ("window", ["attention.window"]),
        ("d_model", ["model.d_model"]),
        ("d_modle", ["model.d_model"]),
        ("n_layer", ["model.n_layers"]),
        ("max_steps", ["trainer.max_steps", "tune.max_steps"]),
        ("seeds", ["seed", "tune.seeds"]),
        ("optmizer", ["optimizer"]),
        ("optimzer.lr", ["optimizer.lr"]),
        ("offline", ["logger.wandb.offline"]),
        ("quesion", ["question"]),
        ("xyzzy", []),
        ("steps", ["trainer.max_steps"]),
        ("epochs", ["trainer.max_steps"]),
        ("heads", ["model.n_heads", "ladder.heads"]),
    ],
)
def test_the_last_part_of_a_setting_is_enough(wrong: str, meant: list[str]) -> None:
    assert meant_by(wrong, [*TOP, *known_settings()]) == meant


def test_every_setting_is_known_by_its_last_part() -> None:
    known = known_settings()
    assert {"schedule.min_factor", "strategy.period", "callbacks.ema.decay", "comparison.baseline"} <= set(known)
    for name in known:
        last = name.rpartition(".")[2]
        others = [each for each in known if each.endswith(f".{last}")]
        assert name in meant_by(last, known) or len(others) > 3, name


def test_names_of_other_libraries_are_known() -> None:
    assert meant_by("rotary", ["rope", "learned", "none"]) == ["rope"]
    assert meant_by("swish", ["silu", "swiglu", "relu"]) == ["silu"]
    assert meant_by("swish", ["swiglu", "relu"]) != ["silu"]
