"""What was found of a component: one line for each check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["pass", "fail", "skipped"]

_MARKS: dict[Outcome, str] = {"pass": "ok", "fail": "FAIL", "skipped": "-"}


@dataclass(frozen=True)
class Check:
    """One check, and what it has measured: in a sentence with the numbers, and the first place where it fails."""

    name: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True)
class Certificate:
    """All checks of one component.

    Attributes:
        target: as it was asked for.
        axis: of which it is an option.
        seconds: that the checks took.
    """

    target: str
    axis: str
    checks: Sequence[Check]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether no check has failed; a check that has nothing to do with the component is skipped, and says why."""
        return not self.failed

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.outcome == "fail"]

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for programs."""
        return {
            "target": self.target,
            "axis": self.axis,
            "passed": self.passed,
            "seconds": round(self.seconds, 2),
            "checks": [asdict(check) for check in self.checks],
        }

    def text(self) -> str:
        """As a table of lines, and the verdict behind it."""
        width = max((len(check.name) for check in self.checks), default=0)
        lines = [f"{_MARKS[check.outcome]:<4}  {check.name:<{width}}  {check.detail}" for check in self.checks]
        return "\n".join([f"{self.target}, an option of the axis {self.axis}", "", *lines, "", self.verdict()])

    def verdict(self) -> str:
        """One sentence."""
        done = [check for check in self.checks if check.outcome != "skipped"]
        skipped = len(self.checks) - len(done)
        beside = f", {skipped} skipped" if skipped else ""
        if not done:
            return f"NOTHING TO CERTIFY ({self.seconds:.0f} s)"
        if self.passed:
            return f"PASSED: {len(done)} checks{beside} ({self.seconds:.0f} s)"
        names = ", ".join(check.name for check in self.failed)
        return f"FAILED: {len(self.failed)} of {len(done)} checks{beside} ({self.seconds:.0f} s): {names}"
