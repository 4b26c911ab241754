"""What the view of a study holds, against the runs that it was made from."""

from __future__ import annotations

import io
import itertools
import math
import time
from pathlib import Path
from statistics import fmean, stdev

import pytest
from PIL import Image
from scipy import stats
from shown import VALUES, write_study
from synthetic import record, study
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from ablab.errors import UserError
from ablab.report.dashboard.view import View, make_view, remove_view, write_view
from ablab.results.record import Record
from ablab.results.store import METRICS_FILE

BASELINE, GELU = (f"activation={name}" for name in ("relu", "gelu"))


def values(view: View, kind: str) -> dict[str, Summary.Value]:
    """What the view shows as texts, images or layout, by tag."""
    found = [value for event in view.events[""] for value in event.summary.value]
    return {value.tag: value for value in found if value.metadata.plugin_data.plugin_name == kind}


def layout(view: View) -> Layout:
    (value,) = values(view, "custom_scalars").values()
    return Layout.FromString(value.tensor.string_val[0])


def curve(view: View, run: str, tag: str) -> dict[int, float]:
    points = [(event.step, value) for event in view.events[run] for value in event.summary.value]
    return {step: value.simple_value for step, value in points if value.tag == tag}


def final(view: View, run: str, tag: str) -> list[float]:
    return [list(curve(view, run, f"{tag}/{name}").values())[-1] for name in ("mean", "lower", "upper")]


def interval(sample: list[float]) -> list[float]:
    """The mean and Student's interval, as the textbook writes it."""
    half = stats.t.ppf(0.975, len(sample) - 1) * stdev(sample) / math.sqrt(len(sample))
    return [fmean(sample), fmean(sample) - half, fmean(sample) + half]


@pytest.fixture
def folder(tmp_path: Path, records: list[Record]) -> Path:
    return write_study(tmp_path / "which", records)


def test_a_chart_per_metric_and_its_difference_the_primary_metric_first(folder: Path) -> None:
    (category,) = layout(make_view(folder)).category
    assert category.title == "which: language"
    assert [chart.title for chart in reversed(category.chart)] == [  # TensorBoard sets the last one first
        "val_loss: mean over seeds",
        f"val_loss: paired difference to {BASELINE}",
        "train_loss: mean over seeds",
        f"train_loss: paired difference to {BASELINE}",
    ]
    for chart in category.chart:
        (series,) = chart.margin.series
        tag = series.value.removesuffix("/mean")
        assert (series.lower, series.upper) == (f"{tag}/lower", f"{tag}/upper")


