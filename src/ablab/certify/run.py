"""All checks of one component, in turn."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ablab.certify.certificate import Certificate, Check
from ablab.certify.target import find
from ablab.config.nearest import nearest
from ablab.errors import UserError, one_line

if TYPE_CHECKING:
    from ablab.certify.checks import Checks

NOTHING = "says how a run is run and shown, not what it computes: there is nothing to certify"
BUILDS = "builds"  # the check without which all others would say the same once more


def certify(
    target: str,
    *,
    axis: str | None = None,
    overrides: Sequence[str] = (),
    checks: Collection[str] | None = None,
    config_dirs: Sequence[Path] = (),
) -> Certificate:
    """Check one component.

    Args:
        target: a dotted class, "axis=option", or a path to a YAML file of an option.
        axis: where the class does not tell.
        overrides: of the run that it is tried in, as for a run: other components, sizes, settings of its own.
        checks: names of those that are wanted; None: all.
        config_dirs: folders of the user's own options.

    Raises:
        UserError: there is no such target, setting or check.
    """
    from ablab.certify.checks import checks_of  # torch, which names and errors do without
    from ablab.study.planning.preflight import check_options

    began = time.perf_counter()
    found = find(target, axis, overrides, config_dirs)
    check_options(found.axis, found.config.options)
    made = checks_of(found)
    if made is None:
        return Certificate(target, found.axis.name, [Check("all", "skipped", f"{found.axis.name} {NOTHING}")], 0.0)
    _check_names(checks, made)
    done: list[Check] = []
    for name in made.all:
        if checks is None or name in checks:
            unbuilt = any(check.name == BUILDS and check.outcome == "fail" for check in done)
            done.append(Check(name, "skipped", "it cannot be built") if unbuilt else _done(name, made))
    return Certificate(target, found.axis.name, done, time.perf_counter() - began)


def check_names(axis: str) -> list[str]:
    """The names of the checks that options of an axis go through, in their order."""
    from ablab.certify.checks import names_of

    return names_of(axis)


def _check_names(wanted: Collection[str] | None, made: Checks) -> None:
    for name in wanted or ():
        if name not in made.all:
            raise UserError(f"--check {name}: no such check{nearest(name, made.all)}")


def _done(name: str, made: Checks) -> Check:
    """The outcome of one check; what it raises unforeseen, the component has raised."""
    from ablab.certify.outcomes import Failed, Skipped
    from ablab.training.cost import without_trace

    try:
        with warnings.catch_warnings(), without_trace():
            warnings.simplefilter("ignore")
            return Check(name, "pass", made.all[name](made.subject))
    except Failed as failed:
        return Check(name, "fail", str(failed))
    except Skipped as skipped:
        return Check(name, "skipped", str(skipped))
    except Exception as error:  # of anybody's component
        return Check(name, "fail", _where(error))


def _where(error: Exception) -> str:
    """What was raised, and the last place that is not in a library; of what is said in plain words, these alone."""
    if isinstance(error, UserError):
        return one_line(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"raises {type(error).__name__}: {one_line(error)}{place}"
