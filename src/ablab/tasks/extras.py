"""Libraries that not everybody needs: imported when they are used, and asked for in one line when they are missing."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from ablab.errors import UserError

# What the libraries of Hugging Face read when they are imported; who has set one of these otherwise knows why.
_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "TOKENIZERS_PARALLELISM": "true",  # else it warns of every worker that is forked; no worker makes tokens
}

_LONGEST = 200  # characters of what another library says


def library(name: str) -> ModuleType:
    """The module `name` of the extra `hf`. Raises UserError if it is not installed."""
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"this needs the library {name}: pip install 'ablab[hf]'") from error


def one_line(error: BaseException) -> str:
    """The words of an error of another library, which may take many lines, in one that is not too long."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."
