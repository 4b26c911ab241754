"""Every verdict, and a suite of tasks, in every format: as the files in `golden` say.

After a change that is meant, `ABLAB_GOLDEN=write pytest tests/report/test_golden_tables.py` writes them anew.
"""

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from synthetic import ended, odd_runs, record, runs_of, study

from ablab.analysis.verdicts import RESOLVED
from ablab.errors import UserError
from ablab.report.context import ReportContext
from ablab.report.formats import render
from ablab.results.record import Record

GOLDEN = Path(__file__).parent / "golden"
ENDINGS = {"terminal": "txt", "csv": "csv", "markdown": "md", "json": "json", "latex": "tex"}
BASE = [1.00, 1.02, 0.97, 1.05, 0.99]
NOISE = [0.004, -0.003, 0.001, 0.002, -0.004]


def shifted(effect: float, noise: float = 1.0, seeds: int = 5) -> list[float]:
    return [value + effect + noise * own for value, own in zip(BASE[:seeds], NOISE, strict=False)]


VERDICTS = {
    "baseline": BASE,
    "better": shifted(-0.1),
    "worse": shifted(0.1),
    "unresolved": [value + own for value, own in zip(BASE, [0.08, -0.02, 0.05, -0.03, 0.02], strict=True)],
    "equivalent": shifted(0.001),
    "unstable": [*shifted(0.05, seeds=4), math.nan],
    "two_seeds": shifted(0.1, seeds=2),
    "preliminary": shifted(0.1, seeds=3),
    "copy": BASE,
}
SAID = {
    "better": "BETTER",
    "worse": "WORSE",
    "unresolved": "UNRESOLVED",
    "equivalent": "EQUIVALENT",
    "unstable": "UNSTABLE",
    "two_seeds": "TOO FEW SEEDS",
    "preliminary": "WORSE",
    "copy": "NO EFFECT ON THE MODEL",
}


def every_verdict() -> ReportContext:
    runs = runs_of([*study(VERDICTS), ended("failed", "out of memory", 6, axes={"activation": "two_seeds"})])
    return ReportContext.of(runs, margin=0.01)


def suite_of_two() -> ReportContext:
    """Averages of the last two evaluations, on two tasks."""
    records = []
    for task, scale in (("language", 1.0), ("vision", 2.0)):
        for option in ("baseline", "better", "unresolved"):
            for seed, value in enumerate(VERDICTS[option], start=1):
                last = [scale * (value + 0.02), scale * value]
                axes = {"task": task, "activation": option}
                records.append(record(seed, last[-1], axes=axes, last={"val_loss": last}))
    runs = runs_of(records)
    return ReportContext.of(runs, last_k=2)


CASES = {"verdicts": every_verdict, "suite": suite_of_two}


def read(text: str, format: str) -> Any:
    """Text that machines read as they read it: the last digits of numbers may differ between processors."""
    if format == "json":
        return json.loads(text)
    if format == "csv":
        return [[_number(cell) for cell in row] for row in csv.reader(io.StringIO(text))]
    return text


def _number(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12)
    return bool(one == other)


