"""How runs are carried out, from the config, and what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ablab.config import RunConfig
from ablab.config.schema import EXECUTION_KEYS, ExecutionConfig
from ablab.errors import UserError


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"jobs": 0}, "jobs=0: must be at least 1"),
        ({"retries": -1}, "retries=-1: must be at least 0"),
        ({"timeout": 0}, "timeout=0: must be a number of seconds, more than 0"),
        ({"hang_timeout": 0}, "hang_timeout=0: must be a number of seconds, more than 0"),
        ({"on_failure": "cry"}, "on_failure=cry: must be continue or stop"),
        ({"retry": "all"}, "retry=all: must be failed, or null"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        ExecutionConfig(**given)


def test_they_are_those_of_the_config(tiny_config: Callable[..., RunConfig]) -> None:
    made = tiny_config("jobs=2", "retries=3", "retry=failed", "timeout=60.5", "on_failure=stop").execution
    assert made == ExecutionConfig(jobs=2, retries=3, retry="failed", timeout=60.5, on_failure="stop")
    assert set(EXECUTION_KEYS) < tiny_config().to_dict().keys()
