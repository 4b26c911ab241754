"""Finished runs evaluated elsewhere: against their own records, and against evaluations by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ablab import evaluate
from ablab.config import RunConfig, conf_folder
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import EVALUATION_FOLDER, read_evaluations
from ablab.tasks.base import Task
from ablab.training.build import build_task
from ablab.training.build_model import build_model
from ablab.training.restore import SavedRun

TinyConfig = Callable[..., RunConfig]
TEXT = "3 squared is 9, cubed 27.\n" * 40 + "27 is cubed.\n" * 40  # of characters that the corpus has


@pytest.fixture(scope="module")
def run_of(
    tiny_config: TinyConfig, run: Callable[[RunConfig, Path], Record], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """run_of("position=rope"): the folder of such a run; each is trained once, and its record looked after."""
    made: dict[tuple[str, ...], Path] = {}

    def make(*overrides: str) -> Path:
        if overrides not in made:
            made[overrides] = tmp_path_factory.mktemp("run")
            run(tiny_config("task.tokenizer=chars", "task.test_fraction=0.1", *overrides), made[overrides])
        return made[overrides]

    return make


@pytest.fixture
def folder(run_of: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of a run with rotary positions, without evaluations."""
    return Path(shutil.copytree(run_of("position=rope"), tmp_path / "run"))


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def by_hand(folder: Path, config: RunConfig, vocabulary: str, text: str, length: int, windows: int) -> float:
    """Mean cross entropy over windows spread evenly over a text: a model built for the length, one window at a time."""
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    model = build_model(config, build_task(config))
    model.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})
    model.eval()
    ids = torch.tensor([vocabulary.index(character) for character in text])
    count = -(-(len(ids) - 1) // length)
    nats, tokens = torch.zeros((), dtype=torch.float64), 0
    for number in range(min(windows, count)):
        start = number * count // min(windows, count) * length
        window = ids[start : start + length + 1]
        with torch.no_grad():
            logits: Tensor = model(window[None, :-1])[0]
        nats += cross_entropy(logits, window[1:], reduction="sum").double()
        tokens += len(window) - 1
    return float(nats) / tokens


def split(text: str) -> tuple[str, str]:
    """Validation and test of a single file of which they are a tenth each."""
    return text[int(len(text) * 0.8) : int(len(text) * 0.9)], text[int(len(text) * 0.9) :]


def test_on_its_own_task_it_has_its_own_metrics(finished: Any, tmp_path: Path) -> None:
    """The last checkpoint is of the step that the record's metrics are of."""
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    [last] = evaluate(folder, checkpoint="last")
    assert last.name == "checkpoint=last"
    assert last.metrics == pytest.approx(finished.record.metrics, rel=1e-6)
    assert (last.evaluated, last.corpus, last.step) == (finished.record.evaluated, finished.record.corpus, 7)


@pytest.mark.parametrize("task", ["classification", "copying"])
def test_of_every_kind_of_task(task: str, tiny_config: TinyConfig, run: Callable[..., Record], tmp_path: Path) -> None:
    record = run(tiny_config(f"task={task}", "position=rope"), tmp_path)
    [last] = evaluate(tmp_path, checkpoint="last")
    assert last.metrics == pytest.approx(record.metrics, rel=1e-6, nan_ok=True)
    assert (last.evaluated, last.corpus, last.oracle) == (record.evaluated, record.corpus, record.oracle)
    if task == "copying":  # of which any length asks for the same tokens, and more symbols for others
        [longer] = evaluate(tmp_path, overrides=["task.seq_len=64"])
        assert longer.evaluated == record.evaluated
        with pytest.raises(UserError, match=r"task: has vocab_size=\d+, and the run was trained with vocab_size="):
            evaluate(tmp_path, overrides=["task.symbols=17"])


def test_a_limit_of_the_run_leaves_out_no_subset(
    tiny_config: TinyConfig, run: Callable[..., Record], tmp_path: Path
) -> None:
    limits = ("task.eval_batch_size=4", "+trainer.limit_test_batches=1", "trainer.limit_val_batches=1")
    record = run(tiny_config("task=recall", "position=rope", *limits), tmp_path)
    assert record.evaluated == {"val": 4, "test": 4}
    [found] = evaluate(tmp_path, overrides=["task.segments=[[48,4]]"])
    assert found.evaluated == {"val": 4, "test": 16}
    assert "test_accuracy/seq_len=48,pairs=4" in found.metrics


def test_batches_that_a_limit_counts_are_those_of_the_run(
    tiny_config: TinyConfig, run: Callable[..., Record], tmp_path: Path
) -> None:
    """Else one name had two values."""
    record = run(tiny_config("trainer.limit_val_batches=1"), tmp_path)
    assert record.status == "ok"
    with pytest.raises(UserError, match=r"task\.eval_batch_size=2: the run has trainer\.limit_val_batches=1, of its"):
        evaluate(tmp_path, overrides="task.eval_batch_size=2")
    [found] = evaluate(tmp_path)
    assert found.evaluated == record.evaluated


@pytest.mark.parametrize("setting", ["optimizer=schedule_free", "trainer.precision=bf16-true"])
def test_weights_and_numbers_are_those_that_the_run_was_judged_by(
    setting: str, tiny_config: TinyConfig, run: Callable[..., Record], tmp_path: Path
) -> None:
    record = run(tiny_config(setting, "optimizer.lr=0.1"), tmp_path)
    [last] = evaluate(tmp_path, checkpoint="last")
    assert last.metrics == pytest.approx(record.metrics, rel=1e-6)


def test_longer_windows_by_hand(folder: Path, tiny_config: TinyConfig, corpus: Path) -> None:
    text = corpus.read_text(encoding="utf-8")
    vocabulary = "".join(sorted(set(text)))
    found = evaluate(folder, overrides=["task.seq_len=32,96"])
    for evaluation, length in zip(found, (32, 96), strict=True):
        config = tiny_config("task.tokenizer=chars", "position=rope", f"task.seq_len={length}")
        for name, part in zip(("val_loss", "test_loss"), split(text), strict=True):
            expected = by_hand(folder, config, vocabulary, part, length, 256 // length)
            assert evaluation.metrics[name] == pytest.approx(expected, rel=1e-5)
    assert found[0].metrics["val_loss"] != pytest.approx(found[1].metrics["val_loss"], rel=1e-3)


def test_other_text_is_read_by_the_vocabulary_of_the_run(
    folder: Path, tiny_config: TinyConfig, corpus: Path, tmp_path: Path
) -> None:
    """Which the text's own characters are fewer than."""
    other = tmp_path / "other.txt"
    other.write_text(TEXT, encoding="utf-8")
    vocabulary = "".join(sorted(set(corpus.read_text(encoding="utf-8"))))
    assert set(TEXT) < set(vocabulary)
    [found] = evaluate(folder, overrides=["task=text", f"task.path={other}", "task.eval_tokens=null"])
    config = tiny_config("task.tokenizer=chars", "position=rope")
    expected = by_hand(folder, config, vocabulary, TEXT[int(len(TEXT) * 0.9) :], 32, 1000)
    assert found.metrics["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert found.task["seq_len"] == 32  # the run's own
    assert found.task["tokenizer"] == "chars"
    assert found.corpus.name == str(other)
    assert "test_loss" not in found.metrics  # of which the other task has none by default


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task.tokenizer=bpe"], r"task\.tokenizer=bpe: the run reads by the vocabulary that it was trained with"),
        (["task.seq_length=64"], r"task\.seq_length: no such setting of task; did you mean 'seq_len'"),
        (["task.seq_len=long"], r"task\.seq_len='long': must be a whole number"),
        (["task.seq_len=512"], r"task\.eval_tokens=256 is less than one window"),
        (["task=recall"], "task: Recall asks for other answers than task=text, which the run has learned"),
        (["task=txt"], r"task=txt: no such option; did you mean 'text'"),
        (["task=text", "task.path=/nowhere"], "/nowhere: no such file"),
        (["task=source_text"], r"task: cannot be read by the vocabulary of the run \(the character"),
        (["task.val_fraction=0.3"], r"task\.val_fraction=0\.3: .* would be evaluated on what it has seen"),
        (["task._target_=os.system"], r"task\._target_=os\.system: an evaluation changes the task alone"),
        (["task.path=${oc.env:NOPE}"], r"task\.path: .*Environment variable 'NOPE' not found"),
        (["model.d_model=32"], r"model\.d_model=32: an evaluation changes the task alone"),
        (["+task.mine=1"], r"\+task\.mine=1: write task\.mine=\.\.\."),
        (["trainer.accelerator=cpu,gpu"], r"needs one value"),
        (
            ["trainer.accelerator=nothing"],
            r"trainer\.accelerator=nothing: .+; trainer\.accelerator=cpu evaluates there",
        ),
        (["task.seq_len"], "not an override; write KEY=VALUE"),
        (["task.path='a,b=c'"], "cannot be the name of an evaluation"),
    ],
)
def test_what_cannot_be_leaves_nothing_behind(run_of: Callable[..., Path], words: list[str], said: str) -> None:
    folder = run_of("position=rope")
    before = content(folder)
    with pytest.raises(UserError, match=said) as refused:
        evaluate(folder, overrides=words)
    assert "\n" not in str(refused.value)
    assert content(folder) == before


def test_learned_positions_end_with_their_table(run_of: Callable[..., Path], tmp_path: Path) -> None:
    """Shorter sequences are served by the rows that there are."""
    folder = Path(shutil.copytree(run_of(), tmp_path / "run"))
    with pytest.raises(
        UserError, match=r"position=learned: .*position\.weight.* 32 tokens, and task\.seq_len=33 needs"
    ):
        evaluate(folder, overrides=["task.seq_len=33"])
    assert not (folder / EVALUATION_FOLDER).exists()
    [shorter] = evaluate(folder, overrides=["task.seq_len=16"])
    assert shorter.evaluated["val"] == 16


def test_a_run_is_left_as_it_is(folder: Path) -> None:
    before = content(folder)
    [first] = evaluate(folder, overrides=["task.seq_len=48"])
    after = content(folder)
    assert [path.name for path in after.keys() - before.keys()] == ["task.seq_len=48.json"]
    assert before.items() <= after.items()
    assert read_evaluations(folder, first.fingerprint) == {first.name: first}
    assert evaluate(folder, overrides=["task.seq_len=4_8", "task.eval_batch_size=1"]) == [first]  # it is there
    [anew] = evaluate(folder, overrides=["task.seq_len=48", "task.eval_batch_size=1"], again=True)
    assert anew.metrics == pytest.approx(first.metrics, rel=1e-6)
    assert anew.finished_at is not None


def test_what_is_no_finished_run(folder: Path, tmp_path: Path) -> None:
    for place, said in ((tmp_path / "none", "no such folder"), (folder / "checkpoints", "no runs here")):
        with pytest.raises(UserError, match=said):
            evaluate(place)
    record = folder / "record.json"
    record.write_text(record.read_text().replace('"status": "ok"', '"status": "diverged"'))
    with pytest.raises(UserError, match=r"did not end well \(diverged\)"):
        evaluate(folder)
    with pytest.raises(UserError, match="none of its 1 runs ended well"):
        evaluate(tmp_path)


OPTIONS = [
    (axis, path.stem)
    for axis in ("attention", "position")
    for path in sorted((conf_folder() / axis).glob("*.yaml"))
    if path.stem != "pattern"
]


def trained(config: RunConfig, task: Task) -> tuple[SavedRun, torch.nn.Module]:
    model = build_model(config, task).eval()
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    checkpoint = {"state_dict": state, "global_step": 1, type(task).__qualname__: task.state_dict()}
    return SavedRun(config, Path("best.ckpt"), checkpoint), model


def test_a_pattern_left_to_the_length_remains_that_of_the_training(tiny_config: TinyConfig) -> None:
    """So that the first tokens of a longer sequence see what they saw."""
    settings = ("position=none", "attention.block=4", "attention.random_blocks=2", "task.seq_len=64")
    config = tiny_config("attention=block_sparse", *settings)
    run, model = trained(config, build_task(config))
    ids = torch.randint(256, (2, 256), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        longer = run.model_for(build_task(config.with_values({"task.seq_len": 256})))
        torch.testing.assert_close(longer(ids)[:, :64], model(ids[:, :64]))


@pytest.mark.parametrize(("axis", "option"), OPTIONS)
def test_every_option_serves_longer_sequences_or_says_that_it_cannot(
    tiny_config: TinyConfig, axis: str, option: str
) -> None:
    """With the weights of the shorter ones; and shorter ones as it did before."""
    position = [] if axis == "position" else ["position=none"]
    sizes = ["model.d_model=32", "task.seq_len=64"]
    config = tiny_config(f"{axis}={option}", *position, *sizes)
    run, model = trained(config, build_task(config))
    longer = build_task(config.with_values({"task.seq_len": 128}))
    shorter = build_task(config.with_values({"task.seq_len": 32}))
    ids = torch.randint(256, (2, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(run.model_for(shorter)(ids[:, :32]), model(ids[:, :32]))
        if (axis, option) == ("position", "learned"):
            with pytest.raises(UserError, match="position=learned"):
                run.model_for(longer)
        else:
            assert run.model_for(longer)(ids).isfinite().all()
