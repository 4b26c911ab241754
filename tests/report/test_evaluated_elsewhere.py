"""Evaluations elsewhere in what people read: the section of the report, the notebook, and the end of a study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import evaluation, study, write_runs

from ablab import load
from ablab.analysis.elsewhere import elsewhere
from ablab.errors import UserError
from ablab.report.commands import compare_command
from ablab.report.conclude import compare_so_far, conclude
from ablab.report.context import ReportContext
from ablab.report.figures.lengths import over_lengths
from ablab.report.html.page import page
from ablab.report.html.sections.elsewhere import elsewhere_section, elsewhere_table
from ablab.results.collect import collect
from ablab.results.store import write_evaluation

pytestmark = pytest.mark.usefixtures("_plain_figures")

LOSSES = {"relu": [1.0, 1.1, 1.05, 1.05], "gelu": [1.2, 1.31, 1.24, 1.25]}
METRIC = "val_loss@task.seq_len=128"


def write(folder: Path, *names: str) -> Path:
    """A study whose runs have elsewhere half a nat more than at home, and one more for each further name."""
    runs = study(LOSSES)
    write_runs(folder, runs)
    for index, run in enumerate(runs):
        for place, name in enumerate(names):
            loss = run.metrics["val_loss"] + place + 0.5
            write_evaluation(folder / str(index), evaluation(name, run.fingerprint, loss))
    return folder


def context(folder: Path, **settings: str) -> ReportContext:
    return ReportContext.of(collect([folder]), **settings)  # type: ignore[arg-type]


def test_the_section_has_a_table_over_lengths_and_one_by_name(tmp_path: Path) -> None:
    names = ["task.seq_len=64", "task.seq_len=1024", "task=text,task.path=b.txt"]
    section = elsewhere_section(context(write(tmp_path, *names)))
    assert section is not None
    first, second = section.blocks
    assert (first.title, second.title) == ("val_loss by length", "val_loss")
    assert first.table is not None
    assert second.table is not None
    assert first.table.to_dict("list") == {
        "variant": ["activation=relu", "activation=gelu"],
        "64": ["1.550 ± 0.041", "1.750 ± 0.045"],
        "1,024": ["2.550 ± 0.041", "2.750 ± 0.045"],
    }
    assert list(second.table.columns) == ["variant", "task=text,task.path=b.txt"]
    assert first.figure is not None
    assert second.figure is None
    assert "val_loss over the length of sequences: activation=relu 1.55 at 64, 2.55 at 1,024" in first.figure
    assert section.intro.endswith("'val_loss@task.seq_len=1024'.")


def test_the_page_has_it_where_runs_were_evaluated_and_only_there(tmp_path: Path) -> None:
    without, with_it = (write(tmp_path / name, *names) for name, names in (("a", ()), ("b", ("task.seq_len=128",))))
    assert 'id="elsewhere"' not in page(context(without))
    shown = page(context(with_it, metric=METRIC))
    assert 'id="elsewhere"' in shown
    assert f"gelu raises {METRIC} by 0.200" in shown


def test_a_variant_that_could_not_be_evaluated_has_dashes(tmp_path: Path) -> None:
    folder = write(tmp_path, "task.seq_len=64")
    for index, run in enumerate(study(LOSSES)[:4]):
        write_evaluation(folder / str(index), evaluation("task.seq_len=128", run.fingerprint, 2.0))
    [found] = elsewhere(collect([folder]), "language")
    assert elsewhere_table(found)["128"].tolist() == ["2", "–"]
    drawn = over_lengths(found, context(folder).styles, found.points)
    assert drawn is not None
    [axes] = drawn.figure.axes
    lines = {line.get_label(): np.asarray(line.get_xdata()).tolist() for line in axes.get_lines()}
    assert lines["activation=relu"] == [64, 128]
    assert lines["activation=gelu"] == [64]
    few = over_lengths(found, context(folder).styles, ["activation=gelu"])  # the figures of many show some
    assert few is not None
    assert few.figure.axes[0].get_legend_handles_labels()[1] == ["activation=gelu"]


def test_the_notebook_has_a_row_for_each_and_the_figure(tmp_path: Path) -> None:
    folder = write(tmp_path, "task.seq_len=64", "task.seq_len=128")
    loaded = load(folder, metric=METRIC)
    table = loaded.evaluations()
    assert len(table) == 16
    assert table["val_loss"].tolist() == [
        item + more for each in LOSSES.values() for item in each for more in (0.5, 1.5)
    ]
    assert set(table["seq_len"]) == {64, 128}
    assert loaded.effects()["metric"].unique().tolist() == [METRIC]
    assert loaded.runs[METRIC].tolist() == table["val_loss"].tolist()[1::2]
    [axes] = loaded.plot.lengths().axes
    assert axes.get_ylabel() == "val_loss"
    with pytest.raises(UserError, match="nothing to draw"):
        load(write(tmp_path / "none")).plot.lengths()


def test_a_study_that_declares_one_is_compared_by_it_as_soon_as_it_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path)
    for end in (conclude, compare_so_far):
        end(folder, metric=METRIC, margin=0.5)
        first, *rest = capsys.readouterr().out.splitlines()
        command = f"ablab evaluate {folder} task.seq_len=128"
        assert first == f"{METRIC} was declared, and the runs are not evaluated there yet: {command}"
        assert any("WORSE       gelu raises val_loss by 0.200" in line for line in rest)
    with pytest.raises(UserError, match="since none was evaluated there: ablab evaluate DIR"):
        compare_command([folder], metric=METRIC)
    write(tmp_path, "task.seq_len=128")
    conclude(folder, metric=METRIC)
    assert f"WORSE       gelu raises {METRIC} by 0.200" in capsys.readouterr().out
