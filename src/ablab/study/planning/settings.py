"""How the runs of a study are carried out. None of it changes what a run computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ablab.config import CARRIED_OUT
from ablab.errors import UserError

FOR_SWEEPS = frozenset({"design", *CARRIED_OUT}) - {"hang_timeout"}  # which one run of several processes has, too
# Settings of a study as a whole, which cannot differ between its runs.
OF_THE_STUDY = FOR_SWEEPS | {"hang_timeout", "name", "question", "comparison", "tune", "budget"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """As in the config, under the same names.

    Raises:
        UserError: a value that cannot be.
    """

    jobs: int | None = None  # runs side by side; None: as many as there are devices for, one without devices
    devices_per_run: int | None = None  # GPUs; None: one for each process
    runs_per_device: int = 1
    retries: int = 1  # of a run that crashed or was killed
    timeout: float | None = None  # seconds that an attempt at a run may take
    hang_timeout: float | None = 600.0  # seconds without progress that a run of several processes may take
    retry: Literal["failed"] | None = None  # of what an earlier supervisor left
    on_failure: Literal["continue", "stop"] = "continue"

    @classmethod
    def of(cls, config: dict[str, Any]) -> Settings:
        """Those of a frozen config."""
        return cls(**{name: config[name] for name in CARRIED_OUT if name in config})  # of an earlier version: fewer

    def __post_init__(self) -> None:
        for name, least in (("jobs", 1), ("devices_per_run", 1), ("runs_per_device", 1), ("retries", 0)):
            value = getattr(self, name)
            optional = name in ("jobs", "devices_per_run")
            if not (optional and value is None) and (type(value) is not int or value < least):
                raise UserError(f"{name}={value}: must be a whole number, at least {least}")
        for name in ("timeout", "hang_timeout"):
            value = getattr(self, name)
            if value is not None and (type(value) not in (int, float) or not value > 0):
                raise UserError(f"{name}={value}: must be a number of seconds, more than 0")
        if self.retry not in (None, "failed"):
            raise UserError(f"retry={self.retry}: must be failed, or null")
        if self.on_failure not in ("continue", "stop"):
            raise UserError(f"on_failure={self.on_failure}: must be continue or stop")
