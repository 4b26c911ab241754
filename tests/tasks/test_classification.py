"""Classification of texts, from a table to the metrics."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.tasks import classification
from ablab.tasks.answers import class_counts, class_scores
from ablab.tasks.classification import Classification
from ablab.tasks.tables import Table, read_tables
from ablab.training.generation import generate, load_run

ROWS = [(f"{n} na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve", "even" if n % 2 == 0 else "odd") for n in range(300)]


def table(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def task_of(path: Path, /, **settings: Any) -> Classification:
    return Classification(**{"path": str(path), "seq_len": 12, "batch_size": 4, "seed": 0, **settings})


def folder_of(path: Path, **splits: list[tuple[str, str]]) -> Path:
    for split, rows in splits.items():
        table(path / f"{split}.csv", rows)
    return path


def served(task: Classification, split: str) -> list[tuple[list[int], int]]:
    """The texts of a split without what fills them up, and their answers."""
    fetch, count = task.training() if split == "train" else task.evaluation(split)[0]
    inputs: Any
    inputs, targets = fetch(np.arange(count))
    assert inputs.shape == (count, task.seq_len)
    assert targets.shape == (count, 1)
    return [
        ([i for i in row if i != task.padding], answer)
        for row, answer in zip(inputs.tolist(), targets[:, 0].tolist(), strict=True)
    ]


@pytest.mark.parametrize("tokenizer", ["bytes", "chars", "bpe"])
def test_every_row_is_served_once_with_its_label(tmp_path: Path, tokenizer: str) -> None:
    task = task_of(table(tmp_path / "a.csv", ROWS), tokenizer=tokenizer, bpe_vocab_size=280)
    task.setup()
    assert task._tokenizer is not None
    rows = [
        (task._tokenizer.decode(ids), task.labels[answer])
        for split in ("train", "val", "test")
        for ids, answer in served(task, split)
    ]
    assert sorted(rows) == sorted(ROWS)
    assert task.n_outputs == 2
    assert task.vocab_size == task._tokenizer.vocab_size + 1 == task.padding + 1
    assert (task.pooled, task.causal, task.corpus.files) == (True, False, 1)


def test_texts_that_are_read_otherwise_are_not_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same file, as by another version of pandas: its labels would stand beside other texts."""
    folder = folder_of(tmp_path, train=[("a b", "x"), ("b", "y"), ("c", "y")], val=[("a", "x")])
    settings = {"tokenizer": "bpe", "bpe_vocab_size": 257}
    before = served(task_of(folder, **settings), "train")

    def fewer(*args: str) -> dict[str, Table]:
        tables = read_tables(*args)
        tables["train"] = replace(tables["train"], texts=["a b", "c"], labels=["x", "y"])
        return tables

    monkeypatch.setattr(classification, "read_tables", fewer)
    assert served(task_of(folder, **settings), "train") == [before[0], before[2]]


@pytest.mark.parametrize("seed", range(5))
def test_equal_texts_share_a_split(seed: int) -> None:
    task = task_of(Path("unread"), val_fraction=0.3, test_fraction=0.3)
    drawn = np.random.default_rng(seed).integers((50, 3), size=(300, 2)).tolist()
    rows = [(f"text {text}", f"label {label}") for text, label in drawn]
    read = SimpleNamespace(texts=[text for text, _ in rows], labels=[label for _, label in rows])
    splits = task._split({"": read})  # type: ignore[dict-item]
    assert Counter(row for part in splits.values() for row in part) == Counter(rows)
    texts = [{text for text, _ in part} for part in splits.values()]
    assert sum(map(len, texts)) == len(set.union(*texts))


def test_a_folder_says_which_split(tmp_path: Path) -> None:
    splits = {"train": [("a", "x"), ("b", "y")], "val": [("c", "y")], "test": [("d", "x"), ("e", "x")]}
    task = task_of(folder_of(tmp_path, **splits))
    for split, rows in splits.items():
        assert served(task, split) == [([ord(text)], "xy".index(label)) for text, label in rows]
    assert task.corpus.files == 3
    assert len(list(task.test_dataloader())) == 1
    (tmp_path / "test.csv").unlink()
    assert task_of(tmp_path).test_dataloader() == []


