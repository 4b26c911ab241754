"""The source of a proposal's components: their modules, each with the hash of its file, read anew where one changes."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType

from ablab.config import RunConfig
from ablab.study.supervision.code import forget_modules, modules_of


def sources_of(config: RunConfig, baseline: RunConfig | None = None) -> dict[str, str]:
    """The modules that options are made of, each with the hash of its file, and what they import from their folder.

    Args:
        baseline: whose options are left out.
    """
    changed = [node for axis, node in config.options.items() if baseline is None or node != baseline.options.get(axis)]
    modules = {name for node in changed for name in modules_of(node) if not _is_installed(name)}
    files = {name: path for module in modules for name, path in _with_imports(module).items()}
    return {name: _hash(path) for name, path in sorted(files.items())}


def _is_installed(module: str) -> bool:
    return module.split(".")[0] in ("torch", "lightning", "hydra", "transformers")


def _with_imports(name: str) -> dict[str, Path]:
    """The file of a module, and those of the modules that it imports from its own folder or below."""
    first = _file_of(sys.modules.get(name))
    if first is None:
        return {}
    if _is_ours(name):
        return {name: first}
    found, left = {name: first}, [sys.modules[name]]
    while left:
        values = vars(left.pop()).values()
        names = {v.__name__ if isinstance(v, ModuleType) else getattr(v, "__module__", None) for v in values}
        for each in (each for each in names if isinstance(each, str) and each not in found):
            path = _file_of(sys.modules.get(each))
            if path is not None and first.parent in path.parents:
                found[each] = path
                left.append(sys.modules[each])
    return found


def _file_of(module: ModuleType | None) -> Path | None:
    name = getattr(module, "__file__", None)
    return Path(name).resolve() if isinstance(name, str) and name.endswith(".py") else None


def _hash(path: Path | None) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else ""


_read: dict[str, str] = {}  # modules of the user's that this process has imported, with the hash of what they held


def remember(sources: dict[str, str]) -> None:
    """Note what this process has imported."""
    _read.update({name: digest for name, digest in sources.items() if name not in _read and not _is_ours(name)})


def import_anew() -> None:
    """Forget the user's modules where the file of one has changed since this process imported it."""
    if all(_hash(_file_of(sys.modules.get(name))) == digest for name, digest in _read.items()):
        return
    for name in _read:  # all, since they may have imported from each other
        sys.modules.pop(name, None)
    forget_modules(_read)
    _read.clear()


def _is_ours(module: str) -> bool:
    return module.startswith("ablab.")
