"""`ablab bench widths`: what it makes of what it measures, and the picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ablab.bench.loop import compose_config
from ablab.bench.widths.command import Request, check_widths, courses, described, exponents
from ablab.bench.widths.measure import Cell, slope, steps_of
from ablab.errors import UserError
from ablab.report.figures.widths import over_widths, require_picture, save
from ablab.training.build import BuiltRun, build_task

WIDTHS = (16, 32, 64)


def cells(**powers: float) -> list[Cell]:
    """Of two seeds, whose sizes differ, and which go by the same power of the width in all parts of a model."""
    return [
        Cell(name, width, seed, 5, {"block": 0.1 * (1 + seed) * width**power, "logits": width**power})
        for name, power in powers.items()
        for width in WIDTHS
        for seed in (0, 1)
    ]


def test_powers_are_found_and_told() -> None:
    found = cells(standard=1.0, mup=-0.1)
    assert slope([(width, 3 * width**0.5) for width in WIDTHS]) == pytest.approx(0.5)
    assert exponents(found)["block"] == {"standard": pytest.approx([1, 1]), "mup": pytest.approx([-0.1, -0.1])}
    told = described(found)
    assert "+1.00 ± 0.00" in told
    assert "parametrisation=standard: 2 of 2 grow with the width" in told
    assert "parametrisation=mup: nothing grows with the width" in told
    assert "1 of 2 grow" not in told
    one = [Cell(each.parametrisation, each.width, 0, 5, {**each.moves, "logits": 1.0}) for each in found]
    assert "parametrisation=standard: 1 of 2 grow with the width, block the most" in described(one)


def test_the_picture_has_both_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one.svg", "other.svg", "picture.png"):
        save(over_widths(courses(cells(standard=1.0, mup=0.0))), tmp_path / name)
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "other.svg").read_text(encoding="utf-8")
    assert all(f"parametrisation={name}" in text for name in ("standard", "mup"))
    assert "mathdefault" not in text
    shown = over_widths(courses(cells(standard=1.0, mup=0.0)))
    assert "mup: block from 0.15 at 16 to 0.15 at 64" in shown.alt


def test_models_are_measured_one_after_the_other(corpus: Path, tmp_path: Path) -> None:
    small = ("task=text", f"task.path={corpus}", "task.seq_len=16", "task.batch_size=2", "model.n_layers=1")
    words = (*small, "parametrisation.base_width=16", "parametrisation.base_head_size=4")
    output = tmp_path / "widths.json"
    found = check_widths(Request(overrides=words, widths=(32, 16), steps=2, seeds=1, output=output))
    assert [(each.parametrisation, each.width) for each in found] == [
        *(("standard", 16), ("standard", 32), ("mup", 16), ("mup", 32))
    ]
    assert found[0].moves == found[2].moves  # at the base width
    assert found[1].moves != found[3].moves
    assert [row["width"] for row in json.loads(output.read_text(encoding="utf-8"))] == [16, 32, 16, 32]


def test_a_step_takes_as_many_batches_as_that_of_a_run(corpus: Path) -> None:
    small = ("task=text", f"task.path={corpus}", "task.seq_len=16", "task.batch_size=4", "model.n_layers=1")
    config = compose_config([*small, "model.d_model=16", "model.n_heads=2", "trainer.accumulate_grad_batches=2"])
    task = build_task(config)
    wholes = [batch for batch, _ in zip(task.train_dataloader(), range(3), strict=False)]
    halves = [(x[part], y[part]) for x, y in wholes for part in (slice(2), slice(2, 4))]
    found = []
    for each, batches in ((config, halves), (config.with_values({"trainer.accumulate_grad_batches": 1}), wholes)):
        built = BuiltRun(config=each, task=task)
        model = built.build_model()
        losses = list(steps_of(built, model, batches))
        found.append((losses, [parameter.detach() for parameter in model.parameters()]))
    (losses, own), (expected, others) = found
    assert losses == pytest.approx(expected, rel=1e-4)
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(own, others, strict=True))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Request(widths=(64,)), "--widths 64: give two or more"),
        (lambda: Request(steps=0), "--steps 0: must be at least 1"),
        (lambda: Request(output=Path.cwd()), f"--json {Path.cwd()}: is a folder"),
        (lambda: require_picture(Path("widths.txt")), "--figure widths.txt: must end in .svg or .png or .pdf"),
        (lambda: require_picture(Path("nowhere/widths.svg")), "--figure nowhere/widths.svg: no such folder"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()
