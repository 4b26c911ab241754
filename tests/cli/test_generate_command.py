"""The command `generate`: what it prints, when, and what it refuses."""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablab.cli import main
from ablab.cli.generate import _print_texts, read_prompts
from ablab.config import RunConfig
from ablab.errors import UserError, printable
from ablab.model.generation import Generation
from ablab.results.record import Record
from ablab.training.continuation import Continuations, ContinuationSettings, Prompt
from ablab.training.generation import generate
from ablab.training.restore import load_run

LONGEST = 32  # tokens that the model takes


@dataclass
class Ended:
    status: object
    out: str
    err: str


@pytest.fixture(scope="module")
def folder(
    tiny_config: Callable[..., RunConfig],
    run: Callable[[RunConfig, Path], Record],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Of a run whose model can guess two tokens, over bytes."""
    made = tmp_path_factory.mktemp("generate") / "run"
    config = tiny_config("objective=multi_token", "objective.depth=2", "attention=full", "optimizer.lr=0.01")
    assert run(config, made).status == "ok"
    return made


@pytest.fixture
def command(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    def make(*words: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main(["generate", str(folder), *words])
        return Ended(ended.value.code, *capsys.readouterr())

    return make


def test_texts_stand_one_behind_the_other(folder: Path, command: Callable[..., Ended]) -> None:
    """Each is what it is alone, with guesses and without, in batches of any size."""
    prompts = ["1 squared", "12 cubed is", "7"]
    alone = [generate(folder, prompt=prompt, tokens=40, seed=3) for prompt in prompts]
    words = [word for prompt in prompts for word in ("--prompt", prompt)] + ["--tokens", "40", "--seed", "3"]
    outputs = set()
    for changes in ([], ["--draft"], ["--draft", "1", "--batch-size", "2"]):
        ended = command(*words, *changes)
        assert ended.status == 0
        outputs.add(ended.out)
        [effort, beyond] = ended.err.splitlines()
        assert effort.startswith("ablab: read 21 tokens in ")
        assert ", wrote 117 tokens in " in effort
        assert (" guesses: mean accepted length " in effort) == bool(changes)
        assert beyond.startswith("ablab: beyond 32 tokens the model sees the last 32 alone")
    [text] = outputs
    parts = text.split("==> ")
    assert [part.partition(" <==\n")[0] for part in parts[1:]] == ["1 of 3", "2 of 3", "3 of 3"]
    assert [part.partition(" <==\n")[2].rstrip("\n") for part in parts[1:]] == [
        printable(each).rstrip("\n") for each in alone
    ]


def test_lines_of_json(command: Callable[..., Ended], tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('"1 squared\\nis"\n\n{"prompt": "12 cubed", "more": 1}\n', encoding="utf-8")
    words = ["--prompt", "7", "--prompt-file", str(file), "--temperature", "0", "--format", "json", "--tokens", "12"]
    whole = [json.loads(line) for line in command(*words).out.splitlines()]
    assert [line["prompt"] for line in whole] == ["7", "1 squared\nis", "12 cubed"]
    assert [line["index"] for line in whole] == [0, 1, 2]
    assert {(line["finish_reason"], line["completion_tokens"]) for line in whole} == {("length", 12)}
    stop = whole[1]["text"][3:6]
    stopped = [json.loads(line) for line in command(*words, "--stop", stop, "--stop", "never").out.splitlines()]
    for line, before in zip(stopped, whole, strict=True):
        assert line["text"] == before["text"].partition(stop)[0]
        assert line["finish_reason"] == ("stop" if stop in before["text"] else "length")
    assert stopped[1]["completion_tokens"] <= 6


def test_guesses_behind_a_stop_string_are_not_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where every guess comes true, so that all tokens come at once."""

    class AtOnce(Generation):
        def step(self) -> list[list[int]]:
            added: list[list[int]] = [[] for _ in self.ids]
            while self.unfinished:
                for tokens, more in zip(added, super().step(), strict=True):
                    tokens += more
            return added

    model, task = load_run(folder, "best")

    def last(*stop: str) -> tuple[str, str | None, int]:
        asked = ContinuationSettings(tokens=12, temperature=0, stop=stop)
        pieces = list(Continuations(model, task, [Prompt("12")], asked))
        return "".join(piece.text for piece in pieces), pieces[-1].finish_reason, pieces[-1].tokens

    stop = last()[0][4:6]
    one_by_one = last(stop)
    assert one_by_one[1:] in [("stop", count) for count in range(2, 7)]
    monkeypatch.setattr("ablab.training.continuation.Generation", AtOnce)
    assert last(stop) == one_by_one


def test_text_appears_as_it_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token is written and flushed before the next is asked for."""
    model, task = load_run(folder, "best")
    written: list[str] = []

    class Seen(io.StringIO):
        def flush(self) -> None:
            written.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Seen())
    _print_texts(Continuations(model, task, [Prompt("12")], ContinuationSettings(tokens=8, temperature=0)))
    assert written[0] == "12"
    assert len(set(written)) >= 8
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(written))


def test_nobody_reads_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more tokens are made than there are readers for, and that is no error."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    steps = 0
    step = Continuations._written

    def counted(self: Continuations, *arguments: Any) -> Iterator[Any]:
        nonlocal steps
        for piece in step(self, *arguments):
            steps += 1
            yield piece

    monkeypatch.setattr(Continuations, "_written", counted)
    monkeypatch.setattr(sys, "stdout", cast(TextIO, Closed()))
    with pytest.raises(SystemExit) as ended:
        main(["generate", str(folder), "--tokens", "500"])
    assert ended.value.code == 0
    assert steps == 1


def test_ctrl_c_leaves_what_was_printed(folder: Path, command: Callable[..., Ended], monkeypatch: Any) -> None:
    step = Continuations._written

    def interrupted(self: Continuations, *arguments: Any) -> Iterator[Any]:
        for count, piece in enumerate(step(self, *arguments)):
            if count == 5:
                raise KeyboardInterrupt
            yield piece

    whole = command("--prompt", "12", "--temperature", "0", "--tokens", "5").out
    monkeypatch.setattr(Continuations, "_written", interrupted)
    ended = command("--prompt", "12", "--temperature", "0")
    assert ended.status == 130
    assert ended.err == "\nablab: interrupted\n"
    assert whole.startswith(ended.out)
    assert len(ended.out) > 2


MISTAKES: list[tuple[list[str], str]] = [
    (["--prompt", ""], "--prompt: must not be empty"),
    (["--prompt-file", "nowhere.txt"], "--prompt-file nowhere.txt: No such file or directory"),
    (["--prompt-file", "a\x00b"], "--prompt-file: no name of a file"),
    (["--prompt-file", "."], "--prompt-file .: Is a directory"),
    (["--prompt-file", ""], "--prompt-file: the name is empty: is a variable of the shell not set?"),
    (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
    (["--top-p", "-0.1"], "--top-p -0.1: must lie in 0..1"),
    (["--stop", ""], "--stop: must not be empty"),
    (["--draft", "3"], "--draft 3: must lie in 1..2, the model's objective.depth"),
    (["--draft", "0"], "--draft 0: must be at least 1"),
    (["--tokens", "-1"], "--tokens -1: must be at least 0"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES)
def test_what_cannot_be(words: list[str], said: str, command: Callable[..., Ended]) -> None:
    ended = command(*words)
    assert (ended.status, ended.out) == (2, "")
    [line] = ended.err.splitlines()
    assert line.startswith(f"ablab: error: {said}")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("empty.txt", b"", "there is no prompt in it"),
        ("blank.txt", b"\n \r\n\t\n", "there is no prompt in it"),
        ("latin.txt", b"caf\xe9\n", r"not UTF-8 \(byte 3\)"),
        ("utf16.txt", "abc".encode("utf-16"), r"not UTF-8 \(byte 0\)"),
        ("bad.jsonl", b'"a"\n{"prompt": \n', "line 2: not JSON"),
        ("other.jsonl", b'{"promt": "a"}\n', "line 1: must be a string, or an object"),
        ("deep.jsonl", b"[" * 100_000, "line 1: not JSON"),
    ],
)
def test_files_that_hold_no_prompts(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(UserError, match=f"{name}(, |: ){said}"):
        read_prompts(None, str(file))


@settings(max_examples=50, deadline=None)
@given(lines=st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=5), ends=st.booleans())
def test_prompts_of_files(lines: list[str], ends: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of a text those lines that are not blank, as they are; of JSON any text whatever."""
    place = tmp_path_factory.mktemp("prompts")
    plain = [line.replace("\n", "").removeprefix("\ufeff").rstrip("\r") for line in lines]
    (place / "a.txt").write_bytes("".join(f"{line}{chr(13) if ends else ''}\n" for line in plain).encode())
    (place / "b.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    expected = [line for line in plain if line.strip()]
    if expected:
        assert [prompt.text for prompt in read_prompts(["x"], str(place / "a.txt"))] == ["x", *expected]
    assert [prompt.text for prompt in read_prompts(None, str(place / "b.jsonl"))] == lines


def test_standard_input_may_be_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\n")))
    assert [(prompt.text, prompt.source) for prompt in read_prompts(None, "-")] == [
        ("a", "--prompt-file -, line 1"),
        ("b", "--prompt-file -, line 2"),
    ]
    assert [prompt.text for prompt in read_prompts(None, None)] == ["\n"]
