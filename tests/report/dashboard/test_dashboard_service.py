"""The dashboard as it is served: what TensorBoard's own plugins make of the files, and of those that replace them."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from boards import Board, board, end, until
from shown import VALUES, write_study
from synthetic import record, study

from ablab.config.schema import TRIAL_FOLDERS
from ablab.errors import UserError
from ablab.report.dashboard import serve, service
from ablab.report.dashboard.service import LiveView
from ablab.report.dashboard.view import View
from ablab.results.store import RECORD_FILE

pytestmark = pytest.mark.timeout(180)

VARIANTS = [f"dashboard/activation={name}" for name in VALUES]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    folder = write_study(tmp_path_factory.mktemp("runs") / "which", study(VALUES))
    with board(folder) as served:
        until(lambda: served.get("runs"), lambda runs: len(runs) == 17 and len(served.rows()) == 12)
        yield served


@pytest.mark.slow
def test_runs_and_the_view_are_served_on_loopback_alone(shown: Board) -> None:
    assert shown.address.startswith("http://127.0.0.1:")
    assert sorted(shown.get("runs")) == sorted([".", *map(str, range(12)), "dashboard", *VARIANTS])
    assert "no view" not in "".join(shown.said)


@pytest.mark.slow
def test_the_layout_and_the_curves_of_its_charts_are_found(shown: Board) -> None:
    (category,) = shown.get("plugin/custom_scalars/layout")["category"]
    assert category["title"] == "which: language"
    assert len(category["chart"]) == 4
    drawn = 0
    for chart in category["chart"]:
        (series,) = chart["margin"]["series"]
        for run in VARIANTS:
            value, lower, upper = (shown.curve(run, series[name]) for name in ("value", "lower", "upper"))
            assert [step for step, _ in value] == [step for step, _ in lower] == [step for step, _ in upper]
            assert all(low <= mid <= high for (_, mid), (_, low), (_, high) in zip(value, lower, upper, strict=True))
            drawn += bool(value)
    assert drawn == 2 * (3 + 2)  # the baseline has no difference to itself


@pytest.mark.slow
def test_texts_and_pictures_are_found(shown: Board) -> None:
    html = until(lambda: shown.text("which/verdicts"))
    assert "<li>UNSTABLE" in html
    assert "<table>" in until(lambda: shown.text("which/tables"))
    tags = shown.get("plugin/images/tags")["dashboard"]
    assert len(tags) == 4
    for tag in tags:
        (found,) = shown.get("plugin/images/images", run="dashboard", tag=tag, sample="0")
        png = shown.read(f"plugin/images/individualImage?{found['query']}&")
        assert png.startswith(b"\x89PNG")


@pytest.mark.slow
def test_every_run_is_a_row_beside_those_of_its_variant_with_its_true_end(shown: Board) -> None:
    rows = shown.rows()
    assert len(rows) == 12
    assert shown.columns() == ["activation", "seed", "status"]
    by_name = sorted(rows.items(), key=lambda item: int(item[0]))
    assert [row["hparams"]["activation"] for _, row in by_name] == [name for name in VALUES for _ in range(4)]
    for (_, row), value in zip(by_name, [v for values in VALUES.values() for v in values], strict=True):
        (session,) = row["sessions"]
        diverged = value != value
        assert session["status"] == ("STATUS_FAILURE" if diverged else "STATUS_SUCCESS")
        assert row["hparams"]["status"] == ("diverged" if diverged else "ok")
        figures = {metric["name"]["tag"]: metric["value"] for metric in row.get("metricValues", [])}
        if diverged:
            assert figures == {}
        else:
            assert figures["final/val_loss"] == pytest.approx(value)


@pytest.mark.slow
def test_the_view_follows_the_runs_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    """A seed more changes every mean; of the points, texts and columns of before nothing is left."""
    folder = write_study(tmp_path / "grows", [record(1, 2.0), record(1, 3.0, axes={"activation": "gelu"})])
    tag = "grows/language/val_loss/mean"
    with board(folder, every_s=0.2) as served:
        until(lambda: served.curve(VARIANTS[1], tag), lambda curve: curve and curve[-1] == (50, 3.0))
        assert served.columns() == ["activation"]
        more = [record(2, 4.0), *(record(2, 6.0, axes={"activation": name}) for name in ("gelu", "silu"))]
        write_study(folder / "more", more, steps=4)
        curve = until(lambda: served.curve(VARIANTS[1], tag), lambda curve: curve and curve[-1][1] > 4)
        assert [step for step, _ in curve] == [10, 20, 30, 40]
        assert "5 runs: 5 ok." in until(lambda: served.text("grows/verdicts"), lambda html: "5 runs" in html)
        assert until(lambda: served.curve(VARIANTS[2], tag))
        assert until(served.columns, lambda names: names == ["activation", "seed"])

        status, rest = end(served)
        assert (status, "Traceback" in rest) == (0, False)


@pytest.mark.slow
def test_without_a_record_the_curves_are_shown_and_one_line_says_that_there_is_no_view(tmp_path: Path) -> None:
    run = write_study(tmp_path, [record()])
    next(run.rglob(RECORD_FILE)).unlink()
    with board(tmp_path) as served:
        (said,) = [line for line in served.said if line.startswith("ablab:")]
        assert re.match("ablab: no view of the study beside its runs: .*no runs here", said)
        assert until(lambda: served.get("runs")) == ["0"]


@pytest.mark.slow
def test_what_lies_at_the_place_of_the_view_is_kept(tmp_path: Path) -> None:
    write_study(tmp_path, [record()])
    write_study(tmp_path / "dashboard", [record()])
    with board(tmp_path) as served:
        assert "dashboard holds something else" in "".join(served.said)
        assert until(lambda: len(served.get("runs")) == 2)


@pytest.mark.slow
def test_a_single_run_and_runs_of_several_studies(tmp_path: Path) -> None:
    """Two studies with a run of the same variant and seed: two rows."""
    for name in ("one", "two"):
        write_study(tmp_path / name, [record(1, 1.0 if name == "one" else 2.0, study=name)])
    with board(tmp_path) as served:
        rows = until(served.rows, lambda rows: len(rows) == 2)
        assert list(rows) == ["one/0", "two/0"]
    with board(tmp_path / "one" / "0") as served:
        assert list(until(served.rows)) == ["."]
        assert until(lambda: served.text("0/verdicts"))


def test_runs_that_are_not_compared_do_not_make_the_view_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a study tunes, one after the other ends."""
    monkeypatch.setattr(service, "make_view", lambda *_, **__: View({}, [record()]))
    view = LiveView(write_study(tmp_path, [record()]), {})
    assert view.refresh()
    for trials in TRIAL_FOLDERS:
        write_study(tmp_path / trials, [record(1000)])
        assert not view.refresh()


def test_an_error_that_nobody_has_foreseen_is_one_line_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> View:
        raise ValueError("half\na study")

    monkeypatch.setattr(service, "make_view", broken)
    view = LiveView(write_study(tmp_path, [record()]), {})
    assert (view.refresh(), view.refresh()) == (False, False)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("ablab: no view of the study beside its runs: ValueError: half a study (")


def test_a_port_in_use(tmp_path: Path) -> None:
    write_study(tmp_path, [record()])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be used .*: choose another"):
            serve(tmp_path, port)


def test_a_port_that_does_not_exist(tmp_path: Path) -> None:
    write_study(tmp_path, [record()])
    with pytest.raises(UserError, match="port 70000 does not exist"):
        serve(tmp_path, 70000)


def test_folders_without_anything_to_show(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        serve(tmp_path / "gone")
    with pytest.raises(UserError, match="no runs here or below"):
        serve(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RECORD_FILE).write_text("{}")
    with pytest.raises(UserError, match="no TensorBoard files: train with logger=tensorboard"):
        serve(tmp_path)
