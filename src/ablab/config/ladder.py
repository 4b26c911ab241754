"""A ladder: every variant of a study at several sizes, and the rules by which the rest of a run follows the size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ablab.config.nearest import nearest
from ablab.errors import UserError

WIDTH = "model.d_model"
FEWEST, ENOUGH = 2, 4  # sizes: below there is no ladder, from there on it says how an effect goes on
EXPONENTS = {"compute": -0.125, "width": -1.0}  # of the rates: Bi et al. 2024, section 3.2; Yang et al. 2022
NO_LADDER = "ladder.sizes=null"  # the word that leaves out that of a study's file, `ladder=null` for short
BATCH_EXPONENT = 0.3271  # of the compute: Bi et al. 2024, section 3.2
_KNOWN = {
    "depth": ("scaled", "fixed"),
    "heads": ("scaled", "fixed"),
    "batch": ("fixed", "compute"),
    "rate": ("auto", "constant", *EXPONENTS),
}


@dataclass(kw_only=True)
class LadderConfig:
    """The sizes of a ladder, and its rules. See docs/ladder.md.

    Raises:
        UserError: a value out of range, or one that is none.
    """

    sizes: Any = None  # widths, or overrides of each size, from the smallest to the largest; None: no ladder
    depth: str = "scaled"  # model.n_layers in proportion to the width; "fixed": as in the config
    aspect_ratio: float | None = None  # width of a layer, model.d_model / model.n_layers; None: as in the config
    heads: str = "scaled"  # as many heads as leave each as wide; "fixed": as many as in the config
    d_head: int | None = None  # width of a head; None: as in the config
    tokens_per_parameter: float | None = 20.0  # of the baseline, see docs; None: trainer.max_steps for all
    batch: str = "fixed"  # task.batch_size; "compute": with a power of the compute
    rate: str = "auto"  # of optimizer.lr, which the first size has: a rule of `EXPONENTS`, or "constant"
    rate_exponent: float | None = None  # of that rule; None: as in `EXPONENTS`
    schedule: str | None = "warmup_stable_decay"  # where the command chooses none; None: that of the config
    anneal_at: list[float] = field(default_factory=lambda: [0.25, 0.5])  # shorter runs on the way: see the schedule's

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if (word := getattr(self, name)) not in known:
                raise UserError(f"ladder.{name}={word}: no such rule{nearest(str(word), known)}")
        for name in ("aspect_ratio", "d_head", "tokens_per_parameter"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"ladder.{name}={value}: must be a number above 0, or null")
        if self.rate_exponent is not None and self.rate not in EXPONENTS:
            raise UserError(
                f"ladder.rate_exponent={self.rate_exponent}: is for ladder.rate={' or '.join(EXPONENTS)}; say which"
            )
        if self.sizes is not None:
            _check_sizes(self.sizes)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """What each size sets, by dotted key, from the smallest to the largest; nothing where there is no ladder."""
        if self.sizes is None:
            return []
        return [dict(size) if isinstance(size, Mapping) else {WIDTH: size} for size in self.sizes]


def _check_sizes(sizes: Any) -> None:
    """Raises UserError for sizes that make no ladder."""
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        raise UserError(f"ladder.sizes={sizes}: must be a list of widths, as in ladder=[32,48,64,96], or of overrides")
    if len(sizes) < FEWEST:
        shown = ", ".join(map(str, sizes))
        raise UserError(
            f"ladder.sizes=[{shown}]: is no ladder; give {FEWEST} sizes at least, {ENOUGH} or more as a rule"
        )
    widths = [size for size in sizes if type(size) is int]
    mappings = [size for size in sizes if isinstance(size, Mapping) and size]
    if len(widths) == len(sizes):
        if min(widths) < 1 or any(one >= other for one, other in pairwise(widths)):
            raise UserError(f"ladder.sizes={widths}: must be widths, from the smallest to the largest")
    elif len(mappings) == len(sizes):
        _check_mappings(mappings)
    else:
        odd = next((each for each in sizes if each not in widths and each not in mappings), sizes[-1])
        raise UserError(
            f"ladder.sizes: {odd!r} does not go with the others; give widths, as in [32,48,64,96], or overrides of "
            "each, as in [{model.d_model: 32, model.n_layers: 2}, {model.d_model: 64, model.n_layers: 3}]"
        )


def _check_mappings(sizes: Sequence[Mapping[str, Any]]) -> None:
    for place, size in enumerate(sizes, start=1):
        if odd := sorted({*map(str, sizes[0])} ^ {*map(str, size)}):
            raise UserError(f"ladder.sizes: size {place} and the first do not both set {odd[0]}; set it in each")
        for key in map(str, size):
            if "." not in key:
                raise UserError(f"ladder.sizes: {key} is no setting of an axis; write {WIDTH}, model.n_layers, ...")
    for place, size in enumerate(sizes, start=1):
        if size in sizes[: place - 1]:
            raise UserError(f"ladder.sizes: size {place} is the same as one before it; drop one")


def written_out(words: Iterable[str]) -> list[str]:
    """Overrides with `ladder=[32,48,64,96]`, short for its sizes, as `ladder.sizes=[32,48,64,96]`.

    Raises:
        UserError: the widths stand without brackets, as what is swept over.
    """
    return [_written_out(word) for word in words]


def _written_out(word: str) -> str:
    key, equals, value = word.partition("=")
    if key != "ladder" or not equals or value.strip().startswith("{"):
        return word
    if value.strip() != "null" and not value.strip().startswith("["):
        raise UserError(f"{word}: write the sizes as a list, ladder=[{value}]")
    return f"ladder.sizes={value}"
