"""Which proposals are the same: a component is what its files say, and those that it imports."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from costless import Runs

from ablab.campaign import Judged


def test_a_component_that_was_changed_is_another_proposal(
    runs: Runs, ask: Callable[..., Judged], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    (folder / "conf" / "activation").mkdir(parents=True)
    (folder / "conf" / "activation" / "mine.yaml").write_text("_target_: my_code.Mine\n_partial_: true\n")
    source = (
        "from torch import nn\n\n\nclass Mine(nn.SiLU):\n    def __init__(self, spec):\n        super().__init__()\n"
    )
    (folder / "my_code.py").write_text(source)
    monkeypatch.setattr(sys, "path", [*sys.path])
    option = str(folder / "conf" / "activation" / "mine.yaml")
    first = ask(option)
    assert ask(option).from_ledger
    (folder / "my_code.py").write_text(source.replace("SiLU", "Tanh"))
    changed = ask(option)
    assert not changed.from_ledger
    assert (first.proposal.number, changed.proposal.number) == (1, 2)


_MINE = """
from torch import nn
{above}


class Mine(nn.Module):
    def __init__(self, spec):
        super().__init__()

    def forward(self, x):
        {within}
        return SLOPE * x
"""


@pytest.mark.parametrize(
    ("name", "above", "within"),
    [
        ("scaled", "from scaled_numbers import SLOPE", ""),
        ("scaled_late", "", "from scaled_late_numbers import SLOPE"),
        ("scales.one", "from .one_numbers import SLOPE", ""),
        ("scales_late.one", "", "from scales_late.one_numbers import SLOPE"),
    ],
)
def test_a_number_that_a_component_imports_makes_another_proposal(
    name: str,
    above: str,
    within: str,
    runs: Runs,
    ask: Callable[..., Judged],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    option, numbers = _own_activation(tmp_path, name, above, within)
    monkeypatch.setattr(sys, "path", [*sys.path])
    first = ask(option)
    assert ask(option).from_ledger
    numbers.write_text("SLOPE = 0.9  # another\n")
    changed = ask(option)
    assert (changed.from_ledger, changed.proposal.number) == (False, 2)
    assert first.proposal.sources.keys() == changed.proposal.sources.keys()
    assert not above or vars(sys.modules[name])["SLOPE"] == 0.9  # imported anew


def _own_activation(tmp_path: Path, name: str, above: str, within: str) -> tuple[str, Path]:
    """An option made of a module of that name, and the file of the numbers beside it."""
    folder, (*packages, own) = tmp_path / "mine", name.split(".")
    option = folder / "conf" / "activation" / "mine.yaml"
    option.parent.mkdir(parents=True)
    option.write_text(f"_target_: {name}.Mine\n_partial_: true\n")
    place = folder.joinpath(*packages)
    place.mkdir(exist_ok=True)
    (place / f"{own}.py").write_text(_MINE.format(above=above, within=within))
    numbers = place / f"{own}_numbers.py"
    numbers.write_text("SLOPE = 0.1\n")
    return str(option), numbers


def test_installed_packages_in_the_folder_of_a_component_are_none_of_its_sources(
    runs: Runs, ask: Callable[..., Judged], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option, _ = _own_activation(tmp_path, "scaled_beside", "from installed_beside import SLOPE, Of", "")
    place = tmp_path / "mine" / "venv" / "site-packages"
    place.mkdir(parents=True)
    (place / "installed_beside.py").write_text("SLOPE = 0.1\n\n\nclass Of: pass\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(place)])
    assert [*ask(option).proposal.sources] == ["scaled_beside"]
