"""Data sets of Hugging Face, in the formats that its library writes; the hub is not asked for anything."""

from __future__ import annotations

import hashlib
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.tasks.hf_text import HFText, _encode, _within
from ablab.tasks.hugging_face import _hash_of
from ablab.tasks.tokenizers import ByteTokenizer
from ablab.tasks.tokenizers.choice import TokenizerChoice
from ablab.training.evaluation_data import refuse_seen
from ablab.training.generation import generate

TRAIN = [f"document {n}: na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve {n * n}" for n in range(120)]
SPLITS: dict[str, list[Any]] = {
    "train": [*TRAIN, "", None],  # what is empty is passed over
    "validation": [f"other {n}, of {n**3}" for n in range(40)],
    "test": ["the last one of all, which is long enough", "and this"],
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write(folder: Path, form: str, splits: dict[str, list[Any]] = SPLITS) -> Path:
    """Let the library write the splits in one of its formats."""
    import datasets

    datasets.disable_progress_bars()
    made = {
        split: datasets.Dataset.from_dict(
            {"text": texts, "n": range(len(texts))},
            datasets.Features({"text": datasets.Value("string"), "n": datasets.Value("int64")}),
        )
        for split, texts in splits.items()
    }
    folder.mkdir(exist_ok=True)
    if form == "disk":
        datasets.DatasetDict(made).save_to_disk(folder)
    elif form == "disk of one":
        made["train"].save_to_disk(folder)
    else:
        for split, each in made.items():
            getattr(each, {"parquet": "to_parquet", "jsonl": "to_json", "csv": "to_csv"}[form])(
                folder / f"{split}.{form}"
            )
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("parquet"), "parquet")


def hf_text(path: Path | str, /, **settings: Any) -> HFText:
    return HFText(**{"path": str(path), "seq_len": 8, "batch_size": 4, "seed": 0, **settings})


def tokens(task: HFText) -> dict[str, list[int]]:
    task.setup()
    return {split: ids.tolist() for split, ids in task._splits.items()}


def documents(task: HFText, split: str) -> list[str]:
    return task.decode(torch.tensor(tokens(task)[split])).removesuffix("\n").split("\n")


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv", "disk"])
def test_every_format_gives_the_documents(tmp_path: Path, parquet: Path, form: str) -> None:
    task = hf_text(write(tmp_path / "data", form), test_split="test")
    expected = {"train": TRAIN, "val": SPLITS["validation"], "test": SPLITS["test"]}
    assert tokens(task) == {
        split: list("".join(f"{text}\n" for text in texts).encode()) for split, texts in expected.items()
    }
    assert task.corpus.files == sum(map(len, expected.values()))
    assert task.corpus.size_bytes == sum(map(len, tokens(task).values()))
    same = hf_text(parquet, test_split="test")
    same.setup()
    assert task.corpus.sha256 == same.corpus.sha256


def test_a_set_without_splits_is_all_training(tmp_path: Path) -> None:
    task = hf_text(write(tmp_path / "data", "disk of one"), val_split=None, val_fraction=0.3)
    assert sorted([*documents(task, "train"), *documents(task, "val")]) == sorted(TRAIN)
    assert 20 < len(documents(task, "val")) < 55
    assert task.test_dataloader() == []


def test_text_files_give_their_lines(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("one line\n\nanother\n" * 20)
    (tmp_path / "dev.txt").write_text("what is asked\n")
    task = hf_text(tmp_path)
    assert documents(task, "train") == ["one line", "another"] * 20
    assert documents(task, "val") == ["what is asked"]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("txt", "one\r\nanother\r\n"),
        ("csv", "text,more\r\none,1\r\nanother,2\r\n"),
        ("jsonl", '{"text": "one"}\r\n{"text": "another"}\r\n'),
    ],
)
def test_a_byte_order_mark_and_ends_of_lines_are_no_text(tmp_path: Path, suffix: str, text: str) -> None:
    for split in ("train", "dev"):
        (tmp_path / f"{split}.{suffix}").write_bytes(("\ufeff" + text).encode())
    task = hf_text(tmp_path, seq_len=4)
    assert (documents(task, "train"), documents(task, "val")) == (["one", "another"], ["one", "another"])


def test_equal_documents_are_in_one_split(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "parquet", {"train": TRAIN * 2})
    task = hf_text(folder, val_split=None, val_fraction=0.5)
    train, val = documents(task, "train"), documents(task, "val")
    assert not set(train) & set(val)
    assert len(train) + len(val) == 2 * len(TRAIN)


