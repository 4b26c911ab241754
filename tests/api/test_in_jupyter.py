"""The tutorial's notebook in a kernel of Jupyter, as its reader runs it: in an event loop, and with a cell stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import everything
from pythons import forking

nbclient = pytest.importorskip("nbclient", reason="the extra `dev`")
nbformat = pytest.importorskip("nbformat", reason="the extra `dev`")
pytest.importorskip("ipykernel", reason="the extra `dev`")

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "first_ablation.ipynb"
SMALLER = """
small = {
    "task.seq_len": 32, "task.eval_tokens": 128, "task.batch_size": 2, "model.d_model": 16, "logger": "csv",
    "trainer.max_steps": 2, "trainer.val_check_interval": 1, "trainer.log_every_n_steps": 1,
    "trainer.accelerator": "cpu",
}
"""


class Reader(nbclient.NotebookClient):  # type: ignore[misc, name-defined]
    """Interrupts the kernel once, as the button of a notebook does, when a cell shows that its first run is done."""

    interrupted = False

    def output(self, outs: Any, message: Any, *rest: Any) -> Any:
        if "[1/6] ok" in str(message["content"].get("text")) and not self.interrupted:
            self.interrupted = True
            os.kill(self.km.provisioner.pid, signal.SIGINT)
        return super().output(outs, message, *rest)


@pytest.fixture
def notebook() -> Any:
    """The notebook with sizes that take no time; the cell that trains stands there twice."""
    book = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs, cell.execution_count = [], None
    lines = code[0].source.splitlines()
    [place] = [place for place, line in enumerate(lines) if line.startswith("small = ")]
    code[0].source = "\n".join([*lines[:place], SMALLER, *lines[place + 1 :]])
    stopped = nbformat.v4.new_code_cell(code[0].source, metadata={"tags": ["raises-exception"]})
    book.cells = [stopped, *code]
    return book


@pytest.fixture
def reader(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Has a kernel of its own, forked as are the processes that it starts."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    with forking(everything, "all"):
        yield Reader(notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})


def shown(cell: Any, kind: str) -> str:
    """All that a cell shows of one kind: text/html, image/png, or stdout."""
    parts = [output.get("text", "") for output in cell.outputs if output.get("name") == kind]
    return "".join([*parts, *(output.get("data", {}).get(kind, "") for output in cell.outputs)])


def test_every_cell_of_it_does_what_it_says_and_a_stopped_one_goes_on(reader: Reader, notebook: Any) -> None:
    reader.execute()
    stopped, swept, study, forest, curves, compared, run, model, mistake = notebook.cells
    assert [output.ename for output in stopped.outputs if output.output_type == "error"] == ["KeyboardInterrupt"]
    lines = shown(swept, "stdout").splitlines()
    ended = [line.split()[1] for line in lines if line.startswith("[")]
    assert (ended[0], len(ended), {*ended[1:]} <= {"ok", "kept"}, ended[-1]) == ("kept", 6, True, "ok"), lines
    assert lines[-1] == "report: outputs/notebook/report.html"
    assert len(lines) == 8  # and no screen that is drawn anew
    assert "\x1b" not in shown(stopped, "stdout") + shown(swept, "stdout")
    table = shown(study, "text/html")
    assert all(word in table for word in ("<table", "activation=gelu", "val_loss", "effect", "verdict"))
    assert all(shown(figure, "image/png") for figure in (forest, curves))
    assert shown(compared, "text/html").count("<tr") == 3
    assert "val_loss" in shown(run, "text/html")
    assert shown(model, "text/plain") == "torch.Size([1, 21, 256])"
    assert "did you mean 'gelu'?" in shown(mistake, "stdout")
