"""Wrong components are found, each by a check that is about what is wrong; right ones that look odd are let through.

One of each kind and axis, by one check. All of them by all checks: experiments/certificates/bugs.py.
"""

from __future__ import annotations

import pytest
from bugs.table import Entry, right, wrong

from ablab.certify import Certificate, certify

KINDS = {(entry.topic, entry.axis): entry for entry in wrong()}
ODD = {entry.target: entry for entry in right()}


def certified(entry: Entry, check: str) -> Certificate:
    return certify(entry.target, axis=entry.axis, overrides=entry.overrides, checks=[check])


@pytest.mark.parametrize("entry", KINDS.values(), ids=lambda entry: entry.target)
def test_a_wrong_component_is_found(entry: Entry) -> None:
    found = certified(entry, entry.check)
    assert not found.passed, found.text()


@pytest.mark.parametrize("entry", ODD.values(), ids=lambda entry: entry.target)
def test_a_right_one_is_let_through(entry: Entry) -> None:
    found = certified(entry, entry.check)
    assert found.passed, found.text()


def test_there_are_enough_of_both() -> None:
    assert len(list(wrong())) >= 150
    assert len(list(right())) >= 20
