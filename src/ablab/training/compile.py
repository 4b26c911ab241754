"""Compiled training (`trainer.compile`): the blocks of a model by `torch.compile`, where they are trained.

Compiled is each block as a whole, all of them as one function of a block, so that layers that are alike share what was
made of the first. Compiled are passes in training alone. Evaluations, generation, and whatever watches or asks a model
take the blocks as they are written: what is measured of a component is measured in the same way in every run.

Parameters and their names stay as they are, so that checkpoints are those of any other run. Dropout masks, too: see
`ablab.model.draws.dropout`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from ablab.config.run_config import GRAPHS, Compile
from ablab.config.value_types import shown
from ablab.errors import UserError, one_line
from ablab.model.block import Block
from ablab.model.draws import key_draws, seed_pass
from ablab.model.protocols import BreaksGraph
from ablab.model.transformer import Transformer
from ablab.tasks.base import Batch

BACKEND = "inductor"
KINDS = 8  # of shapes, and of states of components, for each layer, before one that changes all the time is refused
_COMPILERS = {"darwin": "clang++", "win32": "cl"}
_OFF = "or use trainer.compile=false"

Backend = str | Callable[..., Any]
Failure = (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit)  # of `torch.compile`


def compile_blocks(model: nn.Module, asked: Compile, backend: Backend | None = None) -> None:
    """Have the blocks of a model compiled when each is first called in training.

    Args:
        asked: `trainer.compile`.
        backend: of `torch.compile`; None: inductor, in the mode that is asked for.
    """
    blocks = _blocks(model)
    if not asked or not blocks:
        return
    _settle(KINDS * len(blocks))
    backend = backend or BACKEND
    mode = asked if backend == "inductor" and isinstance(asked, str) else None
    # Sequences of one length are one shape, and those of another are compiled for themselves.
    make = partial(torch.compile, Block.compute, backend=backend, mode=mode, dynamic=False)
    whole, in_parts = make(fullgraph=True), make()
    for block in blocks:
        block.compiled = whole if compile_breaks(block) is None else in_parts
    if mode == GRAPHS:
        model.register_forward_pre_hook(_begin_step)


def compile_breaks(block: nn.Module) -> str | None:
    """Why no single graph can hold a block, as a component of it says; None where one can."""
    return next((each.breaks_graph for each in block.modules() if isinstance(each, BreaksGraph)), None)


def compile_notes(model: nn.Module, asked: Compile) -> list[str]:
    """What the record of a run should say: a line for each reason why blocks are compiled in several graphs."""
    reasons = filter(None, map(compile_breaks, _blocks(model))) if asked else ()
    return [f"trainer.compile: blocks are several graphs ({reason})" for reason in dict.fromkeys(reasons)]


def told(error: BaseException, asked: Compile) -> BaseException:
    """The error, or where it is one of `torch.compile` what a user is told of it."""
    if not asked or not isinstance(error, Failure):
        return error
    return UserError(f"{_named(asked)}: torch.compile failed: {cause_of(error)}; mend it, {_OFF}")


def cause_of(error: BaseException) -> str:
    """An error of `torch.compile`, which takes many lines, in one."""
    for line in str(error).splitlines():
        if line.strip().startswith(("Explanation:", "Developer debug context:")):
            return line.strip().partition(":")[2].strip()[:200]
    return one_line(error)


def try_compiled(model: Transformer, batch: Batch, asked: Compile) -> None:
    """Trace the blocks of a model, which may be changed, in a pass in training; nothing is compiled.

    Raises:
        UserError: a component cannot be had in one graph and does not say so, or draws numbers that are no common
            random numbers once it is compiled, or no block would be.
    """
    graphs: list[GraphModule] = []

    def note(graph: GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    inputs, targets = batch
    key_draws(model)
    seed_pass(0)
    compile_blocks(model, asked, note)
    model.train().resample(0)
    before = torch.get_rng_state()
    try:
        model(inputs, targets=targets)
    except Failure as error:
        raise told(error, asked) from error
    finally:
        torch.compiler.reset()
    if not graphs:
        raise UserError(f"{_named(asked)}: no block of the model is called as a whole, so that none would be compiled")
    _check_draws(graphs, asked, drawn=not torch.equal(torch.get_rng_state(), before))


def _check_draws(graphs: list[GraphModule], asked: Compile, *, drawn: bool) -> None:
    if drawn:
        raise UserError(
            f"{_named(asked)}: a component draws from PyTorch's own generators in a pass (as attention.dropout_on="
            f"weights does), which would be other numbers than not compiled: use attention.dropout_on=output, {_OFF}"
        )
    drops = any(node.target is torch.ops.ablab.kept.default for each in graphs for node in each.graph.nodes)
    if drops and asked == GRAPHS:
        raise UserError(
            f"{_named(asked)}: a CUDA graph would drop the same in every step: use trainer.compile=true, or no dropout"
        )


def check_compiler(asked: Compile, *, on_gpu: bool, batches: int = 1) -> None:
    """Raises UserError where what `torch.compile` needs is not there, or the mode cannot do its work.

    Args:
        batches: of each step.
    """
    if asked == GRAPHS and not on_gpu:
        raise UserError(f"{_named(asked)}: CUDA graphs need a GPU: use trainer.compile=true, {_OFF}")
    if asked == GRAPHS and batches > 1:
        raise UserError(
            f"{_named(asked)}: CUDA graphs keep the gradients of one batch alone, and "
            f"trainer.accumulate_grad_batches={batches} adds up several: use trainer.compile=true, {_OFF}"
        )
    if on_gpu and importlib.util.find_spec("triton") is None:
        raise UserError(f"{_named(asked)}: needs triton on a GPU, which is not installed: install it, {_OFF}")
    wanted = os.environ.get("CXX") or _COMPILERS.get(sys.platform, "g++")
    if not on_gpu and shutil.which(wanted) is None:
        raise UserError(
            f"{_named(asked)}: needs a C++ compiler on a CPU, and {wanted} is not there: install one, name one in the "
            f"environment variable CXX, {_OFF}"
        )


def _begin_step(module: nn.Module, args: Any) -> None:
    """Tell CUDA graphs that what they gave in the step before is needed no longer."""
    if module.training:
        torch.compiler.cudagraph_mark_step_begin()


def _settle(kinds: int) -> None:
    """Set what `torch.compile` has no argument for."""
    torch._dynamo.config.recompile_limit = max(kinds, torch._dynamo.config.recompile_limit)
    # A hook that a callback registers after the first step is called, too.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    # Graphs end where blocks do, so that gradients are sent from there on: they need not be cut further for that.
    torch._dynamo.config.optimize_ddp = False


def _blocks(model: nn.Module) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


def _named(asked: Compile) -> str:
    return f"trainer.compile={asked if isinstance(asked, str) else shown(asked)}"
