"""All do the same work: as many keys each, of which the check notices one too many, at lengths of all kinds."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from ablab.bench.attention.command import catalogue, chosen
from ablab.bench.attention.definitions import WrongResultError, check, sample
from ablab.bench.attention.implementation import Attention, Setting

LENGTH, WINDOW, CHUNK, ROUNDS = 512, 32, 16, 2
SETTING = Setting(heads=2, head_size=8, window=WINDOW, chunk=CHUNK, hash_rounds=ROUNDS)
OURS = ["full", "windowed", "windowed-both-sides", "lsh", "lsh-factored", "dynamic-1", "dynamic-2"]
PACKAGES = {"local": "local_attention", "reformer": "reformer_pytorch", "transformers": "transformers"}

pytestmark = pytest.mark.filterwarnings("ignore:::(local_attention|reformer_pytorch|transformers)")


def built(name: str, length: int) -> tuple[Attention, bool]:
    """For this length, and whether it likes heads first."""
    package = PACKAGES.get(name.split("-")[0])
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed; pip install 'ablab[bench]' brings it")
    [found] = chosen(catalogue(SETTING)[0], [name])
    return found.build(SETTING, length), found.heads_first


def keys_seen(name: str) -> float:
    attention, heads_first = built(name, LENGTH)
    return check(attention, *SETTING.draw(LENGTH, heads_first=heads_first), backward=False)


@pytest.mark.parametrize("length", [1, 2, 37, CHUNK, WINDOW + 1])
@pytest.mark.parametrize("name", OURS)
def test_ours_take_any_length(name: str, length: int) -> None:
    attention, heads_first = built(name, length)
    check(attention, *SETTING.draw(length, heads_first=heads_first), backward=True)


@pytest.mark.parametrize("name", ["windowed", "local-attention-32x1", "local-attention-16x2"])
def test_a_window_has_its_keys(name: str) -> None:
    """The library's has one key more, the query's own."""
    window = WINDOW + name.startswith("local")
    assert keys_seen(name) == pytest.approx((sample(LENGTH) + 1).clamp(max=window).double().mean().item())


@pytest.mark.parametrize("name", ["lsh", "lsh-factored"])
def test_our_hashing_sees_no_more_than_a_chunk_a_round(name: str) -> None:
    assert 1 < keys_seen(name) <= ROUNDS * CHUNK


@pytest.mark.parametrize(
    "name", ["reformer-pytorch", "transformers-reformer-lsh", "transformers-reformer-lsh-factored"]
)
def test_their_hashing_sees_no_more_than_two_chunks_a_round(name: str) -> None:
    assert 1 < keys_seen(name) <= ROUNDS * 2 * CHUNK


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("local-attention-32x1", "window"),
        ("local-attention-16x2", "window"),
        ("transformers-longformer", "window"),
        ("transformers-reformer-local", "back"),
        ("transformers-reformer-lsh", "chunk"),
        ("reformer-pytorch", "chunk"),
    ],
)
def test_a_peer_of_another_size_would_be_noticed(name: str, size: str) -> None:
    attention, heads_first = built(name, LENGTH)
    changed = getattr(attention, size) * 2 if size == "chunk" else getattr(attention, size) + 1
    setattr(attention, size, changed)
    with pytest.raises(WrongResultError):
        check(attention, *SETTING.draw(LENGTH, heads_first=heads_first), backward=False)
