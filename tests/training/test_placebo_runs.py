"""Real runs of placebos: what a study of them trains, records and concludes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ablab.analysis.comparison import compare
from ablab.config import RunConfig, fingerprint
from ablab.config.placebo import KEY, override_of
from ablab.report.study_notes import study_notes
from ablab.results.collect import collect
from ablab.results.record import Record

ARMS: dict[str, tuple[str, ...]] = {"": (), "draw": (override_of("draw"),), "order": (override_of("order"),)}
SETTINGS = ("model.d_model=32", "trainer.max_steps=6", "trainer.val_check_interval=3", "optimizer.lr=0.1")


@pytest.fixture(scope="module")
def records(
    tiny_config: Callable[..., RunConfig], run: Callable[..., Record], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Record]]:
    """By arm, on three seeds; the folder of the first one's study is that of all."""
    folder = tmp_path_factory.mktemp("placebos")
    made: dict[str, list[Record]] = {arm: [] for arm in ARMS}
    for seed in (0, 1, 2):
        for index, (arm, words) in enumerate(ARMS.items()):
            config = tiny_config(f"seed={seed}", *SETTINGS, *words)
            made[arm].append(run(config, folder / f"{arm or 'plain'}{seed}", index=3 * seed + index))
    FOLDER.append(folder)
    return made


FOLDER: list[Path] = []


def test_a_draw_changes_nothing_and_another_order_something(records: dict[str, list[Record]]) -> None:
    for plain, draw, order in zip(*records.values(), strict=True):
        assert plain.status == draw.status == order.status == "ok"
        assert plain.metrics == draw.metrics
        assert plain.metrics != order.metrics
        assert plain.metrics["val_loss"] == pytest.approx(order.metrics["val_loss"], abs=0.01)
        assert plain.cost.parameters == draw.cost.parameters == order.cost.parameters
        assert plain.cost.flops_total == draw.cost.flops_total == order.cost.flops_total
        assert (plain.placebo, draw.placebo, order.placebo) == ("", "draw", "order")


def test_a_placebo_is_another_run_and_every_other_is_what_it_was(tiny_config: Callable[..., RunConfig]) -> None:
    plain, *others = (tiny_config(*words) for words in ARMS.values())
    assert len({fingerprint(each) for each in (plain, *others)}) == 3
    assert KEY.partition(".")[2] not in plain.options["model"]
    without = replace(others[0], options={**others[0].options, "model": plain.options["model"]})
    assert fingerprint(without) == fingerprint(plain)


def test_they_are_read_back_as_placebos(records: dict[str, list[Record]]) -> None:
    runs = collect(FOLDER)
    found = compare(runs)
    assert runs.variants == ["default"]
    assert found.items == ()
    assert {item.kind: item.equal for item in found.placebos.items} == {"draw": True, "order": False}
    assert 0 < (found.placebos.floor("text") or 0) < 0.01
    assert any("1 was equal to the last bit on every seed" in note for note in study_notes(found))
