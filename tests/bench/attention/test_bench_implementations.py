"""The implementations themselves: each computes what it claims to, and a claim that is not its own is refused."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.bench.attention import definitions, indexed, ours, package_peers, recurrent, torch_peers
from ablab.bench.attention.command import catalogue, chosen
from ablab.bench.attention.definitions import WrongResultError, check
from ablab.bench.attention.implementation import Implementation, Setting
from ablab.errors import UserError
from ablab.model.attention.recurrence import DeltaRule, StateSpace
from ablab.model.attention.selected_core import SelectedCore

SETTING = Setting(batch=2, heads=2, head_size=8, window=16, chunk=8)
ABSENT = not all(find_spec(name) for name in ("local_attention", "reformer_pytorch", "transformers"))
needs_peers = pytest.mark.skipif(ABSENT, reason="the extra `bench` is not installed")
# Warnings of packages that are not ours.
foreign = pytest.mark.filterwarnings("ignore")


def named(name: str, setting: Setting = SETTING) -> Implementation:
    return chosen(catalogue(setting)[0], [name])[0]


def verify(implementation: Implementation, length: int, setting: Setting = SETTING) -> None:
    tensors = setting.draw(length, heads_first=implementation.heads_first)
    attention = implementation.build(setting, length)
    check(attention, *tensors, backward=not implementation.no_backward)


OURS = [each.name for each in ours.implementations(SETTING)]
INDEXED = [each.name for each in indexed.implementations(SETTING)]
LINEAR = [each.name for each in recurrent.implementations(SETTING)]
OF_TORCH = [each.name for each in torch_peers.implementations(SETTING) if each.name != "flex-attention"]


@pytest.mark.parametrize("length", [32, 448])
@pytest.mark.parametrize("name", [*OURS, *INDEXED, *LINEAR, *OF_TORCH])
def test_ours_and_those_of_torch(name: str, length: int) -> None:
    verify(named(name), length)


@pytest.mark.parametrize("name", [name for name in OURS if name != "full"])
def test_ours_are_not_full_attention(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the check would prove nothing."""

    def everything(self: Any, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        return definitions.everything(positions, q.shape[2], causal=self.core.causal)

    def plain(self: Any, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Any:
        return definitions.weighted(q, k, v, positions, definitions.everything(positions, q.shape[2], causal=True))

    for each in (ours._Windowed, ours._LSH, ours._Dynamic):
        monkeypatch.setattr(each, "seen", everything)
    monkeypatch.setattr(ours._Full, "expected", plain)
    with pytest.raises(WrongResultError):
        verify(named(name), 448)


@pytest.mark.parametrize("name", INDEXED)
def test_another_choice_of_keys_is_found_out(name: str) -> None:
    attention: Any = named(name).build(SETTING, 448)
    if isinstance(attention.core, SelectedCore):
        attention.core.selection = replace(attention.core.selection, count=attention.core.selection.count + 1)
    elif attention.core.keys is None:
        attention.core.block += 1
    else:
        attention.core.keys += 1
    given = SETTING.draw(448, heads_first=False)
    out = attention(*given[:3])
    attention.core = named(name).build(SETTING, 448).core  # type: ignore[attr-defined]
    places = torch.arange(400, 448)
    assert not torch.allclose(out[:, :, places].double(), attention.expected(*given[:3], places).out, atol=1e-4)


@pytest.mark.parametrize("delta", [False, True])
def test_the_definition_of_linear_attention_is_the_recurrence(delta: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "BLOCK", 16)
    q, k, v, decay, write = torch.randn(5, 2, 3, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k, decay, write = k / 4, -decay[..., :1].square(), write[..., :1].sigmoid()
    state, rows = torch.zeros(2, 3, 4, 4, dtype=torch.float64), []
    for t in range(50):
        state = decay[:, :, t, :, None].exp() * state
        new = v[:, :, t, None] - k[:, :, t, None] @ state if delta else v[:, :, t, None]
        state = state + write[:, :, t, :, None] * k[:, :, t, :, None] * new
        rows.append(q[:, :, t, None] @ state)
    torch.testing.assert_close(recurrent.by_block(q, k, v, decay, write, delta=delta), torch.cat(rows, 2))


@pytest.mark.parametrize("name", LINEAR)
def test_the_two_recurrences_are_not_each_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attention: Any = named(name).build(SETTING, 100)
    monkeypatch.setattr(attention.core, "mix", recurrent_of(not attention.delta).mix)
    with pytest.raises(WrongResultError):
        check(attention, *SETTING.draw(100, heads_first=False), backward=False)


def recurrent_of(delta: bool) -> Any:
    return (DeltaRule if delta else StateSpace)(chunk=8)


def test_ours_compute_in_half_precision_too() -> None:
    verify(named("windowed", setting := Setting(window=16, chunk=8, dtype="bfloat16")), 448, setting)


@needs_peers
@foreign
@pytest.mark.parametrize(
    "name",
    [
        "local-attention-16x1",
        "local-attention-8x2",
        "reformer-pytorch",
        "transformers-reformer-local",
        "transformers-reformer-lsh",
        "transformers-reformer-lsh-factored",
        "transformers-longformer",
    ],
)
def test_peers(name: str) -> None:
    verify(named(name), 128)


@foreign
@pytest.mark.parametrize("length", [1, 100, 448])
@pytest.mark.parametrize("name", ["transformers-gated-delta", "transformers-mamba2"])
def test_peers_of_linear_attention(name: str, length: int) -> None:
    pytest.importorskip("transformers", reason="the extra `bench` is not installed")
    verify(named(name), length)


@needs_peers
@foreign
def test_peers_that_need_other_lengths_say_so() -> None:
    with pytest.raises(AssertionError, match="divisible"):
        verify(named("reformer-pytorch"), 100)
    with pytest.raises(ValueError, match="even number of chunks"):
        verify(named("transformers-reformer-lsh"), 24)


@needs_peers
@foreign
@pytest.mark.slow
@pytest.mark.parametrize(("window", "length"), [(16, 256), (200, 300)])  # each is compiled, which takes seconds
def test_flex_attention(window: int, length: int) -> None:
    setting = Setting(heads=1, head_size=16, window=window)
    verify(named("flex-attention", setting), length, setting)


@pytest.mark.parametrize("window", [1, 100, 128, 129, 256, 300, 500])
@pytest.mark.parametrize("length", [128, 200, 640])
def test_the_blocks_of_a_window(window: int, length: int) -> None:
    """Each block with a key that is seen is listed once, as a whole one only if every pair in it is seen."""
    mask = torch_peers._window_blocks(length, window, "cpu")
    blocks, size = -(-length // torch_peers.BLOCK), torch_peers.BLOCK
    seen = definitions.window(torch.arange(blocks * size), blocks * size, keys=window, causal=True).bool()
    assert mask.full_kv_num_blocks is not None
    assert mask.full_kv_indices is not None
    for row in range(blocks):
        whole = mask.full_kv_indices[0, 0, row, : mask.full_kv_num_blocks[0, 0, row]].tolist()
        partial = mask.kv_indices[0, 0, row, : mask.kv_num_blocks[0, 0, row]].tolist()
        squares = [seen[row * size : (row + 1) * size, n * size : (n + 1) * size] for n in range(blocks)]
        assert sorted(whole + partial) == [n for n, square in enumerate(squares) if square.any()]
        assert all(squares[n].all() for n in whole)


def test_a_peer_that_is_missing_or_broken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> Any:
        if name == "local_attention":
            raise ModuleNotFoundError(name)
        if name.startswith("transformers"):
            raise RuntimeError("built for another torch\nand more")
        return import_module(name)

    for module in ("package_peers", "transformers_peers"):
        monkeypatch.setattr(f"ablab.bench.attention.{module}.import_module", without)
    found, missing = catalogue(SETTING)
    reasons = {each.name: each.reason for each in missing}
    assert reasons["local-attention"] == "not installed; pip install 'ablab[bench]' brings it"
    assert reasons["transformers"] == "cannot be imported (RuntimeError: built for another torch)"
    assert set(OURS) <= {each.name for each in found}
    assert not any("local-attention" in each.name or "transformers" in each.name for each in found)


@needs_peers
def test_each_configuration_of_local_attention_sees_the_window() -> None:
    names = [each.name for each in package_peers.local_attention(Setting(window=128, chunk=64))]
    assert names == ["local-attention-128x1", "local-attention-64x2"]
    assert len(package_peers.local_attention(Setting(window=100, chunk=64))) == 1


def test_names() -> None:
    found, _ = catalogue(SETTING)
    assert len({each.name for each in found}) == len(found)
    assert [each.name for each in chosen(found, ["sdpa", "full"])] == ["full", "sdpa"]
    assert {"full-sinks", "windowed-softcap"} <= {each.name for each in found}
    assert chosen(found, []) == [each for each in found if not each.extra]
    assert {each.name for each in found if each.extra} >= {"full-sinks", "windowed-softcap"}
    with pytest.raises(UserError, match=r"--implementations sdpb: there are full, .*sdpa"):
        chosen(found, ["sdpa", "sdpb"])
