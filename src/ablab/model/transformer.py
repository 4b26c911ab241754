"""The transformer: embedding, position, blocks, layer fusion, norm and head.

It gets its components as factories and never asks which options they are. `ablab.model.multimodal` is the same for
inputs of several modalities.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Unpack, overload

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ablab.config.placebo import NUDGE, Placebo
from ablab.model.attention.projections import scaled
from ablab.model.block import Block
from ablab.model.context import LayerContext
from ablab.model.draws import Dropout
from ablab.model.feed_forward.base import Dense, FeedForward
from ablab.model.initialisation import initialise, keyed_generator
from ablab.model.layer_fusion.base import LastLayer, LayerFusion
from ablab.model.norm import LayerNorm, Norm
from ablab.model.objective.base import Asked, Objective
from ablab.model.placebo import HEADS, nudge
from ablab.model.position import Position
from ablab.model.protocols import FollowsBatches, FollowsSteps, Penalised, Resampled, SumsOverPass, offering
from ablab.model.residual.base import Residual
from ablab.model.spec import ClashError, LayerSpec, require_at_least

if TYPE_CHECKING:
    from ablab.model.generate import Generated


class Transformer(nn.Module):
    """A transformer over tokens.

    Args:
        vocab_size: tokens are 0..vocab_size-1.
        max_length: longest sequence, in tokens.
        trained_length: of those that its weights were learned from, where it is made for longer ones; None: as long.
        seed: of the parameters. Building the model neither reads nor moves the global random state.
        d_model: width of the residual stream.
        n_heads: attention heads per layer; must divide d_model.
        n_kv_heads: heads of keys and values, each shared by n_heads / n_kv_heads neighbouring queries; must divide
            n_heads; None means as many.
        n_layers: blocks.
        d_ff: hidden units of the feed-forward part; None means 4 d_model.
        dropout: probability, on the embedding and on what each half of a block adds to the stream.
        tie_embeddings: the head shares its weights with the embedding (Press and Wolf 2017), where it gives tokens.
        bias: linear layers and layer norms have biases; the head never has one.
        causal: a position sees itself and earlier ones only.
        padding: the token that stands for no token, which nobody attends to; None: there is none.
        pooled: one answer for the whole sequence, read from the mean over its tokens, not one at every position.
        n_outputs: classes to choose from, by a head of its own; None: tokens.
        attention: makes a layer's attention core, or the whole of its attention; see `ablab.model.attention`.
        activation: makes the activation of a feed-forward part; see `ablab.model.activation`.
        position: makes the position, one for all layers; see `ablab.model.position`.
        norm: makes each norm; see `ablab.model.norm`. There is a last one before the head unless norms come last.
        feed_forward: makes a layer's feed-forward part, of the spec and `activation`; see `ablab.model.feed_forward`.
        residual: makes each residual connection, two for each block; see `ablab.model.residual`.
        layer_fusion: makes what joins the layers' outputs for the head; see `ablab.model.layer_fusion`.
        objective: makes what is asked for beside the task's loss; see `ablab.model.objective`.
        placebo: "draw", "order" or "nudge": be an arm that cannot matter; see `ablab.model.placebo`. None: do not.

    Attributes:
        modalities: names of those that an input has; none of tokens.
        each_block_once: whether a forward pass calls each block exactly once and as a whole.
        output_factor: multiplies what the head reads; see `ablab.model.parametrisation`.

    Raises:
        ValueError: a size or an option is out of its range, or options do not work together (`ClashError`).
    """

    modalities: Sequence[str] = ()
    each_block_once: bool = True
    output_factor: float = 1.0

    def __init__(
        self,
        *,
        vocab_size: int,
        max_length: int,
        trained_length: int | None = None,
        seed: int,
        d_model: int,
        n_heads: int,
        n_layers: int,
        n_kv_heads: int | None = None,
        d_ff: int | None = None,
        dropout: float = 0.0,
        tie_embeddings: bool = True,
        bias: bool = True,
        causal: bool = True,
        padding: int | None = None,
        pooled: bool = False,
        n_outputs: int | None = None,
        attention: Callable[[LayerSpec], nn.Module],
        activation: Callable[[LayerSpec], nn.Module],
        position: Callable[[LayerSpec], Position],
        norm: Callable[[LayerSpec], Norm] = LayerNorm,
        feed_forward: Callable[..., FeedForward] = Dense,
        residual: Callable[..., Residual] = Residual,
        layer_fusion: Callable[[LayerSpec], LayerFusion] = LastLayer,
        objective: Callable[..., Objective] = Objective,
        placebo: Placebo | None = None,
    ) -> None:
        super().__init__()
        self._context_hooks: OrderedDict[int, Callable[[LayerContext], None]] = OrderedDict()
        require_at_least(1, "vocab_size", vocab_size)
        require_at_least(1, "model.n_layers", n_layers)
        if placebo not in HEADS:
            raise ValueError(f"model.placebo={placebo}: must be draw, order or nudge, or null")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be at least 0 and below 1, got {dropout}")
        self.vocab_size, self.causal, self.n_heads, self.padding = vocab_size, causal, n_heads, padding
        self.max_length = max_length

        def spec(layer: int) -> LayerSpec:
            return LayerSpec(
                d_model=d_model,
                n_heads=n_heads,
                n_kv_heads=n_kv_heads,
                d_ff=4 * d_model if d_ff is None else d_ff,
                layer_index=layer,
                n_layers=n_layers,
                max_length=self.max_length,
                trained_length=trained_length,
                causal=causal,
                seed=seed,
                bias=bias,
            )

        # PyTorch's constructors draw from the global generator. They draw from a copy here: what they draw is
        # overwritten below, except where a component's own vector keeps it, and then it depends on the seed alone.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(keyed_generator("constructors", seed).get_state())
            self._embed(spec(0))
            self.position = position(spec(0))
            self.dropout = Dropout(dropout)
            make = partial(
                Block,
                attention=attention,
                feed_forward=partial(feed_forward, activation=activation),
                norm=norm,
                residual=residual,
                dropout=dropout,
            )
            self.blocks = nn.ModuleList(self._make_layer(i, partial(make, spec(i))) for i in range(n_layers))
            self.ends = next(self.layers())[1].attention_residual.ends(spec(n_layers - 1))
            self.layer_fusion = layer_fusion(spec(n_layers - 1))
            last = norm(spec(n_layers - 1))
            self.norm = nn.Identity() if last.placement == "post" else last
            self.readout = self._make_readout(pooled, d_model)
            self.head = HEADS[placebo](d_model, vocab_size if n_outputs is None else n_outputs, bias=False)
            self.objective = objective(spec(n_layers - 1), block=make, norm=norm)
        if tie_embeddings and n_outputs is None and isinstance(self.embedding, nn.Embedding):
            self.head.weight = self.embedding.weight
        self._check_residual()
        self._check_objective(n_outputs)
        if self.position.slopes is not None:
            self._weigh_down(self.position.slopes)
        # Found once: looking for them takes longer than a small step has time for.
        self._resampled = [module.resample for _, module in offering(self, Resampled)]
        self._following = [module.after_step for _, module in offering(self, FollowsSteps)]
        # Where a pass may call a block several times, these are told what is one.
        self._beginning, self._ending = [], []
        if not self.each_block_once:
            self._beginning = [module.begin_pass for _, module in offering(self, SumsOverPass)]
            self._beginning += [module.begin_microbatches for _, module in offering(self, FollowsBatches)]
            self._ending = [module.end_microbatches for _, module in offering(self, FollowsBatches)]
        self._penalties = [module.penalty for _, module in offering(self, Penalised)]
        initialise(self, seed)
        if placebo == NUDGE:
            nudge(self)

    def forward(
        self,
        inputs: Tensor | Mapping[str, Tensor],
        key_padding_mask: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, vocab_size or n_outputs) of tokens; (B, 1, ...) where the model is `pooled`.

        Args:
            inputs: tokens (B, T) int64. Of several modalities each by its name, and "padding" in place of the mask.
            key_padding_mask: (B, T) bool, true where there is no token, as in `torch.nn.MultiheadAttention`. Nobody
                attends to such a position; its own logits are finite and mean nothing. None: where `padding` stands.
            targets: what is asked for, (B, T) int64. They change no logits: the objective alone looks at them, in
                training for its `penalty`. None: it has nothing to do.

        Raises:
            ValueError: T is more than `max_length`, the mask is not one of the tokens, or a sample has no modality.
        """
        x, mask = self.enter(inputs, key_padding_mask)
        context = self.context(inputs, mask)
        for begin in self._beginning if self.training else ():
            begin()
        streams = self.through(range(len(self.blocks)), [self.ends.begin(x)], context)
        for end in self._ending if self.training else ():
            end()
        hidden = self.hidden(streams, mask)
        logits = self.logits(hidden)
        if targets is not None:
            self.objective(
                Asked(
                    hidden=hidden,
                    logits=logits,
                    targets=targets,
                    context=context,
                    embed=self.embedding,
                    head=self.logits,
                )
            )
        return logits

    @overload
    def generate(self, input_ids: Tensor, **settings: Unpack[Generated]) -> Tensor: ...

    @overload
    def generate(self, input_ids: Sequence[Tensor], **settings: Unpack[Generated]) -> list[Tensor]: ...

    def generate(
        self,
        input_ids: Tensor | Sequence[Tensor],
        *,
        max_new_tokens: int,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        eos_token_id: int | Collection[int] | None = None,
        draft: int = 0,
    ) -> Tensor | list[Tensor]:
        """Continue tokens by cached decoding, greedily if nothing else is asked for.

        Args:
            input_ids: (B, T) int64, or prompts of any lengths, each (T,).
            max_new_tokens: how many to add to each.
            do_sample: draw tokens, in place of the likeliest; None: where one of the next three is given.
            temperature, top_k, top_p: of draws; see `ablab.model.sampling.Sampler`.
            seed: of draws; a prompt's own do not depend on the prompts beside it.
            eos_token_id: one, or several, behind which a sample ends.
            draft: tokens that a multi-token objective guesses at a time; they change the speed and nothing else.

        Returns:
            Prompts with what comes behind them, (B, up to T + max_new_tokens); a sample that ends earlier than others
            is padded with its last token. Of prompts in a list a list, each as long as it got.

        Raises:
            ValueError: a value is out of its range, or the model cannot go on with a text, or guess tokens.
        """
        from ablab.model.generate import generate, sampler_of, tokens_of

        return generate(
            self,
            input_ids,
            max_new_tokens=max_new_tokens,
            sampler=sampler_of(do_sample, temperature, top_k, top_p),
            seed=seed,
            eos=tokens_of(eos_token_id),
            draft=draft,
        )

    def enter(
        self, inputs: Tensor | Mapping[str, Tensor], key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The first part of `forward`: the stream (B, T, d_model) and the mask (B, T) that go into the first layer."""
        mask = self.mask_of(inputs, key_padding_mask)
        return self.dropout(self.position.add(self.embedding(inputs))), mask

    def context(self, inputs: Tensor | Mapping[str, Tensor], mask: Tensor | None) -> LayerContext:
        """What a pass gives to its layers, of the inputs and the mask that `enter` made of them."""
        ids = inputs if isinstance(inputs, Tensor) else None
        context = LayerContext(rotate=self.position.rotate, key_padding_mask=mask, ids=ids)
        for hook in self._context_hooks.values():
            hook(context)
        return context

    def register_context_hook(self, hook: Callable[[LayerContext], None]) -> RemovableHandle:
        """Have `hook` called with what each pass gives to its layers, before the first of them is called."""
        handle = RemovableHandle(self._context_hooks)
        self._context_hooks[handle.id] = hook
        return handle

    def through(self, layers: Iterable[int], streams: Sequence[Tensor], context: LayerContext) -> list[Tensor]:
        """The middle part: `streams`, what went into the first layer and came out of each so far, and what comes out
        of `layers`, which are those that follow. Each is as the residual has it, (B, T, ..., d_model)."""
        streams = list(streams)
        for layer in layers:
            streams.append(self.call_layer(layer, self.layer_fusion.feed(streams), context))
        return streams

    def call_layer(self, layer: int, x: Tensor, context: LayerContext) -> Tensor:
        """One layer: the stream (B, T, d_model), or what the residual has in its place."""
        out: Tensor = self.blocks[layer](x, context)
        return out

    def leave(self, streams: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """The last part: logits, of what went into the first layer and came out of every one."""
        return self.logits(self.hidden(streams, mask))

    def hidden(self, streams: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """What the head reads: (B, T, d_model), or (B, 1, d_model) where the model is `pooled`."""
        x: Tensor = self.norm(self.layer_fusion(self.read(streams), mask))
        return x if self.readout is None else self.readout(x, mask)

    def logits(self, hidden: Tensor) -> Tensor:
        """What the head makes of `hidden`."""
        return self.objective.bound(self.head(scaled(hidden, self.output_factor)))

    def read(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """What a layer fusion is given: what is read of each, (B, T, d_model). One that takes the last alone is given
        the others as they are."""
        first = 0 if self.layer_fusion.weighs else len(streams) - 1
        return [*streams[:first], *(self.ends(stream) for stream in streams[first:])]

    def mask_of(self, inputs: Tensor | Mapping[str, Tensor], key_padding_mask: Tensor | None = None) -> Tensor | None:
        """The mask (B, T) bool, true where `inputs` have no token; None if they have one everywhere.

        Arguments and errors are those of `forward`.
        """
        assert isinstance(inputs, Tensor)
        length = inputs.shape[1]
        if length > self.max_length:
            raise ValueError(
                f"the sequence has {length} tokens, but the model was built for at most {self.max_length}: "
                "shorten the sequence or build the model with a larger max_length"
            )
        if key_padding_mask is None:
            return None if self.padding is None else inputs == self.padding
        if key_padding_mask.shape != inputs.shape or key_padding_mask.dtype != torch.bool:
            raise ValueError(
                f"key_padding_mask must be bool {tuple(inputs.shape)} as the tokens, got {key_padding_mask.dtype} "
                f"{tuple(key_padding_mask.shape)}"
            )
        return key_padding_mask

    def layers(self) -> Iterator[tuple[int, Block]]:
        """Every block with the index of its layer; a layer has several where each modality has its own."""
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            yield layer, block

    def longest_input(self) -> tuple[slice, Block]:
        """The place of an input's longest modality in the stream, and the block that serves it first."""
        return slice(0, self.max_length), next(self.layers())[1]

    def resample(self, step: int) -> None:
        """Refresh what components draw at random, as a function of the seed and `step` (optimizer steps taken)."""
        for resample in self._resampled:
            resample(step)

    def after_step(self) -> None:
        """Tell the components that ask for it that the optimizer has taken a step."""
        for after_step in self._following:
            after_step()

    def penalty(self) -> Tensor:
        """The sum of what components ask to have added to the training loss, a scalar; 0 if none asks."""
        total = self.head.weight.new_zeros(())
        for penalty in self._penalties:
            total = total + penalty()
        return total

    def _embed(self, spec: LayerSpec) -> None:
        self.embedding: nn.Module = nn.Embedding(self.vocab_size, spec.d_model)

    def _make_layer(self, layer: int, make: Callable[[], Block]) -> nn.Module:
        return make()

    def _make_readout(self, pooled: bool, d_model: int) -> nn.Module | None:
        return MeanOfTokens() if pooled else None

    def _check_residual(self) -> None:
        residual = next(self.layers())[1].attention_residual
        if not residual.is_stream and type(self.layer_fusion).feed is not LayerFusion.feed:
            raise ClashError("residual", "layer_fusion", "what goes from layer to layer is no single stream to sum up")

    def _check_objective(self, n_outputs: int | None) -> None:
        if not self.objective.reach:
            return
        if not self.causal or self.readout is not None or n_outputs is not None:
            raise ClashError(
                "objective", "task", "it needs tokens at every position, told from those before them alone"
            )
        if next(self.layers())[1].attention_residual.shares:
            raise ClashError("objective", "residual", "its blocks have no first layer whose values they could share")

    def _weigh_down(self, slopes: Tensor) -> None:
        for block in (module for module in self.modules() if isinstance(module, Block)):
            try:
                block.attention.core.weigh_down(slopes)
            except ValueError as error:
                raise ClashError("position", "attention", str(error)) from error


class MeanOfTokens(nn.Module):
    """One vector for a whole sequence: the mean over the tokens that are there."""

    def forward(self, x: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """x (B, T, d_model), the mask (B, T) true where no token is -> (B, 1, d_model); zero of no token at all."""
        if key_padding_mask is None:
            return x.mean(1, keepdim=True)
        there = (~key_padding_mask).to(x.dtype)[..., None]
        return (x * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
