"""The whole page: its sections in order, set into the template, as one HTML file.

To add a section: a function that makes it from the context, in the file of its theme in `sections` or in one of its
own, and an entry in `SECTIONS`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ablab.analysis.study_notes import InterimAnalyses
from ablab.config import Node
from ablab.config.overrides import BETWEEN_OVERRIDES
from ablab.errors import UserError
from ablab.report.context import ReportContext
from ablab.report.formats.machine import document
from ablab.report.html.blocks import Section
from ablab.report.html.sections.cost import cost, inference, parallelism, scaling
from ablab.report.html.sections.curves import learning, reach
from ablab.report.html.sections.effects import effects, pairs, power, verdicts
from ablab.report.html.sections.elsewhere import elsewhere_section
from ablab.report.html.sections.interactions import interactions
from ablab.report.html.sections.mechanism import mechanism
from ablab.report.html.sections.over_scale import over_scale
from ablab.report.html.sections.pictures import pictures
from ablab.report.html.sections.placebos import placebos
from ablab.report.html.sections.runs import origin, question, run_health
from ablab.report.html.sections.subsets import subsets
from ablab.report.html.sections.tuning import tuning
from ablab.report.notes import notes_of
from ablab.report.sentences import interval_name, measured, names_its_subject, verdict_sentence
from ablab.results.store import write_atomically

REPORT_FILE = "report.html"
# From what was found to what it rests on. The verdicts stand before them.
SECTIONS: tuple[Callable[[ReportContext], Section | None], ...] = (
    over_scale, effects, pairs, power, tuning, placebos, elsewhere_section, reach, learning, cost, inference,
    parallelism,
    interactions, scaling, mechanism, subsets, pictures, run_health, origin,
)  # fmt: skip
_TEMPLATES = "report/html/templates"  # inside the package
_MOST_LETTERS = 32  # of a name without a place to break
_BREAK = Markup("<wbr>")


def write_report(context: ReportContext, path: Path, through_links: bool = False) -> Path:
    """Write the report into the file `path`, and return it.

    Args:
        through_links: a link is written through, as who named it expects; else it is replaced, since it may be a
            stranger's.

    Raises:
        UserError: it cannot be written there, or there is something else of that name than a report.
    """
    try:
        _check_replaceable(path)
        text = page(context).encode(errors="backslashreplace").decode()  # bytes of a command line may be no text
        write_atomically(Path(os.path.realpath(path)) if through_links else path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another --output") from error
    return path


_BEGINNING = 4096  # bytes in which a report says what it is
_MARKS = ('<meta name="generator" content="ablab">', ": ablation report</title>")  # the second of earlier versions


def _check_replaceable(path: Path) -> None:
    """Raises UserError unless `path` is free, or names an empty file or an earlier report: nothing else is replaced."""
    if not os.path.lexists(path):
        return
    if not path.is_file():
        raise UserError(f"{path}: is no plain file, and is left as it is; give another --output")
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING).decode(errors="replace")
    if beginning and not any(mark in beginning for mark in _MARKS):
        raise UserError(f"{path}: is no report of ablab's, and is left as it is; give another --output")


def page(context: ReportContext) -> str:
    """Make the page. Text from records is escaped by the template; only our own figures are markup."""
    environment = _environment(context.names)
    runs, comparisons = context.runs, context.comparisons
    return environment.get_template("page.html.j2").render(
        style=Markup(environment.get_template("style.css").render()),
        studies=sorted({record.study for record in runs.records}),
        question=question(runs),
        factors=runs.factors,
        comparisons=comparisons,
        interval_name=interval_name(comparisons),
        measured=measured(comparisons.last_k),
        several_looks=any(isinstance(note, InterimAnalyses) for note in context.comparisons.notes),
        n_runs=len(runs.records),
        tasks=context.tasks,
        verdicts=verdicts(context),
        sections=[section for make in SECTIONS if (section := make(context)) is not None],
        document=_embedded(document(context)),
    )


def _environment(names: Mapping[str, str]) -> Environment:
    environment = Environment(
        loader=PackageLoader("ablab", _TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "foldable": lambda name: foldable(names.get(name, name)),
        "isolated": isolated,
        "sentence": verdict_sentence,
        "names_its_subject": names_its_subject,
        "notes": notes_of,
    }
    return environment


def foldable(name: object) -> Markup:
    """The name of a variant with places to break it where a table has little room: between overrides, if it has any."""
    parts = BETWEEN_OVERRIDES.split(str(name))
    return _BREAK.join(_pieces(part) for part in [*(f"{part}," for part in parts[:-1]), parts[-1]])


def isolated(sentence: str, name: str) -> Markup:
    """The sentence with the name apart: one that runs from right to left would take the numbers beside it along."""
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sentence) if name else None  # "C" is not a part of "CI"
    if found is None:
        return escape(sentence)
    shown = Markup("<bdi>{}</bdi>").format(name)
    return escape(sentence[: found.start()]) + shown + escape(sentence[found.end() :])


def _pieces(part: str) -> Markup:
    return _BREAK.join(part[start : start + _MOST_LETTERS] for start in range(0, len(part), _MOST_LETTERS))


def _embedded(data: Node) -> Markup:
    """JSON inside a script element, which ends at the first "</" whatever it stands in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