@pytest.mark.parametrize("tokenizer", ["bytes", "chars", "bpe"])
def test_nothing_is_tokenised_twice(parquet: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str) -> None:
    first = hf_text(parquet, tokenizer=tokenizer, bpe_vocab_size=280)
    expected = tokens(first)

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("made again")

    with monkeypatch.context() as patch:
        patch.setattr(TokenizerChoice, "make", fail)
        patch.setattr("ablab.tasks.hugging_face.DocumentSource.documents", fail)
        again = hf_text(parquet, tokenizer=tokenizer, bpe_vocab_size=280)
        assert tokens(again) == expected
        assert (again.corpus, again._tokenizer) == (first.corpus, first._tokenizer)
        for changed in ({"text_column": "n"}, {"max_bytes": 99}, {"max_tokens": 99}, {"train_split": "test"}):
            with pytest.raises(AssertionError, match="made again"):
                tokens(hf_text(parquet, tokenizer=tokenizer, bpe_vocab_size=280, **changed))


def test_another_file_is_another_corpus(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "parquet")
    before = hf_text(folder)
    before.setup()
    write(folder, "parquet", {**SPLITS, "train": TRAIN[1:]})
    assert documents(hf_text(folder), "train") == TRAIN[1:]
    after = hf_text(folder)
    after.setup()
    assert after.corpus.sha256 != before.corpus.sha256


def test_files_below_a_link_count_too(tmp_path: Path) -> None:
    """What save_to_disk wrote is read by its name, wherever that leads."""
    for place, texts in {"data": TRAIN, "other": TRAIN[1:]}.items():
        write(tmp_path / place, "disk", {**SPLITS, "train": texts})
        (tmp_path / place / "train").rename(tmp_path / f"train of {place}")
    link = tmp_path / "data/train"
    link.symlink_to(tmp_path / "train of data")
    (tmp_path / "train of other/back").symlink_to(tmp_path)
    assert documents(hf_text(tmp_path / "data"), "train") == TRAIN
    link.unlink()
    link.symlink_to(tmp_path / "train of other")
    assert documents(hf_text(tmp_path / "data"), "train") == TRAIN[1:]


def test_a_folder_is_known_by_the_names_and_contents_of_its_files(tmp_path: Path) -> None:
    """Keys of what was kept before hang on it."""
    files = {"a.txt": b"1", "a/b.txt": b"2", "a/c/.hidden": b"3", ".git/d": b"4", "b": b""}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "gone").symlink_to("nowhere")
    expected = hashlib.sha256()
    for name in ("a.txt", "a/b.txt", "b"):
        expected.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(files[name]).digest())
    assert _hash_of(tmp_path) == expected.hexdigest()


def test_byte_pairs_are_of_training_and_end_with_a_token_of_their_own(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "parquet", {"train": ["aaaa bbbb"] * 9, "validation": ["zzzz zzzz"] * 9})
    task = hf_text(folder, tokenizer="bpe", bpe_vocab_size=270, seq_len=2)
    ids = tokens(task)
    assert ids["train"].count(0) == ids["val"].count(0) == 9
    assert len(ids["train"]) == 9 * 3  # two words and the end
    assert len(ids["val"]) == 9 * (9 + 1)  # bytes, since the training split has no z
    assert task.corpus.size_bytes == 2 * 9 * (9 + 1)  # an end is one byte, as a newline is


@pytest.mark.parametrize("tokenizer", ["bytes", "chars", "bpe"])
def test_every_tokenizer_shares_the_loss_by_the_same_bytes(parquet: Path, tokenizer: str) -> None:
    """However short the texts: else the ends would cost those alone whose end is a token without bytes."""
    task = hf_text(parquet, tokenizer=tokenizer, bpe_vocab_size=300)
    ids = tokens(task)["val"]
    assert task._token_bytes[ids].sum() == len("".join(f"{text}\n" for text in SPLITS["validation"]).encode())


def test_bits_per_byte_of_byte_pairs(parquet: Path) -> None:
    """A uniform guess costs log2 of the vocabulary a token, shared by the bytes of the text and its ends."""
    task = hf_text(parquet, tokenizer="bpe", bpe_vocab_size=300)
    ids = tokens(task)["val"][1:]
    totals = {"nats": len(ids) * math.log(task.vocab_size), "correct": 0.0, "tokens": float(len(ids))}
    totals["bytes"] = float(task._token_bytes[ids].sum())
    text = "".join(f"{text}\n" for text in SPLITS["validation"])
    skipped = len(task.decode(torch.tensor(tokens(task)["val"][:1])).encode())
    expected = len(ids) * math.log2(task.vocab_size) / (len(text.encode()) - skipped)
    assert task.metrics(totals)["bits_per_byte"] == pytest.approx(expected)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.integers(1, 60))
