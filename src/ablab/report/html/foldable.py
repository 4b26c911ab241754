"""Names of variants that may be broken in two where a table has little room."""

from __future__ import annotations

from markupsafe import Markup

from ablab.config.overrides import BETWEEN_OVERRIDES

_BREAK = Markup(",<wbr>")


def foldable(name: object) -> Markup:
    """The name, escaped, with a place to break it between any two overrides."""
    return _BREAK.join(BETWEEN_OVERRIDES.split(str(name)))
