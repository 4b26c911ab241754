"""Whether places without a token stay without influence."""

from __future__ import annotations

import torch
from torch import Tensor

from ablab.certify.checks.causality import ROUNDING, said, tokens
from ablab.certify.outcomes import Failed, Skipped, require
from ablab.certify.passes import LATE, Model, difference, first_place, in_mode, logits
from ablab.certify.subject import LONG, Subject
from ablab.model.objective.base import IGNORED
from ablab.model.protocols import has_penalties

LENGTH = 70
# So many tokens of so many; in long ones both are beyond where the options of the menu begin to leave something out.
CUT = ((5, LENGTH), (33, LENGTH), (64, LENGTH), (LONG - 8, LONG))


def padding(subject: Subject) -> str:
    """What lies at padded places changes nothing elsewhere, gets no gradient, and is never NaN; causal and not."""
    if subject.several:
        return _of_modalities(subject)
    largest, count = 0.0, 0
    for causal in subject.ways:
        model = subject.model(causal=causal)
        for kind, mask in masks().items():
            for train in (False, True):
                found = _moved(subject, model, kind, mask, train)
                largest, count = max(largest, found), count + 1
        for kind in ("holes", "all places, in a long sequence"):
            _check_gradients(subject, model, masks()[kind])
    _check_penalty(subject)
    return f"{count} masks, modes and directions: other content moves outputs elsewhere by at most {largest:.0e}"


def padded_like_cut(subject: Subject) -> str:
    """A sequence with padding behind it is answered as the sequence alone; so is one beside longer ones."""
    if subject.several:
        raise Skipped("samples of several modalities all have one length")
    largest = 0.0
    for causal in subject.ways:
        model = subject.model(causal=causal)
        for length, whole in CUT:
            ids = tokens(subject, whole)
            mask = (torch.arange(whole) >= length).expand(2, -1)
            found = difference(logits(model, ids[:, :length]), logits(model, ids, mask)[:, :length])
            require(
                found <= ROUNDING,
                f"{'' if causal else 'not '}causal: {length} tokens with {whole - length} of padding behind them are "
                f"answered otherwise than alone, by {found:.1e} of the size",
            )
            largest = max(largest, found)
    said = ", ".join(f"{length} of {whole}" for length, whole in CUT)
    return f"{said} tokens, alone and with padding behind: outputs differ by at most {largest:.0e}"


def masks() -> dict[str, Tensor]:
    """By kind, (3, T), true where no token is."""
    place, far = torch.arange(LENGTH), torch.arange(LONG)
    none = torch.zeros(LENGTH, dtype=torch.bool)
    return {
        "left": torch.stack([place < 9, place < 40, none]),
        "right": torch.stack([place >= 61, place >= 3, none]),
        "holes": torch.stack([place % 3 == 1, (place > 20) & (place < 50), place >= 0]),
        "all places, in a long sequence": torch.stack([far < 140, far >= 150, far % 3 == 1]),
    }


def _moved(subject: Subject, model: Model, kind: str, mask: Tensor, train: bool) -> float:
    ids, others = (tokens(subject, mask.shape[1], seed, 3) for seed in (0, 1))
    before = logits(model, ids, mask, train=train)
    after = logits(model, torch.where(mask, others, ids), mask, train=train)
    way = "causal" if model.causal else "not causal"
    for out in (before, after):
        require(bool(out.isfinite().all()), f"{way}, {said(train, LATE)}, padding at {kind}: outputs are not finite")
    there = ~mask[..., None]
    found = difference(before * there, after * there)
    if found > ROUNDING:
        where = first_place(before * there, after * there, ROUNDING)
        raise Failed(
            f"{way}, in {said(train, LATE)}, padding at {kind}: other tokens at padded places change outputs elsewhere "
            f"by {found:.1e} of their size; first at {where}"
        )
    return found


def _check_gradients(subject: Subject, model: Model, mask: Tensor) -> None:
    seen: list[Tensor] = []

    def keep(module: torch.nn.Module, args: object, out: Tensor) -> Tensor:
        seen.append(out.detach().requires_grad_())
        return seen[-1]

    handle = model.embedding.register_forward_hook(keep)
    try:
        with in_mode(model, train=True):
            out = model(tokens(subject, mask.shape[1], 0, 3), mask)
    finally:
        handle.remove()
    (reached,) = torch.autograd.grad(out[~mask].square().sum(), seen[0])
    way = "causal" if model.causal else "not causal"
    require(bool(reached.isfinite().all()), f"{way}: the gradient is not finite where there is padding")
    largest = float(reached[mask].abs().max() / reached.abs().max())
    require(largest <= ROUNDING, f"{way}: padded places get a gradient from others, {largest:.1e} of the largest")


def _check_penalty(subject: Subject) -> None:
    """Raises Failed where what is asked for beside the loss hangs on padded places, which have no targets either."""
    model = subject.fresh()
    if not has_penalties(model):
        return
    ids, others, mask = tokens(subject, LENGTH, 0, 3), tokens(subject, LENGTH, 1, 3), masks()["right"]
    targets = ids.roll(-1, 1).masked_fill(mask, IGNORED)
    asked = []
    for given in (ids, torch.where(mask, others, ids)):
        with in_mode(model, train=True), torch.no_grad():
            model(given, mask, targets)
            asked.append(model.penalty().double())
    apart = float((asked[0] - asked[1]).abs() / asked[0].abs().clamp(min=1e-30))
    require(apart <= ROUNDING, f"other tokens at padded places change the penalty of training by {apart:.1e} of it")


def _of_modalities(subject: Subject) -> str:
    """Of a modality that is missing, and the end of one that is short."""
    model, largest = subject.model(), 0.0
    missing = {"the image": slice(0, 4), "the text": slice(7, 12), "the end of the text": slice(10, 12)}
    for kind, place in missing.items():
        given, others = subject.inputs(3, seed=0), subject.inputs(3, seed=1)
        assert isinstance(given, dict)
        assert isinstance(others, dict)
        mask = torch.zeros(3, 12, dtype=torch.bool)
        mask[1, place] = True
        changed = {name: each.clone() for name, each in given.items()}
        name = "image" if "image" in kind else "text"
        begin = 3 if "end" in kind else 0
        changed[name][1, begin:] = others[name][1, begin:]
        for train in (False, True):
            before = logits(model, {**given, "padding": mask}, train=train)
            found = difference(before, logits(model, {**changed, "padding": mask}, train=train))
            require(found <= ROUNDING, f"in {said(train, LATE)}, what lies where {kind} is missing counts: {found:.1e}")
            largest = max(largest, found)
    return f"{len(missing)} ways of missing, in both modes: what lies there moves answers by at most {largest:.0e}"
