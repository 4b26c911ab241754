"""Cached decoding against the whole sequence: every option of every axis, samples of unequal lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.model.attention.cache import KeyValueCache, Slots, Step
from ablab.model.attention.flex.call import dense, using
from ablab.model.decoding import Decoder, without_cache
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]

LENGTHS = (37, 22, 5)  # of the samples
SHORT = (13, 8, 2)  # of those of options that know no edge of a window or block
ONE_BY_ONE, IN_CHUNKS = (1,), (9, 1, 1, 5, 3)  # tokens of each pass; the last number for all that are left
# Edges of windows, blocks and choices lie well within the samples.
SMALL: dict[str, dict[str, Any]] = {
    "block_sparse": {"block": 4, "random_blocks": 1},
    "csa": {"block": 4, "window": 6, "keys": 3},
    "dsa": {"keys": 6},
    "dynamic": {"window": 8, "bucket_size": 4, "buckets": 4, "dense_below": 0},
    "gated_delta": {"chunk": 4},
    "hca": {"block": 5, "window": 6},
    "lsh": {"bucket_size": 4, "buckets": 4, "dense_below": 0},
    "mamba2": {"chunk": 4},
    "mla_dsa": {"keys": 6},
    "nsa": {"compress_block": 6, "compress_stride": 3, "select_block": 6, "selected_blocks": 3, "window": 7},
    "pattern": {"layers": [{"windowed": {"window": 6}}, "full"]},
    "selected": {"block": 4, "keys": 12, "window": 3},
    "topk": {"keys": 6},
    "windowed": {"window": 6},
}
# What a token sees of it hangs on how long the sequence is in the end, so that no pass can know it.
NOT_CAUSAL_IN_LENGTH: set[str] = set()
OTHER_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("full", {"share_qk": True}),
    ("full", {"sinks": True, "softcap": 3.0, "qk_norm": True, "output_gate": "feature"}),
    ("windowed", {"window": 3, "dilation": 2, "global_tokens": 2}),
    ("windowed", {"window": 5, "share_qk": True, "sinks": True, "softcap": 3.0}),
    ("mla", {}),
    ("mla", {"sinks": True, "softcap": 3.0}),
]


@pytest.fixture
def double() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def drawn(model: Transformer) -> Transformer:
    """Weights that are not small, so that what is wrong shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
            parameter.add_(0.3 * noise if parameter.dim() > 1 else 0.1 * noise)
    return model.eval()


