"""Continue a text with the model of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ablab.errors import UserError
from ablab.training.continuation import Continuations, ContinuationSettings, Prompt
from ablab.training.restore import load_run as load_run


def generate(
    run: Path,
    *,
    prompt: str,
    tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    checkpoint: str = "best",
    trust: bool = False,
) -> str:
    """The prompt and `tokens` more tokens, or what comes before a stop string.

    Args:
        run: folder of a run with a checkpoint.
        temperature, top_k, top_p, seed, stop: as `ContinuationSettings` says.
        checkpoint: "best" or "last".
        trust: components that the run's config names and that are not ablab's may run.

    Raises:
        UserError: no run or checkpoint there, an empty prompt or one that the run's vocabulary cannot write, or a
            number out of range.
    """
    settings = ContinuationSettings(
        tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop
    )
    if not prompt:
        raise UserError("--prompt: must not be empty")
    model, task = load_run(run, checkpoint, trust)
    texts = Continuations(model, task, [Prompt(prompt)], settings)
    return texts.prompts[0] + "".join(piece.text for piece in texts)
