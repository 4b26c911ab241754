"""The steps, in the order of what they tell: what each runs, for how long at most, and what it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablab.bench.gpu import readings
from ablab.bench.gpu.results import Machine, Row
from ablab.config.schema import known_settings, type_at

LENGTHS = (4096, 16_384, 65_536)
_ATTENTIONS = ("sdpa-flash", "flex-attention", "windowed", "lsh", "dynamic-1", "dynamic-2", "full")
# A model whose steps take a GPU long enough to be timed, and short enough for some dozens of them.
_MIDDLE = ("model.d_model=256", "model.n_layers=4", "model.n_heads=4", "task.batch_size=32", "task.eval_tokens=16384")
_SMALL = ("model=tiny", "task.seq_len=64", "task.batch_size=8", "task.eval_tokens=2048")

Missing = Callable[[Machine], str]  # what a step needs and the machine has not; "" if it is all there


@dataclass(frozen=True, kw_only=True)
class Step:
    """One of them.

    Args:
        limit_s: after which it is ended; what it has found by then is kept.
        words: its command, behind Python's own name; it writes `readings.RESULT_FILE`, if it writes one, in its folder.
        read: its table, from its folder and from what it has printed, at any time.
        missing: why it cannot be done, if it cannot.
    """

    name: str
    what: str
    limit_s: float
    words: Sequence[str]
    read: Callable[[Path, str], list[Row]]
    missing: Missing


def no_cuda(machine: Machine) -> str:
    """Why what needs CUDA is skipped."""
    return "" if machine.device else f"needs CUDA: {machine.reason}"


def _nothing(machine: Machine) -> str:
    return ""


def _no_tests(machine: Machine) -> str:
    return no_cuda(machine) or ("" if _tests().is_dir() else "the tests are not there: needs a clone of the repository")


def _no_compile(machine: Machine) -> str:
    return no_cuda(machine) or ("" if "trainer.compile" in known_settings() else "there is no setting trainer.compile")


def _no_stacks(machine: Machine) -> str:
    return no_cuda(machine) or ("" if type_at("stack") is not None else "there is no setting stack")


def _tests() -> Path:
    return Path(__file__).resolve().parents[4] / "tests"


def _ablab(*words: str) -> list[str]:
    return [sys.executable, "-m", "ablab", "bench", *words, "--json", readings.RESULT_FILE]


def _ranks(name: str, what: str, limit_s: float) -> Step:
    return Step(
        name=name,
        what=what,
        limit_s=limit_s,
        words=[sys.executable, "-m", "ablab.bench.gpu.ranks", readings.RESULT_FILE, f"strategy={name}", *_MIDDLE],
        read=readings.ranks,
        missing=no_cuda,
    )


def all_steps() -> list[Step]:
    """Every step. Their limits add up to less than eight minutes, so that none takes the time of another."""
    pytest = ["-m", "pytest", str(_tests()), "-m", "cuda", "-v", "-p", "no:cacheprovider", "--rootdir"]
    lengths = [str(length) for length in LENGTHS]
    effort = ["--rounds", "20", "--budget", "0.4", "--longest-call", "3"]
    compiled = ["--steps", "60", "--rounds", "2", "--strategies", "single", "single,trainer.compile=true"]
    return [
        Step(
            name="tests",
            what="the tests that need CUDA",
            limit_s=95,
            words=[sys.executable, *pytest, str(_tests().parent)],
            read=readings.tests,
            missing=_no_tests,
        ),
        Step(
            name="attention",
            what="attention in bfloat16 beside SDPA's flash and FlexAttention's window",
            limit_s=130,
            words=_ablab(
                *("attention", "--device", "cuda", "--dtype", "bfloat16", "--lengths", *lengths, *effort),
                *("--implementations", *_ATTENTIONS),
            ),
            read=readings.attention,
            missing=no_cuda,
        ),
        Step(
            name="loop",
            what="the harness beside a bare PyTorch loop",
            limit_s=40,
            words=_ablab("loop", *_SMALL, "--steps", "5", "--rounds", "10"),
            read=readings.loop,
            missing=_nothing,
        ),
        Step(
            name="stacked",
            what="the seeds of a variant in one process beside one after the other",
            limit_s=50,
            words=[sys.executable, "-m", "ablab.bench.gpu.stacks", readings.RESULT_FILE, *_SMALL],
            read=readings.any_numbers,
            missing=_no_stacks,
        ),
        Step(
            name="compiled",
            what="training with trainer.compile=true beside training without",
            limit_s=60,
            words=_ablab("strategies", *_MIDDLE, *compiled),
            read=readings.strategies,
            missing=_no_compile,
        ),
        _ranks("ddp", "two processes that speak NCCL on this one device", 30),
        _ranks("fsdp", "the same, fully sharded", 35),
        _ranks("tensor", "the same, tensor parallel", 30),
    ]
