"""Files as the Long Range Arena writes them: read, kept, and refused where they are damaged."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ablab.errors import UserError
from ablab.tasks.batches import EpochBatches
from ablab.tasks.synthetic import listops_files
from ablab.tasks.synthetic.listops import ListOps

SETTINGS: dict[str, Any] = {"seq_len": 40, "max_depth": 4, "max_args": 4, "min_length": 5, "batch_size": 4, "seed": 1}
COUNTS = {"train": 20, "val": 9, "test": 7}
GOOD = "( ( ( [MAX 2 ) 9 ) ] )\t9"


def arena(text: str) -> str:
    """`[MAX 2 9 ]` in the Arena's notation, where an operator takes its arguments, and its bracket, one by one."""
    stack: list[list[str]] = [[]]
    for word in text.split():
        if word.startswith("["):
            stack.append([word])
        elif word != "]":
            stack[-1].append(word)
        else:
            node = stack.pop()
            joined = node[0]
            for part in [*node[1:], "]"]:
                joined = f"( {joined} {part} )"
            stack[-1].append(joined)
    return stack[0][0]


def test_the_notation() -> None:
    assert arena("[MAX 2 [MIN 7 1 ] ]") == "( ( ( [MAX 2 ) ( ( ( [MIN 7 ) 1 ) ] ) ) ] )"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The three files, of expressions that were generated with the same settings."""
    monkeypatch.setenv("ABLAB_CACHE", str(tmp_path / "cache"))
    task = ListOps(**SETTINGS)
    for split, count in COUNTS.items():
        inputs, answers = task.sample(split, 0, count)  # type: ignore[arg-type]
        with (tmp_path / f"basic_{split}.tsv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerow(["Source", "Target"])
            expressions = [arena(task.decode(torch.from_numpy(row))) for row in inputs]
            writer.writerows(zip(expressions, answers.ravel().tolist(), strict=True))
    return tmp_path


def make(folder: Path, **changes: Any) -> ListOps:
    return ListOps(**{**SETTINGS, "path": str(folder), **changes})


def test_files_give_what_was_written_into_them(folder: Path) -> None:
    task, generated = make(folder), ListOps(**SETTINGS)
    task.setup()
    for split in ("val", "test"):
        for read, drawn in zip(task.samples(split), generated.sample(split, 0, COUNTS[split]), strict=True):
            assert np.array_equal(read, drawn)
            assert read.dtype == np.int64
    assert (task.corpus.name, task.corpus.files) == (str(folder), 3)
    assert task.corpus.size_bytes == sum(path.stat().st_size for path in folder.glob("basic_*.tsv"))


def test_every_training_expression_is_served_once_an_epoch(folder: Path) -> None:
    task = make(folder)
    task.setup()
    batches = task.train_batches(0, 1)
    assert isinstance(batches, EpochBatches)
    for epoch in (0, 5):
        served = [batches[5 * epoch + index] for index in range(5)]  # five batches of four
        rows = [(*i.tolist(), *t.tolist()) for inputs, targets in served for i, t in zip(inputs, targets, strict=True)]
        drawn = ListOps(**SETTINGS).sample("train", 0, 20)
        assert sorted(rows) == sorted((*i.tolist(), *t.tolist()) for i, t in zip(*drawn, strict=True))


def test_the_first_so_many_are_evaluated_on(folder: Path) -> None:
    assert len(make(folder, eval_samples=5).samples("val")[0]) == 5
    assert np.array_equal(make(folder, eval_samples=5).samples("val")[0], make(folder).samples("val")[0][:5])


def test_chance_gives_what_is_most_frequent_in_training(folder: Path) -> None:
    lines = (folder / "basic_train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    answers = [int(line.split("\t")[1]) for line in lines]
    usual = min(range(10), key=lambda digit: (-answers.count(digit), digit))
    task = make(folder)
    assert task.oracle["chance"] == pytest.approx((task.samples("val")[1] == usual).mean())


def test_what_was_read_once_is_kept_until_the_file_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(folder).setup()
    path = folder / "basic_val.tsv"

    def unread(path: Path) -> None:
        raise AssertionError(path)

    with monkeypatch.context() as patch:
        patch.setattr(listops_files, "_lines", unread)
        make(folder).setup()
        path.write_text(f"Source\tTarget\n{GOOD}\n", encoding="utf-8")
        with pytest.raises(AssertionError, match=r"basic_val\.tsv"):
            make(folder).setup()
    inputs, answers = make(folder).samples("val")
    assert (make(folder).decode(torch.from_numpy(inputs[0])), answers.tolist()) == ("[MAX 2 9 ]", [[9]])


def test_a_byte_order_mark_and_ends_of_lines_say_nothing(folder: Path) -> None:
    plain = make(folder).samples("val")
    for path in folder.glob("basic_*.tsv"):
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_bytes("\r\n".join(["\ufeff" + lines[0], *lines[1:], ""]).encode())
    for one, other in zip(make(folder).samples("val"), plain, strict=True):
        assert np.array_equal(one, other)


def test_of_files_nothing_is_drawn_so_that_no_length_is_asked_for(folder: Path) -> None:
    task = make(folder, min_length=500)
    task.setup()
    assert len(task.samples("val")[0]) == COUNTS["val"]
    with pytest.raises(ValueError, match=r"task\.min_length=500: must be"):
        make(folder, path=None, min_length=500)


@pytest.mark.parametrize(
    "line",
    [
        "( ( ( [MAX 2 ) 9 ) ] )",  # no value
        "( ( ( [MAX 2 ) 9 ) ] )\t12",
        "( ( ( [MAX 2 ) 9 ) ] )\t9\t1",
        "( ( ( [SUM 2 ) 9 ) ] )\t1",
        "( ( ( [MAX 2 ) 19 ) ] )\t9",
        "( ( ( a 2 ) 9 ) ] )\t9",
        "( ( [MAX 2 ) 9 )\t9",  # never closed
        "( ( ( [MAX 2 ) 9 ) ] ) ]\t9",
        "2 9\t9",
        "\t9",
    ],
)
def test_a_damaged_line_is_named(folder: Path, line: str) -> None:
    (folder / "basic_train.tsv").write_text(f"Source\tTarget\n{GOOD}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"basic_train\.tsv, line 3: not an expression"):
        make(folder).setup()


def test_other_columns_no_lines_and_no_file_are_named(folder: Path) -> None:
    path = folder / "basic_test.tsv"
    path.write_text(f"source\tlabel\n{GOOD}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"basic_test\.tsv: its first line must name the columns"):
        make(folder).setup()
    path.write_text("Source\tTarget\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"basic_test\.tsv: no expression"):
        make(folder).setup()
    path.unlink()
    with pytest.raises(UserError, match=r"basic_test\.tsv: no such file: task\.path="):
        make(folder).setup()


def test_an_expression_that_does_not_fit_is_refused_with_the_length_that_it_needs(folder: Path) -> None:
    lines = (folder / "basic_train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    longest = max(len(line.split("\t")[0].replace("(", "").replace(")", "").split()) for line in lines)
    with pytest.raises(UserError, match=rf"basic_train\.tsv: its longest expression has {longest} tokens"):
        make(folder, seq_len=longest - 1).setup()
    make(folder, seq_len=40).setup()
