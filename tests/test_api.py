"""`from ablab import load`: one run of a folder, and its trained model in three lines."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from synthetic import record, study, write_runs

from ablab import load
from ablab.api import Run, Study
from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.keep import keep
from ablab.results.record import Record
from ablab.results.store import CONFIG_FILE, METRICS_FILE, RECORD_FILE, write_record


@pytest.fixture(scope="module")
def trained(
    tiny_config: Callable[..., RunConfig],
    run: Callable[[RunConfig, Path], Record],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a run on the characters of a text, beside that of one which is not there any more."""
    folder = tmp_path_factory.mktemp("study") / "attention=full" / "seed=3"
    run(tiny_config("task.tokenizer=chars", "seed=3", "trainer.max_steps=5"), folder)
    return folder


def test_a_trained_run_is_usable_in_three_lines(trained: Path) -> None:
    run = load(trained)
    model = run.model()
    task = run.task()
    ids = task.encode("12 squared is 144")
    assert isinstance(run, Run)
    assert not model.training
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert model(ids[None]).shape == (1, len(ids), task.vocab_size)
    assert task.decode(ids) == "12 squared is 144"


def test_the_last_checkpoint_is_another_than_the_best(trained: Path) -> None:
    run, saved = load(trained), trained / "checkpoints"
    for name in ("best", "last"):
        state = torch.load(saved / f"{name}.ckpt", weights_only=True)["state_dict"]
        weights = run.model(name).state_dict()
        assert {f"model.{key}" for key in weights} == set(state)
        assert all(torch.equal(value, state[f"model.{key}"]) for key, value in weights.items())
    with pytest.raises(UserError, match=r"has no checkpoint first\.ckpt"):
        run.model("first")


def test_a_run_is_evaluated_elsewhere(trained: Path, tmp_path: Path) -> None:
    run = load(shutil.copytree(trained, tmp_path / "run"))
    assert run.evaluations == {}
    shorter, own = run.evaluate("task.seq_len=16,32")
    assert run.evaluations == {"task.seq_len=16": shorter, "task.seq_len=32": own}
    with pytest.raises(UserError, match=r"position=learned: its weights \(position\.weight\) are for 32 tokens"):
        run.evaluate("task.seq_len=64", checkpoint="last")
    assert len(load(tmp_path / "run").evaluations) == 2


def test_a_model_is_ones_own(trained: Path) -> None:
    run = load(trained)
    with torch.no_grad():
        run.model().head.weight.zero_()
    assert run.model().head.weight.abs().sum() > 0
    assert run.model(device="meta").head.weight.is_meta


def test_a_run_has_its_record_config_and_curves(trained: Path) -> None:
    run = load(trained)
    assert run.record.status == "ok"
    assert run.record.seed == run.config["seed"] == 3
    assert run.metrics["val_loss"] == run.record.metrics["val_loss"]
    losses = run.curves["train_loss"].dropna()
    assert list(losses.index) == [1, 2, 3, 4, 5]
    assert run.curves["val_loss"].dropna().iloc[-1] == pytest.approx(run.metrics["val_loss"])
    assert repr(run) == f"Run({str(trained)!r})"


def test_a_folder_of_runs_is_a_study_and_one_of_a_run_is_a_run(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "study", study({"relu": [1.0, 1.1], "gelu": [0.9, 1.0]}))
    assert isinstance(load(folder), Study)
    assert isinstance(load(folder / "0"), Run)
    assert isinstance(load(folder / "0", folder / "1"), Study)
    assert isinstance(load(folder / "0", metric="val_loss"), Study)
    write_record(folder, record())  # a run in whose folder a sweep was made later
    assert isinstance(load(folder), Study)


def test_a_run_of_a_study_is_asked_for_by_its_choices(tmp_path: Path) -> None:
    records = study({"relu": [1.0, 1.1], "gelu": [0.9, 1.0]})
    loaded = load(write_runs(tmp_path, records))
    run = loaded.run(activation="gelu", seed=2)
    assert (run.record.axes["activation"], run.record.seed) == ("gelu", 2)
    assert run.metrics["val_loss"] == 1.0
    assert loaded.run({"activation": "relu"}, seed=1, attention="full").folder == tmp_path / "0"
    assert loaded.run(variant="activation=gelu", seed=1).folder == tmp_path / "2"
    assert loaded.run(activation="'gelu'", seed="2").folder == run.folder  # however a value is written
    with pytest.raises(UserError, match=r"run\(\): 2 runs are meant: say which, by seed \(1, 2\)"):
        loaded.run(activation="gelu")
    with pytest.raises(UserError, match=r"no run has activation=gleu; did you mean 'gelu'"):
        loaded.run(activation="gleu")
    with pytest.raises(UserError, match=r"no run has a activtion; did you mean 'activation'"):
        loaded.run(activtion="gelu")


def test_kept_runs_have_all_but_a_model(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "study", study({"relu": [1.0, 1.1], "gelu": [0.9, 1.0]}))
    keep(folder, tmp_path / "study.jsonl.xz")
    run = load(tmp_path / "study.jsonl.xz").run(activation="relu", seed=2)
    assert run.metrics["val_loss"] == 1.1
    assert run.config["model"] == {"d_model": 64}
    assert list(run.curves.index) == [10, 20, 30, 40, 50]
    assert run.evaluations == {}
    for ask in (run.model, run.evaluate):
        with pytest.raises(UserError, match="kept results have no checkpoints"):
            ask()


def test_a_run_that_has_not_ended_has_a_model_and_no_record(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    (folder / RECORD_FILE).unlink()
    run = load(folder)
    assert run.model("last").vocab_size == run.task().vocab_size
    with pytest.raises(UserError, match="the run has no record: it has not ended, or was killed"):
        _ = run.record
    (folder / METRICS_FILE).unlink()
    assert run.curves.empty


def test_a_component_that_is_not_ablabs_takes_trust(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    (tmp_path / "mine.py").write_text("from torch.nn import GELU\n\n\ndef sine(spec):\n    return GELU()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = (folder / CONFIG_FILE).read_text()
    (folder / CONFIG_FILE).write_text(text.replace("ablab.model.activation.stateless.ReLU", "mine.sine"))
    run = load(folder)
    for ask in (run.model, run.task):
        with pytest.raises(UserError, match=r"asks for activation\._target_=mine\.sine, which is not ablab's own"):
            ask()
    assert "mine" not in sys.modules
    assert run.model(trust=True).vocab_size == run.task(trust=True).vocab_size


def test_a_run_is_read_without_torch(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, [record()]) / "0"
    code = (
        f"import sys, ablab; run = ablab.load({str(folder)!r}); run.metrics, run.config, run.curves\n"
        "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
