"""An activation that passes only what stands out, by a threshold that follows the size of its own inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.model.ranks import sum_over_ranks
from ablab.model.spec import LayerSpec


class DynamicSparse(nn.Module):
    """x where x exceeds the threshold, zero elsewhere.

    The threshold is `scale` times a moving average of mean |x|, one number per layer:

        average <- alpha * average + (1 - alpha) * mean |x|      once per forward pass in training mode

    * *Use, then update.* A batch meets the threshold that the batches before it have set. With a threshold from the
      batch itself, each output would depend on all other inputs of the batch, later positions included, and a causal
      model would see its future in training.
    * *No dead start.* The average is of the inputs, not of what passes, so it follows them down even where nothing
      passes. With `initial=0` the first batch meets a plain ReLU, and the threshold rises over about 1 / (1 - alpha)
      passes; an `initial` well above the inputs would block the gradient for as long.
    * The average is part of the model's state: saved in checkpoints, fixed in evaluation, equal on all ranks.

    With normally distributed inputs and scale 1 about 21 % of them pass.

    Args:
        alpha: momentum of the average, in [0, 1).
        initial: the average before the first batch, in units of x, at least 0.
        scale: threshold in units of the average, at least 0.
    """

    average: Tensor

    def __init__(self, spec: LayerSpec, *, alpha: float, initial: float, scale: float) -> None:
        super().__init__()
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha must be at least 0 and below 1, got {alpha}")
        if initial < 0:
            raise ValueError(f"initial must be at least 0, got {initial}")
        if scale < 0:
            raise ValueError(f"scale must be at least 0, got {scale}")
        self.alpha, self.scale = alpha, scale
        self.register_buffer("average", torch.tensor(float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        passed = torch.where(x > self.scale * self.average, x, 0.0)
        if self.training:
            self._update(x.detach())
        return passed

    def _update(self, x: Tensor) -> None:
        # The 1-norm needs no copy of |x|. Sum and count travel together, since ranks may hold unequal batches.
        total = torch.linalg.vector_norm(x, ord=1, dtype=torch.promote_types(x.dtype, torch.float32))
        total, count = sum_over_ranks(torch.stack([total, torch.full_like(total, x.numel())]))
        self.average.lerp_((total / count).to(self.average.dtype), 1 - self.alpha)

    def mechanism(self) -> dict[str, float]:
        return {"threshold": self.scale * self.average.item()}
