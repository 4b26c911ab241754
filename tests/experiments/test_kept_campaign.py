"""The kept campaign of 200 proposals, and the tables that are made of it and of simulated ones."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "experiments" / "campaign"


def test_the_readme_has_the_tables_that_the_command_makes() -> None:
    made = runpy.run_path(str(FOLDER / "summary.py"))
    text, rows = made["README"].read_text(encoding="utf-8"), json.loads(made["SIMULATED"].read_text(encoding="utf-8"))
    assert made["simulated"]("proposals", rows["settings"]) in text
    assert made["simulated"]("levels by", rows["procedures"]) in text
    assert made["really_trained"](made["kept_campaign"]()) in text  # whose ledger is verified when it is read


def test_simulated_campaigns_keep_what_is_promised() -> None:
    rows = json.loads((FOLDER / "simulated.json").read_text(encoding="utf-8"))["settings"]
    assert max(row["false_share"][0] for row in rows.values()) <= 0.05
    for name in ("effects of 1.5 sd", "effects of 1.5 to 3 sd"):
        assert rows[name]["found"][0] >= 0.8
        assert rows[name]["runs"][0] <= 2 * rows[name]["runs_of_lower"]
        assert rows[name]["lower_false_share"][0] > 0.7
