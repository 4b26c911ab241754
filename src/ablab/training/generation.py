"""Continue a text with the model of a finished run, greedily or by sampling."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ablab.errors import UserError
from ablab.model.transformer import Transformer
from ablab.training.restore import load_run as load_run


def generate(
    run: Path,
    *,
    prompt: str,
    tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    checkpoint: str = "best",
    trust: bool = False,
) -> str:
    """The prompt and `tokens` more tokens.

    Args:
        run: folder of a run with a checkpoint.
        temperature: divides the logits; 0 takes the likeliest token each time.
        top_k: sample among this many likeliest tokens; None: among all.
        checkpoint: "best" or "last".
        trust: components that the run's config names and that are not ablab's may run.

    Raises:
        UserError: no run or checkpoint there, an empty prompt or one that the run's vocabulary cannot write, or a
            number out of range.
    """
    if not temperature >= 0:  # NaN is not either
        raise UserError(f"--temperature {temperature}: must be at least 0")
    if top_k is not None and top_k < 1:
        raise UserError(f"--top-k {top_k}: must be at least 1")
    if tokens < 0:
        raise UserError(f"--tokens {tokens}: must be at least 0")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed}: must be at least 0 and less than 2**63")
    if not prompt:
        raise UserError("--prompt: must not be empty")
    model, task = load_run(run, checkpoint, trust)
    if task.pooled:
        raise UserError(f"{run}: its task asks for one answer to a whole sequence: there is nothing to continue")
    try:
        context = task.encode(prompt)
    except ValueError as error:
        raise UserError(f"--prompt: {error}") from error
    generator = torch.Generator().manual_seed(seed)
    return task.decode(continue_tokens(model, context, tokens, temperature, top_k, generator))


@torch.no_grad()
def continue_tokens(
    model: Transformer,
    context: Tensor,
    count: int,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator,
) -> Tensor:
    """`context` (T,) with `count` tokens more. The model sees at most its `max_length` last tokens."""
    for _ in range(count):
        logits = model(context[None, -model.max_length :])[0, -1].float()
        if temperature == 0:
            chosen = logits.argmax().reshape(1)
        else:
            likeliest = logits.topk(len(logits) if top_k is None else min(top_k, len(logits)))
            # Relative to the largest, so that a temperature close to 0 makes no infinities; none is 0 in float32.
            scores = (likeliest.values - likeliest.values[0]) / max(temperature, torch.finfo(torch.float32).tiny)
            chosen = likeliest.indices[torch.multinomial(scores.softmax(-1), 1, generator=generator)]
        context = torch.cat([context, chosen])
    return context
