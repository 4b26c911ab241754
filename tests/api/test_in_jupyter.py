"""The tutorial's notebook in a kernel of Jupyter, as its reader runs it: cells in an event loop, and one is stopped."""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
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
SIZES = 'small = {"task.seq_len": 64, "task.eval_tokens": 16384, "trainer.max_steps": 100, "trainer.val_check_interval": 25}'
SMALLER = (
    'small = {"task.seq_len": 32, "task.eval_tokens": 128, "task.batch_size": 2, "model.d_model": 16, "logger": "csv",'
    ' "trainer.max_steps": 2, "trainer.log_every_n_steps": 1, "trainer.val_check_interval": 1, "trainer.accelerator": "cpu"}'
)


@pytest.fixture
def notebook() -> Any:
    """The notebook, with sizes that take no time and without what it showed."""
    book = nbformat.read(NOTEBOOK, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.source = cell.source.replace(SIZES, SMALLER)
            cell.outputs, cell.execution_count = [], None
    assert any(SMALLER in cell.source for cell in book.cells)
    return book


@pytest.fixture
def client(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client with a kernel of its own, forked as are the processes that it starts."""
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    with forking(everything, "all"):
        yield nbclient.NotebookClient(
            notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        )


def shown(cell: Any, kind: str) -> str:
    """All that a cell shows of one kind: text/html, image/png, or stdout."""
    parts = [output.get("text", "") if output.get("name") == kind else output.get("data", {}).get(kind, "") for output in cell.outputs]
    return "".join(parts)


def test_every_cell_of_it_does_what_it_says(client: Any, notebook: Any, tmp_path: Path) -> None:
    client.execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    swept, study, forest, curves, compared, run, model, mistake = code
    lines = shown(swept, "stdout").splitlines()
    assert [line.split()[1] for line in lines if line.startswith("[")] == ["ok"] * 6
    table = shown(study, "text/html")
    assert all(word in table for word in ("<table", "activation=gelu", "val_loss", "effect", "verdict"))
    assert all(shown(figure, "image/png") for figure in (forest, curves))
    assert shown(compared, "text/html").count("<tr") == 3
    assert "val_loss" in shown(run, "text/html")
    assert shown(model, "text/plain") == "torch.Size([1, 21, 256])"
    assert "did you mean 'gelu'?" in shown(mistake, "stdout")
