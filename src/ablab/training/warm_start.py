"""Going on from the checkpoint of another run: the same one, carried out by another strategy or number of processes.

Or a trunk of the same seed, whose components are exchanged: a fork (`ablab.training.fork`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ablab.config import EXECUTION_KEYS, IDENTITY_EXCLUDES, RunConfig, fingerprint
from ablab.config.axes import called_by
from ablab.config.identity import differences
from ablab.config.placebo import KEY as PLACEBO
from ablab.config.trust import foreign
from ablab.errors import UserError
from ablab.results.run_folder import check_ours, read_config
from ablab.results.store import CHECKPOINT_FOLDER, CONFIG_FILE
from ablab.training.checkpoint_list import Found, Origin, newest_listed, newest_whole

# What may differ: how the run is carried out, not what it computes.
_MAY_DIFFER = frozenset(
    {
        *IDENTITY_EXCLUDES,
        *EXECUTION_KEYS,
        *("continue_from", "strategy", "axes.strategy", "axes.trainer"),
        *("trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.compile"),
        "trainer.max_steps",  # the schedule's steps are its own, and the same
    }
)
# What may differ besides, in a fork: components, and what makes a run a placebo.
_COMPONENTS = frozenset({axis.name for axis in called_by("model")} - {"objective"})


def check_origin(config: RunConfig) -> None:
    """Refuse a `continue_from` that this run cannot go on from; nothing is read but the other run's config.

    Raises:
        UserError: no run lies there, or it differs from this one in more than strategy and devices.
    """
    if config.continue_from is not None:
        _config_of(config)


def check_steps_left(config: RunConfig, own: Path) -> None:
    """Refuse a `continue_from` that has nothing left for a run in the folder `own`; only checksums are read.

    A run that has a checkpoint of its own goes on from that, whatever has become of the other one.

    Raises:
        UserError: the other run has written no checkpoint, or none with steps left.
    """
    if config.continue_from is None or newest_listed(own / CHECKPOINT_FOLDER, fingerprint(config)) is not None:
        return
    other, folder = _config_of(config), Path(config.continue_from)
    step = newest_listed(folder / CHECKPOINT_FOLDER, fingerprint(other))
    if step is None:
        raise UserError(f"continue_from={folder}: no checkpoint to go on from (none is listed that it has written)")
    _refuse_finished(config, step)


def origin_of(config: RunConfig, corpus: str) -> tuple[Found | None, str]:
    """The newest checkpoint to go on from, and a line that says whose it is; (None, "") if the run asks for none.

    Args:
        corpus: the hash of the data that it must have been trained on.

    Raises:
        UserError: there is no whole one of the same data, it is of the last step, or `check_origin` refuses.
    """
    if config.continue_from is None:
        return None, ""
    other, folder = _config_of(config), Path(config.continue_from)
    found, damaged = newest_whole(folder / CHECKPOINT_FOLDER, Origin(run=fingerprint(other), corpus=corpus))
    if found is None:
        why = "; ".join(damaged) or "it has not written any, or learned from other data"
        raise UserError(f"continue_from={config.continue_from}: no checkpoint to go on from ({why})")
    _refuse_finished(config, found.step)
    whose = f"{other.chosen('strategy')}, processes={other.processes}"
    return found, f"went on from step {found.step} of {folder} ({whose})"


def _refuse_finished(config: RunConfig, step: int) -> None:
    if step >= (steps := config.trainer.max_steps):
        raise UserError(
            f"continue_from={config.continue_from}: that run has taken all of its {steps} steps: nothing is left"
        )


def _config_of(config: RunConfig) -> RunConfig:
    folder = Path(str(config.continue_from))
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"continue_from={folder}: not the folder of a run (no {CONFIG_FILE} in it)")
    check_ours(folder)
    try:
        earlier = read_config(folder)
    except UserError as error:
        raise UserError(f"continue_from={folder}: {error}") from error
    for key in _differing(earlier, config):
        if not _of_component(key):
            raise UserError(f"continue_from={folder}: that run has another {key}; {_hint(key)}")
    _admit(earlier, config, folder)
    return earlier


def _admit(earlier: RunConfig, config: RunConfig, folder: Path) -> None:
    """Refuse a trunk whose components, which are built anew, are neither this run's own nor ablab's."""
    others = {axis: node for axis, node in earlier.options.items() if node != config.options.get(axis)}
    if named := next(foreign({axis: node for axis, node in others.items() if axis in _COMPONENTS}), None):
        raise UserError(f"continue_from={folder}: that run asks for {named}, which is not ablab's own and is not built")


def trunk_of(config: RunConfig) -> RunConfig | None:
    """The config of the run that this one goes on from as a fork; None where no component differs."""
    if config.continue_from is None:
        return None
    earlier = _config_of(config)
    return earlier if any(_differing(earlier, config)) else None


def _differing(earlier: RunConfig, config: RunConfig) -> Iterator[str]:
    """Each key in which the two differ and may not, but in a fork."""
    return (key for key, *_ in differences(earlier.to_dict(), config.to_dict(), _MAY_DIFFER))


def _of_component(key: str) -> bool:
    return key == PLACEBO or key.split(".")[0] in _COMPONENTS


def _hint(key: str) -> str:
    if key == "schedule.total_steps":
        return "give a trunk the steps of the whole course: schedule.total_steps=..."
    return "only components, strategy, trainer.devices, num_nodes, accelerator and compile may differ"
