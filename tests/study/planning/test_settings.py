"""How runs are carried out, from the config, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from ablab.errors import UserError
from ablab.study.planning.settings import Settings


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"jobs": 0}, r"jobs=0: must be a whole number, at least 1"),
        ({"jobs": 1.5}, r"jobs=1\.5: must be a whole number"),
        ({"runs_per_device": None}, "runs_per_device=None: must be a whole number"),
        ({"retries": -1}, "retries=-1: must be a whole number, at least 0"),
        ({"timeout": 0}, "timeout=0: must be a number of seconds, more than 0"),
        ({"hang_timeout": 0}, "hang_timeout=0: must be a number of seconds, more than 0"),
        ({"timeout": "long"}, "timeout=long: must be a number of seconds"),
        ({"on_failure": "cry"}, "on_failure=cry: must be continue or stop"),
        ({"retry": "all"}, "retry=all: must be failed, or null"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        Settings(**given)


def test_they_are_those_of_the_config() -> None:
    config = {
        "jobs": 2,
        "devices_per_run": None,
        "runs_per_device": 1,
        "retries": 3,
        "retry": "failed",
        "timeout": 60.5,
        "on_failure": "stop",
        "seed": 5,
    }
    made = Settings.of(config)
    assert (made.jobs, made.retries, made.retry, made.timeout, made.on_failure) == (2, 3, "failed", 60.5, "stop")
