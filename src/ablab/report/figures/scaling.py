"""How cost and quality grow with the length of the sequence or the size of the model, on logarithmic axes."""

from __future__ import annotations

_COLUMNS = 2
