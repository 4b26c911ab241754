"""Text from a finished run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.model.transformer import Transformer
from ablab.results.record import Record
from ablab.training.generation import generate, load_run

PROMPT = "12 squared is "
DEFAULTS: dict[str, Any] = {"prompt": PROMPT, "tokens": 3}


def test_greedy_takes_the_likeliest_by_hand(finished: Any) -> None:
    model, task = load_run(finished.folder, "last")
    ids = task.encode(PROMPT).tolist()
    for _ in range(40):  # past the model's 32
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids[-32:]]))[0, -1].argmax()))
    text = generate(finished.folder, prompt=PROMPT, tokens=40, temperature=0, checkpoint="last")
    assert text == task.decode(torch.tensor(ids))
    assert generate(finished.folder, prompt=PROMPT, tokens=40, top_k=1, checkpoint="last", seed=7) == text


def test_a_seed_decides_the_text(finished: Any) -> None:
    texts = [generate(finished.folder, prompt=PROMPT, tokens=20, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert all(text.startswith(PROMPT) for text in texts)


def test_generating_neither_reads_nor_moves_the_global_generator(finished: Any) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    text = generate(finished.folder, prompt=PROMPT, tokens=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert generate(finished.folder, prompt=PROMPT, tokens=5) == text


def test_a_prompt_may_be_longer_than_the_model(finished: Any) -> None:
    prompt = "1 squared is 1, cubed 1.\n" * 4
    text = generate(finished.folder, prompt=prompt, tokens=3, temperature=0)
    assert text.startswith(prompt)
    assert text.encode().startswith(prompt.encode())
    assert generate(finished.folder, prompt=prompt, tokens=0) == prompt


def test_the_corpus_may_be_gone(
    corpus: Path, tiny_config: Callable[..., RunConfig], run: Callable[..., Record], tmp_path: Path
) -> None:
    """The vocabulary, here the corpus's own characters, is in the checkpoint."""
    text = Path(shutil.copy(corpus, tmp_path / "mine.txt"))
    run(tiny_config(f"task.path={text}", "task.tokenizer=chars"), tmp_path / "run")
    text.unlink()
    written = generate(tmp_path / "run", prompt="7 squared", tokens=30)
    assert len(written) == 39
    assert set(written) <= set(corpus.read_text(encoding="utf-8"))
    with pytest.raises(UserError, match=r"--prompt: the character '\?' is not among the \d+ characters"):
        generate(tmp_path / "run", prompt="7?", tokens=1)


def test_the_model_is_ready_to_evaluate(finished: Any) -> None:
    model, task = load_run(finished.folder, "best")
    assert isinstance(model, Transformer)
    assert not model.training
    assert task.vocab_size == 256


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"temperature": -1.0}, r"--temperature -1\.0: must be at least 0"),
        ({"temperature": float("nan")}, "--temperature nan: must be at least 0"),
        ({"top_k": 0}, "--top-k 0: must be at least 1"),
        ({"top_p": 1.5}, r"--top-p 1\.5: must lie in 0\.\.1"),
        ({"top_p": float("nan")}, r"--top-p nan: must lie in 0\.\.1"),
        ({"stop": [""]}, "--stop: must not be empty"),
        ({"seed": -1}, "--seed -1: must be at least 0"),
        ({"tokens": -1}, "--tokens -1: must be at least 0"),
        ({"prompt": ""}, "--prompt: must not be empty"),
        ({"checkpoint": "first"}, r"has no checkpoint first\.ckpt; did the run get to its first evaluation\?"),
    ],
)
def test_what_cannot_be(arguments: dict[str, Any], words: str, finished: Any) -> None:
    with pytest.raises(UserError, match=words):
        generate(finished.folder, **(DEFAULTS | arguments))


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not the folder of a run \(no config\.yaml in it\)"):
        generate(tmp_path, prompt=PROMPT, tokens=1)


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_checkpoint_is_said_to_be_one(damage: bytes | None, finished: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    path = folder / "checkpoints" / "best.ckpt"
    path.write_bytes(path.read_bytes()[:5000] if damage is None else damage)
    with pytest.raises(UserError, match=r"best\.ckpt: a damaged checkpoint \(.+\)"):
        generate(folder, prompt=PROMPT, tokens=1)
