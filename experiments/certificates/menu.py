"""Certificates of every option of the menu, as a table: python experiments/certificates/menu.py [AXIS ...]

Written to menu.md beside this file after each option. One process, one thread.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from ablab.certify import Certificate, certify, check_names
from ablab.config import AXES, conf_folder

HERE = Path(__file__).parent
ROWS, TABLE = HERE / "menu.json", HERE / "menu.md"
# What an option must be given to be tried at all.
GIVEN = {"task=text": ["task.path=docs/verify.md"]}
# Tasks whose data are the user's.
WITHOUT_DATA = {"task=hf_text", "task=classification"}


def main(axes: list[str]) -> None:
    torch.set_num_threads(1)
    rows = json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else {}
    for axis in axes or [name for name in AXES if check_names(name)]:
        for path in sorted((conf_folder() / axis).glob("*.yaml")):
            name = f"{axis}={path.stem}"
            if name in WITHOUT_DATA:
                continue
            began = time.process_time()
            certificate = certify(name, overrides=GIVEN.get(name, []))
            rows[name] = row(certificate, time.process_time() - began)
            ROWS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            TABLE.write_text(table(rows), encoding="utf-8")
            print(f"{name:32}{certificate.verdict()}", flush=True)


def row(certificate: Certificate, seconds: float) -> dict[str, object]:
    """What the table has of an option."""
    by = {outcome: [c for c in certificate.checks if c.outcome == outcome] for outcome in ("pass", "fail", "skipped")}
    cost = next((c.detail for c in certificate.checks if c.name == "cost"), "")
    return {
        "passed": len(by["pass"]),
        "failed": {c.name: c.detail for c in by["fail"]},
        "skipped": {c.name: c.detail for c in by["skipped"]},
        "cost": cost,
        "seconds": round(seconds, 1),
    }


def table(rows: dict[str, dict[str, object]]) -> str:
    lines = ["| option | verdict | checks passed | skipped | seconds | cost |", "|---|---|---|---|---|---|"]
    reasons: dict[str, list[str]] = {}
    order = list(AXES)
    for name in sorted(rows, key=lambda each: (order.index(each.partition("=")[0]), each)):
        each = rows[name]
        failed, skipped = each["failed"], each["skipped"]
        assert isinstance(failed, dict)
        assert isinstance(skipped, dict)
        verdict = f"FAILED: {', '.join(failed)}" if failed else "passed"
        left = ", ".join(skipped) or "-"
        lines.append(f"| `{name}` | {verdict} | {each['passed']} | {left} | {each['seconds']} | {each['cost']} |")
        for check, reason in skipped.items():
            reasons.setdefault(f"`{check}`: {reason}", []).append(name)
    why = [f"* {reason} ({len(names)}: {', '.join(names)})" for reason, names in sorted(reasons.items())]
    return "\n".join([*lines, "", "Why checks are skipped:", "", *why, ""])


if __name__ == "__main__":
    main(sys.argv[1:])
