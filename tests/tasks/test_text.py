"""The options of the axis `task`, as a run meets them."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ablab.errors import UserError
from ablab.tasks.text import SourceText, Text

ROOT = Path(__file__).parents[2]
SHAKESPEARE = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
SOME_TEXT = "".join(f"{i} na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve \N{SNOWMAN}\n" for i in range(500))


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "some.txt"
    path.write_text(SOME_TEXT, encoding="utf-8")
    return path


def text(path: Path, /, **settings: Any) -> Text:
    return Text(**{"path": str(path), "seq_len": 16, "batch_size": 6, "seed": 0, **settings})


def on_rank(task: Text, rank: int, processes: int) -> Text:
    task.trainer = SimpleNamespace(  # type: ignore[assignment]
        distributed_sampler_kwargs={"rank": rank, "num_replicas": processes}
    )
    return task


def first(loader: Any, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [batch for _, batch in zip(range(count), loader, strict=False)]


def same(left: list[tuple[torch.Tensor, torch.Tensor]], right: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    assert len(left) == len(right) > 0
    return all(torch.equal(a, b) for x, y in zip(left, right, strict=True) for a, b in zip(x, y, strict=True))


def test_batches_are_the_same_in_every_build_and_with_workers(text_file: Path) -> None:
    plain, again, workers = (text(text_file, workers=workers) for workers in (0, 0, 2))
    assert same(first(plain.train_dataloader(), 7), first(again.train_dataloader(), 7))
    assert same(first(plain.train_dataloader(), 7), first(workers.train_dataloader(), 7))
    assert same(list(plain.val_dataloader()), list(workers.val_dataloader()))


def test_a_resumed_run_goes_on_where_it_was(text_file: Path) -> None:
    whole, rest = text(text_file), text(text_file)
    rest.first_step = 4
    assert same(first(whole.train_dataloader(), 7)[4:], first(rest.train_dataloader(), 3))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_batch(text_file: Path, processes: int) -> None:
    shares = [first(on_rank(text(text_file), rank, processes).train_dataloader(), 3) for rank in range(processes)]
    joined = [
        (torch.cat([share[0] for share in step]), torch.cat([share[1] for share in step]))
        for step in zip(*shares, strict=True)
    ]
    assert same(joined, first(text(text_file).train_dataloader(), 3))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_evaluation(text_file: Path, processes: int) -> None:
    targets = torch.cat(
        [
            batch[1].flatten()
            for rank in range(processes)
            for batch in on_rank(text(text_file, eval_batch_size=5), rank, processes).val_dataloader()
        ]
    )
    data = SOME_TEXT.encode()
    expected = torch.bincount(torch.tensor(list(data[int(len(data) * 0.9) + 1 :])), minlength=256)
    assert torch.equal(torch.bincount(targets[targets != -100], minlength=256), expected)


def test_a_batch_that_cannot_be_shared(text_file: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.batch_size=6 cannot be shared by 4 processes: give a multiple of 4"):
        on_rank(text(text_file), 0, 4).train_dataloader()


def test_data_leaves_the_global_generator_alone(text_file: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first(text(text_file).train_dataloader(), 2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("tokenizer", ["bytes", "chars"])
def test_figures_against_a_loop_over_the_tokens(text_file: Path, tokenizer: str) -> None:
    task = text(text_file, tokenizer=tokenizer)
    task.setup()
    generator = torch.Generator().manual_seed(0)
    _, targets = list(task.val_dataloader())[-1]
    assert (targets == -100).any()  # the last window is not full
    logits = torch.randn(*targets.shape, task.vocab_size, generator=generator)

    nats, correct, predicted = 0.0, 0, ""
    raw = bytearray()
    for row, column in (targets != -100).nonzero().tolist():
        target = int(targets[row, column])
        nats -= logits[row, column].double().log_softmax(0)[target].item()
        correct += int(logits[row, column].argmax()) == target
        if tokenizer == "bytes":
            raw.append(target)
        else:
            predicted += task.decode(targets[row, column : column + 1])
    size = len(raw) or len(predicted.encode())
    count = int((targets != -100).sum())

    totals = {name: value.item() for name, value in task.totals(logits, targets).items()}
    metrics = task.metrics(totals)
    assert metrics == {
        "loss": pytest.approx(nats / count, rel=1e-6),
        "bits_per_byte": pytest.approx(nats / math.log(2) / size, rel=1e-6),
        "perplexity": pytest.approx(math.exp(nats / count), rel=1e-6),
        "accuracy": correct / count,
    }
    assert task.loss(logits, targets).item() == pytest.approx(metrics["loss"], rel=1e-5)


def test_bits_per_byte_of_a_uniform_guess(text_file: Path) -> None:
    """log2(256) bits a byte; for characters, log2 of the vocabulary times characters per byte of the text."""
    cases: tuple[tuple[str, Callable[[Any, str], float]], ...] = (
        ("bytes", lambda task, part: 8.0),
        ("chars", lambda task, part: math.log2(task.vocab_size) * len(part) / len(part.encode())),
    )
    for tokenizer, expected in cases:
        task = text(text_file, tokenizer=tokenizer, seq_len=1)
        totals = torch.zeros(4, dtype=torch.float64)
        for _, targets in task.val_dataloader():
            totals += torch.stack(list(task.totals(torch.zeros(*targets.shape, task.vocab_size), targets).values()))
        names = ("nats", "correct", "tokens", "bytes")
        metrics = task.metrics(dict(zip(names, totals.tolist(), strict=True)))
        data = SOME_TEXT.encode()
        part = data[int(len(data) * 0.9) :].decode()[1:]
        assert metrics["bits_per_byte"] == pytest.approx(expected(task, part), rel=1e-6)


@pytest.mark.parametrize("content", ["\N{SNOWMAN}" * 2000 + "ab " * 1000, "ab " * 1000 + "\N{SNOWMAN}" * 2000])
def test_every_tokenizer_is_given_the_same_split(tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one part of a text takes more bytes a character than another."""
    monkeypatch.setenv("ABLAB_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "mixed.txt"
    path.write_text(content, encoding="utf-8")
    tasks = [text(path, tokenizer=name, bpe_vocab_size=260, test_fraction=0.2) for name in ("bytes", "chars", "bpe")]
    parts = []
    for task in tasks:
        task.setup()
        parts.append({split: task.decode(torch.from_numpy(ids.astype("int64"))) for split, ids in task._splits.items()})
    assert parts[0] == parts[1] == parts[2]
    assert "".join(parts[0].values()) == content


def test_a_loss_beyond_floats_is_an_infinite_perplexity(text_file: Path) -> None:
    totals = {"nats": 1e6, "correct": 0.0, "tokens": 1.0, "bytes": 1.0}
    assert text(text_file).metrics(totals)["perplexity"] == math.inf
    assert math.isnan(text(text_file).metrics({**totals, "nats": math.nan})["perplexity"])


def test_the_vocabulary_travels_without_the_corpus(text_file: Path, tmp_path: Path) -> None:
    trained = text(text_file, tokenizer="chars")
    trained.setup()
    torch.save(trained.state_dict(), tmp_path / "task.pt")
    fresh = text(tmp_path / "gone.txt", tokenizer="chars")
    fresh.load_state_dict(torch.load(tmp_path / "task.pt", weights_only=True))
    assert fresh.vocab_size == trained.vocab_size
    assert torch.equal(fresh.encode("na\u00efve 12"), trained.encode("na\u00efve 12"))
    assert fresh.decode(fresh.encode("na\u00efve 12")) == "na\u00efve 12"


@pytest.mark.parametrize("files", [1, 40])
def test_byte_pairs_of_the_training_part(tmp_path: Path, files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLAB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(files):
        (folder / f"{i}.txt").write_text(SOME_TEXT if files == 1 else SOME_TEXT[i * 100 : (i + 1) * 100])
    path = folder / "0.txt" if files == 1 else folder
    task, same = (text(path, tokenizer=name, bpe_vocab_size=300, test_fraction=0.2) for name in ("bpe", "chars"))
    task.setup()
    same.setup()
    for split, ids in task._splits.items():
        assert task.decode(torch.from_numpy(ids.astype("int64"))) == same.decode(torch.from_numpy(same._splits[split]))
        assert 0 < len(ids) < len(same._splits[split])
    monkeypatch.setattr("ablab.tasks.text.Text._tokenise", None)
    again = text(path, tokenizer="bpe", bpe_vocab_size=300, test_fraction=0.2)
    again.setup()  # from the cache
    assert again._tokenizer == task._tokenizer
    assert (again._splits["train"] == task._splits["train"]).all()


def test_a_vocabulary_of_another_corpus_is_refused(text_file: Path) -> None:
    task = text(text_file, tokenizer="chars")
    task.setup()
    with pytest.raises(UserError, match="vocabulary is not that of the corpus"):
        task.load_state_dict({"tokenizer": "chars", "vocabulary": "abc"})


def test_many_files_are_split_by_name(tmp_path: Path) -> None:
    for i in range(60):
        (tmp_path / f"{i}.txt").write_text(chr(0x4E00 + i) * 20)
    task = text(tmp_path, tokenizer="chars", val_fraction=0.3, test_fraction=0.3)
    task.setup()
    test = task.test_dataloader()
    assert not isinstance(test, list)
    loaders = (first(task.train_dataloader(), 200), task.val_dataloader(), test)
    parts = [{int(i) for _, targets in loader for i in targets[targets != -100]} for loader in loaders]
    assert sum(map(len, parts)) == 60 == len(set.union(*parts))  # each character is of one file, thus of one split
    assert task.corpus.files == 60
    assert task.corpus.size_bytes == 60 * 20 * 3


def test_no_test_split_was_asked_for(text_file: Path) -> None:
    assert text(text_file).test_dataloader() == []


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"path": "???"}, UserError, "task.path is missing"),
        ({"seq_len": 4000}, UserError, r"some.txt: \d+ tokens in the val split, a window needs 4001: shorten"),
        ({"seq_len": 0}, ValueError, "task.seq_len must be at least 1, got 0"),
        ({"workers": -1}, ValueError, "workers must be 0 or more"),
        ({"eval_tokens": 15}, ValueError, "task.eval_tokens=15 is less than one window: give task.seq_len=16"),
        ({"tokenizer": "no/such.json"}, UserError, "no/such.json: no such file; mend task.tokenizer"),
        ({"tokenizer": "bpe", "bpe_vocab_size": 256}, ValueError, "task.bpe_vocab_size=256: must be at least 257"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, ValueError, "together below 1"),
        ({"val_fraction": 0.0}, ValueError, "val above 0"),
        ({"binary": True, "tokenizer": "chars"}, ValueError, "task.binary=true: task.tokenizer=chars reads text"),
    ],
)
def test_mistakes_are_told_in_one_line(
    text_file: Path, settings: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        text(text_file, **settings).setup()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tokenizer", ["chars", "bytes"])
def test_a_text_of_one_character_has_nothing_to_learn(tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / "a.txt").write_text("a" * 4000)
    with pytest.raises(UserError, match="its training split is 'a' over and over: there is nothing to learn"):
        text(tmp_path / "a.txt", tokenizer=tokenizer).setup()


def test_the_options_build_from_their_files(text_file: Path) -> None:
    source = instantiate(OmegaConf.load(ROOT / "conf/task/source_text.yaml"), seed=5)
    assert isinstance(source, SourceText)
    source.setup()
    inputs, targets = next(iter(source.train_dataloader()))
    assert inputs.shape == targets.shape == (source.batch_size, source.seq_len)
    assert source.tokens_per_batch == inputs.numel()
    assert source.corpus.size_bytes <= 4_000_000
    evaluated = sum(int((targets != -100).sum()) for _, targets in source.val_dataloader())
    assert evaluated == pytest.approx(65536, abs=source.seq_len)
    assert isinstance(instantiate(OmegaConf.load(ROOT / "conf/task/text.yaml"), seed=5, path=str(text_file)), Text)


@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="the Tiny Shakespeare file is not beside the repository")
def test_tiny_shakespeare_is_split_as_nanogpt_does() -> None:
    """65 characters, 1,003,854 to train and 111,540 to validate on: nanoGPT, data/shakespeare_char/readme.md."""
    task = text(SHAKESPEARE, tokenizer="chars", seq_len=64, eval_batch_size=256)
    assert sum(int((targets != -100).sum()) for _, targets in task.val_dataloader()) == 111_540 - 1
    assert task.vocab_size == 65
    assert len(task._splits["train"]) == 1_003_854
