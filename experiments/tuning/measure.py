"""How often the interval of a tuned comparison holds its effect, by simulation: the table of README.md.

python experiments/tuning/measure.py        # all kinds of study, and writes the table
python experiments/tuning/measure.py 200    # so many studies of each, and prints it
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from simulated import Coverage, Kind, coverage  # noqa: E402

STUDIES = 400  # of each kind
BEGIN, END = "<!-- measured -->\n", "<!-- end -->\n"
CURVES = {"flat": 0.0, "shallow": 0.1, "moderate": 0.5, "steep": 2.0}
KINDS = {
    **{
        f"{rates} rates, {tuning} tuning seeds, {seeds} seeds, {name}": Kind(rates, tuning, seeds, curvature)
        for rates in (3, 5, 7)
        for tuning in (2, 3)
        for seeds in (5, 10)
        for name, curvature in CURVES.items()
    },
    "5 rates, 2 tuning seeds, 10 seeds, a cliff above": Kind(5, 2, 10, 0.2, cliff=10),
    "5 rates, 2 tuning seeds, 10 seeds, a cliff above, and wild beyond": Kind(5, 2, 10, 0.2, cliff=30, wild=0.5),
    "3 rates, 2 tuning seeds, 10 seeds, optimum at the end, extended": Kind(3, 2, 10, 0.5, off=1, extend=2),
    "3 rates, 2 tuning seeds, 10 seeds, optimum outside, extended": Kind(3, 2, 10, 0.5, off=2, extend=2),
    "3 rates, 2 tuning seeds, 10 seeds, shallow, extended": Kind(3, 2, 10, 0.1, extend=2),
}


def table(found: dict[str, Coverage]) -> str:
    lines = [
        "| study | paired t alone | nested | nested, of the best rates | median width, in plain ones |",
        "|---|---|---|---|---|",
    ]
    for name, each in found.items():
        lines.append(f"| {name} | {each.plain:.3f} | {each.nested:.3f} | {each.of_best:.3f} | {each.width:.2f} |")
    count = len(found)
    means = [sum(getattr(each, key) for each in found.values()) / count for key in ("plain", "nested", "of_best")]
    within = sum(0.93 <= each.nested <= 0.97 for each in found.values())
    lines.append(f"| mean of all {count} | {means[0]:.3f} | {means[1]:.3f} | {means[2]:.3f} | |")
    plain, nested = ([getattr(each, key) for each in found.values()] for key in ("plain", "nested"))
    lines.append(f"| least and most | {min(plain):.3f}, {max(plain):.3f} | {min(nested):.3f}, {max(nested):.3f} | | |")
    return "\n".join(lines) + f"\n\nWithin .93 and .97: {within} of {count} kinds of study.\n"


def main(studies: int | None) -> None:
    with ProcessPoolExecutor() as pool:
        made = pool.map(partial(coverage, studies=studies or STUDIES), KINDS.values())
        text = table(dict(zip(KINDS, made, strict=True)))
    print(text, end="")
    if studies is None:
        page = HERE / "README.md"
        whole = page.read_text(encoding="utf-8")
        before, after = whole.split(BEGIN)[0], whole.split(END)[1]
        page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else None)
