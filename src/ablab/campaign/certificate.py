"""The certificate of what a proposal swaps, as `ablab verify` gives it."""

from __future__ import annotations

from ablab.campaign.proposal import Words
from ablab.certify import certify
from ablab.config import AXES, Node

_SIZES = ("model", "task", "trainer", "strategy", "logger", "callbacks")  # a certificate has its own


def certificate_of(own: Words, whole: Words) -> Node | None:
    """As plain data, of all options that are proposed; None where none is.

    Args:
        whole: with the baseline's choices, by which each option is tried as it will be run.
    """
    chosen = [word for word in own.overrides if word.partition("=")[0] in AXES]
    found = []
    for word in chosen:
        axis = word.partition("=")[0]
        beside = [each for each in whole.overrides if each != word and _matters(each, axis)]
        found.append(certify(word, overrides=beside, config_dirs=whole.config_dirs).to_dict())
    if not found:
        return None
    checks = [check for each in found for check in each["checks"]]
    return {
        "targets": [each["target"] for each in found],
        "passed": all(each["passed"] for each in found),
        "seconds": sum(each["seconds"] for each in found),
        "checks": checks,
    }


def _matters(word: str, axis: str) -> bool:
    """Whether an override says something of the option, or of components beside it."""
    first = word.lstrip("+~").partition("=")[0].split(".")[0]
    return first == axis or (first in AXES and first not in _SIZES)
