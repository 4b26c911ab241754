"""The names that a study gives to its variants. Imports neither pandas nor torch."""

from __future__ import annotations

from ablab.results.record import Record


def name_of(record: Record) -> str:
    """Return the name that a study lists the variant of a run under, "" where it is known by its overrides."""
    names = (record.config.get("design") or {}).get("variants") or {}
    rest = record.variant  # "wide", or with what the command line gave before it, "task=text,wide"
    while rest not in names and "," in rest:
        rest = rest.partition(",")[2]
    return rest if rest in names else ""
