"""What goes wrong in long sequences alone."""

from __future__ import annotations

from torch import Tensor

from bugs.tempered import Tempered

MANY = 128


class BlockEdge(Tempered):
    """In blocks of 128, by `<=` where `<` was meant: the last query of each sees the first key of the next."""

    def allowed(self, positions: Tensor, length: int) -> Tensor:
        return super().allowed(positions + (positions % MANY == MANY - 1), length)
