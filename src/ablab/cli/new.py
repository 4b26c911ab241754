"""The command `new`: the folder of a project that works at once.

What is written lies in `template`, a project that is called my_project.
"""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import shutil
import tempfile
from pathlib import Path

from ablab.cli.parsing import Command
from ablab.errors import UserError

_TEMPLATE = Path(__file__).parent / "template"
_CALLED = "my_project"  # wherever this stands in a file's name or text, the project's name comes
_RENAMED = {"gitignore": ".gitignore"}  # which would count here


def new(parser: argparse.ArgumentParser) -> Command:
    """Begin a project: a folder with a component of your own, its test, a study, a Makefile and a README."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="to be made; its name is that of the module in it")

    def command(options: argparse.Namespace) -> None:
        folder = options.folder
        write_project(folder)
        print(f"{folder}: a component, its test and a study; cd {folder} && ablab verify activation=snake")

    return command


def write_project(folder: Path) -> None:
    """Write the project, as a whole or not at all.

    Raises:
        UserError: there is something of that name, or a module cannot be called that.
    """
    name = folder.name.replace("-", "_")
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder}: is there already; give another name")
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name):
        raise UserError(f"{folder}: its name becomes a module's: letters, digits and _, and no digit in front")
    if importlib.util.find_spec(name) is not None:
        raise UserError(f"{folder}: {name} is the name of a module that is installed; give another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as place:
        made = Path(place) / name
        for source in sorted(path for path in _TEMPLATE.rglob("*") if path.is_file()):
            _write(source, made, name)
        shutil.move(made, folder)


def _write(source: Path, project: Path, name: str) -> None:
    if source.suffix == ".pyc":
        return
    place = source.relative_to(_TEMPLATE)
    file = project / place.parent / _RENAMED.get(place.name, place.name).replace(_CALLED, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source.read_text(encoding="utf-8").replace(_CALLED, name), encoding="utf-8")
