"""`from ablab import load`: the numbers of `ablab compare` as DataFrames, the figures of the report as figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from synthetic import record, write_runs
from worlds import TOGETHER, factorial, write

import ablab
from ablab import load
from ablab.errors import UserError
from ablab.report import drawings
from ablab.report.formats import render
from ablab.report.notebook import LoadedStudy

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> LoadedStudy:
    loaded = load(write(tmp_path_factory.mktemp("study"), factorial()))
    assert isinstance(loaded, LoadedStudy)
    return loaded


def test_the_frames_hold_what_compare_prints(study: LoadedStudy) -> None:
    effects = study.effects()
    assert list(effects["variant"][:2]) == ["activation=relu,attention=full", "activation=gelu,attention=full"]
    for _, row in effects[effects["effect"].notna()].iterrows():
        assert row["low"] < row["effect"] < row["high"]
    assert len(study.runs) == len(study.health()) == 30
    assert repr(study) == "\n".join(study.verdicts)
    assert all(line in render(study._context) for line in study.verdicts)


def test_frames_are_ones_own(study: LoadedStudy) -> None:
    runs, effects = study.runs, study.effects()
    runs["status"], effects["effect"] = "broken", 0.0
    assert set(study.runs["status"]) == {"ok", "diverged", "failed"}
    assert study.effects()["effect"].abs().max() > 0


def test_the_planted_interaction_is_found(study: LoadedStudy) -> None:
    table = study.interactions().set_index(["activation", "attention"])
    assert table.loc[("gelu", "lsh"), "effect"] == pytest.approx(TOGETHER, abs=0.01)
    assert list(table["resolved"]) == [False, True]


def test_the_fronts_are_those_of_the_figure_without_what_is_not_ranked(study: LoadedStudy) -> None:
    table = study.fronts().set_index("variant")
    words = drawings.cost(study._context, "language")
    assert words is not None
    named = re.search(r"training FLOPs: (.*?) on the front", words.alt)
    assert named is not None
    assert ", ".join(table.index[table["flops_total"] == "on"]) == named[1]
    unstable = "activation=gelu,attention=windowed"  # has the best mean of all, and one run that diverged
    assert set(table.loc[unstable]) == {""}


def test_every_figure_is_a_figure_with_something_in_it(study: LoadedStudy) -> None:
    plot = study.plot
    figures = [plot.forest(), plot.slopes(), plot.detectable(), plot.curves(), plot.differences(), plot.cost()]
    for figure in [*figures, plot.interactions("activation", "attention")]:
        assert isinstance(figure, Figure)
        assert any(axes.has_data() or axes.texts for axes in figure.axes)
        shown: Any = figure
        assert shown._repr_png_().startswith(b"\x89PNG")  # what a notebook asks for


def test_the_notebook_of_the_quickstart_runs_and_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    write(tmp_path / "outputs" / "quickstart", factorial())
    (tmp_path / "experiments").mkdir()
    monkeypatch.chdir(tmp_path / "experiments")
    names: dict[str, object] = {}
    for source in code:
        exec(source, names)
    assert isinstance(names["study"], LoadedStudy)
    shown = [output["data"] for cell in cells for output in cell.get("outputs", [])]
    assert len(shown) == len(code)
    assert sum("image/png" in data for data in shown) == sum("plot" in source for source in code)


def test_mistakes_are_said_in_a_line(tmp_path: Path, study: LoadedStudy) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r'load\("outputs/quickstart"\)'):
        load()
    with pytest.raises(UserError, match="the name of a folder is empty"):
        load("")
    with pytest.raises(UserError, match="atention is no factor that varies; did you mean 'attention'"):
        study.plot.interactions("activation", "atention")
    with pytest.raises(UserError, match="task langauge: no run has it; did you mean 'language'"):
        study.plot.forest("langauge")
    alone = load(write_runs(tmp_path / "alone", [record()]))
    with pytest.raises(UserError, match="nothing to draw"):
        alone.plot.forest()
    assert alone.interactions().empty


def test_terms_are_those_of_compare(tmp_path: Path) -> None:
    folder = write(tmp_path, factorial())
    study = load(folder, baseline="attention=lsh,activation=relu", metric="val_accuracy", margin=0.5)
    assert study.comparisons.baseline == "activation=relu,attention=lsh"
    assert set(study.effects()["metric"]) == {"val_accuracy"}


def test_neither_the_package_nor_loading_needs_torch(tmp_path: Path) -> None:
    folder = write(tmp_path, factorial(2))
    code = (
        "import sys, ablab; assert 'pandas' not in sys.modules\n"
        f"ablab.load({str(folder)!r}).plot.forest()\n"
        "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        ablab.lode  # noqa: B018
