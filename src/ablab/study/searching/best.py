"""What comes of a search: a line for each variant, and the study that compares all of them at their best."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ablab.results.store import write_atomically
from ablab.study.searching.search import OptunaSearch
from ablab.study.searching.space import near_end
from ablab.study.searching.variant import Searched

FILE = Path("study") / "best.yaml"  # below the folder of the search, which is then one of options
_FEWEST_SEEDS = 5  # of the study: with four and more there are intervals
_HEAD = """\
# @package _global_
# Each variant at the best of its trials, which Optuna found on other seeds than those here. A search writes it anew.
"""


def tell(search: OptunaSearch) -> None:
    """Print the best of each variant so far; where all of them have one, write their study and say how it is run."""
    tried = search.variants[0].told
    if not tried:
        return
    each = " of each variant" if len(search.variants) > 1 else ""
    print(f"best of {tried} trial{'s' if tried > 1 else ''}{each}, on seed {', '.join(_seeds(search))}:")
    for variant in search.variants:
        print(f"  {_line(variant, search)}")
    if all(variant.best is not None for variant in search.variants) and len(search.variants) > 1:
        path = search.folder / FILE
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, _HEAD + yaml.safe_dump(study_of(search), sort_keys=False, width=120))
        print(f"the study that compares them, on other seeds: {_command(search)}")


def study_of(search: OptunaSearch) -> dict[str, Any]:
    """The study as its file has it."""
    runs = [variant.runs[0] for variant in search.variants]
    shared = [each for each in runs[0].overrides if all(each in run.overrides for run in runs)]
    fixed = dict(_pair(each) for each in shared if not each.startswith(("seed=", "name=")))
    variants = {}
    for variant, run in zip(search.variants, runs, strict=True):
        assert variant.best is not None
        own = dict(_pair(each) for each in run.overrides if each not in shared and not each.startswith("seed="))
        variants[variant.label] = _read(own | variant.best.overrides)
    first = 1 + max(map(int, _seeds(search)))
    seeds = ",".join(str(first + place) for place in range(_FEWEST_SEEDS))
    return {
        "name": f"{search.folder.name}_best",
        "defaults": [{"override /design": "explicit"}],
        "design": {"variants": variants},
        "hydra": {"mode": "MULTIRUN", "sweeper": {"params": {**fixed, "seed": seeds}}},
    }


def _line(variant: Searched, search: OptunaSearch) -> str:
    name = f"{variant.label}: " if variant.label else ""
    if variant.best is None:
        return f"{name}no trial ended well"
    found = variant.best
    ends = {key: end for key, value in found.params.items() if (end := near_end(key, value, search.space))}
    hint = "".join(f"; near the {end} end of {key}: widen it" for key, end in ends.items())
    return f"{name}{_words(found.overrides)}, {found.value} in trial {found.number}{hint}"


def _words(settings: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _pair(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key, value


def _read(overrides: Mapping[str, str]) -> dict[str, Any]:
    """The values as YAML has them, which is how a study lists its variants."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    return {key: _plain(parser.parse_override(f"{key}={value}").value()) for key, value in overrides.items()}


def _plain(value: Any) -> Any:
    """As it is, but for Hydra's quoted texts."""
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _seeds(search: OptunaSearch) -> Sequence[str]:
    return [str(seed) for seed in search.seeds]


def _command(search: OptunaSearch) -> str:
    """With the folder of options that the search had, and the folder of the study beside it."""
    folders = search.option_folders
    if not folders:
        return shlex.join(["ablab", "--config-dir", str(search.folder), "-m", "study=best"])
    return shlex.join(
        ["ablab", "--config-dir", folders[0], "-m", f"hydra.searchpath=[file://{search.folder}]", "study=best"]
    )
