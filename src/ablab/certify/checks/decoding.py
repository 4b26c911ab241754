"""Whether tokens can come one by one: from caches as from the whole sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.certify.checks.causality import tokens
from ablab.certify.outcomes import Skipped, require
from ablab.certify.passes import Model, difference
from ablab.certify.subject import LONGEST, Subject
from ablab.model.decoding import Decoder, without_cache

LENGTHS = (90, 37, 5)
CHUNKS = (9, 1, 1, 70, 3)
FAR = (LONGEST - 20,)  # beyond where the options of the menu begin to leave something out
# By what is said of them: samples of which lengths, so many tokens at a time, and whether guesses are made and taken
# back.
PASSES = {
    "one by one": (LENGTHS, (1,), False),
    "in chunks": (LENGTHS, CHUNKS, False),
    "after guesses that were taken back": (LENGTHS, CHUNKS, True),
    "in a long sequence": (FAR, (70, 30, 89, 1), False),
}
ROUNDING = 1e-8


def decodes(subject: Subject) -> str:
    """Cached decoding gives what the whole sequence gives, for samples of unequal lengths side by side."""
    if subject.several:
        raise Skipped("a model of several modalities does not generate")
    model = subject.model().eval()
    if (line := without_cache(model)) is not None:
        raise Skipped(line)
    worst = 0.0
    with torch.no_grad():
        for said, (lengths, sizes, guesses) in PASSES.items():
            ids = tokens(subject, max(lengths), 0, len(lengths))
            whole = [model(ids[row : row + 1, :length])[0] for row, length in enumerate(lengths)]
            decoded = _decoded(model, ids, lengths, sizes, guesses=guesses)
            for row, (own, out) in enumerate(zip(decoded, whole, strict=True)):
                found = difference(out, own)
                where = ((out - own).abs().amax(-1) > ROUNDING * out.square().mean().sqrt()).nonzero()
                first = f"; first at token {int(where[0, 0])} of sample {row}" if len(where) else ""
                require(
                    found <= ROUNDING, f"decoded {said}, logits differ from the whole sequence's by {found:.1e}{first}"
                )
                worst = max(worst, found)
    return f"samples of {min(LENGTHS)} to {FAR[0]} tokens, {', '.join(PASSES)}: {worst:.0e}"


def _decoded(
    model: Model, ids: Tensor, lengths: tuple[int, ...], sizes: tuple[int, ...], *, guesses: bool
) -> list[Tensor]:
    """The logits of each sample (T, vocabulary), in passes of so many tokens; the last number for all that are left.

    Args:
        guesses: before each pass but the first its tokens are given with the second half of them wrong, and what is
            wrong is taken back, as drafts are.
    """
    decoder = Decoder(model, batch=len(lengths), capacity=max(lengths))
    parts: list[list[Tensor]] = [[] for _ in lengths]
    have = [0] * len(lengths)
    later = iter((*sizes, *[sizes[-1]] * max(lengths)))
    while tuple(have) != lengths:
        if not any(have) and sizes[0] > 1:
            counts = [max(1, length // 3) for length in lengths]
        else:
            size = next(later)
            counts = [min(size, length - before) for before, length in zip(have, lengths, strict=True)]
        if guesses and any(have):
            right = [count // 2 for count in counts]
            mark = decoder.mark()
            found = decoder.extend(_chunk(ids, have, counts, right), torch.tensor(counts))
            agreed = torch.tensor(have) + torch.tensor(right)
            kept = decoder.take_back(mark, agreed).tolist()  # where single tokens cannot be taken back, all are
            _append(parts, found, have, kept)
            counts = [count - (now - before) for count, now, before in zip(counts, kept, have, strict=True)]
            have = kept
        found = decoder.extend(_chunk(ids, have, counts, counts), torch.tensor(counts))
        behind = [before + count for before, count in zip(have, counts, strict=True)]
        _append(parts, found, have, behind)
        have = behind
    return [torch.cat(part) for part in parts]


def _chunk(ids: Tensor, have: list[int], counts: list[int], right: list[int]) -> Tensor:
    """The next tokens of each sample, of which those behind the first `right` are other ones."""
    chunk = torch.zeros(len(counts), max(counts), dtype=torch.int64)
    for row, (before, count, good) in enumerate(zip(have, counts, right, strict=True)):
        chunk[row, :count] = ids[row, before : before + count]
        chunk[row, good:count] = (chunk[row, good:count] + 1) % (int(ids.max()) + 1)
    return chunk


def _append(parts: list[list[Tensor]], found: Tensor, have: list[int], behind: list[int]) -> None:
    for part, out, before, now in zip(parts, found, have, behind, strict=True):
        part.append(out[: now - before])
