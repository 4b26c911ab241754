"""What every schedule promises: rates that are rates, for each group, as a function of the step."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from ablab.certify.outcomes import Skipped, require
from ablab.certify.target import Target
from ablab.config import conf_folder
from ablab.config.schema import default_option
from ablab.model.initialisation import keyed_generator

TOTAL = 60
RATES = (1.0, 0.5)  # of two groups
EVERY = 6  # steps from one evaluation to the next


class ScheduleSubject:
    """A schedule, and an optimizer for it to drive."""

    def __init__(self, target: Target) -> None:
        self.axis, self.config = target.axis, target.config

    @property
    def node(self) -> Any:
        return self.config.options[self.axis.name]

    def run(self, total: int = TOTAL, node: Any = None) -> Run:
        return Run(self.node if node is None else node, total)


class Run:
    """An optimizer of two groups, and the schedule on it."""

    def __init__(self, node: Any, total: int) -> None:
        self.model = nn.ParameterList([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))])
        groups = [{"params": [each], "lr": rate} for each, rate in zip(self.model, RATES, strict=True)]
        self.optimizer: Any = torch.optim.SGD(groups, lr=1.0, momentum=0.5)
        given = dict(node)
        if "total_steps" in given:
            given["total_steps"] = total
        self.schedule: Any = instantiate(given, _convert_="all")(self.optimizer)
        self.step = 0

    @property
    def rates(self) -> tuple[float, ...]:
        return tuple(float(group["lr"]) for group in self.optimizer.param_groups)

    def take(self, count: int) -> list[tuple[float, ...]]:
        """So many steps, with gradients that hang on the step; the rates that each step is taken with."""
        found = []
        for _ in range(count):
            for place, parameter in enumerate(self.model):
                parameter.grad = torch.randn(parameter.shape, generator=keyed_generator("gradient", self.step, place))
            found.append(self.rates)
            self.optimizer.step()
            self.schedule.step()
            self.step += 1
            if hasattr(self.schedule, "evaluated") and self.step % EVERY == 0:
                self.schedule.evaluated(1 + 1 / self.step if self.step < 30 else 1.0, True)
        return found


def rates(subject: ScheduleSubject) -> str:
    """Rates are finite and not below zero, at every step, of long runs and short ones; some are above zero."""
    run = subject.run()
    found = run.take(TOTAL)
    for step, each in enumerate(found):
        require(all(map(math.isfinite, each)), f"the rate at step {step} is {each[0]}")
        require(min(each) >= 0, f"the rate at step {step} is {min(each):.2e}, below zero")
    first = [rates[0] for rates in found[:TOTAL]]
    require(max(first) > 0, "every rate is zero")
    require(max(first) < 1e3, f"the largest rate is {max(first):.1e} times the optimizer's")
    top = first.index(max(first))
    for total in (1, 2, 3):
        short = subject.run(total).take(total)
        require(all(math.isfinite(rate) for each in short for rate in each), f"of {total} steps, a rate is not finite")
        require(min(map(min, short)) >= 0, f"of {total} steps, a rate is below zero")
    said = f"first {first[0]:.2f}, largest {max(first):.2f} at step {top}, last {first[-1]:.3f}"
    return f"of {TOTAL} steps, in the optimizer's: {said}"


def grouped(subject: ScheduleSubject) -> str:
    """Groups keep the ratio of their rates, and nothing but the rate is written to."""
    if subject.node.get("per_group"):
        raise Skipped("each group has a factor of its own, by per_group")
    run = subject.run()
    before = [{key: value for key, value in group.items() if key != "lr"} for group in run.optimizer.param_groups]
    found = run.take(TOTAL)
    for step, (one, other) in enumerate(found):
        require(
            abs(other * RATES[0] - one * RATES[1]) <= 1e-6 * max(abs(one), 1e-12),
            f"at step {step}, groups of rates {RATES[0]} and {RATES[1]} have {one:.4g} and {other:.4g}",
        )
    for group, own in zip(run.optimizer.param_groups, before, strict=True):
        changed = [key for key, value in own.items() if key != "params" and group.get(key) != value]
        require(not changed, f"writes to {', '.join(changed)} of a group")
    return "groups keep the ratio of their rates; nothing else of them changes"


def resumes(subject: ScheduleSubject) -> str:
    """Stopped, written, read and gone on with, the rates are those of a run that had not stopped."""
    places = (1, TOTAL // 3, TOTAL - 5)
    for place in places:
        whole = subject.run()
        whole.take(place)
        written = io.BytesIO()
        torch.save([whole.optimizer.state_dict(), whole.schedule.state_dict()], written)
        written.seek(0)
        expected = whole.take(TOTAL - place)
        again = subject.run()
        states: Any = torch.load(written, weights_only=True)
        again.optimizer.load_state_dict(states[0])
        again.schedule.load_state_dict(states[1])
        again.step = place
        for step, (one, other) in enumerate(zip(expected, again.take(TOTAL - place), strict=True), place):
            require(
                one == other,
                f"stopped at step {place} and resumed, the rate at step {step} is {other[0]:.6g}, not {one[0]:.6g}",
            )
    return f"stopped at steps {', '.join(map(str, places))} of {TOTAL}: the same rates to the last bit"


def repeats(subject: ScheduleSubject) -> str:
    """Rates are a function of the step and the gradients: the same again, whatever generators of chance are at."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(subject.run().take(TOTAL))
        require(torch.equal(before, torch.get_rng_state()), "draws from torch's global generator")
    require(found[0] == found[1], "the same steps give other rates the second time")
    return f"{TOTAL} steps twice: the same rates"


def differs(subject: ScheduleSubject) -> str:
    """The course of its rates is not that of the default schedule."""
    usual = default_option("schedule")
    node = OmegaConf.load(conf_folder() / "schedule" / f"{usual}.yaml")
    node.total_steps = TOTAL
    plain: Any = OmegaConf.to_container(node)
    if {**plain, "total_steps": None} == {**copy.deepcopy(subject.node), "total_steps": None}:
        raise Skipped(f"it is schedule={usual}, the default")
    own, theirs = subject.run().take(TOTAL), subject.run(node=plain).take(TOTAL)
    apart = max(abs(one[0] - other[0]) for one, other in zip(own, theirs, strict=True))
    require(apart > 1e-9, f"gives the rates of schedule={usual}")
    return f"differs from schedule={usual} by up to {apart:.2f} of the optimizer's rate"


def measures() -> Iterator[tuple[str, Any]]:
    """The checks of the axis beside those of its settings."""
    yield from {
        "rates": rates,
        "groups": grouped,
        "resume": resumes,
        "repeats": repeats,
        "differs": differs,
    }.items()
