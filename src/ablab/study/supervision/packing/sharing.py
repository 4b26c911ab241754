"""What `runs_per_device` comes to on this machine: a number as it is given, or with `auto` what trials find."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ablab.config.schema import AUTO, ExecutionConfig
from ablab.study.plan_file import PlannedRun
from ablab.study.supervision.packing.choice import Level, Memory, Packing, pack
from ablab.study.supervision.packing.measure import Tools, Trials
from ablab.study.supervision.packing.mps import MOST_CLIENTS, Service, service
from ablab.study.supervision.packing.nvidia import gpu_named, gpus
from ablab.study.supervision.resources import Placement, cores, threads_for
from ablab.training.build import made_of

MOST_KINDS = 6  # models that are tried alone, to find the one that needs most memory


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How runs share devices.

    Args:
        names: of the devices, as the runs are told them.
        runs_per_device: how many may be on one.
        environment: of the runs, through which they find MPS.
        measured: whether it was found out here, so that a run that finds no memory is tried again with fewer beside it.
    """

    names: Sequence[str]
    runs_per_device: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    measured: bool = False

    def place(self, devices: tuple[str, ...], threads: int | None) -> Placement:
        """Where a run goes that was given these devices."""
        return Placement(threads, devices, tuple(sorted(self.environment.items())))


@contextlib.contextmanager
def sharing(
    runs: Sequence[PlannedRun],
    needs: Mapping[int, int],
    names: Sequence[str],
    settings: ExecutionConfig,
    tools: Tools,
) -> Iterator[Sharing]:
    """How these runs share these devices, for as long as the block takes; MPS serves them meanwhile, where it is used.

    Args:
        needs: how many devices each run takes, by `RunOutline.index`.
    """
    using = [run for run in runs if needs[run.info.index]]
    if settings.runs_per_device != AUTO:
        yield Sharing(names=names, runs_per_device=int(settings.runs_per_device))
    elif not using:
        yield Sharing(names=names)
    elif reason := _not_shared(using, needs, names, settings):
        tools.say(f"runs_per_device=auto: {Packing(runs=1, reason=reason).sentence()}")
        yield Sharing(names=names)
    else:
        found = gpus(tools.ask)
        uuids = [gpu.uuid for gpu in (gpu_named(name, found) for name in names) if gpu is not None]
        uuids = uuids if len(uuids) == len(names) else []
        with service(uuids) as mps:
            served = Sharing(names=uuids if mps.used and uuids else names, environment=mps.environment, measured=True)
            yield _measured(_kinds(using), _most(using, names, settings), names, served, mps, tools)


def _not_shared(
    using: Sequence[PlannedRun], needs: Mapping[int, int], names: Sequence[str], settings: ExecutionConfig
) -> str:
    """Why no runs are to share a device, and nothing is to be measured; "" where they may."""
    if any(needs[run.info.index] > 1 for run in using):
        return "some runs take several devices"
    return "there are no more runs than devices" if _most(using, names, settings) < 2 else ""


def _most(using: Sequence[PlannedRun], names: Sequence[str], settings: ExecutionConfig) -> int:
    """Runs that a device may have to take: of those that there are, with a core for each."""
    side_by_side = min(len(using), cores(), settings.jobs or len(using))
    return min(-(-side_by_side // len(names)), MOST_CLIENTS)


def _kinds(using: Sequence[PlannedRun]) -> list[PlannedRun]:
    """A run of each model and task, of the first ones."""
    first: dict[str, PlannedRun] = {}
    for run in using:
        first.setdefault(made_of(run.config), run)
    return list(first.values())[:MOST_KINDS]


def _measured(
    kinds: Sequence[PlannedRun],
    most: int,
    names: Sequence[str],
    shared: Sharing,
    mps: Service,
    tools: Tools,
) -> Sharing:
    """Try the kinds of runs on the first device: with MPS, if it is there, and without where that does not serve."""
    packing, memory = _packed(kinds, most, shared, tools)
    if mps.used and not packing.levels and not tools.stopped():
        mps = Service(f"with it {packing.reason}")
        shared = Sharing(names=names, measured=True)
        packing, memory = _packed(kinds, most, shared, tools)
    how = "by MPS" if mps.used else f"without MPS, since {mps.reason}"
    if not tools.stopped():
        tools.say(f"runs_per_device=auto: {packing.sentence(memory)}; {how}")
    return replace(shared, runs_per_device=packing.runs)


_Key = tuple[tuple[str, ...], bool, frozenset[str]]
_KNOWN: dict[_Key, tuple[int, Packing]] = {}  # what an earlier block of the same study found, among how many runs


def _packed(kinds: Sequence[PlannedRun], most: int, shared: Sharing, tools: Tools) -> tuple[Packing, Memory | None]:
    device = shared.names[0]
    gpu = gpu_named(device, gpus(tools.ask))
    memory = None if gpu is None else Memory(total_bytes=gpu.total_bytes, idle_bytes=gpu.used_bytes)
    key = tuple(shared.names), bool(shared.environment), frozenset(made_of(run.config) for run in kinds)
    for (names, served, models), (tried, known) in _KNOWN.items():
        if (names, served) == key[:2] and models >= key[2] and tried >= most:
            return replace(known, runs=min(known.runs, most)), memory

    def trials(run: PlannedRun) -> Trials:
        return Trials(
            run=run,
            place=lambda runs: shared.place((device,), threads_for(1, runs * len(shared.names))),
            used_bytes=lambda: None if (now := gpu_named(device, gpus(tools.ask))) is None else now.used_bytes,
            tools=tools,
        )

    packing = pack_hungriest([trials(run) for run in kinds], most, memory)
    if packing.levels and not tools.stopped():
        _KNOWN[key] = most, packing
    return packing, memory


def pack_hungriest(kinds: Sequence[Callable[[int], Level | str]], most: int, memory: Memory | None) -> Packing:
    """Try each kind alone, then more copies of the one that took most memory; of the first where none tells."""
    alone = [(kind, kind(1)) for kind in (kinds if memory else kinds[:1])]
    worked = [(kind, level) for kind, level in alone if isinstance(level, Level)]
    if not worked:
        return Packing(runs=1, reason=f"a trial failed: {alone[0][1]}")
    hungriest, first = max(worked, key=lambda each: each[1].used_bytes or 0)
    return pack(lambda runs: first if runs == 1 else hungriest(runs), most, memory)
