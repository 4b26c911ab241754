"""Did you mean ...?"""

from __future__ import annotations

import difflib
from collections.abc import Collection


def nearest(wrong: str, known: Collection[str]) -> str:
    """An ending for an error message: the name in `known` that was probably meant, and all of them."""
    close = difflib.get_close_matches(wrong, list(known), n=1)
    meant = f"; did you mean '{close[0]}'?" if close else ""
    return f"{meant} (there are: {', '.join(sorted(known))})" if known else f"{meant} (it has none)"
