"""For a paper: tables in the style of booktabs."""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby

import pandas as pd

from ablab.analysis.comparison import Comparisons
from ablab.analysis.over_scale.verdicts import ScaleVerdict
from ablab.analysis.verdicts import RESOLVED
from ablab.report.context import ReportContext
from ablab.report.extrapolation import NOTE
from ablab.report.formats.contents import By, Section, all_lines, parts, sections
from ablab.report.sentences import against, interval_name, measured

LONGEST_FLOAT = 40  # rows; a longer table goes on over pages
_ESCAPED = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",  # these three are other characters in LaTeX's oldest encoding
    ">": "$>$",
    "|": r"\textbar{}",
    '"': r"\char34{}",  # \textquotedbl is not in every encoding
    "±": r"$\pm$",
    "²": "$^2$",
    "³": "$^3$",
    "–": "--",
    "—": "---",
}
_MARKS = tuple(f"* {verdict.value}" for verdict in (*RESOLVED, *ScaleVerdict))
_HYPHEN = re.compile(r"(?<![\w.])-(?=[\d.])")  # that is a minus sign
_COLUMNS = {
    **dict.fromkeys(("variant", "task", "status", "verdict", "runs", "link", "placebo", "of", "came out"), "l"),
    "reason": r"p{0.4\linewidth}",
}
_HEAD = """\
% by ablab. Needs: {packages}; for pdflatex also \\usepackage[T1]{{fontenc}}. Bold rows are resolved, no others."""
_UNICODE = """\
% Under pdflatex these characters are shown as code points; lualatex or xelatex with a font for them: {characters}"""


def latex(context: ReportContext, by: By | None = None) -> str:
    """A table environment per table, the verdicts as comments above them. Compiles with pdflatex, lualatex, xelatex."""
    found = sections(context, by)
    tables = [_table(section, _caption(section, context.comparisons, by)) for section in found]
    long = any(len(section.table) > LONGEST_FLOAT for section in found)
    head = [_HEAD.format(packages=r"\usepackage{booktabs,longtable}" if long else r"\usepackage{booktabs}")]
    texts = "".join(str(text) for s in found for text in (s.title, *s.table.columns, *s.table.to_numpy().ravel()))
    if foreign := sorted({character for character in texts if _is_foreign(character) and _is_printed(character)}):
        head.append(_UNICODE.format(characters=" ".join(foreign)))
    comments = [f"% {' '.join(line.splitlines())}" for line in all_lines(context, by)]
    return "\n\n".join(["\n".join([*head, "%", *comments]), *tables])


def text(plain: str) -> str:
    """`plain` as LaTeX shows it, whatever is in it."""
    pieces = groupby(" ".join(plain.split()), _is_foreign)
    return "".join(
        _foreign("".join(each)) if foreign else "".join(_ESCAPED.get(character, character) for character in each)
        for foreign, each in pieces
    )


def _is_foreign(character: str) -> bool:
    """Whether pdflatex cannot set it: neither ASCII nor of Latin 1 nor escaped here."""
    return character not in _ESCAPED and not (" " <= character <= "~" or "\u00a1" <= character <= "\u00ff")


def _is_printed(character: str) -> bool:
    """Neither a control nor an end of a line, which would end a comment, too."""
    return unicodedata.category(character) not in ("Zl", "Zp") and unicodedata.category(character)[0] != "C"


def _foreign(characters: str) -> str:
    """For engines that read Unicode the characters, for pdflatex their code points; controls are left out."""
    shown = [character for character in characters if _is_printed(character)]
    points = r"\,".join(f"U+{ord(character):04X}" for character in shown)
    return rf"\ifdefined\pdftexversion {points}\else {''.join(shown)}\fi{{}}" if shown else ""


def _table(section: Section, caption: str) -> str:
    frame = section.table.astype(str).reset_index(drop=True)
    names = list(frame.columns)
    numbers = names[2:7] if section.kind == "quality" else []
    resolved = frame.get("verdict", pd.Series("", frame.index)).str.startswith(_MARKS)
    cells = pd.DataFrame({name: [_cell(value, name in numbers) for value in frame[name]] for name in names})
    long = len(frame) > LONGEST_FLOAT
    style = cells.style.hide(axis="index").format_index(lambda name: text(str(name)), axis="columns")
    bold = pd.DataFrame({name: resolved.map({True: "textbf:--rwrap", False: ""}) for name in names})
    return str(
        style.apply(lambda _: bold, axis=None).to_latex(
            hrules=True,
            column_format="".join(_COLUMNS.get(str(name), "r") for name in names),
            caption=caption,
            label=f"tab:ablab-{_word(section.kind, section.where)}",
            environment="longtable" if long else None,
            position=None if long else "htbp",
            position_float=None if long else "centering",
        )
    ).rstrip()


def _cell(shown: str, is_number: bool) -> str:
    """A cell. What is resolved is set in bold, which takes the place of the mark of other formats."""
    cell = text(shown.removeprefix("* "))
    return _HYPHEN.sub("$-$", cell) if is_number else cell


def _caption(section: Section, comparisons: Comparisons, by: By | None) -> str:
    """Say what the table shows, and by which method."""
    is_suite = section.where and section.where not in comparisons.metrics
    on = f" on {'the ' if is_suite else ''}{section.where}" if section.where else ""
    several = " of the study" if section.where else ""
    if section.kind == "runs":
        return "Runs that did not end well."
    if section.kind == "parallel":
        return text(f"Parallelism{on}: of a process and training step, means over the runs that ended well.")
    if section.kind == "extrapolation":
        return text(f"Efficiency{on} on other links and more devices. {NOTE}")
    if section.kind == "placebos":
        return text(f"Placebos{on}: arms that cannot matter, each compared by itself with what it is a copy of.")
    if section.kind == "sizes":
        return text(f"Effects{on} by size, with half their intervals.")
    if section.kind == "scale":
        return text(f"Over scale{on}: effects and compute-equivalent gains at the largest size, and what is foreseen.")
    if section.kind == "cost":
        return text(f"Cost{on}: means over the runs that ended well.")
    if section.kind == "inference":
        return text(f"In use{on}: bytes kept of a sequence, FLOPs of its last token and of a prompt, counted.")
    items = next(found for name, found in parts(comparisons, by) if section.where in ("", name))
    unit = comparisons.unit
    simultaneous = bool(unit and unit.simultaneous)
    alone = " that hold together" if simultaneous else " of each comparison alone"
    methods = {
        "Holm": f"paired t intervals{alone} and p values adjusted by Holm's method",
        "simultaneous": "simultaneous intervals and p values on a shared standard error (preliminary)",
    }
    used = [said for name, said in methods.items() if name in {item.adjustment for item in items}]
    of = f" of the {measured(comparisons.last_k)}" if measured(comparisons.last_k) else ""
    interval = f"{interval_name(comparisons)}, {', or '.join(used)}, over all comparisons{several}. " if used else ""
    return text(
        f"Quality{on}: mean and standard deviation over seeds{of}. Effects against "
        f"{against(comparisons.baselines)} are paired by seed. {interval}Bold: resolved."
    )


def _word(*parts: str) -> str:
    """A label that every engine takes."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")
