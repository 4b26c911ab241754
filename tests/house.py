"""Print the measures of the code's structure: `make house`, or `python tests/house.py [SRC]` for another checkout's.

Static measures are counted on the syntax tree of every file below `src/ablab`. The files of a training step are those
whose functions run between two steps of the default config, seen by `sys.setprofile` in a process of its own.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

SOURCE = Path(__file__).resolve().parent.parent / "src"
_OURS = ("ablab", "hydra_plugins")  # a private name of any other package is a reach into its insides
_PUBLIC = ("_exit", "_asdict", "_fields", "_replace")  # documented parts of the standard library all the same

_STEP = """
import sys
from pathlib import Path
package = Path(sys.argv[2]).resolve() / "ablab"
files, state = set(), {"on": False}

def seen(frame, event, arg):
    if state["on"] and event == "call":
        name = frame.f_code.co_filename
        if name.startswith(str(package)):
            files.add(str(Path(name).relative_to(package)))

import ablab.training.callbacks as callbacks
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop as Loop

advance = Loop.advance
def counted(self, *arguments):
    state["on"] = 10 <= self.trainer.global_step < 20
    advance(self, *arguments)
    state["on"] = False
Loop.advance = counted
sys.setprofile(seen)
sys.argv = ["ablab", *sys.argv[3:]]
from ablab.cli import main
try:
    main()
except SystemExit:
    pass
sys.setprofile(None)
print("FILES", *sorted(files))
"""


def main() -> None:
    source = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else SOURCE
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((source / "ablab").rglob("*.py"))}
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for path in trees]
    show("files, lines, median lines of a file", f"{len(lengths)}, {sum(lengths)}, {median(lengths):.0f}")
    show("lines of a function, median", f"{median(_function_lengths(trees)):.0f}")
    imported = importers(trees, source)
    only_one = [name for name, by in imported.items() if len(by) == 1]
    show("files that one other file alone imports", str(len(only_one)))
    for axis in ("attention", "layer_fusion", "schedule"):
        named = sorted({str(path.relative_to(source / "ablab")) for path in naming(trees, axis)})
        show(f"files that name the axis {axis}", f"{len(named)}: {', '.join(named)}")
    show("dict[str, Any]", str(sum(map(untyped_dicts, trees.values()))))
    show("constructors with **settings of any type", str(sum(map(open_constructors, trees.values()))))
    reaches = sorted(private_reaches(trees))
    counted = Counter(str(path.relative_to(source / "ablab")) for path, _, _ in reaches)
    show("private reaches into other packages", f"{len(reaches)} in {len(counted)} files")
    for path, line, name in reaches:
        print(f"    {path.relative_to(source)}:{line}  {name}")
    files = files_of_a_step(source)
    show("files in one training step of the default config", f"{len(files)}: {', '.join(files)}")


def show(measure: str, value: str) -> None:
    print(f"{measure}: {value}")


def naming(trees: dict[Path, ast.Module], axis: str) -> Iterator[Path]:
    """Files outside of the axis's own folder in which its name stands as a text: where it would have to be added."""
    for path, tree in trees.items():
        own = axis in path.parts or path.stem == axis or path.parent.name == f"{axis}s"
        if not own and any(isinstance(node, ast.Constant) and node.value == axis for node in ast.walk(tree)):
            yield path


def untyped_dicts(tree: ast.Module) -> int:
    return sum(isinstance(node, ast.Subscript) and ast.unparse(node) == "dict[str, Any]" for node in ast.walk(tree))


def open_constructors(tree: ast.Module) -> int:
    return sum(
        isinstance(node, ast.FunctionDef)
        and node.name == "__init__"
        and node.args.kwarg is not None
        and node.args.kwarg.annotation is not None
        and ast.unparse(node.args.kwarg.annotation) == "Any"
        for node in ast.walk(tree)
    )


def private_reaches(trees: dict[Path, ast.Module]) -> Iterator[tuple[Path, int, str]]:
    """Private names of other packages that are imported, read, or asked for by `getattr` and its like.

    Of attributes it is not known whose they are: those that something here defines are taken for ours, unless they are
    read from a package that was imported.
    """
    own = {name for tree in trees.values() for name in _defined(tree)}
    for path, tree in trees.items():
        foreign = _foreign(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in _OURS and not node.level:
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                if any(_is_private(part) for part in parts):
                    yield path, node.lineno, f"{node.module}: {', '.join(alias.name for alias in node.names)}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if any(map(_is_private, alias.name.split("."))):
                        yield path, node.lineno, alias.name
            elif isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in _PUBLIC:
                if node.attr not in own or ast.unparse(node).split(".")[0] in foreign:
                    yield path, node.lineno, ast.unparse(node)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
                name = node.args[1]
                if isinstance(name, ast.Constant) and _is_private(str(name.value)) and name.value not in own:
                    yield path, node.lineno, ast.unparse(node)


def _foreign(tree: ast.Module) -> set[str]:
    """What other packages are called in a file."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in _OURS:
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def importers(trees: dict[Path, ast.Module], source: Path) -> dict[str, set[str]]:
    """By module of the package, the other modules of it that import it."""
    names = {_module(path, source) for path in trees}
    found: dict[str, set[str]] = {name: set() for name in names}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for wanted in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                    if wanted in names:
                        found[wanted].add(_module(path, source))
    return found


def _module(path: Path, source: Path) -> str:
    return ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")


def _function_lengths(trees: dict[Path, ast.Module]) -> list[int]:
    nodes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes]


def files_of_a_step(source: Path) -> list[str]:
    """The package's files whose code runs in steps 11 to 20 of one run of the default config."""
    settings = ("trainer.max_steps=30", "trainer.val_check_interval=10", "logger=csv")
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _STEP, "-", str(source), *settings, f"hydra.run.dir={folder}/run"]
        env = {**os.environ, "PYTHONPATH": str(source)}
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FILES")]
    if not lines:
        sys.exit(f"the run of the default config ended without a trace:\n{done.stdout}{done.stderr}")
    return lines[-1].split()[1:]


if __name__ == "__main__":
    main()
