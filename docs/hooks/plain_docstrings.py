"""An extension of Griffe: docstrings are text, in which `run.config["optimizer"]["lr"]` is no link of Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_CODE = re.compile(r"(`+[^`]*`+)")


class PlainDocstrings(griffe.Extension):
    """Leaves out what modules say to who reads the code, and escapes what Markdown would take for a link."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.is_module:
            obj.docstring = None
        if obj.docstring is not None:
            obj.docstring.value = escaped(obj.docstring.value)


def escaped(text: str) -> str:
    """The text with brackets behind brackets escaped, outside of code."""
    parts = _CODE.split(text)
    return "".join(part if _CODE.fullmatch(part) else part.replace("][", r"]\[") for part in parts)
