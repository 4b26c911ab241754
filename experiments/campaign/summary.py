"""The tables of README.md, from simulated.json and ledger.xz beside this file.

python experiments/campaign/summary.py        # writes them between the marks
"""

from __future__ import annotations

import json
import lzma
import tempfile
from pathlib import Path
from typing import Any

from scipy.stats import beta

from ablab.report.campaign import accounting
from ablab.results.campaign import Campaign, Proposal, campaign_of
from ablab.results.ledger import LEDGER_FILE, Ledger

HERE = Path(__file__).parent
README, SIMULATED, KEPT = HERE / "README.md", HERE / "simulated.json", HERE / "ledger.xz"
Row = dict[str, Any]
HEAD = (
    "| {} | kept falsely | real ones found | runs, of 201 | seeds of the others "
    "| keep-if-lower: kept falsely | found |\n|---|---|---|---|---|---|---|\n"
)


def simulated(title: str, rows: dict[str, Row]) -> str:
    return HEAD.format(title) + "".join(f"| {name} | {_cells(row)} |\n" for name, row in rows.items())


def _cells(row: Row) -> str:
    real = row["seeds_of_real"] is not None
    cells = [
        _share(row["false_share"], 2),
        _share(row["found"], 1) if real else "",
        f"{row['runs'][0]:.0f} ± {2 * row['runs'][1]:.0f} ({row['runs'][0] / row['runs_of_lower']:.2f} times)",
        f"{row['seeds_of_others']:.2f}",
        _share(row["lower_false_share"], 0),
        f"{100 * row['lower_found'][0]:.0f}%" if real else "",
    ]
    return " | ".join(cells)


def _share(value: tuple[float, float], digits: int) -> str:
    """In percent, with two standard errors."""
    return f"{100 * value[0]:.{digits}f}% ± {200 * value[1]:.{digits}f}"


def kept_campaign() -> Campaign:
    """The real one, verified as every ledger is."""
    with tempfile.TemporaryDirectory() as folder:
        text = lzma.decompress(KEPT.read_bytes())
        (Path(folder) / LEDGER_FILE).write_bytes(text)
        last = json.loads(text.splitlines()[-1])
        head = {"entries": last["number"], "digest": last["digest"]}
        (Path(folder) / "ledger.head.json").write_text(json.dumps(head), encoding="utf-8")
        campaign = campaign_of(Ledger(Path(folder)).entries)
    assert campaign is not None
    return campaign


def is_real(proposal: Proposal) -> bool:
    """Whether an effect was planted."""
    return any(override.startswith("optimizer.lr=") for override in proposal.overrides)


def really_trained(campaign: Campaign) -> str:
    """The real campaign beside what keep-if-lower would have kept of the first run of each proposal."""
    base = {run.seed: run.value for run in campaign.baseline_runs[0]}
    lower = [each for each in campaign.proposals if _value(each) < (base[each.runs[0].seed] or 0.0)]
    kept = [each for each in campaign.proposals if each.decision == "KEEP"]
    real = [each for each in campaign.proposals if is_real(each)]
    rows = {"`ablab judge`": (kept, campaign.runs), "keep-if-lower": (lower, len(campaign.proposals) + 1)}
    lines = ["| | kept | kept falsely | real ones found | runs |\n|---|---|---|---|---|\n"]
    for name, (those, runs) in rows.items():
        false = sum(not is_real(each) for each in those)
        found = len(those) - false
        lines.append(
            f"| {name} | {len(those)} | {false} ({_interval(false, len(those))}) | "
            f"{found} of {len(real)} ({_interval(found, len(real))}) | {runs} |\n"
        )
    return "".join(lines) + f"\nThe ledger says: {accounting(campaign)}\n"


def _value(proposal: Proposal) -> float:
    value = proposal.runs[0].value
    return float("inf") if value is None else value


def _interval(count: int, of: int) -> str:
    """A share with its exact 95% interval."""
    if not of:
        return "none"
    low = float(beta.ppf(0.025, count, of - count + 1)) if count else 0.0
    high = float(beta.ppf(0.975, count + 1, of - count)) if count < of else 1.0
    return f"{100 * count / of:.0f}%, 95% CI {100 * low:.0f}% to {100 * high:.0f}%"


def put(text: str, mark: str, table: str) -> str:
    """The text with what stands between the two marks of a name replaced."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->\n"
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    text, rows = README.read_text(encoding="utf-8"), json.loads(SIMULATED.read_text(encoding="utf-8"))
    text = put(text, "simulated", simulated("proposals", rows["settings"]))
    text = put(text, "procedures", simulated("levels by", rows["procedures"]))
    if KEPT.exists():
        text = put(text, "trained", really_trained(kept_campaign()))
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
