"""Names in files of the user's that YAML reads as something else: refused with their line, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ablab.config import conf_folder, studies_folder
from ablab.config.yaml_files import refuse_misread
from ablab.errors import UserError

PACKAGE = "# @package _global_\n"


def look_at(folder: Path, text: str, group: str = "study", **files: str) -> None:
    (folder / group).mkdir(exist_ok=True)
    for name, content in {"mine": text, **files}.items():
        (folder / group / f"{name}.yaml").write_text(content, encoding="utf-8")
    refuse_misread([{"schema": "file", "path": str(folder)}, {"schema": "pkg", "path": "x"}], {group: "mine"})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: 2024_01_15", r"study/mine\.yaml, line 2: name: 2024_01_15 would be read as 20240115; put it in quotes"),
        ("name: 1_000", "line 2: name: 1_000 would be read as 1000"),
        ("question: on", "line 2: question: on would be read as True"),
        ("jobs: 1\ncomparison:\n  baseline: 1e3", "line 4: comparison.baseline: 1e3 would be read as 1000.0"),
        ("continue_from: 0x10", "continue_from: 0x10 would be read as 16"),
        ("budget: {match: 1.0e2}", "budget.match: 1.0e2 would be read as 100.0"),
        ("hydra: {sweeper: {params: {name: 0b11}}}", "name: 0b11 would be read as 3"),
        ("hydra: {sweeper: {params: {comparison.metric: off}}}", "comparison.metric: off would be read as False"),
        ("design: {variants: {on: {}, off: {}}}", "design.variants.on: on would be read as True"),
        ("defaults: [base]\nname: x", r"study/base\.yaml, line 2: name: 007_1 would be read as"),
    ],
)
def test_a_name_that_is_read_as_a_number(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        look_at(tmp_path, f"{PACKAGE}{text}\n", base=f"{PACKAGE}name: 007_1\n")
    assert "\n" not in str(caught.value)


def test_names_of_variants_in_a_design_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"design/mine\.yaml, line 3: design\.variants\.1e3: 1e3 would be read"):
        look_at(tmp_path, "defaults: [explicit]\nvariants:\n  1e3: {attention: full}\n", group="design")


@pytest.mark.parametrize(
    "text",
    [
        "name: '2024_01_15'",
        "name: 20240115",
        "name: 2024-01-15",
        "name: x1e3",
        "comparison: {metric: null, margin: 1e-3}",
        "optimizer: {lr: 1e-3}\nmodel: {d_model: 1_000}\nhydra: {sweeper: {params: {seed: 1_0, optimizer.lr: 1e-3}}}",
        "design: {variants: {1: {attention: full}, two: {optimizer.lr: 1e-3}}}",
        "name: ${now:%Y}",
        "- a",
        "",
    ],
)
def test_everything_else_is_left_alone(tmp_path: Path, text: str) -> None:
    look_at(tmp_path, f"{PACKAGE}{text}\n")


@given(st.from_regex(r"[0-9a-fnot_.xeE+-]{1,7}", fullmatch=True))
def test_what_passes_is_read_as_it_is_written(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    try:
        look_at(tmp_path_factory.getbasetemp(), f"{PACKAGE}name: {name}\n")
    except Exception:  # refused, or no YAML
        return
    both: Any = OmegaConf.to_container(OmegaConf.create(f"name: {name}"))
    read = both["name"]
    assert read is None or str(read) == name


def test_our_own_studies_pass() -> None:
    for folder in filter(None, (studies_folder(), conf_folder())):
        for group in ("study", "recipe"):
            for path in (folder / group).glob("*.yaml"):
                refuse_misread([{"schema": "file", "path": str(folder)}], {group: path.stem})
