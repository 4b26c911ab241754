"""Hyper-connections: several streams side by side, of which a part reads a sum and adds to each.

Every connection has three sets of weights: by which the streams are *collapsed* into what the part reads, by which what
it gives is *expanded* onto the streams, and by which the streams are *mixed* with each other on their way past it. They
are computed, and the streams summed up, in float32 at least, whatever the rest of the model is computed in.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

from ablab.model.context import full_precision
from ablab.model.residual.base import Ends, Part, Residual, share_entropy
from ablab.model.residual.sinkhorn import sinkhorn
from ablab.model.spec import LayerSpec, require_at_least

START = 0.01  # of what a connection takes from its input: the factor in front of it (both papers)
NORM_EPS = 1e-6


class Weights(NamedTuple):
    """The weights of a connection, for each token (B, T, ...), or without these dimensions the same for all."""

    collapse: Tensor  # (..., n): of each stream in what the part reads
    expand: Tensor  # (..., n): of what the part gives in each stream
    mix: Tensor  # (..., n, n): row i holds the weights of the old streams in the new stream i


class Streams(Residual):
    """n streams: the state is (B, T, n, d_model). Options give the weights by `connection`.

    Args:
        streams: n, at least 2.

    Raises:
        ValueError: fewer than 2.
    """

    is_stream = False
    sees = ("mix_distance", "row_error", "column_error", "collapse_entropy", "stream_spread")

    def __init__(self, spec: LayerSpec, *, place: int, streams: int) -> None:
        super().__init__(spec, place=place)
        require_at_least(1, "residual.streams", streams)
        if streams == 1:
            raise ValueError("residual.streams=1 leaves nothing to mix: take more, or residual=plain")
        self.streams = streams

    def connection(self, streams: Tensor) -> Weights:
        """The weights for the streams (B, T, n, d_model), which come in the precision that they are to have."""
        raise NotImplementedError

    def forward(self, state: Tensor, part: Part) -> Tensor:
        with full_precision(state.device.type):
            exact = state.to(torch.promote_types(state.dtype, torch.float32))
            collapse, expand, mix = self.connection(exact)
            mixed = torch.cat([collapse.unsqueeze(-2), mix], -2) @ exact  # one product for both
        added = part(mixed[..., 0, :].to(state.dtype))
        return (mixed[..., 1:, :] + expand.unsqueeze(-1) * added.unsqueeze(-2)).to(state.dtype)

    def seen(self, state: Tensor) -> list[Tensor]:
        """What the weights and the streams are like; each of the first three is a root mean square.

        * `mix_distance`: of the differences between the mix and the identity, times sqrt(n)
        * `row_error`, `column_error`: of the sums of the mix's rows and columns less 1
        * `collapse_entropy`: of the streams' shares in what the part reads, over the largest that it can be
        * `stream_spread`: the distance of the streams from their mean over their size; at 0 they are all the same
        """
        exact = state.to(torch.promote_types(state.dtype, torch.float32))
        collapse, _, mix = self.connection(exact)
        away = (mix - torch.eye(self.streams, dtype=mix.dtype, device=mix.device)).square().sum((-1, -2)) / self.streams
        rows, columns = ((mix.sum(dim) - 1).square().mean(-1) for dim in (-1, -2))
        spread = (exact - exact.mean(-2, keepdim=True)).norm(dim=(-1, -2)) / exact.norm(dim=(-1, -2))
        return [away.sqrt(), rows.sqrt(), columns.sqrt(), share_entropy(collapse.abs()), spread.nan_to_num(0)]

    def ends(self, spec: LayerSpec) -> Ends:
        return MeanOfStreams(self.streams)

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Leave every parameter as the constructor made it: the start is the plain residual."""


class MeanOfStreams(Ends):
    """Every stream begins as the embedded tokens; in the end their mean is read."""

    def __init__(self, streams: int) -> None:
        super().__init__()
        self.streams = streams

    def begin(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-2).repeat_interleave(self.streams, -2)

    def forward(self, state: Tensor) -> Tensor:
        return state.mean(-2)


class HyperConnections(Streams):
    """Hyper-connections (Zhu et al. 2024, arXiv 2409.19606, section 2), static or dynamic.

    The static weights are learned numbers: collapse reads one stream at the start, another one in each place, expand
    is 1, and mix the identity. The dynamic ones add s tanh(norm(h_i) W) for each stream h_i of each token, W from 0 and
    s from 0.01. Training starts as `plain`.

    Deviations: in the end the streams' mean is read instead of their sum, so that the last norm is given what it is
    given by `plain`; the norm in front of W has no factor and offset of its own, which W and the static weights absorb.

    Args:
        dynamic: the weights depend on the token.
    """

    parameter_groups: ClassVar = {"mix": "not_decayed"}  # as the paper has all static weights

    starts_as = "plain"

    def __init__(self, spec: LayerSpec, *, place: int, streams: int = 4, dynamic: bool = True) -> None:
        super().__init__(spec, place=place, streams=streams)
        self.collapse = nn.Parameter((torch.arange(streams) == place % streams).to(torch.get_default_dtype()))
        self.expand = nn.Parameter(torch.ones(streams))
        self.mix = nn.Parameter(torch.eye(streams))
        self.dynamic = dynamic
        if dynamic:  # of a stream to its weights in what is read, in each new stream, and of what is given to it
            self.moving = nn.Parameter(torch.zeros(streams + 2, spec.d_model))
            self.strength = nn.Parameter(torch.full((2,), START))  # of the first two, and of the last

    def connection(self, streams: Tensor) -> Weights:
        static = Weights(*(each.to(streams.dtype) for each in (self.collapse, self.expand, self.mix)))
        if not self.dynamic:
            return static
        moved = (layer_norm(streams, streams.shape[-1:]) @ self.moving.to(streams.dtype).T).tanh()
        reads, mixes, gives = moved.split([1, self.streams, 1], -1)
        return Weights(
            static.collapse + self.strength[0] * reads.squeeze(-1),
            static.expand + self.strength[1] * gives.squeeze(-1),
            static.mix + self.strength[0] * mixes.transpose(-1, -2),
        )


