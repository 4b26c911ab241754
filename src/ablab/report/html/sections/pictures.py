"""Pictures by trained models, that runs left in their folders, set into the page itself."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from ablab.analysis.pairing import tasks, variants
from ablab.report.context import ReportContext
from ablab.report.html.blocks import Section
from ablab.results.collect import Runs
from ablab.results.record import Record

_MOST_OF_ONE = 64 * 1024  # bytes of a file that is shown
_MOST_OF_ALL = 448 * 1024  # bytes of all files that are shown; they take a third more as text
_MOST_NAMED = 3  # of those that are not shown for the same reason
_WIDTH = 300  # pixels on the page that small pictures are enlarged to, or to somewhat less
_KIB = 1024
_MEANINGS = {  # what a name starts with -> how such a picture is read
    "attention_": "Attention: a square per head, a row per query from the top, a column per key. White is the heaviest "
    "key of each query, brightness the square root of a weight relative to it.",
    "generated": "Generated: sampled from the trained model at temperature 1.",
    "real": "Real: from the validation split.",
}


@dataclass(frozen=True)
class Shown:
    """One picture, and whose it is."""

    name: str
    whose: str
    source: str  # a data URL
    width: int  # pixels on the page


@dataclass(frozen=True)
class Pictures:
    """The pictures of one task."""

    task: str
    shown: list[Shown]
    notes: list[str]  # sentences about those that are not shown


class _NotShownError(Exception):
    """A picture cannot be shown. Says why."""


def pictures(context: ReportContext) -> Section | None:
    """None where no run left any."""
    found = pictures_of(context.runs)
    if not found:
        return None
    return Section("pictures", "Pictures", introduction(found), template="pictures.html.j2", data=found)


def pictures_of(runs: Runs) -> list[Pictures]:
    """The pictures of each task that has any: those of the first finished seed of each variant.

    A picture that several variants have, byte for byte, is shown once. All together are bounded in size.
    """
    room, found = _MOST_OF_ALL, []
    for task in tasks(runs):
        whose, lacking, count = _gather(runs, task)
        shown = []
        for (name, data), labels in whose.items():
            label = "every variant" if len(labels) == count > 1 else "; ".join(labels)
            if len(data) > room:
                full = f"left out, since the page holds {_MOST_OF_ALL // _KIB} KiB of pictures"
                lacking.setdefault(full, []).append(f"{name} of {label}")
                continue
            room -= len(data)
            source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
            shown.append(Shown(name, label, source, _width(data)))
        if shown or lacking:
            found.append(Pictures(task, shown, [note for each in lacking.items() for note in _sentences(*each)]))
    return found


def _sentences(reason: str, those: list[str]) -> list[str]:
    """Why some pictures are not shown: one by one while they are few."""
    if len(those) <= _MOST_NAMED:
        return [f"{one}: {reason}." for one in those]
    return [f"{len(those)} pictures, {those[0]} among them: {reason}."]


def introduction(found: list[Pictures]) -> str:
    """Whose the pictures are, and how those that are there are to be read."""
    names = {each.name for of_task in found for each in of_task.shown}
    known = [text for start, text in _MEANINGS.items() if any(name.startswith(start) for name in names)]
    return " ".join(["Of each variant, those of its first finished seed.", *known])


def _gather(runs: Runs, task: str) -> tuple[dict[tuple[str, bytes], list[str]], dict[str, list[str]], int]:
    """(name, content) -> whose it is; why some cannot be shown -> which; the number of variants with pictures."""
    whose: dict[tuple[str, bytes], list[str]] = {}
    lacking: dict[str, list[str]] = {}
    count = 0
    for label, folder, record in _first_seeds(runs, task):
        count += 1
        for file in record.pictures:
            name = Path(file).stem
            try:
                whose.setdefault((name, _read(folder, file)), []).append(label)
            except _NotShownError as reason:
                lacking.setdefault(str(reason), []).append(f"{name} of {label}")
    return whose, lacking, count


def _first_seeds(runs: Runs, task: str) -> Iterator[tuple[str, Path, Record]]:
    """(what to call it, folder, record) of the lowest seed of each variant that ended well and left pictures."""
    for variant in variants(runs):
        ended = [(Path(runs.paths[place]), runs.records[place]) for place in runs.places.get((task, variant), ())]
        made = [(folder, record) for folder, record in ended if record.status == "ok" and record.pictures]
        if made:
            folder, record = min(made, key=lambda each: each[1].seed)
            yield f"{variant}, seed {record.seed}", folder, record


def _read(folder: Path, file: str) -> bytes:
    """The content of a whole PNG file below `folder`. Raises _NotShownError."""
    path = folder / file
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise _NotShownError(f"{file} is not in the run's folder")
        size = path.stat().st_size
        if size > _MOST_OF_ONE:
            raise _NotShownError(f"{file} has {size // _KIB} KiB, more than the {_MOST_OF_ONE // _KIB} that are shown")
        data = path.read_bytes()
    except NotADirectoryError as error:
        raise _NotShownError("pictures are not among kept results") from error
    except OSError as error:
        raise _NotShownError(f"{file} cannot be read ({error.strerror})") from error
    try:
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow says of damage
        raise _NotShownError(f"{file} is damaged") from error
    return data


def _width(data: bytes) -> int:
    with Image.open(BytesIO(data)) as image:
        return image.width * max(1, _WIDTH // image.width)