@pytest.mark.parametrize("format", ENDINGS)
@pytest.mark.parametrize("case", CASES)
def test_the_text_is_the_golden_one(case: str, format: str) -> None:
    text = render(CASES[case](), format)
    path = GOLDEN / f"{case}.{ENDINGS[format]}"
    if os.environ.get("ABLAB_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    golden = path.read_text(encoding="utf-8")
    assert same(read(text, format), read(golden, format)) or text == golden  # the second for pytest to show


def test_every_verdict_is_among_them() -> None:
    comparisons = every_verdict().comparisons
    assert {item.label: item.verdict.value for item in comparisons.items} == SAID
    assert [item.label for item in comparisons.items if item.preliminary and item.interval] == ["preliminary"]
    assert {item.label: item.verdict.value for item in suite_of_two().comparisons.suite} == {
        "better": "BETTER",
        "unresolved": "UNRESOLVED",
    }


@pytest.mark.parametrize("case", CASES)
def test_only_what_is_resolved_is_bold(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In LaTeX every cell of the row; in a terminal the row, by its style."""
    context = CASES[case]()
    comparisons = context.comparisons
    resolved = [item.variant for item in (*comparisons.suite, *comparisons.items) if item.verdict in RESOLVED]
    bold = re.findall(r"^\\textbf\{activation=(\w+)\}.*\\\\$", render(context, "latex"), re.MULTILINE)
    assert sorted(f"activation={name}" for name in bold) == sorted(resolved)
    assert r"\textbf{" not in "".join(
        line for line in render(context, "latex").splitlines(True) if not line.startswith(r"\textbf{activation")
    )
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    rows = [line for line in render(context, "terminal").splitlines() if "activation=" in line[:30]]
    styled = [line for line in rows if "\x1b[1m" in line]
    assert sorted(re.findall(r"activation=\w+", " ".join(styled))) == sorted(resolved)


@pytest.mark.parametrize("format", ENDINGS)
@pytest.mark.parametrize(
    ("by", "shown", "hidden"), [("suite", "suite of 2 tasks", "language: quality"), ("task", "language", "suite")]
)
def test_one_of_the_two_alone(format: str, by: Any, shown: str, hidden: str) -> None:
    text = render(suite_of_two(), format, by)
    assert shown in text
    if format != "json":
        assert hidden not in text
    else:
        document = json.loads(text)
        assert [bool(document[key]) for key in ("suite", "suite_variants")] == [by == "suite"] * 2
        assert [bool(document[key]) for key in ("comparisons", "variants")] == [by == "task"] * 2


@pytest.mark.parametrize("format", ENDINGS)
def test_a_suite_that_is_none_is_refused_with_the_reason(format: str) -> None:
    with pytest.raises(UserError, match="--by suite: one task is no suite"):
        render(every_verdict(), format, "suite")


HARD = {
    "special": "a_b % c & d $e$ #f {g} ~h ^i \\j <k> |l| \"m\" 'n' `o` [p] -q",
    "latin": "".join(map(chr, range(0xA1, 0x100))),
    "lines": "two\nlines\r\nof 活\u2028and\x85more\tof them",
    "beyond": "活性化 αβγ 🙂 ő – — … \u200b \x07",
}


def documents() -> dict[str, str]:
    texts = {case: render(make(), "latex") for case, make in CASES.items()}
    for case, records in odd_runs().items():
        runs = runs_of(records)
        texts[case] = render(ReportContext.of(runs), "latex")
    strange: list[Record] = study({"relu": [1.0, 1.1, 1.2], **{name: [1.1, 1.3, 1.2] for name in HARD.values()}})
    strange += [ended("failed", name, 9, axes={"activation": "relu"}) for name in HARD.values()]
    runs = runs_of(strange)
    texts["strange names"] = render(ReportContext.of(runs), "latex")
    return texts


def test_nothing_escapes_from_a_comment() -> None:
    before, _ = documents()["strange names"].split("\\begin{table}", 1)
    assert [line for line in before.split("\n") if line and not line.startswith("%")] == []
    assert "\r" not in before


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["pdflatex", "lualatex"])
def test_latex_compiles(tmp_path: Path, engine: str) -> None:
    """All of them in one document."""
    if shutil.which(engine) is None:
        pytest.skip(f"no {engine} here")
    head = ["\\documentclass{article}", "\\usepackage{booktabs,longtable}"]
    head += ["\\usepackage[T1]{fontenc}"] if engine == "pdflatex" else []
    body = [text.replace("\\label{tab:", f"\\label{{{number}:") for number, text in enumerate(documents().values())]
    lines = [*head, "\\begin{document}", *(f"{each}\n\\clearpage" for each in body), "\\end{document}"]
    (tmp_path / "all.tex").write_text("\n".join(lines), encoding="utf-8")
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=240, check=False)
    said = ended.stdout.decode(errors="replace")
    assert ended.returncode == 0, "\n".join(
        line for line in said.splitlines() if line.startswith("!") or "l." in line[:3]
    )
    assert (tmp_path / "all.pdf").stat().st_size > 10_000