def decoded(model: Transformer, tokens: Tensor, lengths: Sequence[int], sizes: Sequence[int]) -> list[Tensor]:
    """The logits of each sample (T, vocab_size), in passes of so many tokens.

    Where samples differ in length the first pass brings a share of each, so that those that lag behind go on, too.
    """
    decoder = Decoder(model, batch=len(lengths), capacity=max(lengths))
    parts: list[list[Tensor]] = [[] for _ in lengths]
    have = [0] * len(lengths)
    later = iter((*sizes, *[sizes[-1]] * max(lengths)))
    while have != list(lengths):
        if have == [0] * len(lengths) and len(set(lengths)) > 1 and sizes[0] > 1:
            counts = [max(1, length // 3) for length in lengths]
        else:
            size = next(later)
            counts = [min(size, length - before) for before, length in zip(have, lengths, strict=True)]
        chunk = torch.zeros(len(lengths), max(counts), dtype=torch.int64)
        for row, (before, count) in enumerate(zip(have, counts, strict=True)):
            chunk[row, :count] = tokens[row, before : before + count]
        logits = decoder.extend(chunk, torch.tensor(counts))
        for part, found, count in zip(parts, logits, counts, strict=True):
            part.append(found[:count])
        have = [before + count for before, count in zip(have, counts, strict=True)]
    assert decoder.lengths.tolist() == list(lengths)
    return [torch.cat(part) for part in parts]


def difference(model: Transformer, tokens: Tensor, lengths: Sequence[int], sizes: Sequence[int]) -> float:
    """The largest between passes and each sample as a whole by itself, against the size of its logits."""
    largest = 0.0
    with torch.no_grad():
        for sample, logits in enumerate(decoded(model, tokens, lengths, sizes)):
            whole = model(tokens[sample : sample + 1, : lengths[sample]])[0]
            largest = max(largest, ((logits - whole).abs().max() / whole.abs().max().clamp(min=1)).item())
    return largest


def made(build: Build, axis: str, option: str, load_option: Callable[..., Any]) -> Transformer:
    small = SMALL.get(option, {}) if axis == "attention" else {}
    return drawn(build(**{axis: load_option(axis, option, **small)}, max_length=max(LENGTHS), bias=True))


@pytest.mark.parametrize("sizes", [ONE_BY_ONE, IN_CHUNKS], ids=["one", "chunks"])
def test_every_option_goes_on_from_what_it_keeps(
    any_option: tuple[str, str],
    sizes: tuple[int, ...],
    build: Build,
    load_option: Callable[..., Any],
    tokens: Callable[..., Tensor],
    double: None,
) -> None:
    if any_option[1] in NOT_CAUSAL_IN_LENGTH:
        pytest.skip("what a token sees hangs on the length in the end")
    model = made(build, *any_option, load_option)
    lengths = LENGTHS if any_option[0] == "attention" else SHORT
    assert difference(model, tokens(len(lengths), max(lengths)), lengths, sizes) < 1e-9


def test_single_precision(
    attention_option: str, build: Build, load_option: Callable[..., Any], tokens: Callable[..., Tensor]
) -> None:
    if attention_option in NOT_CAUSAL_IN_LENGTH:
        pytest.skip("what a token sees hangs on the length in the end")
    model = made(build, "attention", attention_option, load_option)
    assert difference(model, tokens(2, 30), (30, 30), (9, 1, 1, 5, 1)) < 1e-5


@pytest.mark.parametrize("position", ["none", "rope", "alibi"])
@pytest.mark.parametrize(("option", "settings"), OTHER_SETTINGS)
def test_other_settings(
    option: str,
    settings: dict[str, Any],
    position: str,
    build: Build,
    load_option: Callable[..., Any],
    tokens: Callable[..., Tensor],
    double: None,
) -> None:
    attention = load_option("attention", option, **settings)
    model = drawn(build(attention=attention, position=position, n_layers=1, max_length=max(LENGTHS)))
    assert difference(model, tokens(len(LENGTHS), max(LENGTHS)), LENGTHS, IN_CHUNKS) < 1e-9


@pytest.mark.parametrize("first", [3, 9])
@pytest.mark.parametrize("option", ["csa", "hca"])
def test_a_prompt_shorter_than_an_entry_goes_by_the_kernels(
    option: str,
    first: int,
    build: Build,
    load_option: Callable[..., Any],
    tokens: Callable[..., Tensor],
    double: None,
) -> None:
    def engine(q: Tensor, k: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        assert k.shape[2] > 0  # as the kernels on CUDA ask for
        return dense(q, k, *others)

    model = made(build, "attention", option, load_option)
    with using(engine):  # type: ignore[arg-type]
        assert difference(model, tokens(2, 14), (14, 14), (first, 1)) < 1e-9


def test_grouped_heads_keep_less(build: Build, tokens: Callable[..., Tensor], double: None) -> None:
    model = drawn(build(d_model=16, n_heads=4, n_kv_heads=2, max_length=max(LENGTHS)))
    assert difference(model, tokens(len(LENGTHS), max(LENGTHS)), LENGTHS, IN_CHUNKS) < 1e-9
    assert Decoder(model, batch=1, capacity=10).nbytes == 2 * (2 * 10 * 2 * 4) * 8


@pytest.mark.parametrize("capacity", [3, 30])
def test_the_formula_counts_what_is_allocated(
    attention_option: str, capacity: int, build: Build, load_option: Callable[..., Any]
) -> None:
    model = made(build, "attention", attention_option, load_option)
    if without_cache(model):
        pytest.skip("has no cache")
    for _, block in model.layers():
        cache, numbers = block.attention.new_cache(2, capacity), block.attention.cache_numbers(capacity)
        assert cache is not None
        assert numbers is not None
        assert cache.nbytes == 2 * numbers * 4


def test_room_is_kept_to(build: Build, tokens: Callable[..., Tensor]) -> None:
    decoder = Decoder(build().eval(), batch=2, capacity=4)
    decoder.extend(tokens(2, 3))
    with pytest.raises(ValueError, match="5 tokens are more than there is room for, 4"):
        decoder.extend(tokens(2, 2))
    assert decoder.lengths.tolist() == [3, 3]
    with pytest.raises(ValueError, match="room for 65 tokens"):
        Decoder(build(), batch=1, capacity=65)
    with pytest.raises(ValueError, match="not causal"):
        Decoder(build(causal=False), batch=1)
    with pytest.raises(ValueError, match="cannot go on"):
        Decoder(build(pooled=True, n_outputs=3, causal=False), batch=1)


def test_an_option_without_a_cache_is_named(build: Build) -> None:
    class Whole(nn.Module):
        pass

    assert without_cache(build()) is None
    model = build()
    for _, block in model.layers():
        block.attention.core.new_cache = lambda *args, **kwargs: None  # type: ignore[method-assign]
    assert without_cache(model) == (
        "FullAttention (layer 0) has no cache: each new token computes the whole sequence again"
    )
    assert Decoder(model, batch=2, capacity=5).nbytes == 2 * 5 * 8


@pytest.mark.parametrize(("slots", "fixed"), [(8, 0), (3, 0), (5, 2), (2, 2)])
def test_slots_hold_the_newest_and_the_first(slots: int, fixed: int) -> None:
    """Of positions 0..n-1, in passes of every size."""
    total = 2 if slots == fixed else 8
    for size in range(1, total + 1):
        store = Slots(2, 1, slots, 1, like=torch.zeros(()), fixed=fixed)
        for start in range(0, total, size):
            positions = torch.arange(start, min(start + size, total)).expand(2, -1)
            step = Step(positions=positions, there=None, before=start, total=int(positions.max()) + 1)
            store.write(positions[:, None, :, None].float(), step)
            found = store.positions(step.lengths)
            newest = range(max(fixed, step.total - (slots - fixed)), step.total)
            expected = sorted({*range(min(fixed, step.total)), *newest})
            assert sorted(found[0][found[0] >= 0].tolist()) == expected
            assert torch.equal(store.tensor[0, 0, :, 0][found[0] >= 0], found[0][found[0] >= 0].float())


def test_a_sample_without_new_tokens_keeps_what_it_has() -> None:
    cache = KeyValueCache(2, 1, 3, 1, like=torch.zeros(()))
    k = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, None, :, None]
    first = Step(positions=torch.tensor([[0, 1], [0, 1]]), there=None, before=0, total=2)
    cache.extend(k, k, first)
    there = torch.tensor([[True, True], [False, False]])
    cache.extend(k, k, Step(positions=torch.tensor([[2, 3], [2, 3]]), there=there, before=2, total=4))
    assert cache.keys.tensor[:, 0, :, 0].tolist() == [[2.0, 2.0, 1.0], [3.0, 4.0, 0.0]]