def test_nothing_comes_between_the_variants_however_long_it_takes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard gives its colours to all runs in turn, by the time of their first events."""
    view = make_view(folder)
    clock = itertools.count(1_700_000_000.5)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    write_view(folder, view, set())
    starts = {}
    for run in view.events:
        (file,) = (folder / "dashboard" / run).glob("*.view")
        times = [event.wall_time for event in LegacyEventFileLoader(str(file)).Load()]
        assert len(times) == 1 + len(view.events[run])
        starts[run] = min(times)
    assert sorted(starts, key=lambda run: starts[run]) == list(view.events)
    assert 0 < max(starts.values()) - min(starts.values()) < 1e-3


def test_means_and_intervals_are_those_of_the_seeds(folder: Path) -> None:
    view = make_view(folder)
    assert list(curve(view, GELU, "which/language/val_loss/mean")) == [10, 20, 30, 40, 50]
    for variant, name in ((BASELINE, "relu"), (GELU, "gelu")):
        assert final(view, variant, "which/language/val_loss") == pytest.approx(interval(VALUES[name]), rel=1e-6)
        expected = interval([value + 0.1 for value in VALUES[name]])
        assert final(view, variant, "which/language/train_loss") == pytest.approx(expected, rel=1e-6)


def test_differences_are_paired_and_those_of_a_diverged_seed_left_out(folder: Path) -> None:
    view = make_view(folder)
    differences = [own - base for own, base in zip(VALUES["gelu"], VALUES["relu"], strict=True)]
    assert final(view, GELU, "which/language/val_loss/difference") == pytest.approx(interval(differences), rel=1e-5)
    silu = [VALUES["silu"][seed] - VALUES["relu"][seed] for seed in (0, 2, 3)]
    found = final(view, GELU.replace("gelu", "silu"), "which/language/val_loss/difference")
    assert found == pytest.approx(interval(silu), rel=1e-5)
    assert curve(view, BASELINE, "which/language/val_loss/difference/mean") == {}


def test_two_seeds_have_no_interval(tmp_path: Path) -> None:
    view = make_view(write_study(tmp_path / "two", study({"relu": [1.0, 2.0], "gelu": [1.0, 3.0]})))
    assert final(view, GELU, "two/language/val_loss") == [2.0, 2.0, 2.0]
    assert final(view, GELU, "two/language/val_loss/difference") == [0.5, 0.5, 0.5]


def test_a_long_curve_is_thinned_at_the_same_steps_for_all_three(folder: Path) -> None:
    """TensorBoard would draw a sample of more than a thousand points, and refuse bounds with other steps."""
    for file in folder.rglob(METRICS_FILE):
        rows = [f"{step},{1 / step}" for step in range(1, 5001)]
        file.write_text("\n".join(["step,val_loss", *rows]) + "\n", encoding="utf-8")
    view = make_view(folder)
    steps = [list(curve(view, GELU, f"which/language/val_loss/{name}")) for name in ("mean", "lower", "upper")]
    assert steps[0] == steps[1] == steps[2] == sorted(set(steps[0]))
    assert (steps[0][0], steps[0][-1]) == (1, 5000)
    assert 100 < len(steps[0]) <= 1000


def test_every_task_has_a_heading_of_its_own(tmp_path: Path) -> None:
    tasks = [
        record(seed, 1.0 + seed, axes={"task": task, "activation": name})
        for task in ("language", "vision")
        for name in ("relu", "gelu")
        for seed in (1, 2)
    ]
    view = make_view(write_study(tmp_path / "both", tasks))
    assert [category.title for category in layout(view).category] == ["both: language", "both: vision"]
    assert {tag.split("/")[1] for tag in values(view, "images")} == {"suite of 2 tasks", "language", "vision"}


def test_the_verdicts_are_text_and_what_users_wrote_is_escaped(tmp_path: Path) -> None:
    runs = study({"relu": [1.0, 1.2, 1.1, 1.4], "<b>|bold|": [0.9, 1.05, 1.0, 1.2]})
    view = make_view(write_study(tmp_path / "told", runs))
    texts = {tag: value.tensor.string_val[0].decode() for tag, value in values(view, "text").items()}
    assert texts["told/verdicts"].startswith("8 runs: 8 ok.\n\n- BETTER")
    assert "lowers val\\_loss by 0.137 " in texts["told/verdicts"]
    assert "| variant" in texts["told/tables"]
    for text in texts.values():
        assert "\\<b>\\|bold\\|" in text
        assert text.count("<b>") == text.count("\\<b>")


def test_a_run_that_did_not_end_well_is_told(folder: Path) -> None:
    text = values(make_view(folder), "text")["which/verdicts"].tensor.string_val[0].decode()
    assert text.startswith("12 runs: 11 ok, 1 diverged.")
    assert "UNSTABLE" in text


def test_the_figures_are_pictures_on_white_with_words(folder: Path) -> None:
    pictures = values(make_view(folder), "images")
    assert list(pictures) == [
        "which/language/effects",
        "which/language/seed by seed",
        "which/language/what these seeds could have detected",
        "which/language/learning curves",
    ]
    for value in pictures.values():
        width, height, png = value.tensor.string_val
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.size == (int(width), int(height))
            assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert "gelu" in pictures["which/language/effects"].metadata.summary_description


def test_a_view_takes_the_place_of_an_earlier_one(folder: Path) -> None:
    view = make_view(folder)
    write_view(folder, view, remove_view(folder).columns)
    first = {path for path in folder.rglob("*") if path.is_file() and path.suffix in (".view", ".experiment")}
    removed = remove_view(folder)
    assert removed.runs == {".", "dashboard", *(f"dashboard/{variant}" for variant in view.events if variant)}
    assert not any(path.exists() for path in first)
    assert not (folder / "dashboard").exists()
    write_view(folder, view, removed.columns)
    second = [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".view", ".experiment")]
    assert len(second) == len(first) == 5  # the page, three variants, the columns


@pytest.mark.parametrize("held", ["record.json", "notes/mine.txt"])
def test_what_is_no_view_is_left_alone(folder: Path, held: str) -> None:
    mine = folder / "dashboard" / held
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    with pytest.raises(UserError, match=f"dashboard holds something else \\({mine.name}\\)"):
        remove_view(folder)
    assert mine.read_text() == "{}"


def test_studies_below_one_folder_show_the_same_columns(tmp_path: Path, records: list[Record]) -> None:
    """Which of them TensorBoard takes the columns of is chance."""
    for name in ("one", "two"):
        write_study(tmp_path / name, records if name == "one" else study({"relu": [1.0], "elu": [2.0]}))
        write_view(tmp_path / name, make_view(tmp_path / name), set())
    write_view(tmp_path, make_view(tmp_path), remove_view(tmp_path).columns)
    columns = list(tmp_path.rglob("*.experiment"))
    assert {path.parent for path in columns} == {tmp_path, tmp_path / "one", tmp_path / "two"}
    assert all(b"elu" in path.read_bytes() and b"gelu" in path.read_bytes() for path in columns)
