"""An activation that passes only what stands out, by a threshold that follows the size of its own inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.model.buffers import FloatBuffers
from ablab.model.ranks import sum_over_ranks
from ablab.model.spec import LayerSpec

STEER = 0.05  # by how much a share of zeros that is off by all changes the logarithm of the scale, per pass


class DynamicSparse(FloatBuffers):
    """x where x exceeds the threshold, zero elsewhere.

    The threshold is `scale` times a moving average of mean |x|, one number per layer or one per hidden unit:

        average <- alpha * average + (1 - alpha) * mean |x|      once per forward pass of the model in training mode

    * *Use, then update.* A batch meets the threshold that the batches before it have set. With a threshold from the
      batch itself, each output would depend on all other inputs of the batch, later positions included, and a causal
      model would see its future in training.
    * *No dead start.* The average is of the inputs, not of what passes, so it follows them down even where nothing
      passes. With `initial=0` the first batch meets a plain ReLU, and the threshold rises over about 1 / (1 - alpha)
      passes; an `initial` well above the inputs would block the gradient for as long.
    * Padding counts in nothing, so that it does not matter how far a batch is padded.
    * The average is part of the model's state: saved in checkpoints, fixed in evaluation, equal on all ranks.

    With a `target_sparsity` the scale is steered, too, again after its use:

        scale <- scale * exp(0.05 * (target_sparsity - share of zeros))

    an integral controller, which comes to rest only where the share of zeros is the target. The threshold stays at
    least zero, so that targets below the share of negative inputs are out of reach.

    With normally distributed inputs and scale 1 about 21 % of them pass.

    Args:
        alpha: momentum of the average, in [0, 1).
        initial: the average before the first batch, in units of x, at least 0.
        scale: threshold in units of the average, at least 0; where it is steered, what it starts from, above 0.
        per_channel: each hidden unit has an average of its own, over the batch's tokens.
        target_sparsity: share of zeros that the scale is steered to, above 0 and below 1; None: a fixed scale.

    Raises:
        ValueError: a number is out of its range.
    """

    heeds_padding = True
    average: Tensor  # () or (d_ff,)
    scale: Tensor  # ()

    def __init__(
        self,
        spec: LayerSpec,
        *,
        alpha: float,
        initial: float,
        scale: float,
        per_channel: bool = False,
        target_sparsity: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha must be at least 0 and below 1, got {alpha}")
        if initial < 0:
            raise ValueError(f"initial must be at least 0, got {initial}")
        if scale < 0:
            raise ValueError(f"scale must be at least 0, got {scale}")
        if target_sparsity is not None and not 0 < target_sparsity < 1:
            raise ValueError(f"target_sparsity must lie between 0 and 1 or be null, got {target_sparsity}")
        if target_sparsity is not None and scale == 0:
            raise ValueError("scale=0 cannot be steered to target_sparsity: start from a scale above 0")
        self.alpha, self.per_channel, self.target_sparsity = alpha, per_channel, target_sparsity
        # What was seen of the microbatches so far; None: batches come whole. A sum, since a compiled block would be
        # another one for each length of a list.
        self._so_far: Tensor | None = None
        shape = (spec.d_ff,) if per_channel else ()
        self.register_buffer("average", torch.full(shape, float(initial)))
        self.register_buffer("scale", torch.tensor(float(scale)))

    @property
    def by_unit(self) -> bool:
        """One threshold of all units is taken over all processes; of many, each would have to hold its own units'."""
        return not self.per_channel

    def forward(self, x: Tensor, missing: Tensor | None = None) -> Tensor:
        """x (B, T, d_ff) -> the same; `missing` (B, T) bool, true where there is no token: nothing follows that."""
        passed = torch.where(x > self.scale * self.average, x, 0.0)
        if self.training:
            seen = self._seen(x.detach(), passed.detach(), missing)
            if self._so_far is None:
                self._follow(sum_over_ranks(seen))
            else:
                self._so_far = self._so_far + seen
        return passed

    def begin_microbatches(self) -> None:
        """The calls until `end_microbatches` are parts of one batch: all of them meet the same threshold."""
        self._so_far = self.average.new_zeros(self.average.numel() + 2)

    def end_microbatches(self) -> None:
        assert self._so_far is not None
        so_far, self._so_far = self._so_far, None
        self._follow(sum_over_ranks(so_far))

    def _seen(self, x: Tensor, passed: Tensor, missing: Tensor | None) -> Tensor:
        """Sums over the tokens: |x|, of each unit if each has an average; numbers, and those that are zero."""
        if missing is not None:
            x, passed = (each.masked_fill(missing[..., None], 0.0) for each in (x, passed))
        tokens = tuple(range(x.dim() - 1)) if self.per_channel else tuple(range(x.dim()))
        # The 1-norm needs no copy of |x|. All travel together, since ranks may hold unequal batches.
        size = torch.linalg.vector_norm(x, ord=1, dim=tokens, dtype=torch.promote_types(x.dtype, torch.float32))
        count = size.new_tensor([x.numel()])
        if missing is not None:
            count = ((~missing).sum() * x.shape[-1]).to(size.dtype)[None]
        zeros = count - passed.count_nonzero() if self.target_sparsity is not None else count
        return torch.cat([size.flatten(), count, zeros])

    def _follow(self, seen: Tensor) -> None:
        size, count, zeros = seen.split([self.average.numel(), 1, 1])
        mean = (size * (self.average.numel() / count)).view(self.average.shape).to(self.average.dtype)
        none = (count == 0).squeeze()  # of nothing there is no mean, and nothing to follow
        self.average.lerp_(torch.where(none, self.average, mean), 1 - self.alpha)
        if self.target_sparsity is not None:
            change = (STEER * (self.target_sparsity - zeros / count)).exp().squeeze()
            self.scale.mul_(torch.where(none, 1.0, change).to(self.scale.dtype))

    def mechanism(self) -> dict[str, float]:
        """The threshold in units of x, over the hidden units if each has its own."""
        threshold = self.scale * self.average
        figures = {"threshold": threshold.mean().item()}
        if self.per_channel:
            figures |= {"threshold_min": threshold.min().item(), "threshold_max": threshold.max().item()}
        if self.target_sparsity is not None:
            figures["scale"] = self.scale.item()
        return figures
