"""Did you mean ...?"""

from __future__ import annotations

import difflib
from collections.abc import Collection


def nearest(wrong: str, known: Collection[str], listed: Collection[str] | None = None) -> str:
    """An ending for an error message: the name in `known` that was probably meant, and all of them.

    Args:
        listed: of very many, those that are worth naming.
    """
    close = difflib.get_close_matches(wrong, list(known), n=1)
    meant = f"; did you mean '{close[0]}'?" if close else ""
    names = known if listed is None else listed
    return f"{meant} (there are: {', '.join(sorted(names))})" if known else f"{meant} (it has none)"
