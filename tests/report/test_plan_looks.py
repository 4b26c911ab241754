"""What `ablab plan` says of a study that makes its seeds in blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_plan import preview, row, shown

from ablab.config.seeds import SeedsConfig


def test_looks_levels_runs_and_power(tmp_path: Path) -> None:
    rows = [row(place, f"attention={name}", list(range(10))) for place, name in enumerate(("full", "lsh", "topk"))]
    lines = shown(preview(tmp_path, rows, seeds=SeedsConfig()))[1][-4:]
    assert lines[0] == (
        "seed=auto: looks at 3, 5, 8 and 10 seeds; a variant gets no further ones when it is resolved or futile or "
        "equivalent"
    )
    # Pocock's level of these looks is documented as .0166 for one comparison; two share it.
    assert lines[1].startswith("a comparison alone is resolved at p < .016")
    assert lines[1].partition("(pocock)")[2].startswith("; each of 2 at p < .0078")
    assert lines[2].startswith("9 runs to the first look, 30 at most; about 14 if nothing has an effect, about 2")
    assert lines[3].startswith("power: an effect of 1.3")
    assert ", if it is the only one, is resolved 80% of the time; one of 1.5 5% by 3, " in lines[3]


@pytest.mark.parametrize(("stop", "power"), [(["resolved"], True), (["futile", "equivalent"], False)])
def test_power_is_that_of_studies_that_stop_for_it(tmp_path: Path, stop: list[str], power: bool) -> None:
    rows = [row(0, "attention=full", [0, 1, 2]), row(1, "attention=lsh", [0, 1, 2])]
    _, lines = shown(preview(tmp_path, rows, seeds=SeedsConfig(max=3, looks=[3], stop=stop)))
    assert any(line.startswith("power: ") for line in lines) == power
    assert "a comparison alone is resolved at p < .05 (pocock)" in lines
    assert not any("3 seeds show an effect" in line for line in lines)
