"""The studies from GPT-2 to DeepSeek-V4: every variant of them can be built, and is what the page says it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ablab.cli import main
from ablab.study.planning import preflight

FOLDER = Path(__file__).parents[1] / "experiments" / "change_by_change"
STUDIES = yaml.safe_load((FOLDER / "studies.yaml").read_text())["studies"]


def changes(study: str) -> list[str]:
    """The variants that a study lists, without the first."""
    return list(yaml.safe_load((FOLDER / "study" / f"{study}.yaml").read_text())["design"]["variants"])[1:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alone", "left_out"])  # what others vary is in one of the two
def test_the_studies_can_be_planned(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without budgets, whose levers are tried elsewhere: counting the FLOPs of all variants takes a minute."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "rehearse", lambda *run, **how: None)  # as where it cannot be told
    words = [*STUDIES[name], "scale=quick", "budget.match=null", "task.max_bytes=1000000", "seed=0"]
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--config-dir", str(FOLDER), *words, "hydra.sweeper.probe=false"])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    assert re.search(r"1[4-6] variants", printed.out)


def test_the_page_has_each_change_in_the_order_of_the_study() -> None:
    table = re.findall(r"^\| `(\w+)` \| (?=`|one head)", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert table == changes("cumulative") == changes("each_alone")
