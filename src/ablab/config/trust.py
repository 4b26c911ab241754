"""What a config that was read from a folder may name: folders come from strangers, and opening one runs nothing.

What a user types, and what their own files of options say, is theirs. A config in a run's or a study's folder is whose
folder it is: of the classes that it names, those are built that are ablab's own or of the libraries whose classes
options may be, and that are what their axis takes. This is looked at before anything is called or imported, at any
depth. Whatever else it names takes `--trust`, which says what it trusts.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from ablab.config.axes import AXES, Axis, load
from ablab.config.schema import Node, conf_folder
from ablab.errors import UserError, printable

# Where classes lie that a folder may name, if they are what their axis takes.
_LIBRARIES = (
    "ablab.",
    *("torch.nn.", "torch.optim."),
    *("lightning.pytorch.callbacks.", "lightning.pytorch.loggers.", "lightning.pytorch.profilers."),
)
# Removes files that a checkpoint names, in any place.
_EXCEPTED = ("lightning.pytorch.callbacks.ModelCheckpoint",)
_PROFILER, _DESIGN = "lightning.pytorch.profilers.Profiler", "ablab.study.designs.Design"
_TARGET = re.compile(r"^\s*_target_:\s*(\S+)", re.MULTILINE)
_TEXT = re.compile(r'"([^"]*)"')
# Axes whose options may write, and the keys by which they are told where.
_WRITING = ("trainer", "logger", "callbacks")
_WHERE = re.compile(r"(dir|dirpath|path|file|filename|folder|repo|uri|url|host|server|location)$", re.IGNORECASE)
_ELSEWHERE = re.compile(r"^[/\\~]|^[A-Za-z]:|://|(^|[/\\])\.\.([/\\]|$)")


def admit(configs: Iterable[Node], source: Path, trust: bool) -> None:
    """Let configs that were read from `source` be built, or refuse them.

    Args:
        configs: options by axis, and perhaps the other keys of a run's config, as plain data.
        trust: the user trusts whatever the configs name; each such thing is told on stderr.

    Raises:
        UserError: a config names what only `trust` lets it name.
    """
    named = list(dict.fromkeys(each for config in configs for each in foreign(config)))
    if named and not trust:
        rest = f" and {len(named) - 1} more" if len(named) > 1 else ""
        raise UserError(
            f"{source}: asks for {named[0]}{rest}, which is not ablab's own: if you know where this folder is from, "
            "add --trust (in Python trust=True)"
        )
    for each in named:
        print(printable(f"ablab: trusted: {each} (asked for by {source})"), file=sys.stderr)


def foreign(config: Node) -> Iterator[str]:
    """Yield what a config names that a stranger's must not, each as `key=value`."""
    for key, value in config.items():
        axis = AXES.get(key)
        if axis is not None and axis.several and isinstance(value, dict):
            for name, each in value.items():
                yield from _in_node(f"{key}.{name}", each, axis)
        else:
            yield from _in_node(key, value, axis)


def _in_node(key: str, node: Any, axis: Axis | None) -> Iterator[str]:
    """The same of the config at `key`. `axis` is None where nothing is an option, as in an option's arguments."""
    if isinstance(node, dict):
        yield from _in_dict(key, node, axis)
    elif isinstance(node, list):
        for index, each in enumerate(node):
            yield from _in_node(f"{key}[{index}]", each, None)
    elif isinstance(node, str) and _is_refused(key, node):
        yield f"{key}={node}"


def _in_dict(key: str, node: Node, axis: Axis | None) -> Iterator[str]:
    if "_target_" in node and not _is_known(key, node["_target_"], axis):
        yield f"{key}._target_={node['_target_']}"
    if "_args_" in node:
        yield f"{key}._args_={node['_args_']}"
    for name, each in node.items():
        if name not in ("_target_", "_args_"):
            yield from _in_node(f"{key}.{name}", each, None)


def _is_refused(key: str, value: str) -> bool:
    """Whether a text would be filled in with what is this machine's, or names a place outside of the run's folder."""
    top = key.partition(".")[0]
    if top in AXES and "${" in value:  # a run's config has none left
        return True
    if top not in _WRITING or value in _usual(top):
        return False
    return bool(_ELSEWHERE.search(value) or _WHERE.search(key.rpartition(".")[2]))


def _is_known(key: str, target: Any, axis: Axis | None) -> bool:
    if not isinstance(target, str):
        return False
    if axis is not None:
        return target in _options(axis.name) or _is_one_of(target, axis.kinds)
    beside = {"trainer.profiler": _PROFILER, "design": _DESIGN}
    return key in beside and _is_one_of(target, (beside[key],))


def _is_one_of(target: str, kinds: tuple[str, ...]) -> bool:
    """Whether a dotted name is that of a class below one of `kinds` in a place that may be named. Calls nothing."""
    if not target.startswith(_LIBRARIES):
        return False
    log = logging.getLogger("hydra.utils")  # which would say at length what cannot be imported
    muted, log.disabled = log.disabled, True
    try:
        found = get_object(target)
    except Exception:  # whatever it is, it is not there
        return False
    finally:
        log.disabled = muted
    return (
        inspect.isclass(found)
        and f"{found.__module__}.".startswith(_LIBRARIES)
        and issubclass(found, tuple(load(kind) for kind in kinds))
        and (not target.startswith("lightning.") or not issubclass(found, tuple(load(each) for each in _EXCEPTED)))
    )


@cache
def _options(axis: str) -> frozenset[str]:
    """The targets that the options of an axis name in conf/, functions and classes of others among them."""
    texts = (path.read_text(encoding="utf-8") for path in (conf_folder() / axis).glob("*.yaml"))
    return frozenset(target for text in texts for target in _TARGET.findall(text))


@cache
def _usual(axis: str) -> frozenset[str]:
    """The texts in the options of an axis in conf/, as the places that loggers write to by default."""
    texts = (path.read_text(encoding="utf-8") for path in (conf_folder() / axis).glob("*.yaml"))
    return frozenset(each for text in texts for each in _TEXT.findall(text))
