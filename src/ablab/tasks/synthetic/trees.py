"""Trees of nested operators over digits, drawn and evaluated many at a time.

A tree is drawn from its root down, and a level of all trees together is one set of arrays: Python loops over levels,
never over nodes. A tree's shape (which nodes are operators, and of how many arguments) is drawn apart from what stands
in it, so that other digits can be put into the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

PADDING, ZERO, OPERATOR, CLOSE = 0, 1, 11, 15  # the first token ids of: no token, digits, operators, closing bracket
OPERATORS = ("MIN", "MAX", "MED", "SM")
DIGITS = 10

_OPERATOR_SHARE = 0.25  # of the nodes that could be either
_MORE = 16  # trees that are drawn beside twice as many as are still wanted
_ENOUGH = 20_000  # trees to draw before it is said that none is of a wanted length


@dataclass(frozen=True)
class Level:
    """The nodes of one depth, of all trees, in the order in which they are written.

    `tree` and `parent` (N,) say which tree a node belongs to, and its parent's index in the level above; children of
    one parent are neighbours. `arguments` (N,): how many children; 0 of a digit.
    """

    tree: Ints
    parent: Ints
    arguments: Ints

    @property
    def inner(self) -> Mask:
        """Which nodes are operators."""
        return self.arguments > 0


@dataclass(frozen=True)
class Shapes:
    """The shapes of `count` trees; `places`, one array a level, says at which token of its tree each node begins."""

    count: int
    levels: list[Level]
    places: list[Ints]
    ends: list[Ints]  # of each operator, in the order of its level: where its closing bracket stands

    def __getitem__(self, wanted: Mask) -> Shapes:
        """The trees that the mask (count,) wants."""
        return _placed(_kept(self.levels, wanted), int(wanted.sum()))


def draw_shapes(
    generator: np.random.Generator, count: int, *, max_depth: int, max_args: int, min_length: int, max_length: int
) -> Shapes:
    """`count` independent trees, of all whose length in tokens lies between the two bounds, neither included.

    A node is an operator with a probability of 1/4, and always a digit at depth `max_depth`; an operator has 2 to
    `max_args` arguments. The root counts as depth 1, and is an operator, as it must be to be longer than one token.

    Raises:
        ValueError: next to no tree is that long.
    """
    kept: list[list[Level]] = []
    have, drawn = 0, 0
    while have < count:
        if not have and drawn >= _ENOUGH:
            raise ValueError(
                f"task.max_depth={max_depth}, task.max_args={max_args}: next to no expression is longer than "
                f"task.min_length={min_length} and shorter than task.seq_len={max_length}: give other bounds"
            )
        size = 2 * (count - have) + _MORE
        drawn += size
        levels, lengths = _candidates(generator, size, max_depth, max_args, max_length)
        wanted = (min_length < lengths) & (lengths < max_length)
        wanted &= wanted.cumsum() <= count - have
        if wanted.any():
            kept.append(_kept(levels, wanted))
            have += int(wanted.sum())
    return _placed(_joined(kept), count)


def fill(shapes: Shapes, generator: np.random.Generator, tokens: Ints) -> Ints:
    """Write operators and digits, drawn evenly, into `tokens` (count, width), which are padding; the values (count,).

    An operator takes the least or the greatest argument, the median (of an even number of them the mean of the middle
    two, rounded down) or the sum modulo 10.
    """
    below = np.empty(0, dtype=np.int64)
    for level, places, ends in reversed(list(zip(shapes.levels, shapes.places, shapes.ends, strict=True))):
        values = generator.integers(0, DIGITS, size=len(places))
        inner = level.inner
        operators = generator.integers(0, len(OPERATORS), size=len(ends))
        tokens[level.tree, places] = ZERO + values
        tokens[level.tree[inner], places[inner]] = OPERATOR + operators
        tokens[level.tree[inner], ends] = CLOSE
        if len(ends):
            values[inner] = apply(operators, below, level.arguments[inner])
        below = values
    return below


def apply(operators: Ints, arguments: Ints, counts: Ints) -> Ints:
    """The values (N,) of operators (N,), the n-th of which has the next counts[n] (at least one) of `arguments`."""
    first = counts.cumsum() - counts
    ordered = np.sort(np.repeat(np.arange(len(counts)), counts) * DIGITS + arguments) % DIGITS
    results = (
        ordered[first],
        ordered[first + counts - 1],
        (ordered[first + (counts - 1) // 2] + ordered[first + counts // 2]) // 2,
        np.add.reduceat(arguments, first) % DIGITS,
    )
    return np.choose(operators, results)


def _candidates(
    generator: np.random.Generator, size: int, max_depth: int, max_args: int, max_length: int
) -> tuple[list[Level], Ints]:
    """`size` trees and their lengths in tokens; one that becomes too long is not drawn to its end."""
    lengths = np.zeros(size, dtype=np.int64)
    tree, parent = np.arange(size), np.zeros(size, dtype=np.int64)
    levels: list[Level] = []
    for depth in range(1, max_depth + 1):
        inner = np.full(len(tree), depth == 1)
        if 1 < depth < max_depth:
            inner = (generator.random(len(tree)) < _OPERATOR_SHARE) & (lengths < max_length)[tree]
        arguments = np.where(inner, generator.integers(2, max_args + 1, size=len(tree)), 0)
        lengths += np.bincount(tree, minlength=size) + np.bincount(tree[inner], minlength=size)
        levels.append(Level(tree, parent, arguments))
        tree, parent = np.repeat(tree, arguments), np.repeat(np.arange(len(tree)), arguments)
        if not len(tree):
            break
    return levels, lengths


def _kept(levels: list[Level], wanted: Mask) -> list[Level]:
    """The levels with the wanted trees alone, numbered anew."""
    number = wanted.cumsum() - 1
    kept: list[Level] = []
    above = np.zeros(len(levels[0].parent), dtype=np.int64)  # the new numbers of the nodes of the level above
    for level in levels:
        mine = wanted[level.tree]
        kept.append(Level(number[level.tree[mine]], above[level.parent[mine]], level.arguments[mine]))
        above = mine.cumsum() - 1
    return [level for level in kept if len(level.tree)]


def _placed(levels: list[Level], count: int) -> Shapes:
    """Where every node stands when an operator is written before its arguments and closed behind them."""
    sizes = [1 + level.inner.astype(np.int64) for level in levels]  # tokens of the subtree of each node
    for depth in range(len(levels) - 1, 0, -1):
        own = np.bincount(levels[depth].parent, weights=sizes[depth], minlength=len(sizes[depth - 1]))
        sizes[depth - 1] += own.astype(np.int64)
    places = [np.zeros(len(levels[0].tree), dtype=np.int64)]
    for (upper, level), own in zip(pairwise(levels), sizes[1:], strict=True):
        before = own.cumsum() - own  # tokens of all earlier nodes of the level
        first = (upper.arguments.cumsum() - upper.arguments)[level.parent]  # the first child of the same parent
        places.append(places[-1][level.parent] + 1 + before - before[first])
    ends = [(place + own - 1)[level.inner] for level, place, own in zip(levels, places, sizes, strict=True)]
    return Shapes(count, levels, places, ends)


def _joined(kept: list[list[Level]]) -> list[Level]:
    """The trees of several sets as one, behind one another; trees and parents are counted on."""
    depth = max(map(len, kept))
    nothing = np.empty(0, dtype=np.int64)
    trees = np.cumsum([0, *(len(levels[0].tree) for levels in kept)])
    parents = np.zeros(len(kept), dtype=np.int64)
    joined: list[Level] = []
    for at in range(depth):
        row = [levels[at] if at < len(levels) else Level(nothing, nothing, nothing) for levels in kept]
        joined.append(
            Level(
                np.concatenate([level.tree + first for level, first in zip(row, trees[:-1], strict=True)]),
                np.concatenate([level.parent + first for level, first in zip(row, parents, strict=True)]),
                np.concatenate([level.arguments for level in row]),
            )
        )
        parents = np.cumsum([0, *(len(level.tree) for level in row)])[:-1]
    return joined
