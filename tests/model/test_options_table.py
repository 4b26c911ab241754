"""The table of docs/options.md: an option a row, a test that is there, and a metric that the option really has."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from ablab.config import conf_folder
from ablab.model.mechanism import MechanismProbe
from ablab.model.transformer import Transformer

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(\w+)=(\w+)` \| (.*?) ?\| `(.+)::(\w+)` \| `(\w+)/(.+)` \|$", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs" / "options.md").read_text(encoding="utf-8"))
AXES = ("attention", "feed_forward", "residual", "norm", "objective", "parametrisation", "optimizer")


def test_every_option_has_a_row_and_every_row_a_test() -> None:
    options = [(axis, path.stem) for axis in AXES for path in (conf_folder() / axis).glob("*.yaml")]
    assert sorted((axis, option) for axis, option, *_ in ROWS) == sorted(options)
    for axis, option, source, file, test, *_ in ROWS:
        assert source or option in ("pattern", "plain", "next_token", "standard"), (axis, option)
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (axis, option)


@pytest.mark.parametrize("axis", [axis for axis in AXES if axis not in ("parametrisation", "optimizer")])
def test_the_metric_is_among_those_of_the_option(
    axis: str, build: Callable[..., Transformer], tokens: Callable[..., Tensor]
) -> None:
    ids = tokens(2, 40)
    for _, option, *_, of_axis, metric in (row for row in ROWS if row[0] == axis):
        model = build(**{axis: option}).eval()
        probe = MechanismProbe(model, strict=True)
        probe.attach()
        model(ids, targets=ids)
        probe.detach()
        assert f"{of_axis}/{metric}" in probe.metrics(), option
