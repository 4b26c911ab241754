"""Attention between modalities: matrices by layer, and mechanism tables without their entries."""

import math
import random
from statistics import fmean

import pytest
from synthetic import record, runs_of

from ablab.report.context import ReportContext
from ablab.report.html.sections.mechanism import is_share, matrices, mechanism
from ablab.results.record import Record

MODALITIES = ("text", "image", "speech")


def shares(rng: random.Random, layers: int) -> dict[str, float]:
    """Rows that add up to 1 for each layer, and their means over layers, as a run records them."""
    mechanism: dict[str, float] = {}
    for query in MODALITIES:
        weights = [[rng.random() for _ in MODALITIES] for _ in range(layers)]
        rows = [[weight / sum(row) for weight in row] for row in weights]
        for place, key in enumerate(MODALITIES):
            name = f"modal_fusion/{query}_from_{key}"
            mechanism[name] = fmean(row[place] for row in rows)
            if layers > 1:
                mechanism |= {f"{name}/layer_{layer}": row[place] for layer, row in enumerate(rows)}
    names = rng.sample(list(mechanism), len(mechanism))
    names.sort(key=lambda name: [MODALITIES.index(part) for part in name.split("/")[1].split("_from_")])
    return {name: mechanism[name] for name in names}  # layers in any order


def runs_with(layers: int, seeds: int = 3) -> list[Record]:
    rng = random.Random(3)
    return [
        record(seed, axes={"modal_fusion": option}, mechanism={**shares(rng, layers), "modal_fusion/gate": 0.5})
        for option in ("concat", "cross")
        for seed in range(seeds)
    ]


def test_a_matrix_per_layer_has_queries_down_and_keys_across() -> None:
    records = runs_with(layers=11)
    found = matrices(runs_of(records), "language")
    assert [one.variant for one in found] == ["modal_fusion=concat", "modal_fusion=cross"]
    for one, own in zip(found, (records[:3], records[3:]), strict=True):
        assert [layer.caption for layer in one.layers] == [f"layer {layer}" for layer in range(11)]  # 2 before 10
        for layer, grid in enumerate(one.layers):
            assert grid.columns == list(MODALITIES)
            for (query, cells), expected in zip(grid.rows, MODALITIES, strict=True):
                assert query == expected
                for (text, _), key in zip(cells, MODALITIES, strict=True):
                    name = f"modal_fusion/{query}_from_{key}/layer_{layer}"
                    assert text == f"{fmean(r.mechanism[name] for r in own):.2f}"
                assert sum(float(text) for text, _ in cells) == pytest.approx(1, abs=0.016)


def test_a_model_of_one_layer_has_one_matrix() -> None:
    (grid,) = matrices(runs_of(runs_with(layers=1)), "language")[0].layers
    assert grid.caption == "mean over layers"
    assert [query for query, _ in grid.rows] == list(MODALITIES)


def test_mechanism_tables_do_not_drown_in_them() -> None:
    runs = runs_of(runs_with(layers=2))
    blocks = mechanism(ReportContext.of(runs)).blocks
    tables = {block.title: block.table for block in blocks}
    assert tables["modal_fusion"] is not None
    assert list(tables["modal_fusion"].columns) == ["variant", "gate"]
    assert is_share("modal_fusion/text_from_image")
    assert is_share("modal_fusion/text_from_image/layer_3")
    assert not is_share("activation/zero_share")
    assert not is_share("attention/span/layer_0")


def test_what_was_not_measured_is_a_gap() -> None:
    item = record(
        mechanism={"modal_fusion/text_from_image/layer_0": math.nan, "modal_fusion/image_from_image/layer_0": 1.0}
    )
    (grid,) = matrices(runs_of([item]), "language")[0].layers
    assert grid.rows == [("text", [("–", 0), ("–", 0)]), ("image", [("–", 0), ("1.00", 10)])]
    assert matrices(runs_of([record()]), "language") == []
