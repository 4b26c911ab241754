"""Every option of the model on CUDA gives and learns what it does on a CPU. Attention first: it has code of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
# Products on CUDA may be made with fewer bits than on a CPU, and a choice of keys may fall the other way at a tie.
NEAR = 2e-2
DEVICE = "cuda"


def learned(model: Transformer, tokens: Tensor, device: str) -> tuple[float, Tensor]:
    """The loss of next tokens, and how each parameter's gradient is long."""
    model, tokens = model.to(device), tokens.to(device)
    model.zero_grad()
    logits = model(tokens)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return float(loss.detach()), torch.stack([grad.norm() for grad in grads]).cpu()


def check(model: Transformer, length: int) -> None:
    tokens = torch.randint(11, (2, length), generator=torch.Generator().manual_seed(0))
    expected, found = (learned(model.train(), tokens, device) for device in ("cpu", DEVICE))
    assert found[0] == pytest.approx(expected[0], rel=NEAR)
    assert (found[1] - expected[1]).norm() <= NEAR * expected[1].norm()


@pytest.mark.cuda
def test_attention_learns_the_same(build: Build, attention_option: str) -> None:
    check(build(attention=attention_option, n_layers=2, d_model=32, max_length=300), 300)


@pytest.mark.cuda
def test_any_option_learns_the_same(build: Build, any_option: tuple[str, str]) -> None:
    axis, option = any_option
    if axis == "attention":
        pytest.skip("see above")
    check(build(**{axis: option}, n_layers=2, d_model=32, max_length=64), 40)
