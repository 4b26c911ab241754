"""Learning curves as they are written, as a crash leaves them, and as pandas reads them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablab.results.curves import CurveCache, read_curves
from ablab.results.record import LARGEST
from ablab.results.store import METRICS_FILE

SPARSE = "step,train_loss,val_loss\n10,4.5,\n10,,4.0\n20,4.25,\n20,,3.5\n"


def written(folder: Path, text: str) -> Path:
    path = folder / METRICS_FILE
    path.write_text(text, encoding="utf-8")
    return path


def points(path: Path, metric: str) -> list[tuple[int, float]] | None:
    curve = read_curves(path, [metric]).get(metric)
    return None if curve is None else list(zip(curve.step.tolist(), curve.value.tolist(), strict=True))


def test_rows_are_sparse(tmp_path: Path) -> None:
    curves = read_curves(written(tmp_path, SPARSE), ["val_loss", "train_loss", "other", "step"])
    assert {name: (curve.step.tolist(), curve.value.tolist()) for name, curve in curves.items()} == {
        "val_loss": ([10, 20], [4.0, 3.5]),
        "train_loss": ([10, 20], [4.5, 4.25]),
    }
    assert curves["val_loss"].step.dtype == np.int64
    assert curves["val_loss"].value.dtype == np.float64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("step,val_loss\n", None),
        ("epoch,val_loss\n1,2.0\n", None),
        ("step,val_loss\n1,nan\n2,inf\n3,-inf\n", None),
        ("step,val_loss\n1,2.0\n2,nan\n3,1.0\n", [(1, 2.0), (3, 1.0)]),
        ("step,val_loss\n1,2.0\n2,1.23", [(1, 2.0)]),  # of 1.2345, perhaps: cut off
        ("step,train_loss,val_loss\n1,2.0,3.0\n2\n", [(1, 3.0)]),
        ("step,val_loss\n1,2.0\n\x00\x00\x00,\x00\n", [(1, 2.0)]),
        ("step,val_loss\n1,2.0\n,5.0\n1.x,6.0\n2,abc\n", [(1, 2.0)]),
        ("step,val_loss\n1,2.0\n99999999999999999999,3.0\n2,1e300\n", [(1, 2.0)]),
        ("step,val_loss\n2,2.0\n1,3.0\n2,1.5\n", [(1, 3.0), (2, 1.5)]),
        ('step,"a,b",val_loss\n1,"x,y",2.0\n', [(1, 2.0)]),
    ],
)
def test_what_is_damaged_or_missing_is_left_out(tmp_path: Path, text: str, expected: object) -> None:
    assert points(written(tmp_path, text), "val_loss") == expected


def test_no_file_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path / METRICS_FILE, ["val_loss"]) == {}
    assert read_curves(tmp_path, ["val_loss"]) == {}


def test_bytes_that_are_no_text_cost_their_row_only(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    path.write_bytes(b"step,val_loss\n1,2.0\n2,\xff\xfe\n3,1.0\n")
    assert points(path, "val_loss") == [(1, 2.0), (3, 1.0)]


cells = st.one_of(st.just(""), st.floats().filter(lambda x: not LARGEST < abs(x) < math.inf).map(repr))


@given(st.lists(st.tuples(st.integers(0, 9), cells, cells), min_size=1, max_size=12))
def test_pandas_reads_the_same(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str, str]]) -> None:
    lines = "".join(f"{step},{one},{other}\n" for step, one, other in rows)
    path = written(tmp_path_factory.mktemp("run"), f"step,a,b\n{lines}")
    table = pd.read_csv(path)
    for metric in ("a", "b"):
        finite = table[np.isfinite(pd.to_numeric(table[metric]).astype(float))]
        expected = finite.groupby("step")[metric].last()
        found = points(path, metric) or []
        assert [step for step, _ in found] == list(expected.index)
        assert [value for _, value in found] == pytest.approx(list(expected))


def test_each_file_is_read_once(tmp_path: Path) -> None:
    path = written(tmp_path, SPARSE)
    cache = CurveCache(["val_loss", "train_loss"])
    first = cache(tmp_path, "val_loss")
    assert first is not None
    path.unlink()
    assert cache(str(tmp_path), "val_loss") is first
    assert cache(tmp_path, "train_loss") is not None
    assert cache(tmp_path, "unforeseen") is None  # read again, in vain


def test_a_long_curve(tmp_path: Path) -> None:
    rows = "".join(f"{step},{math.exp(-step / 500)!r},{',' * 30}\n" for step in range(1000))
    curve = read_curves(written(tmp_path, f"step,val_loss,{','.join(map(str, range(31)))}\n{rows}"), ["val_loss"])
    assert curve["val_loss"].value == pytest.approx([math.exp(-step / 500) for step in range(1000)], rel=0, abs=0)
