"""What linear attentions have in common: a short convolution, decays from the input, and a recurrence of a state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from ablab.model.attention.block_cache import wide
from ablab.model.attention.cache import LayerCache, Step
from ablab.model.attention.convolution import ShortConvolution
from ablab.model.attention.kernel import without_autocast, working_dtype
from ablab.model.attention.layer import AttentionLayer, Rotate
from ablab.model.attention.projections import join_heads
from ablab.model.attention.recurrence import Recurrence
from ablab.model.context import LayerContext
from ablab.model.draws import dropout
from ablab.model.spec import LayerSpec

RATES = (1.0, 16.0)  # of forgetting, per unit of step size, as they are drawn at first
STEPS = (1e-3, 1e-1)  # sizes of the first steps of an input of zero


class LinearAttention(AttentionLayer):
    """Projections, convolution and gates around a `Recurrence`. Subclasses implement `streams`, `as_heads` and `leave`.

    The model's rotation of queries and keys is left aside, as in the papers: convolution and decay tell the order.

    Where the model is not causal the recurrence goes through the sequence in both directions with the same weights, and
    what they bring is added up (a bidirectional model of tied weights: Schiff et al. 2024, Caduceus, section 3.1). A
    token counts itself in both.

    A token that is padding is zero to the convolution and leaves the state as it is.

    Args:
        dropout: probability, on the features that go into the output projection.

    Raises:
        ValueError: dropout outside [0, 1), or the model groups its heads of keys and values: what shares here, and
            with whom, is a setting of the option.
    """

    rotates = False
    groups_heads = False
    speed_settings = ("chunk",)
    core: Recurrence
    convolution: ShortConvolution

    def __init__(self, spec: LayerSpec, *, core: Recurrence, dropout: float) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"attention.dropout must be at least 0 and below 1, got {dropout}")
        if spec.kv_heads != spec.n_heads:
            raise ValueError(
                f"model.n_kv_heads={spec.n_kv_heads}: linear attention has no keys and values to keep, and groups its "
                "heads by a setting of its own: use model.n_kv_heads=null"
            )
        self.causal, self.core, self.dropout = spec.causal, core, dropout

    def forward(self, x: Tensor, rotate: Rotate, key_padding_mask: Tensor | None = None) -> Tensor:
        content, log_decay, write = self.streams(x)
        if key_padding_mask is not None:
            content = content.masked_fill(key_padding_mask.unsqueeze(-1), 0.0)
        mixed = self._mix(content, log_decay, write, key_padding_mask)
        if not self.causal:
            back = None if key_padding_mask is None else key_padding_mask.flip(1)
            mixed = mixed + self._mix(content.flip(1), log_decay.flip(2), write.flip(2), back).flip(1)
        return self.leave(x, mixed)

    def new_cache(self, batch: int, capacity: int) -> LayerCache | None:
        if not self.causal:
            return None
        channels, taps = self.convolution.weight.shape
        like = self.convolution.weight
        return StateCache(batch, self.state_shape, (taps - 1, channels), like=like)

    def cache_numbers(self, length: int) -> int | None:
        channels, taps = self.convolution.weight.shape
        numbers = self.state_numbers + channels * (taps - 1)
        return wide(self.convolution.weight) * numbers if self.causal else None

    def extend(self, x: Tensor, context: LayerContext, cache: LayerCache) -> Tensor:
        step, cache = cast(Step, context.step), cast(StateCache, cache)
        content, log_decay, write = self.streams(x)
        # A sample's tokens come first: nothing of its own is convolved with what stands where it has none.
        q, k, v = self.as_heads(self.convolution.onward(cache.join(content, step)))
        mixed, state = self.core.onward(q, k, v, log_decay, write, step.padding, cache.state)
        cache.state.copy_(state)
        return self.leave(x, join_heads(self.read(mixed, v)))

    def _mix(self, content: Tensor, log_decay: Tensor, write: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """The convolution and the recurrence: (B, T, width of all heads)."""
        q, k, v = self.as_heads(self.convolution(content))
        return join_heads(self.read(self.core(q, k, v, log_decay, write, key_padding_mask), v))

    def streams(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each token by itself, of x (B, T, d_model): what is convolved (B, T, channels), the logarithm of the heads'
        decay (B, H, T), and how strongly they write (B, H, T)."""
        raise NotImplementedError

    def as_heads(self, convolved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (B, K, T, D) and values (B, H, T, Dv) of what was convolved."""
        raise NotImplementedError

    def read(self, mixed: Tensor, v: Tensor) -> Tensor:
        """What heads give, of what they read of the state and of their own values, (B, H, T, Dv) each."""
        return mixed

    def leave(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Norm, gate and output projection: (B, T, d_model)."""
        raise NotImplementedError

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """Of the states of all heads, of one sample."""
        raise NotImplementedError

    @property
    def state_numbers(self) -> int:
        """Of the states of all heads."""
        return math.prod(self.state_shape)

    def mechanism(self) -> dict[str, float]:
        """`state_bytes`: what generating one sequence keeps of it, however long: the state, and the convolution's last
        inputs, in single precision."""
        channels, taps = self.convolution.weight.shape
        return {"state_bytes": 4.0 * (self.state_numbers + channels * (taps - 1))}

    def drop(self, mixed: Tensor) -> Tensor:
        """Features with dropout."""
        return dropout(self, mixed, self.dropout)


class StateCache(LayerCache):
    """The state behind the last token, and the last inputs of the convolution, in single precision at least.

    Args:
        state, tail: shapes for one sample.
        like: a tensor on the device.
    """

    def __init__(self, batch: int, state: Sequence[int], tail: Sequence[int], *, like: Tensor) -> None:
        self.state, self.tail = (
            torch.zeros(batch, *shape, dtype=working_dtype(like), device=like.device) for shape in (state, tail)
        )

    def join(self, content: Tensor, step: Step) -> Tensor:
        """New inputs of the convolution (B, S, channels) behind those that are kept, which their last ones replace."""
        kept = self.tail.shape[1]
        joined = torch.cat([self.tail, content.to(self.tail.dtype)], 1)
        if step.there is None:
            self.tail.copy_(joined[:, content.shape[1] :])
        else:
            last = step.there.sum(1, keepdim=True) + torch.arange(kept, device=content.device)
            self.tail.copy_(joined.gather(1, last.unsqueeze(-1).expand(-1, -1, content.shape[2])))
        return joined.to(content.dtype)


class Decay(nn.Module):
    """The step size of each head and token, and how much it makes the state fade (Dao and Gu 2024, section 7).

        step = softplus(W x + bias),   log decay = -exp(log_rate) step

    Rates and the steps of an input of zero are drawn at first as Mamba-2's released code has it: rates uniformly, steps
    uniformly in their logarithm.
    """

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.project = nn.Linear(d_model, heads, bias=False)
        self.bias = nn.Parameter(torch.zeros(heads))
        self.log_rate = nn.Parameter(torch.zeros(heads))

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Fill the two vectors."""
        if name == "log_rate":
            parameter.uniform_(*RATES, generator=generator).log_()
        else:
            step = parameter.uniform_(*map(math.log, STEPS), generator=generator).exp_()
            parameter.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, d_model) -> step and log decay, (B, T, H) each, in single precision at least."""
        projected, dtype = self.project(x), working_dtype(x)
        with without_autocast(x.device):
            step = torch.logaddexp(projected.to(dtype) + self.bias.to(dtype), self.bias.new_zeros((), dtype=dtype))
            return step, -self.log_rate.to(dtype).exp() * step


class FeatureNorm(nn.RMSNorm):
    """Root mean squares of `groups` equal parts, in the precision of the weights: under autocast its input has less."""

    def __init__(self, features: int, *, eps: float, groups: int = 1) -> None:
        super().__init__(features, eps=eps)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        parts = x.to(self.weight.dtype).unflatten(-1, (self.groups, -1))
        return rms_norm(parts, parts.shape[-1:], eps=self.eps).flatten(-2) * self.weight
