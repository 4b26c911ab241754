"""The generated pages of the site hold all that the program has: options, keys, fields, commands."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import reference
import repository
from ablab.cli.commands import COMMANDS
from ablab.config.axes import AXES
from ablab.config.schema import Config, conf_folder
from ablab.results.record import Cost, Record
from command_reference import help_of
from yaml_comments import HYDRAS_OWN, keys_of

FILES = sorted(path for name in (*AXES, "design") for path in (conf_folder() / name).glob("*.yaml"))


def flat(node: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Settings by dotted name, as YAML reads them."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key not in HYDRAS_OWN:
            nested = isinstance(value, dict) and value
            found |= flat(value, f"{above}{key}.") if nested else {f"{above}{key}": value}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_a_page_has_every_key_of_an_option_with_its_default(path: Path) -> None:
    page = reference.pages()[reference.axis_pages()[path.parent.name]]
    assert f"\n## `{path.parent.name}={path.stem}`\n" in page
    section = page.split(f"\n## `{path.parent.name}={path.stem}`\n")[1].split("\n## ")[0]
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in section.splitlines() if line.startswith("| `")]
    shown = {row[0].strip("`").removeprefix(f"{path.parent.name}."): row[1].strip("`") for row in rows}
    wanted = flat(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    assert flat({key: yaml.safe_load(text.replace("\\|", "|")) for key, text in shown.items()}) == wanted


def test_every_setting_that_belongs_to_no_axis_is_on_its_page() -> None:
    page = reference.pages()["reference/settings.md"]
    for field in dataclasses.fields(Config):
        if field.name not in (*AXES, "design", "question"):  # the last one is for files
            assert f"| `{field.name}" in page, field.name


def test_the_page_of_the_record_has_every_field_and_what_stands_behind_it() -> None:
    page = reference.pages()["reference/record.md"]
    for kind in (Record, Cost):
        for field in dataclasses.fields(kind):
            assert f"| `{field.name}` |" in page
    assert "trainable scalars, tied ones once" in page
    assert "## `Collective`" in page  # which is two classes away


def test_the_page_of_the_command_line_has_every_command_and_every_option() -> None:
    page = reference.pages()["reference/command_line.md"]
    for name, command in COMMANDS.items():
        assert f"\n## `ablab {name}`\n" in page
        parser = argparse.ArgumentParser()
        command(parser)
        for option in re.findall(r"--[a-z-]+", parser.format_help()):
            assert option in page
    for below in ("attention", "strategies", "loop"):
        assert f"### `ablab bench {below}`" in page
    assert "--lengths" in help_of("bench", "attention")


def test_comments_are_read_where_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text('# Head\n_target_: a.B\nplain: 1  # first\n   # and more\nquoted: "a # b"\nlisted: [1, 2] # both\n')
    assert [(key.name, key.default, key.comment, key.target) for key in keys_of(file)] == [
        ("plain", "1", "first and more", "a.B"),
        ("quoted", '"a # b"', "", "a.B"),
        ("listed", "[1, 2]", "both", "a.B"),
    ]


def test_links_out_of_docs_lead_to_pages_of_the_site() -> None:
    page = repository.DOCS / "how_to" / "axis.md"
    leads = {
        "../norm.md": "../norm.md",
        "../../README.md#two-commands": "../readme.md#two-commands",
        "../../experiments/README.md": "../experiments/README.md",
        "../../experiments/study": "../files/experiments/study.md",
        "../../conf/norm": "../reference/axes/norm.md",
        "../../src/ablab/results/record.py": "../reference/record.md",
        "https://x.org": "https://x.org",
        "#here": "#here",
    }
    made = repository.with_links_of_site(" ".join(f"[a]({link})" for link in leads), page, "how_to/axis.md")
    assert made == " ".join(f"[a]({link})" for link in leads.values())


def test_every_folder_of_conf_has_the_page_that_links_to_it_are_led_to() -> None:
    for folder in (path for path in conf_folder().iterdir() if path.is_dir()):
        assert repository.generated_page(folder) in reference.pages()
