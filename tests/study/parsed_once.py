"""Hydra's files parsed once, for the thousands of configs that tests compose in their own process.

Commands that are started have Hydra as it is.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import yaml

_load: Callable[..., Any] = yaml.load
_parsed: dict[tuple[object, ...], Any] = {}


@contextmanager
def files_parsed_once() -> Iterator[None]:
    """Within it, OmegaConf parses each state of a file once, and so does Hydra."""
    with mock.patch.object(yaml, "load", _load_once):
        yield


@contextmanager
def files_parsed_anew() -> Iterator[None]:
    """Within it, they do as they always do."""
    with mock.patch.object(yaml, "load", _load):
        yield


def _load_once(stream: Any, Loader: Any) -> Any:
    try:
        state = os.fstat(stream.fileno())
    except (AttributeError, OSError):  # no file
        return _load(stream, Loader=Loader)
    if Loader.__name__ != "OmegaConfLoader":
        return _load(stream, Loader=Loader)
    key = (state.st_dev, state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size)
    if key not in _parsed:
        _parsed[key] = _load(stream, Loader=Loader)
    return copy.deepcopy(_parsed[key])
