"""What no search has: another launcher, what belongs to the study that compares, an environment without Optuna."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from ablab.config.composed import to_plain
from ablab.config.seeds import with_seeds
from ablab.config.tune import TuneSchema, said
from ablab.errors import UserError


def refuse_of_a_comparison(config: DictConfig, arguments: Sequence[str]) -> None:
    """Raises UserError where something is asked for that belongs to the study which follows."""
    follows = "give it to the study that compares what was found"
    if with_seeds(list(arguments), config.seed, to_plain(config.seeds))[1] is not None:
        raise UserError(f"seed=auto: a search has the seeds that it is given; {follows}")
    if config.budget.match is not None:
        raise UserError(f"budget.match={config.budget.match}: a search compares nothing; {follows}")
    for key in TuneSchema(**to_plain(config.tune)).grids:
        raise UserError(f"{said(key)}: Optuna searches here; leave one of them out")
    if config.ladder.sizes is not None:
        raise UserError(f"ladder: a search is of one size; {follows}")
    for arm in ("placebo", "chaos"):
        if config.design.get(arm):
            raise UserError(f"design.{arm}: a search compares nothing; {follows}")
    if config.hydra.runtime.choices.get("study") is not None:
        raise UserError(
            f"study={config.hydra.runtime.choices.study}: a search takes all that it varies from its command, so that "
            "the study which follows can have it; give the settings there"
        )


def refuse_launcher(target: str, ours: str) -> None:
    """Raises UserError where runs are to be carried out by another launcher than ours."""
    if target != ours:
        raise UserError(
            f"hydra.launcher._target_={target}: a search is carried out by ablab's own launcher; leave it out"
        )


def refuse_without_optuna() -> None:
    """Raises UserError where Optuna is not installed, or an old one."""
    try:
        import optuna
    except ImportError:
        raise UserError("hydra/sweeper=optuna: Optuna is not installed; pip install 'optuna>=4'") from None
    if not hasattr(optuna.distributions, "FloatDistribution"):  # of version 3, and later ones
        raise UserError(f"hydra/sweeper=optuna: needs Optuna 4, and {optuna.__version__} is installed")
