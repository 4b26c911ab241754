"""Wrong components are found, each by a check that is about what is wrong; right ones that look odd are let through.

Some of each kind, by one check. All of them by all checks: experiments/certificates/bugs.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from bugs.table import Entry, right, wrong

from ablab.certify import Certificate, certify

OF_A_TOPIC = 2  # axes, to save time


def some() -> Iterator[Entry]:
    """Of each topic one component of the first axes that there are."""
    seen: dict[str, set[str]] = {}
    for entry in wrong():
        axes = seen.setdefault(entry.topic, set())
        if entry.axis not in axes and len(axes) < OF_A_TOPIC:
            axes.add(entry.axis)
            yield entry


def long() -> Iterator[Entry]:
    """Those that are right as long as sequences are short, and one more check of the first."""
    for entry in wrong():
        if entry.target.startswith("bugs.long."):
            yield entry
            if entry.topic == "future" and entry.check == "future":
                yield replace(entry, check="visits")


ODD = {entry.axis: entry for entry in right()}
NAMED = ("bugs.counts.DearWhenWarm", "bugs.lengths.HeadsNotRepeated")


def certified(entry: Entry) -> Certificate:
    return certify(entry.target, axis=entry.axis, overrides=entry.overrides, checks=[entry.check])


@pytest.mark.parametrize("entry", list(some()), ids=lambda entry: entry.target)
def test_a_wrong_component_is_found(entry: Entry) -> None:
    found = certified(entry)
    assert not found.passed, found.text()


@pytest.mark.parametrize("entry", list(long()), ids=lambda entry: f"{entry.target}-{entry.check}")
def test_what_goes_wrong_in_long_sequences_alone_is_found(entry: Entry) -> None:
    found = certified(entry)
    assert not found.passed, found.text()
    assert "raises" not in found.text()


@pytest.mark.parametrize("entry", [entry for entry in wrong() if entry.target in NAMED], ids=lambda entry: entry.target)
def test_what_shows_in_one_state_or_size_alone_is_found(entry: Entry) -> None:
    found = certified(entry)
    assert not found.passed, found.text()


@pytest.mark.parametrize("check", ["gradients", "effects"])
def test_a_table_of_rows_that_few_tokens_ask_for_is_let_through(check: str) -> None:
    """And so is a lower bound, of which one value is refused and all others are as good."""
    found = certify("decoys.parts.TokenRows", axis="feed_forward", checks=[check])
    assert found.passed, found.text()


@pytest.mark.parametrize("entry", list(ODD.values()), ids=lambda entry: entry.target)
def test_a_right_one_is_let_through(entry: Entry) -> None:
    found = certified(entry)
    assert found.passed, found.text()


def test_there_are_enough_of_both() -> None:
    assert len(list(wrong())) >= 150
    assert len(list(right())) >= 20
