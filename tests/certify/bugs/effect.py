"""What is claimed and does not hold: an effect, an identity at the start, what a part says of itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ablab.model.attention.base import AttentionCore, repeat_heads
from ablab.model.attention.full import FullAttention
from ablab.model.attention.windowed import WindowedAttention
from ablab.model.context import LayerContext
from ablab.model.feed_forward.base import Dense
from ablab.model.layer_fusion.base import LayerFusion
from ablab.model.norm import LayerNorm, Norm, Placement
from ablab.model.position import Position
from ablab.model.residual.base import Part, Residual
from ablab.model.spec import LayerSpec
from bugs.tempered import Tempered


class NotScaled(FullAttention):
    """The scores are not divided by sqrt(D), while what the core tells of its weights says that they are."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        return super().attend(q * math.sqrt(q.shape[-1]), k, v, key_padding_mask)


class SeesMoreThanItSays(FullAttention):
    """Says that it sees a window of 8 keys, and attends to all."""

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        distance = positions[:, None] - torch.arange(k.shape[2], device=k.device)
        return (distance >= 0) & (distance < 8)


class WindowNeverApplied(FullAttention):
    """Takes the size of a window, and attends to everything: full attention under another name."""

    def __init__(self, spec: LayerSpec, *, window: int = 16) -> None:
        super().__init__(spec)
        self.window = window


class GlobalTokensForgotten(WindowedAttention):
    """Takes a number of global tokens, and does not hand it on."""

    def __init__(self, spec: LayerSpec, *, window: int = 16, global_tokens: int = 2) -> None:
        super().__init__(spec, window=window)


class Rectified(nn.Module):
    """The default activation under another name."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0)


class LeakOfAConstant(nn.Module):
    """Takes a slope, and uses another one."""

    def __init__(self, spec: LayerSpec, *, slope: float = 0.2) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(x, 0.1)


class EpsIgnored(Norm):
    """Takes an eps, and divides by another one."""

    def __init__(self, spec: LayerSpec, *, placement: Placement = "pre", eps: float = 1e-2) -> None:
        super().__init__(spec, placement=placement, eps=eps, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.weight


class LayerNormAgain(LayerNorm):
    """A new norm whose line was commented out: the default."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class PlainAgain(Residual):
    """A scale that is a constant 1: the default."""

    def forward(self, state: Tensor, part: Part) -> Tensor:
        return state + 1.0 * part(state)


class LastAgain(LayerFusion):
    """Weights of the layers that are all on the last one, for good: the default."""

    def weigh(self, streams: Sequence[Tensor], key_padding_mask: Tensor | None) -> Tensor:
        weights = torch.zeros(self.n_layers, dtype=streams[-1].dtype)
        weights[-1] = 1
        return weights


class PositionOfZero(Position):
    """A table that is multiplied by zero: nothing tells the order but the mask."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(spec.max_length, spec.d_model))

    def add(self, x: Tensor, offset: int = 0) -> Tensor:
        return x + 0.0 * self.weight[offset : offset + x.shape[1]]

    def add_at(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + 0.0 * self.weight[positions]


class NoIdentityAtTheStart(Residual):
    """Says that training starts as `plain`, and its mix of the stream's halves is none at the start."""

    starts_as = "plain"

    def __init__(self, spec: LayerSpec, *, place: int) -> None:
        super().__init__(spec, place=place)
        self.mix = nn.Parameter(torch.full((1,), 0.3))

    def forward(self, state: Tensor, part: Part) -> Tensor:
        return state + part(state) + self.mix * state.roll(state.shape[-1] // 2, -1)


class HeadsThatTalk(Tempered):
    """Says that each head works by itself, and mixes them."""

    by_head = True

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        out = super().attend(q, k, v, key_padding_mask)
        return out + 0.3 * out.roll(1, 1)


class UnitsThatTalk(nn.Module):
    """Says that each hidden unit works by itself, and takes a softmax over all of them."""

    by_unit = True

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(-1) * x.shape[-1] * x


class SaysInactive(Dense):
    """Says that tokens have nothing to do with its parameters, which they all have."""

    @property
    def inactive_parameters(self) -> int:
        return sum(each.numel() for each in self.parameters())


class CheapOnMeta(Tempered):
    """Where FLOPs are counted, on tensors without values, it does almost nothing."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        if q.is_meta:
            return repeat_heads(v, q.shape[1]) * self.temperature[:, None, None]
        return super().attend(q, k, v, key_padding_mask)


class _Hidden(torch.autograd.Function):
    """A product whose operators no counter sees."""

    @staticmethod
    def forward(ctx: object, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)  # type: ignore[attr-defined]
        return torch.from_numpy(x.detach().numpy() @ weight.detach().numpy()) if not x.is_meta else x.new_empty(x.shape)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        if x.is_meta:
            return x.new_empty(x.shape), weight.new_empty(weight.shape)
        of_x = torch.from_numpy(grad.numpy() @ weight.detach().numpy().T)
        of_weight = x.flatten(0, -2).detach().numpy().T @ grad.flatten(0, -2).numpy()
        return of_x, torch.from_numpy(of_weight)


class HiddenProducts(nn.Module):
    """Most of its work is done by NumPy, where no FLOP is counted."""

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spec.d_ff, spec.d_ff))

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = _Hidden.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return x.relu() + mixed


class KernelWithOtherMask(AttentionCore):
    """Hands a mask to the fused kernel with True for what is hidden: it wants True for what is seen."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        hidden = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
        if key_padding_mask is not None:
            hidden = hidden | key_padding_mask[:, None, None, :]
        k, v = (repeat_heads(each, q.shape[1]) for each in (k, v))
        return scaled_dot_product_attention(q, k, v, attn_mask=hidden).nan_to_num(0)

    def visited(self, q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
        return torch.arange(k.shape[2], device=k.device) <= positions[:, None]


class ValuesOfNobody(Residual):
    """Says that layers share something, and hands on the context as it is."""

    shares = True

    def given(self, context: LayerContext) -> LayerContext:
        return replace(context)