def test_a_budget_of_bytes_is_used_up(texts: list[str], limit: int) -> None:
    kept = "".join(_within(texts, limit))
    assert "".join(texts).startswith(kept)
    assert len(kept.encode()) <= limit
    assert kept == "".join(texts) or len(kept.encode()) > limit - 4  # there may be no place for a whole character
    assert list(_within(texts, None)) == texts


@pytest.mark.parametrize("tokenizer", ["bytes", "chars", "bpe"])
def test_budgets_take_the_beginning_of_each_split(parquet: Path, tokenizer: str) -> None:
    settings: dict[str, Any] = {"tokenizer": tokenizer, "bpe_vocab_size": 280}
    few = hf_text(parquet, max_tokens=50, **settings)
    assert {split: len(ids) for split, ids in tokens(few).items()} == {"train": 50, "val": 50}
    assert "".join(f"{text}\n" for text in TRAIN).startswith(
        few.decode(torch.tensor(tokens(few)["train"])).split("<|")[0]
    )
    less = hf_text(parquet, max_bytes=50, **settings)
    text = less.decode(torch.tensor(tokens(less)["train"])).replace("<|endoftext|>", "\n")
    assert text.replace("\n", "") == "".join(TRAIN).encode()[:50].decode(errors="ignore")


def test_characters_behind_the_budget_need_not_be_known(tmp_path: Path) -> None:
    texts = ["ab", "abcdefgh" * 9 + "\N{SNOWMAN}"]
    folder = write(tmp_path / "data", "parquet", {"train": texts, "validation": ["ba" * 9]})
    task = hf_text(folder, tokenizer="chars", max_tokens=12)
    assert documents(task, "train") == ["ab", "abcdefgha"]
    assert task.vocab_size == len("\nabcdefgh")


def test_training_and_what_is_cut_off_it_share_a_budget(parquet: Path) -> None:
    task = hf_text(parquet, val_split=None, val_fraction=0.25, max_tokens=400)
    assert {split: len(ids) for split, ids in tokens(task).items()} == {"train": 300, "val": 100}


def test_one_document_at_a_time() -> None:
    """The next is not asked for before the last has become tokens, and none behind the budget."""
    seen: list[str] = []

    class Watching(ByteTokenizer):
        def encode(self, text: str) -> Any:
            seen.append(text)
            return super().encode(text)

    def drawn() -> Iterator[str]:
        for number in range(100):
            assert [text for text in seen if text != "\n"] == [f"{n:04}" for n in range(number)]
            yield f"{number:04}"

    ids, count = _encode(Watching(), drawn(), limit=23)
    assert (bytes(ids), count) == (b"0000\n0001\n0002\n0003\n000", 5)


