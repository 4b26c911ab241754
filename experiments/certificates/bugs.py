"""Which of the wrong components of tests/certify a certificate finds, and which of the right ones it takes for wrong.

    python experiments/certificates/bugs.py                    # the wrong ones, then the odd ones that are right
    python experiments/certificates/bugs.py --only Mish Step   # some of them

A wrong one meets the checks that are about what is wrong with it, up to the first that finds it; all others only where
none of these does.

Each line is printed as soon as it is known; --out FILE writes the whole as Markdown, too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

HOUSE = Path(__file__).parents[2]
sys.path.insert(0, str(HOUSE / "tests" / "certify"))

from bugs.table import CHECKS, Entry, right, wrong  # noqa: E402

from ablab.certify import Certificate, Check, certify  # noqa: E402
from ablab.certify.run import check_names  # noqa: E402
from ablab.config.axes import AXES  # noqa: E402
from ablab.errors import UserError  # noqa: E402


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--checks", nargs="+", help="these alone")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = []
    for line in _both(options):
        print(line, flush=True)
        lines.append(line)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _both(options: argparse.Namespace) -> Iterator[str]:
    yield "| wrong component | axis | what is wrong | a reader expects | found by |"
    yield "|---|---|---|---|---|"
    caught, total = 0, 0
    for entry in _chosen([*wrong()], options.only):
        failed = _found(entry, options.checks)
        caught, total = caught + bool(failed), total + 1
        found = ", ".join(failed) or "**nothing**"
        yield f"| `{entry.target}` | {entry.axis} | {_said(entry.target)} | {entry.topic} | {found} |"
    yield ""
    yield f"{caught} of {total} are found, {caught / max(1, total):.1%}."
    yield ""
    yield "| right component | axis | what is odd | taken for wrong by | seconds |"
    yield "|---|---|---|---|---|"
    yield from _alarms([*right()], options)


def _found(entry: Entry, checks: Sequence[str] | None) -> list[str]:
    """The first of the checks about what is wrong that finds it; where none does, all others that do."""
    every = check_names(entry.axis) if checks is None else checks
    first = [name for name in CHECKS.get(entry.topic, ()) if name in every]
    for name in first:
        if found := _failed(entry, [name])[0]:
            return found
    return _failed(entry, [name for name in every if name not in first])[0]


def _alarms(entries: list[Entry], options: argparse.Namespace) -> Iterator[str]:
    alarms, total = 0, 0
    for entry in _chosen(entries, options.only):
        failed, seconds = _failed(entry, options.checks)
        alarms, total = alarms + bool(failed), total + 1
        name = " ".join([entry.target, *entry.overrides])
        alarm = f"**{', '.join(failed)}**" if failed else ""
        yield f"| `{name}` | {entry.axis} | {_said(entry.target)} | {alarm} | {seconds:.0f} |"
    yield ""
    yield f"{alarms} of {total} are taken for wrong."


def _failed(entry: Entry, checks: Sequence[str] | None) -> tuple[list[str], float]:
    """The names of the checks that fail, and the seconds they took; details go to the standard error."""
    start = time.monotonic()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            found: Certificate = certify(entry.target, axis=entry.axis, overrides=entry.overrides, checks=checks)
    except UserError as error:
        print(f"{entry.target}: {error}", file=sys.stderr)
        return ["refused"], time.monotonic() - start
    failed: list[Check] = [check for check in found.checks if check.outcome == "fail"]
    for check in failed:
        print(f"{entry.target}: {check.name}: {check.detail}", file=sys.stderr)
    return [check.name for check in failed], time.monotonic() - start


def _said(target: str) -> str:
    module, _, name = target.rpartition(".")
    doc = getattr(import_module(module), name).__doc__ or ""
    return " ".join(doc.split()).replace("|", "or").rstrip(".")


def _chosen(entries: list[Entry], only: list[str]) -> list[Entry]:
    assert all(entry.axis in AXES for entry in entries)
    return [entry for entry in entries if not only or any(each in entry.target for each in only)]


if __name__ == "__main__":
    main()
