"""Text from a finished run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.model.transformer import Transformer
from ablab.results.record import Record
from ablab.training.generation import continue_tokens, generate, load_run

PROMPT = "12 squared is "
DEFAULTS: dict[str, Any] = {"prompt": PROMPT, "tokens": 3}


class Fixed:
    """A "model" whose next token has always the same scores, and which takes three tokens at most."""

    max_length = 3

    def __init__(self, scores: list[float]) -> None:
        self.scores = torch.tensor(scores)
        self.seen: list[list[int]] = []

    def __call__(self, tokens: Tensor) -> Tensor:
        self.seen.append(tokens[0].tolist())
        return self.scores.expand(*tokens.shape, -1)


def sample(model: Any, count: int, temperature: float = 1.0, top_k: int | None = None, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    tokens: Tensor = continue_tokens(model, torch.tensor([0, 1]), count, temperature, top_k, generator)
    assert tokens[:2].tolist() == [0, 1]
    return tokens[2:].tolist()


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


@settings(max_examples=50, deadline=None)
@given(
    scores=st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=12),
    top_k=st.integers(1, 15),
    temperature=st.sampled_from([1e-300, 1e-30, 0.5, 1.0, 100.0]),
    seed=st.integers(0, 100),
)
def test_top_k_never_takes_another(scores: list[float], top_k: int, temperature: float, seed: int) -> None:
    chosen = sample(Fixed(scores), 10, temperature, top_k, seed)
    smallest = sorted(scores, reverse=True)[min(top_k, len(scores)) - 1]
    assert all(scores[token] >= smallest for token in chosen)
    assert len(set(chosen)) <= top_k


def test_samples_follow_the_probabilities() -> None:
    """Frequencies of 4,000 draws, within five standard errors, of the softmax at this temperature among the best 3."""
    scores, temperature = [1.0, 3.0, 2.0, -4.0], 2.0
    chosen = torch.tensor(sample(Fixed(scores), 4000, temperature, top_k=3))
    weights = [math.exp(score / temperature) for score in scores[:3]]
    for token, weight in enumerate(weights):
        p = weight / sum(weights)
        assert abs((chosen == token).float().mean().item() - p) < 5 * (p * (1 - p) / 4000) ** 0.5
    assert not (chosen == 3).any()


def test_a_low_temperature_is_close_to_greedy() -> None:
    assert set(sample(Fixed([1.0, 1.1, 0.9]), 50, temperature=1e-3)) == {1}


def test_the_model_sees_the_last_tokens_that_it_can_take() -> None:
    model = Fixed([0.0, 0.0, 0.0, 1.0])
    sample(model, 3, temperature=0)
    assert model.seen == [[0, 1], [0, 1, 3], [1, 3, 3]]


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
