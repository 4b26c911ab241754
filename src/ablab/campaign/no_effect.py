"""Is the function of a proposal's model the baseline's? Found before anything is trained, so that it costs no run."""

from __future__ import annotations

import torch

from ablab.analysis.evidence import same_function
from ablab.config import RunConfig
from ablab.config.axes import called_by
from ablab.config.identity import differences
from ablab.model.protocols import FollowsBatches, FollowsSteps, PenalisedByPass, Resampled, offering
from ablab.model.transformer import Transformer
from ablab.study.planning.preflight import Preflight
from ablab.training.build import BuiltRun
from ablab.training.function_probe import function_responses

_CHANGING = (Resampled, FollowsSteps, FollowsBatches, PenalisedByPass)  # components that may be others later on


def has_no_effect(proposal: RunConfig, baseline: RunConfig, preflight: Preflight) -> bool:
    """Whether logits, gradients and the first update are equal but for rounding, and nothing can part them later.

    That is asked of proposals that change the model alone, with the same parameters and buffers, none of whose
    components follows the steps of the training. Of others the first run tells.
    """
    model_made = {"model", "axes", "overrides", *(axis.name for axis in called_by("model", "multimodal"))}
    if any(key.split(".")[0] not in model_made for key, _, _ in differences(proposal.to_dict(), baseline.to_dict())):
        return False
    own, base = (BuiltRun(config=config, task=preflight.task(config)) for config in (proposal, baseline))
    if _state(own.shapes) != _state(base.shapes) or _may_change(own.shapes) or _may_change(base.shapes):
        return False
    told = [function_responses(built, built.build_model(), torch.device("cpu")) for built in (own, base)]
    return bool(same_function(*told))


def _state(model: Transformer) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _may_change(model: Transformer) -> bool:
    return any(any(True for _ in offering(model, offer)) for offer in _CHANGING)
