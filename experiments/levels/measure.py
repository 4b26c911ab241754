"""How often what a report prints as a finding is false, by simulation: the table of README.md.

    python experiments/levels/measure.py              # all rows, and writes the table
    python experiments/levels/measure.py verdict suite  # these, and prints them

Studies are simulated with fixed seeds and judged by the functions that judge real ones. A row is a file in `rows` with
a function `row(studies)`; to add one, add its name to `ROWS`.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "rows")]

from simulated import Row  # noqa: E402

ROWS = (
    *("verdict", "equivalence", "suite", "intervals", "power", "seeds"),
    *("interaction", "time_to_target", "front", "looks", "auto"),
)
STUDIES = 1_000  # of each kind
BEGIN, END = "<!-- measured -->\n", "<!-- end -->\n"


def measured(name: str, studies: int = STUDIES) -> Row:
    """One row. Raises ModuleNotFoundError where there is no such file."""
    found = import_module(name).row(studies)
    assert isinstance(found, Row)
    return found


def table(rows: list[Row]) -> str:
    """The rows as Markdown: nominal beside measured, over all kinds of study and in the worst of them."""
    lines = [
        "| finding | what is counted | nominal | measured, mean | worst kind | where |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        mean = sum(cell.rate for cell in row.cells) / len(row.cells)
        sign = "≥" if row.at_least else "≤"
        worst = f"{row.worst.rate:.3f} ± {row.worst.error:.3f}"
        lines.append(
            f"| {row.name} | {row.counted} | {sign} {row.nominal:.2f} | {mean:.3f} | {worst} | {row.worst.where} |"
        )
    return "\n".join(lines) + "\n"


def there() -> list[str]:
    """The rows that have a file."""
    return [name for name in ROWS if (HERE / "rows" / f"{name}.py").is_file()]


def main(names: list[str]) -> None:
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(measured, names or there()))
    print(table(rows), end="")
    if not names:
        page = HERE / "README.md"
        text = page.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        page.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
