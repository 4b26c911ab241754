"""What a logger may want to know of its run, and what it may be asked for beside what Lightning asks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ablab.config import Node
from ablab.results.record import Record, Status

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a logger may want to know of its run."""

    folder: Path
    study: str
    variant: str  # as in the record; "" where nothing was overridden
    seed: int
    config: Node  # resolved, plain containers

    @property
    def task(self) -> str:
        """The option of the axis `task`; "" where the config names none."""
        return str(self.config.get("axes", {}).get("task", ""))

    @property
    def study_folder(self) -> Path:
        """The nearest folder from the run's upwards that has the study's name; the run's own where none has."""
        return next((path for path in (self.folder, *self.folder.parents) if path.name == self.study), self.folder)

    @property
    def group(self) -> str:
        """The variant, by a name that is never empty."""
        return self.variant or "default"


class EndsWithStatus(ABC):
    """A logger that is told how its run ended. Lightning's own `finalize` is called after every fit and test."""

    @abstractmethod
    def close(self, status: Status) -> None:
        """Write out what is left and let go of files and services. `status` is that of the record."""


class ShowsRecord(ABC):
    """A logger that shows what its run came to."""

    @abstractmethod
    def show_record(self, record: Record) -> None:
        """Called once, when the run has ended and before the logger is closed."""


class TakesPictures(ABC):
    """A logger that can show pictures, and does where `pictures`, a setting of its own, says so."""

    pictures: bool

    @abstractmethod
    def log_picture(self, name: str, picture: Tensor, step: int) -> None:
        """Log a grey picture, uint8 (height, width), as `name` ("attention/layer_0"). Called in the first process."""


class KeepsCurves(ABC):
    """A logger whose curves an earlier attempt has left, and that can tell whether they are whole."""

    @abstractmethod
    def check(self, step: int) -> list[str]:
        """Put right what can be, before the first entry; a line on each thing that was lost up to `step`."""


class ContinuesCurves(ABC):
    """A logger that has to be told before its first entry from which step the run goes on."""

    @abstractmethod
    def continue_from(self, step: int) -> None:
        """What an earlier attempt logged of later steps than `step` will be logged again, and counts no more."""
