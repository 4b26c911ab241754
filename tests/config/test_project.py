"""`[tool.ablab]` in a project's pyproject.toml: where its own options lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablab.config.project import project_conf
from ablab.errors import UserError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project below another one, with a folder of options and one below it."""
    (tmp_path / "pyproject.toml").write_text('[tool.ablab]\nconf = "nowhere"\n')
    (tmp_path / "mine" / "conf").mkdir(parents=True)
    (tmp_path / "mine" / "scripts").mkdir()
    return tmp_path / "mine"


def test_the_nearest_file_counts_from_wherever_below_it(project: Path) -> None:
    (project / "pyproject.toml").write_text('[project]\nname = "mine"\n\n[tool.ablab]\nconf = "conf"\n')
    assert project_conf(project) == project_conf(project / "scripts") == project / "conf"
    for other in ('[project]\nname = "mine"\n', "[tool.ruff]\nline-length = 3\n", "", "[tool.ablab]\n", "tool = 3\n"):
        (project / "pyproject.toml").write_text(other)
        assert project_conf(project / "scripts") is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[tool.ablab]\nconf = "cnf"\n', "tool.ablab.conf='cnf': must be a folder of options, beside the file"),
        ("[tool.ablab]\nconf = 3\n", "tool.ablab.conf=3: must be a folder of options, beside the file"),
        ('[tool.ablab]\nconfig = "conf"\n', "tool.ablab.config: no such setting; did you mean 'conf'?"),
        ("[tool]\nablab = 3\n", "tool.ablab: must be a table of settings"),
        ("[tool.ablab\n", "cannot be read ("),
    ],
)
def test_what_it_cannot_say_is_one_line_with_the_file(project: Path, text: str, line: str) -> None:
    file = project / "pyproject.toml"
    file.write_text(text)
    with pytest.raises(UserError) as refused:
        project_conf(project)
    assert str(refused.value).startswith(f"{file}: {line}")
    assert "\n" not in str(refused.value)


def test_text_in_another_encoding(project: Path) -> None:
    (project / "pyproject.toml").write_bytes('[project]\nname = "\xe4"\n'.encode("latin-1"))
    with pytest.raises(UserError, match=r"pyproject\.toml: cannot be read \("):
        project_conf(project)
