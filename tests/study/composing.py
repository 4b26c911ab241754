"""Hydra's composition at two thirds of its price, for the thousands of configs that tests compose in their own process.

What it reads is parsed once for each state of a file, and what the entries of a defaults list could refer to is put
together only where one refers to something. Commands that are started have Hydra as it is.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import yaml
from hydra._internal import defaults_list

_load: Callable[..., Any] = yaml.load
_create_interpolation_map: Callable[..., Any] = defaults_list._create_interpolation_map
_parsed: dict[tuple[object, ...], Any] = {}


@contextmanager
def composing_fast() -> Iterator[None]:
    with _composing_by(_load_once, _create_if_asked):
        yield


@contextmanager
def composing_as_hydra() -> Iterator[None]:
    with _composing_by(_load, _create_interpolation_map):
        yield


@contextmanager
def _composing_by(load: Callable[..., Any], create: Callable[..., Any]) -> Iterator[None]:
    with (
        mock.patch.object(yaml, "load", load),
        mock.patch.object(defaults_list, "_create_interpolation_map", create),
    ):
        yield


def _load_once(stream: Any, Loader: Any) -> Any:
    """Of what OmegaConf loads, and so Hydra."""
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


def _create_if_asked(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
    asked = any(each.is_interpolation() for each in defaults if not each.is_self())
    return _create_interpolation_map(overrides, defaults, self_added) if asked else None
