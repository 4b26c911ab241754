"""From the overrides of a multirun to a plan: a list of runs, each a list of overrides.

The plan is the Cartesian product of the swept overrides, in their order. It is checked as a whole before anything is
written: a sweep does not start if one of its runs cannot be composed or built.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ablab.config import freeze
from ablab.errors import UserError
from ablab.results.store import check_ours
from ablab.study.planning.budget import meet_budgets
from ablab.study.planning.grid import check_tuning
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision.supervisor import warm_up


def prepare_sweep(loader: ConfigLoader, config: DictConfig, arguments: list[str]) -> list[list[str]]:
    """The plan of a sweep, checked, with the folder of the sweep ready to be written to.

    Args:
        config: of the multirun as a whole, with Hydra's own node.
        arguments: overrides, swept or not.

    Returns:
        A list of overrides per run.

    Raises:
        UserError: a run of the plan cannot be composed or built; nothing has been written.
    """
    warm_up()  # imports on another core while the plan is checked here
    plan = plan_product(OverridesParser.create(config_loader=loader).parse_overrides(arguments))
    preflight = Preflight()
    composed = [compose_run(loader, config, overrides) for overrides in plan]
    for overrides, (frozen, folder) in zip(plan, composed, strict=True):
        try:
            preflight.check(frozen)
            check_ours(folder)
        except UserError as error:
            shown = " ".join(o for o in overrides if not o.startswith(("hydra.", "index=", "variant=")))
            raise UserError(str(error) if len(plan) == 1 else f"{error} [in the run {shown}]") from error
    check_tuning(plan, [frozen for frozen, _ in composed])
    plan = meet_budgets(plan, [frozen for frozen, _ in composed], preflight)
    make_folder(Path(config.hydra.sweep.dir))
    return plan


def compose_run(loader: ConfigLoader, config: DictConfig, overrides: list[str]) -> tuple[dict[str, Any], Path]:
    """The frozen config of one run of a sweep, and its folder."""
    composed = loader.load_sweep_config(config, overrides)
    with read_write(composed), open_dict(composed):
        composed.hydra.job.num = composed.index
        composed.hydra.job.id = str(composed.index)
        HydraConfig.instance().set_config(composed)  # what the resolver ${hydra:...} reads
        folder = Path(composed.hydra.sweep.dir, composed.hydra.sweep.subdir)
        choices = OmegaConf.to_container(composed.hydra.runtime.choices)
        asked = OmegaConf.to_container(composed.hydra.overrides.task)
        del composed["hydra"]
    return freeze(composed, choices, asked), folder  # type: ignore[arg-type]


def plan_product(overrides: list[Override]) -> list[list[str]]:
    """Every combination of the swept values: a list of overrides per run, with its `variant`, `index` and folder.

    Of two overrides of the same key the later one counts, and of equal values one. The seed may be swept, but does
    not make a variant.

    Raises:
        UserError: a sweep that has no list of values (`interval`), or one over the name of the study.
    """
    choices: dict[str, list[str]] = {}
    swept: list[str] = []
    for override in overrides:
        key = override.get_key_element()
        swept = [name for name in swept if name != key]
        choices.pop(key, None)
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise UserError(f"{override.input_line}: needs a list of values, such as {key}=1,2,3")
            if key == "name":
                raise UserError(f"{override.input_line}: a sweep is one study, and has one name")
            choices[key] = list(dict.fromkeys(f"{key}={value}" for value in override.sweep_string_iterator()))
            swept.append(key)
        elif override.is_delete():
            choices[key] = [str(override.input_line)]
        else:
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
    varied = [key for key in swept if key != "seed" and len(choices[key]) > 1]
    runs = []
    for index, combination in enumerate(itertools.product(*choices.values())):
        chosen = dict(zip(choices, combination, strict=True))
        variant = ",".join(chosen[key] for key in varied)
        seed = folder_name(chosen["seed"]) if "seed" in chosen else "seed=${seed}"  # which a study file may give
        folder = f"{folder_name(variant)}/{seed}" if variant else seed
        labels = [f"variant={_quoted(variant)}", f"index={index}", f"hydra.sweep.subdir={_quoted(folder)}"]
        runs.append([*combination, *labels])
    return runs


def folder_name(text: str) -> str:
    """`text` as the name of one folder: readable, and without characters that shells or file systems object to.

    Different texts have different names: one that had to be changed ends in a hash of the text.
    """
    name = re.sub(r"[^\w.,=+-]", "_", text, flags=re.ASCII)[:200]
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def make_folder(folder: Path) -> None:
    """Create `folder`. Raises UserError if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write there ({error.strerror}); choose another with hydra.sweep.dir=..."
        ) from error


def _quoted(text: str) -> str:
    return QuotedString(text=text, quote=Quote.single).with_quotes()
