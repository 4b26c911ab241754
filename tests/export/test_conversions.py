"""Conversions of weights: each way undoes the other, and some are as they are written down."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ablab.export.conversions import (
    FROM_ONE,
    JOINED,
    SAME,
    SQUEEZED,
    TRANSPOSED,
    Conversion,
    Halves,
    Parts,
    Then,
    grouped,
    link,
    to_ours,
    to_theirs,
)


@settings(max_examples=60)
@given(
    shares=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    groups=st.integers(1, 3),
    unit=st.integers(1, 3),
    width=st.integers(1, 4),
)
def test_parts_are_cut_as_they_are_joined(shares: list[int], groups: int, unit: int, width: int) -> None:
    theirs = torch.arange(groups * unit * sum(shares) * width).view(-1, width)
    conversion = Parts(tuple(shares), groups)
    ours = conversion.to_ours([theirs])
    assert [len(each) for each in ours] == [groups * unit * share for share in shares]
    assert torch.equal(conversion.to_theirs(ours)[0], theirs)
    start = 0  # the first row of each part is where it begins in the first group
    for each, share in zip(ours, shares, strict=True):
        assert torch.equal(each[0], theirs[start])
        start += share * unit


@settings(max_examples=60)
@given(pairs=st.integers(1, 4), rest=st.integers(0, 3), heads=st.integers(1, 3), before=st.booleans())
def test_neighbours_come_half_as_far_apart_as_they_are_many(pairs: int, rest: int, heads: int, before: bool) -> None:
    size, start = 2 * pairs + rest, rest if before else 0
    theirs = torch.arange(heads * size)
    conversion = Halves(0, size, start=start, count=2 * pairs)
    ours = conversion.to_ours([theirs])[0].view(heads, size)
    turned = ours[:, start : start + 2 * pairs]
    assert torch.equal(turned[:, pairs:], turned[:, :pairs] + 1)
    assert sorted(ours.flatten().tolist()) == theirs.tolist()
    assert torch.equal(conversion.to_theirs([ours.flatten()])[0], theirs)


@pytest.mark.parametrize(
    ("conversion", "theirs", "ours"),
    [
        (SAME, [[1, 2]], [[1, 2]]),
        (TRANSPOSED, [[[1, 2], [3, 4]]], [[[1, 3], [2, 4]]]),
        (TRANSPOSED, [[1, 2]], [[1, 2]]),
        (FROM_ONE, [[0, 2]], [[1, 3]]),
        (SQUEEZED, [[[[1, 2]], [[3, 4]]]], [[[1, 2], [3, 4]]]),
        (JOINED, [[1, 2], [3, 4]], [[1, 2, 3, 4]]),
        (grouped(2), [[1, 2, 3, 4]], [[[1, 2], [3, 4]]]),
        (Halves(-1), [[[0, 1, 2, 3], [4, 5, 6, 7]]], [[[0, 2, 1, 3], [4, 6, 5, 7]]]),
        (Halves(0, 4, start=2), [[0, 1, 2, 3, 4, 5, 6, 7]], [[0, 1, 2, 3, 4, 5, 6, 7]]),
        (Halves(0, start=1), [[0, 1, 2, 3, 4]], [[0, 1, 3, 2, 4]]),
        (Parts((1, 1), 2), [[1, 2, 3, 4]], [[1, 3], [2, 4]]),
        (Then(grouped(2), TRANSPOSED), [[[1, 2], [3, 4], [5, 6], [7, 8]]], [[[[1, 3], [2, 4]], [[5, 7], [6, 8]]]]),
    ],
)
def test_by_hand(conversion: Conversion, theirs: list[object], ours: list[object]) -> None:
    names = {"theirs": [f"their{n}" for n in range(len(theirs))], "ours": [f"our{n}" for n in range(len(ours))]}
    links = [link(names["ours"], names["theirs"], conversion)]
    its = {name: torch.tensor(value) for name, value in zip(names["theirs"], theirs, strict=True)}
    made = to_ours(links, its)
    assert {name: value.tolist() for name, value in made.items()} == dict(zip(names["ours"], ours, strict=True))
    back = to_theirs(links, made)
    assert {name: value.tolist() for name, value in back.items()} == dict(zip(names["theirs"], theirs, strict=True))
