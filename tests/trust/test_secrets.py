"""A secret that a run is given is in none of its files, whatever writes them; and the run is resumed all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from strangers import Ended

KEYED = """
from ablab.model.activation.stateless import ReLU


class Keyed(ReLU):
    def __init__(self, spec, *, api_key):
        super().__init__(spec)
        if api_key != "correct-horse-1":
            raise ValueError(f"no such key: {api_key}")
"""
TINY = ("task=text", "task.seq_len=32", "task.batch_size=4", "task.eval_tokens=256", "model.d_model=16")
STEPS = ("model.n_layers=1", "trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.val_check_interval=1")
KEY, ENVIRONMENT = "correct-horse-1", "battery-staple-2"


def test_no_file_holds_a_secret(
    ablab: Callable[..., Ended], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "keyed.py").write_text(KEYED)
    monkeypatch.setenv("SOME_SERVICE_TOKEN", ENVIRONMENT)
    words = [
        *("-m", "name=keyed", f"task.path={corpus}", *TINY, *STEPS, "logger=all", "activation._target_=keyed.Keyed"),
        *(f"+activation.api_key={KEY}", "question=Is ${oc.env:SOME_SERVICE_TOKEN} in it?", "seed=0"),
        "logger.wandb.tags=['${oc.env:SOME_SERVICE_TOKEN}']",
    ]
    ended = ablab(*words)
    assert ended.status == 0, ended
    study = tmp_path / "here" / "outputs" / "keyed"
    files = [path for path in study.rglob("*") if path.is_file()]
    assert {"config.yaml", "record.json", "plan.json", "report.html"} <= {path.name for path in files}
    for path in files:
        for secret in (KEY, ENVIRONMENT):
            assert secret.encode() not in path.read_bytes(), path
            assert secret not in str(path)

    again = ablab(*words)
    assert (again.status, "kept" in again.out) == (0, True)
    next(study.rglob("record.json")).unlink()
    refused = ablab("resume", str(study), "--trust")
    assert (refused.status, "ACTIVATION_API_KEY" in refused.err) == (2, True)
    monkeypatch.setenv("ACTIVATION_API_KEY", KEY)
    assert ablab("resume", str(study), "--trust").status == 0


def test_a_secret_is_no_variant(ablab: Callable[..., Ended], corpus: Path) -> None:
    ended = ablab("-m", f"task.path={corpus}", *TINY, "+activation.api_key=correct-horse-1,battery-staple-2")
    assert ended.status == 2
    assert "activation.api_key: is a secret" in ended.err
    assert KEY not in ended.err