class ManifoldHyperConnections(Streams):
    """Hyper-connections whose mix is doubly stochastic, so that past all layers the streams' mean stays what it was.

    mHC (Xie et al. 2025, arXiv 2512.24880, section 4; DeepSeek-V4, section 2.2). All weights are functions of the
    streams of a token, one behind the other and RMS-normalised, times a matrix and a gate (from 0.01), plus a bias:
    collapse their sigmoid, expand twice their sigmoid, mix the Sinkhorn-Knopp iteration on their exponential.

    The matrix starts at 0, and the biases so that collapse reads mostly one stream, another one in each place, with
    weights that add up to 1, expand is 1, and mix near the identity: training starts as `plain`. The papers say nothing
    of the biases. Were all streams read alike, all would be told the same by every gradient, and never come apart.

    Args:
        rounds: of Sinkhorn-Knopp, each over rows and columns.
        eps: added to collapse, to the exponential and to sums before they divide, at least 0.
        own: the share of a stream in itself, in the mix, and of the stream that is read in what is read, both at the
            start; above 1 / streams and below 1.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(
        self,
        spec: LayerSpec,
        *,
        place: int,
        streams: int = 4,
        rounds: int = 20,
        eps: float = 1e-6,
        own: float = 0.9,
    ) -> None:
        super().__init__(spec, place=place, streams=streams)
        require_at_least(1, "residual.rounds", rounds)
        if not 1 / streams < own < 1:
            raise ValueError(f"residual.own must be above 1 / streams and below 1, got {own}")
        self.rounds, self.eps = rounds, eps
        sizes = streams, streams, streams * streams
        other = (1 - own) / (streams - 1)
        if not 0 <= eps < other:
            raise ValueError(f"residual.eps must be at least 0 and below {other:.3g}, the least share, got {eps}")
        shares = torch.full((streams, streams), other).fill_diagonal_(own)
        collapse = (shares[place % streams] - eps).logit()
        self.weight = nn.Parameter(torch.zeros(sum(sizes), streams * spec.d_model))
        self.bias = nn.Parameter(torch.cat([collapse, torch.zeros(streams), shares.log().flatten()]))
        self.gates = nn.Parameter(torch.full((3,), START))  # of collapse, expand and mix

    def connection(self, streams: Tensor) -> Weights:
        n = self.streams
        weight, bias, gates = (each.to(streams.dtype) for each in (self.weight, self.bias, self.gates))
        moved = _flat(streams) @ weight.T
        sizes = [n, n, n * n]
        collapse, expand, mix = (
            gate * own + start
            for gate, own, start in zip(gates, moved.split(sizes, -1), bias.split(sizes), strict=True)
        )
        ways = sinkhorn(mix.unflatten(-1, (n, n)), rounds=self.rounds, eps=self.eps)
        return Weights(collapse.sigmoid() + self.eps, 2 * expand.sigmoid(), ways.transpose(-1, -2))

    def ends(self, spec: LayerSpec) -> Ends:
        return CollapsedStreams(spec, self.streams, self.eps)


class CollapsedStreams(MeanOfStreams):
    """In the end the streams are collapsed by weights like those of a connection (DeepSeek-V4)."""

    sees = ("head_collapse_entropy",)

    def __init__(self, spec: LayerSpec, streams: int, eps: float) -> None:
        super().__init__(streams)
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(streams, streams * spec.d_model))
        self.bias = nn.Parameter((torch.full((streams,), 1 / streams) - eps).logit())
        self.gates = nn.Parameter(torch.full((1,), START))

    def forward(self, state: Tensor) -> Tensor:
        with full_precision(state.device.type):
            exact = state.to(torch.promote_types(state.dtype, torch.float32))
            return (self.collapse(exact).unsqueeze(-2) @ exact).squeeze(-2).to(state.dtype)

    def collapse(self, streams: Tensor) -> Tensor:
        """The weights of the streams (B, T, n, d_model), (B, T, n)."""
        weight, bias, gate = (each.to(streams.dtype) for each in (self.weight, self.bias, self.gates))
        return (gate * (_flat(streams) @ weight.T) + bias).sigmoid() + self.eps

    def seen(self, state: Tensor) -> list[Tensor]:
        return [share_entropy(self.collapse(state.to(torch.promote_types(state.dtype, torch.float32))))]

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Leave every parameter as the constructor made it."""


def _flat(streams: Tensor) -> Tensor:
    """The streams of a token one behind the other, RMS-normalised: (B, T, n, d_model) -> (B, T, n d_model)."""
    flat = streams.flatten(-2)
    return rms_norm(flat, flat.shape[-1:], eps=NORM_EPS)
