"""`Transformer.generate`: tokens of prompts continued in one call."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Required, TypedDict

from torch import Tensor

from ablab.model.generation import Generation, repeated_generators
from ablab.model.sampling import GREEDY, Sampler
from ablab.model.transformer import Transformer


class Generated(TypedDict, total=False):
    """The arguments of `Transformer.generate`, as it explains them."""

    max_new_tokens: Required[int]
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int
    eos_token_id: int | Collection[int] | None
    draft: int


def generate(
    model: Transformer,
    input_ids: Tensor | Sequence[Tensor],
    *,
    max_new_tokens: int,
    sampler: Sampler,
    seed: int,
    eos: Collection[int],
    draft: int,
) -> Tensor | list[Tensor]:
    """`Transformer.generate`; the model is in evaluation meanwhile."""
    prompts = list(input_ids)
    if any(prompt.dim() != 1 for prompt in prompts):
        raise ValueError("input_ids must be (B, T), or several of (T,): give ids[None] for a single sample")
    for prompt in prompts:
        if prompt.is_floating_point() or (prompt < 0).any() or (prompt >= model.vocab_size).any():
            raise ValueError(f"input_ids must be whole numbers from 0 to {model.vocab_size - 1}, the model's tokens")
    training = model.training
    model.eval()
    try:
        draws = repeated_generators([prompt.tolist() for prompt in prompts], seed)
        generation = Generation(
            model, prompts, max_new_tokens=max_new_tokens, sampler=sampler, generators=draws, eos=eos, draft=draft
        )
        while generation.unfinished:
            generation.step()
    finally:
        model.train(training)
    if not isinstance(input_ids, Tensor):
        return [prompt.new_tensor(ids) for ids, prompt in zip(generation.ids, prompts, strict=True)]
    longest = max((len(ids) for ids in generation.ids), default=0)
    return input_ids.new_tensor([[*ids, *[ids[-1]] * (longest - len(ids))] for ids in generation.ids])


def sampler_of(do_sample: bool | None, temperature: float | None, top_k: int | None, top_p: float | None) -> Sampler:
    """Greedy, if nothing else is asked for.

    Raises:
        ValueError: a value is out of its range, or has no effect.
    """
    if temperature is None and top_k is None and top_p is None:
        return Sampler() if do_sample else GREEDY
    if do_sample is False:
        raise ValueError("temperature, top_k and top_p change nothing where do_sample=False: leave one of them out")
    return Sampler(temperature=1.0 if temperature is None else temperature, top_k=top_k, top_p=top_p)


def tokens_of(ids: int | Collection[int] | None) -> Collection[int]:
    """None, one or several, as a collection."""
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else ids