def test_long_texts_are_cut_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [("a" * 13, "x"), ("b" * 12, "y"), ("c" * 99, "y")]
    task = task_of(folder_of(tmp_path, train=rows, val=rows[:1]))
    with caplog.at_level(logging.WARNING):
        assert served(task, "train") == [([97] * 12, 0), ([98] * 12, 1), ([99] * 12, 1)]
    assert f"{tmp_path}: 3 of 4 texts cut at task.seq_len=12" in caplog.messages
    assert f"{tmp_path}: 1 of 1 val texts are training texts" in caplog.messages


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["x", "x "], ("x", "x ")),
        (["y", "1.0", "1"], ("1", "1.0")),
        ([" 2", "20e-1"], (" 2", "20e-1")),
        (["nan ", "nan"], ("nan", "nan ")),
        (["x", "X", "1", "1.5", "nan", "snan", "12345678901234567890", "12345678901234567891"], None),
    ],
)
def test_labels_that_seem_to_be_one_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, labels: list[str], told: tuple[str, str] | None
) -> None:
    rows = [(f"text {number}", label) for number, label in enumerate(labels)]
    task = task_of(folder_of(tmp_path, train=rows, val=[("another", labels[0])]))
    task.setup()
    assert task.labels == sorted(labels)
    pairs = [told] if told else []
    assert caplog.messages == [
        f"{tmp_path}: the labels {a!r} and {b!r} are two: write them alike if they are one" for a, b in pairs
    ]


def test_what_can_be_known_before_training(tmp_path: Path) -> None:
    """The usual label of training; and where equal texts differ in label, the better half."""
    train = [("a", "x"), ("b", "x"), ("c", "y")]
    val = [("a", "x"), ("a", "y"), ("a", "y"), ("b", "y"), ("0123456789abc", "x"), ("0123456789abd", "y")]
    task = task_of(folder_of(tmp_path, train=train, val=val))
    task.setup()
    assert task.oracle == {"chance": 2 / 6, "ceiling": (2 + 1 + 1) / 6}  # the last two are equal in 12 bytes


