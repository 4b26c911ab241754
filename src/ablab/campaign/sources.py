"""The source of a proposal's components: their modules, each with the hash of its file, read anew where one changes."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from ablab.config import RunConfig
from ablab.study.supervision.code import forget_modules, modules_of


def sources_of(config: RunConfig, baseline: RunConfig | None = None) -> dict[str, str]:
    """The modules that options are made of, each with the hash of its file, and what they import from their folder.

    Args:
        baseline: whose options are left out.
    """
    return {name: _hash(path) for name, path in sorted(_files(config, baseline).items())}


def _files(config: RunConfig, baseline: RunConfig | None = None) -> dict[str, Path]:
    changed = [node for axis, node in config.options.items() if baseline is None or node != baseline.options.get(axis)]
    modules = {name for node in changed for name in modules_of(node) if not _is_installed(name)}
    return {name: path for module in modules for name, path in _with_imports(module).items()}


def _is_installed(module: str) -> bool:
    return module.split(".")[0] in ("torch", "lightning", "hydra", "transformers")


def _with_imports(name: str) -> dict[str, Path]:
    """The file of a module, and those of the modules that it imports from its own folder or below."""
    first = _file_of(sys.modules.get(name))
    if first is None:
        return {}
    if _is_ours(name):
        return {name: first}
    found, left = {name: first}, [name]
    while left:
        importer = left.pop()
        for each in (*_owners(importer), *_imported(importer, found[importer])):
            path = _file_of(sys.modules.get(each)) or _beside(importer, found[importer], each)
            if each not in found and path is not None and _lies_below(first.parent, path):
                found[each] = path
                left.append(each)
    return found


def _lies_below(folder: Path, path: Path) -> bool:
    """And is not installed: an environment of packages often lies in the folder of a project."""
    return folder in path.parents and "site-packages" not in path.relative_to(folder).parts


def _owners(name: str) -> Iterator[str]:
    """The modules that a module's values tell they are of, however they came there."""
    for value in list(vars(sys.modules[name]).values()) if name in sys.modules else ():
        owner = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(owner, str):
            yield owner


def _imported(name: str, path: Path) -> Iterator[str]:
    """The modules that a file's text imports, anywhere in it: numbers and tables do not tell where they are from."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # it was edited since it was imported: its hash is another
        return
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_packages(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *filter(None, [node.module])]
            yield from _with_packages(".".join(base))
            yield from (".".join([*base, alias.name]) for alias in node.names)  # those that are modules


def _with_packages(name: str) -> Iterable[str]:
    """A dotted name and those that it begins with: importing it runs them all."""
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1)) if name else ()


def _beside(importer: str, path: Path, name: str) -> Path | None:
    """The file of a module that is not imported yet, where it lies in the tree of folders that `importer` lies in."""
    place = path.parent if path.name == "__init__.py" else path
    root = place.parents[min(importer.count("."), len(place.parents) - 1)]
    stem = root.joinpath(*name.split("."))
    return next((each for each in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py") if each.is_file()), None)


def _file_of(module: ModuleType | None) -> Path | None:
    name = getattr(module, "__file__", None)
    return Path(name).resolve() if isinstance(name, str) and name.endswith(".py") else None


def _hash(path: Path | None) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else ""


_read: dict[str, tuple[Path, str]] = {}  # modules of the user's that runs import: their files, and the hash of each


def remember(config: RunConfig) -> None:
    """Note what this process has imported for a run, or may import in it."""
    found = {name: path for name, path in _files(config).items() if name not in _read and not _is_ours(name)}
    _read.update({name: (path, _hash(path)) for name, path in found.items()})


def import_anew() -> None:
    """Forget the user's modules where the file of one has changed since this process imported it."""
    if all(_hash(path) == digest for path, digest in _read.values()):
        return
    for name in _read:  # all, since they may have imported from each other
        module = sys.modules.pop(name, None)
        package, _, own = name.rpartition(".")
        if package in sys.modules and vars(sys.modules[package]).get(own, package) is module:
            delattr(sys.modules[package], own)  # else it is found there, and not imported
    forget_modules(_read)
    _read.clear()


def _is_ours(module: str) -> bool:
    return module.startswith("ablab.")