def test_generation_needs_the_checkpoint_alone(
    tiny_config: Callable[..., RunConfig],
    run: Callable[[RunConfig, Path], Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write(tmp_path / "data", "parquet")
    config = tiny_config("task=hf_text", f"task.path={folder}", "task.tokenizer=bpe", "task.bpe_vocab_size=300")
    assert run(config, tmp_path / "run").reason is None
    shutil.rmtree(folder)
    monkeypatch.setenv("ABLAB_CACHE", str(tmp_path / "nothing"))
    written = generate(tmp_path / "run", prompt="document \N{SNOWMAN}", tokens=5)
    assert written.startswith("document \N{SNOWMAN}")


def test_a_vocabulary_of_another_corpus_is_refused(parquet: Path, tmp_path: Path) -> None:
    other = hf_text(write(tmp_path / "data", "parquet", {**SPLITS, "train": TRAIN[:9]}), tokenizer="bpe")
    task = hf_text(parquet, tokenizer="bpe")
    task.setup()
    with pytest.raises(UserError, match="vocabulary is not that of the corpus"):
        task.load_state_dict(other.state_dict())


def test_a_data_set_by_name_is_kept_by_its_commit(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's part is played by the library itself, on a folder."""
    import datasets

    builder, asked = datasets.load_dataset_builder(str(parquet)), []

    def load(path: str, name: str | None, revision: str | None) -> Any:
        asked.append((path, name, revision))
        return SimpleNamespace(hash=COMMIT, as_streaming_dataset=builder.as_streaming_dataset)

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    named: dict[str, Any] = {"name": "plain", "revision": "main"}
    task = hf_text("someone/texts", **named)
    assert documents(task, "train") == TRAIN
    assert task.corpus.name == f"someone/texts/plain@{COMMIT}"
    assert asked == [("someone/texts", "plain", "main")]
    monkeypatch.setattr(datasets, "load_dataset_builder", None)
    assert documents(hf_text("someone/texts", name="plain", revision=COMMIT), "train") == TRAIN  # and no network


@pytest.mark.parametrize(
    ("own", "changed", "seen"),
    [
        ({}, {"val_split": "train", "train_split": "test"}, "val_split=train: .* with task.val_split=validation"),
        ({}, {"test_split": "train", "train_split": "test"}, "test_split=train: .* with task.test_split=null"),
        ({}, {"val_split": None}, "val_split=null: .* with task.val_split=validation"),
        ({"val_split": None}, {"val_fraction": 0.3}, "val_fraction=0.3: .* with task.val_fraction=0.1"),
        ({}, {"val_split": "test"}, None),
        ({}, {"test_split": "test"}, None),
        ({}, {"val_fraction": 0.3}, None),
        ({"val_split": None}, {"val_split": "test"}, None),
        ({}, {"path": "another", "val_split": None}, None),
    ],
)
def test_a_run_is_not_evaluated_on_what_it_has_learned(
    parquet: Path, tmp_path: Path, own: dict[str, Any], changed: dict[str, Any], seen: str | None
) -> None:
    """However the documents are cut up: tokens of other splits have another hash."""
    if "path" in changed:
        changed = {**changed, "path": str(write(tmp_path / "another", "parquet", {"train": TRAIN[:30]}))}
    named = {"train_split": "train", "val_split": "validation", "test_split": None, "val_fraction": 0.1}
    before = {"path": str(parquet), **named, **own}
    learned, asked = (HFText(**node, seq_len=4, batch_size=4, seed=0) for node in (before, before | changed))
    learned.setup()
    asked.setup()
    record: Any = SimpleNamespace(corpus=learned.corpus)
    with nullcontext() if seen is None else pytest.raises(UserError, match=f"{seen}, and would be evaluated on what"):
        refuse_seen(before, before | changed, asked, record)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"text_column": "body"}, "has the columns text, n, not body: mend task.text_column"),
        ({"text_column": "n"}, "the column n holds int, not text"),
        (
            {"val_split": "dev"},
            "has the splits train, validation, test, not dev: .*val_split .null cuts it off",
        ),
        ({"train_split": "all"}, "not all: mend task.train_split$"),
        ({"revision": "main"}, "a folder has no task.revision=main"),
        ({"max_tokens": 5}, "5 tokens in the train split, a window needs 9"),
    ],
)
def test_mistakes_about_a_folder(parquet: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        hf_text(parquet, **settings).setup()
    assert str(caught.value).startswith(str(parquet))
    assert "\n" not in str(caught.value)


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "bad" / f"{split}.parquet").write_bytes(b"PAR1 and no more")
    saved = write(tmp_path / "saved", "disk")
    (saved / "train" / "data-00000-of-00001.arrow").write_bytes(b"")
    for path, settings, says in (
        (tmp_path / "empty", {}, "empty: cannot be loaded as a data set"),
        (tmp_path / "bad", {}, "bad: the split train cannot be read|bad: cannot be loaded as a data set"),
        (saved, {}, "saved: cannot be loaded as a data set"),
        (saved, {"name": "plain"}, "what save_to_disk wrote has no configurations: leave out task.name=plain"),
        (tmp_path / "none", {}, "none: no such folder: mend task.path"),
        (tmp_path / "bad" / "train.parquet", {}, "train.parquet: a file: give the folder that it lies in"),
        ("???", {}, "task.path is missing"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            hf_text(path, **settings).setup()
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.npy"))  # nothing half made is kept


def test_a_folder_that_runs_write_below_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "data", "parquet")
    monkeypatch.chdir(tmp_path)
    hf_text(data).setup()
    for path in (Path(), tmp_path, tmp_path.parent):
        with pytest.raises(UserError, match="holds outputs, where runs write: put the data in a folder of their own"):
            hf_text(path).setup()


def test_a_hub_that_cannot_be_reached() -> None:
    with pytest.raises(UserError) as caught:
        hf_text("nobody/nothing").setup()
    said = str(caught.value)
    assert said.startswith("nobody/nothing: no folder here, and cannot be had from the Hugging Face hub (")
    assert said.endswith("mend task.path, task.name or task.revision, or see to the network and HF_HUB_OFFLINE")
    assert "\n" not in said


def test_without_the_library(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the library datasets: pip install 'ablab\[hf\]'"):
        hf_text(parquet).setup()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"val_fraction": 1.0}, "task.val_fraction=1.0: must be above 0 and below 1"),
        ({"max_bytes": 0}, "task.max_bytes=0: must be at least 1"),
        ({"max_tokens": -1}, "task.max_tokens=-1: must be at least 1"),
        ({"val_split": "train"}, "must differ, got train, train"),
        ({"tokenizer": "bpe", "bpe_vocab_size": 256}, "task.bpe_vocab_size=256: must be at least 257"),
        ({"tokenizer": ""}, "task.tokenizer must be"),
    ],
)
def test_numbers_out_of_range(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        hf_text("anything", **settings)
