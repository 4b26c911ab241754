"""The whole page: its sections in order, set into the template."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ablab.report.context import ReportContext
from ablab.report.formats.machine import document
from ablab.report.formatting import confidence
from ablab.report.html.names import foldable, isolated
from ablab.report.html.sections.base import Section
from ablab.report.html.sections.cost import cost
from ablab.report.html.sections.curves import learning
from ablab.report.html.sections.effects import effects
from ablab.report.html.sections.health import NOT_RUN, health
from ablab.report.html.sections.interactions import interactions
from ablab.report.html.sections.mechanism import mechanism
from ablab.report.html.sections.pairs import pairs
from ablab.report.html.sections.parallelism import parallelism
from ablab.report.html.sections.parts import parts
from ablab.report.html.sections.pictures import introduction, pictures_of
from ablab.report.html.sections.power import power
from ablab.report.html.sections.provenance import provenance, question
from ablab.report.html.sections.reach import reach
from ablab.report.html.sections.scaling import scaling
from ablab.report.html.sections.verdicts import verdicts
from ablab.report.notes import notes_of
from ablab.report.sentences import measured, verdict_sentence

_FOLDER = "report/html/templates"  # inside the package

# From what was found to what it rests on. The verdicts before them, and pictures, health and provenance behind them,
# have templates of their own.
_SECTIONS: tuple[Callable[[ReportContext], Section | None], ...] = (
    effects, pairs, power, reach, learning, cost, parallelism, interactions, scaling, mechanism, parts,
)  # fmt: skip


def page(context: ReportContext) -> str:
    """Text from records is escaped by the template; only our own figures are markup."""
    environment = Environment(
        loader=PackageLoader("ablab", _FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "foldable": foldable,
        "isolated": isolated,
        "sentence": verdict_sentence,
        "notes": notes_of,
    }
    runs, comparisons = context.runs, context.comparisons
    found = [section for make in _SECTIONS if (section := make(context)) is not None]
    pictures = pictures_of(runs)
    if pictures:
        found.append(Section("pictures", "Pictures", introduction(pictures), template="pictures.html.j2"))
    found.append(Section("health", "Run health", template="health.html.j2"))
    found.append(Section("provenance", "Provenance", template="provenance.html.j2"))
    return environment.get_template("page.html.j2").render(
        style=Markup(environment.get_template("style.css").render()),
        studies=sorted({record.study for record in runs.records}),
        question=question(runs),
        factors=runs.factors,
        comparisons=comparisons,
        confidence=confidence(comparisons.level),
        measured=measured(comparisons),
        n_analyses=len(runs.looks),
        n_runs=len(runs.records),
        verdicts=verdicts(context),
        sections=found,
        pictures=pictures,
        tasks=context.tasks,
        health=health(context),
        not_run=NOT_RUN,
        provenance=provenance(context),
        data=_embedded(document(context)),
    )


def _embedded(data: dict[str, Any]) -> Markup:
    """JSON inside a script element, which ends at the first "</" whatever it stands in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
