from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ablab.model.position import Learned, NoPosition, Position, Rope, Sinusoidal
from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("d_model", [6, 7])
def test_sinusoidal_is_its_formula(make_spec: Spec, d_model: int) -> None:
    position = Sinusoidal(make_spec(d_model=d_model, n_heads=1), scale=0.5)
    added = position.add(torch.zeros(1, 5, d_model), offset=3)[0]
    for row, time in enumerate(range(3, 8)):
        for unit in range(d_model):
            wave = math.sin if unit % 2 == 0 else math.cos
            angle = time / 10000 ** ((unit - unit % 2) / d_model)
            assert added[row, unit].item() == pytest.approx(0.5 * wave(angle), abs=1e-6)


def test_rope_scores_depend_on_the_distance_alone(make_spec: Spec) -> None:
    """One query vector and one key vector at all places: their scores are constant along diagonals, and only there."""
    rope = Rope(make_spec(d_model=8, n_heads=1), base=100.0).double()
    q, k = (x.expand(1, 1, 20, 8) for x in (random(8), random(8, seed=1)))
    rotated_q, rotated_k = rope.rotate(q, k)
    scores = (rotated_q @ rotated_k.transpose(-1, -2))[0, 0]
    diagonals = [scores.diagonal(offset) for offset in range(-19, 20)]
    for diagonal in diagonals:
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    assert torch.stack([d[0] for d in diagonals]).unique().numel() == 39
    assert scores[0, 0].item() == pytest.approx((q[0, 0, 0] @ k[0, 0, 0]).item())


def test_rope_turns_each_pair_by_its_angle(make_spec: Spec) -> None:
    rope = Rope(make_spec(d_model=8, n_heads=2), base=100.0)  # head size 4: frequencies 1 and 1/10
    x = random(1, 2, 6, 4).float()
    turned, also = rope.rotate(x, 2 * x)
    torch.testing.assert_close(also, 2 * turned)
    for time in range(6):
        for pair, frequency in enumerate([1.0, 0.1]):
            before = torch.complex(x[..., time, pair], x[..., time, pair + 2])
            after = torch.complex(turned[..., time, pair], turned[..., time, pair + 2])
            angle = torch.tensor(frequency * time)
            torch.testing.assert_close(after, before * torch.polar(torch.tensor(1.0), angle), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_share_of_rope_is_rope_of_narrower_heads(make_spec: Spec, share: float) -> None:
    """As in GPT-NeoX: leading coordinates are rotated as if the head had no others, and these stay as they are."""
    spec = make_spec(d_model=32, n_heads=4)
    size = int(share * 8)
    narrow = Rope(make_spec(d_model=size, n_heads=1), base=100.0).double()
    q, k = random(2, 4, 6, 8), random(2, 2, 6, 8, seed=1)
    turned = Rope(spec, base=100.0, share=share).double().rotate(q, k)
    expected = narrow.rotate(q[..., :size], k[..., :size])
    for own, leading, before in zip(turned, expected, (q, k), strict=True):
        torch.testing.assert_close(own, torch.cat([leading, before[..., size:]], -1), rtol=0, atol=1e-12)
    assert torch.equal(Rope(spec, base=100.0, share=1.0).rotate(q, k)[0], Rope(spec, base=100.0).rotate(q, k)[0])


def test_rope_needs_an_even_head_size(make_spec: Spec) -> None:
    with pytest.raises(ValueError, match=r"model.d_model=9 over model.n_heads=3 is 3: choose other sizes"):
        Rope(make_spec(d_model=9, n_heads=3), base=10000.0)


def test_learned_adds_its_own_rows(make_spec: Spec) -> None:
    position = Learned(make_spec(d_model=4, max_length=6))
    with torch.no_grad():
        position.weight.copy_(torch.arange(24).view(6, 4))
    assert position.add(torch.zeros(2, 3, 4), offset=2)[1].tolist() == [
        [8, 9, 10, 11],
        [12, 13, 14, 15],
        [16, 17, 18, 19],
    ]


@pytest.mark.parametrize(("offset", "length"), [(0, 7), (5, 2), (-1, 2)])
def test_positions_past_the_table_are_refused_not_broadcast(make_spec: Spec, offset: int, length: int) -> None:
    spec = make_spec(max_length=6)
    for position in (Learned(spec), Sinusoidal(spec, scale=1.0)):
        with pytest.raises(ValueError, match=r"lie beyond the model's 0\.\.5"):
            position.add(torch.zeros(1, length, 16), offset=offset)


def test_each_position_acts_in_one_place(make_spec: Spec) -> None:
    spec = make_spec()
    x, q, k = random(2, 5, 16).float(), random(2, 2, 5, 8).float(), random(2, 2, 5, 8, seed=1).float()
    learned = Learned(spec)
    torch.nn.init.ones_(learned.weight)
    acts: dict[str, tuple[Position, bool, bool]] = {
        "none": (NoPosition(spec), False, False),
        "learned": (learned, True, False),
        "sinusoidal": (Sinusoidal(spec, scale=1.0), True, False),
        "rope": (Rope(spec, base=10000.0), False, True),
    }
    for name, (position, adds, rotates) in acts.items():
        assert torch.equal(position.add(x), x) != adds, name
        assert torch.equal(position.rotate(q, k)[0], q) != rotates, name
        assert torch.equal(position.rotate(q, k)[1], k) != rotates, name
        assert position.add(x.bfloat16()).dtype == torch.bfloat16 or name == "learned"
        assert position.rotate(q.bfloat16(), k.bfloat16())[0].dtype == torch.bfloat16


def test_tables_are_not_saved(make_spec: Spec) -> None:
    assert not Rope(make_spec(), base=10000.0).state_dict()
    assert not Sinusoidal(make_spec(), scale=1.0).state_dict()


def test_options_out_of_range(make_spec: Spec) -> None:
    with pytest.raises(ValueError, match="scale must be above 0, got 0"):
        Sinusoidal(make_spec(), scale=0.0)
    with pytest.raises(ValueError, match="base must be above 1, got 1"):
        Rope(make_spec(), base=1.0)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"position.share must be above 0 and at most 1, got {share}"):
            Rope(make_spec(), base=10.0, share=share)
    for share, size in ((0.1, 1), (0.4, 3)):
        with pytest.raises(ValueError, match=f"share={share} rotates {size} of a head's 8 coordinates: choose a share"):
            Rope(make_spec(), base=10.0, share=share)