@settings(max_examples=50, deadline=None)
@given(
    st.integers(2, 5).flatmap(
        lambda classes: st.tuples(
            st.just(classes),
            st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1, max_size=40),
            st.integers(1, 7),
        )
    )
)
def test_scores_against_scikit_learn(drawn: tuple[int, list[tuple[int, int]], int]) -> None:
    """In uneven shares, with fillers, and with classes that are never said or never asked for."""
    classes, pairs, size = drawn
    totals: Counter[str] = Counter()
    for first in range(0, len(pairs), size):
        said, answers = zip(*pairs[first : first + size], (0, -100), strict=True)
        counts = class_counts(torch.tensor(said), torch.tensor(answers), classes, -100)
        totals.update({name: count.item() for name, count in counts.items()})
    labels = [f"label {number}" for number in range(classes)]
    scores = class_scores(dict(totals), labels)

    said, answers = zip(*pairs, strict=True)
    each = precision_recall_fscore_support(answers, said, labels=range(classes), zero_division=0)
    macro = precision_recall_fscore_support(answers, said, labels=range(classes), average="macro", zero_division=0)
    for name, own, mean in zip(("precision", "recall", "f1"), each, macro, strict=False):
        assert scores[name] == pytest.approx(mean)
        assert [scores[f"{name}/class={label}"] for label in labels] == pytest.approx(own)
    assert len(scores) == 3 * (classes + 1)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_figures_of_an_evaluation(tmp_path: Path, processes: int) -> None:
    task = task_of(table(tmp_path / "a.csv", ROWS), eval_batch_size=4)
    guess = torch.randn(task_of(tmp_path / "a.csv").seq_len * 300, 2, generator=torch.Generator().manual_seed(0))
    totals: Counter[str] = Counter()
    for rank in range(processes):
        task.trainer = SimpleNamespace(  # type: ignore[assignment]
            distributed_sampler_kwargs={"rank": rank, "num_replicas": processes}
        )
        for inputs, targets, _ in task.val_dataloader():
            logits = guess[inputs.sum(1) % len(guess)][:, None]  # a function of the text
            totals.update({name: value.item() for name, value in task.totals(logits, targets).items()})
    metrics = task.evaluation_metrics({"": dict(totals)})

    fetch, count = task.evaluation("val")[0]
    whole: Any
    whole, targets = fetch(np.arange(count))
    logits = guess[whole.sum(1) % len(guess)]
    answers, said = targets[:, 0], logits.argmax(1)
    assert metrics["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, answers).item(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(answers, said))
    expected = precision_recall_fscore_support(answers, said, average="macro")
    assert [metrics[name] for name in ("precision", "recall", "f1")] == pytest.approx(expected[:3])
    assert set(metrics) == {
        *("loss", "accuracy", "precision", "recall", "f1"),
        *(f"{name}/class={label}" for name in ("precision", "recall", "f1") for label in ("even", "odd")),
    }


def test_a_checkpoint_holds_vocabulary_and_labels(
    tiny_config: Callable[..., RunConfig], run: Callable[[RunConfig, Path], Record], tmp_path: Path
) -> None:
    path = table(tmp_path / "a.csv", ROWS)
    config = tiny_config("task=classification", f"task.path={path}", "task.tokenizer=bpe", "task.bpe_vocab_size=280")
    record = run(config, tmp_path / "run")
    assert record.reason is None
    assert record.primary is not None
    assert record.primary.name == "val_accuracy"
    assert {"val_f1/class=odd", "test_recall", "val_loss"} <= record.metrics.keys()
    assert record.oracle["ceiling"] == 1
    path.unlink()
    model, task = load_run(tmp_path / "run", "best")
    assert isinstance(task, Classification)
    assert task.labels == ["even", "odd"]
    text = torch.arange(1, 6)[None]
    filled = torch.nn.functional.pad(text, (0, 20), value=task.padding)
    assert model(text).shape == (1, 1, 2)
    torch.testing.assert_close(model(filled), model(text))  # what fills it up is no text
    with pytest.raises(UserError, match="asks for one answer to a whole sequence"):
        generate(tmp_path / "run", prompt="1", tokens=3)
    other = task_of(table(path, [(text, f"not {label}") for text, label in ROWS]))
    other.setup()
    with pytest.raises(UserError, match="vocabulary or labels are not those of the texts"):
        other.load_state_dict(task.state_dict())


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ({"train": [("a", "x"), ("b", "x")], "val": [("c", "x")]}, "all training texts have the label x"),
        ({"train": [("a", "x"), ("b", "y")], "val": [("c", "z")]}, "the val split has the label z, which no training"),
    ],
)
def test_labels_that_cannot_be_learned(tmp_path: Path, splits: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        task_of(folder_of(tmp_path, **splits)).setup()
    assert "\n" not in str(caught.value)


def test_a_text_without_a_token(tmp_path: Path) -> None:
    import tokenizers as hf

    words = hf.Tokenizer(hf.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "words.json"))
    splits = {"train": [("a", "x"), ("b a", "y")], "val": [("a", "x"), (" ", "y")]}
    task = task_of(folder_of(tmp_path, **splits), tokenizer=str(tmp_path / "words.json"))
    with pytest.raises(UserError, match="the text ' ' has no token in the vocabulary: leave it out"):
        task.setup()


def test_too_few_rows_to_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of its 2 rows falls into the \w+ split: give more"):
        task_of(table(tmp_path / "a.csv", ROWS[:2])).setup()


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"path": "???"}, UserError, "task.path is missing"),
        ({"val_fraction": 0.0}, ValueError, "val above 0"),
        ({"seq_len": 0}, ValueError, "task.seq_len must be at least 1, got 0"),
        ({"bpe_vocab_size": 3}, ValueError, "task.bpe_vocab_size=3: must be at least 257"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        task_of(Path("anything"), **settings)
