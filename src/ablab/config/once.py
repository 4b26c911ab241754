"""What is found of a class or a type once, and asked for again with each run of a study."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

Found = TypeVar("Found")


def once_each(find: Callable[[Any], Found]) -> Callable[[Any], Found]:
    """Keep what a function finds, which nobody changes; of what cannot be a key it is found each time."""
    kept = lru_cache(maxsize=1000)(find)

    @wraps(find)
    def found(of: Any) -> Found:
        try:
            hash(of)
        except TypeError:
            return find(of)
        return kept(of)

    return found
