"""Seeds in blocks, `seed=auto`: runs up to a look, then verdicts, then the next seeds of whoever is undecided.

What is decided at a look is a function of the records up to it, so that a study that was killed comes to the same
decisions when it goes on, and to the same runs. Each look is counted, and the plan file says whose seeds ended when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ablab.config import ComparisonConfig, fingerprint
from ablab.config.seeds import SeedsConfig
from ablab.errors import UserError
from ablab.results.collect import Runs, tabulate
from ablab.results.evaluation import AT
from ablab.results.interim import count_interim_analysis
from ablab.results.record import Record
from ablab.results.store import RECORD_FILE, read_record
from ablab.study.events import Block, RunOutline
from ablab.study.plan_file import Ended, Look, PlannedRun, write_looks

OPEN = "open"
BASELINE = "baseline"  # why its seeds end: those of all that are compared with it have
_ENDED = ("ok", "diverged", "failed")

Arm = tuple[str, str]  # a variant on a task, as the plan calls them; each has a run per seed
Cell = tuple[str, str]  # the same as a table of runs calls them


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a look says of one comparison."""

    label: str  # of the comparison: "lsh", with several tasks "lsh on recall"
    cells: tuple[Cell, ...]  # that get further seeds while it is open: of a suite, all of a variant's
    baselines: tuple[Cell, ...]  # that do so with them
    how: str  # a word of `ablab.config.seeds`, the verdict where no seed is spent on it, or `OPEN`

    @property
    def of(self) -> object:
        """What tells one comparison from another, at every look."""
        return self.label, self.cells


Decide = Callable[[Runs, SeedsConfig, ComparisonConfig], list[Decision]]


@dataclass(frozen=True, kw_only=True)
class SeedBlocks:
    """The blocks of one study.

    Args:
        study: the folder.
        planned: all runs that there may be, on every seed up to `seeds.max`.
        decide: draws the verdicts from the runs up to a look.
    """

    study: Path
    planned: Sequence[PlannedRun]
    seeds: SeedsConfig
    comparison: ComparisonConfig
    decide: Decide

    def run(self, carry_out: Callable[[list[PlannedRun]], bool], tell: Callable[[Block], None]) -> list[PlannedRun]:
        """Go from look to look until all is decided; the runs that it took.

        Where runs of a block have not ended, since the study is stopped, that look is not made.

        Args:
            carry_out: sees some of the planned runs to their end, and says whether others may follow.
            tell: is told of each block before it is carried out, and when all is over.

        Raises:
            UserError: the runs cannot be compared, or what was decided cannot be written.
        """
        going = dict.fromkeys(arm_of(run.info) for run in self.planned)
        made: list[PlannedRun] = []
        looks: list[Look] = []
        new: list[Decision] = []
        settled: set[object] = set()
        for look in self.seeds.every_look:
            block = self._up_to(look, made, going)
            tell(self._block(look, block, made, going, new))
            may_go_on = carry_out(block)
            made += block
            found = _records(made)
            if not may_go_on or len(found) < len(made):
                return made
            runs = self._counted(found)
            new = [one for one in self.decide(runs, self.seeds, self.comparison) if one.of not in settled]
            settled |= {one.of for one in new if one.how != OPEN}
            ended = _ended(going, runs, new, made, last=look == self.seeds.every_look[-1])
            looks.append(Look(seeds=look, ended=ended))
            write_looks(self.study, looks)
            for one in ended:
                del going[one.task, one.variant]
            if not going:
                tell(self._block(look, [], made, going, new))
                break
        return made

    def _up_to(self, look: int, made: Sequence[PlannedRun], going: Iterable[Arm]) -> list[PlannedRun]:
        """The runs up to a look that are not made yet, of whoever is undecided."""
        seeds = set(self._seeds[:look])
        before, arms = {run.info.index for run in made}, set(going)
        return [
            run
            for run in self.planned
            if run.info.seed in seeds and run.info.index not in before and arm_of(run.info) in arms
        ]

    @property
    def _seeds(self) -> list[int]:
        return sorted({run.info.seed for run in self.planned})

    def _block(
        self,
        look: int,
        block: Sequence[PlannedRun],
        made: Sequence[PlannedRun],
        going: Iterable[Arm],
        decisions: Sequence[Decision],
    ) -> Block:
        later = self._up_to(len(self._seeds), [*made, *block], going)
        return Block(
            seeds=look,
            runs=frozenset(run.info.index for run in block),
            later=frozenset(run.info.index for run in later),
            made=len(made),
            planned=len(self.planned),
            looked_at=len({run.info.seed for run in made}),
            decided=tuple((one.label, one.how) for one in decisions if one.how != OPEN),
            open=tuple(one.label for one in decisions if one.how == OPEN),
        )

    def _counted(self, found: Sequence[tuple[Path, Record]]) -> Runs:
        """The runs up to a look, which is counted; with no other looks than those before it."""
        seeds = [record.seed for _, record in found if record.status in ("ok", "diverged")]
        counted = count_interim_analysis(self.study, seeds)
        before = [each for each in counted if set(each.seeds) <= set(seeds)]
        return replace(tabulate(list(found)), interim_analyses=tuple(before))


def arm_of(run: RunOutline) -> Arm:
    """The variant and the task of a run, which are the same on every seed."""
    return run.task, run.variant


def refuse_undecidable(planned: Runs, seeds: SeedsConfig, comparison: ComparisonConfig) -> None:
    """Raise UserError where nothing would ever be decided, however many seeds there are."""
    if len(planned.variants) < 2:
        raise UserError("seed=auto: there is one variant, and nothing to decide; give the seeds, as in seed=0,1,2")
    if AT in (comparison.metric or ""):
        raise UserError(
            f"seed=auto: comparison.metric={comparison.metric} is of evaluations after training, and the seeds are "
            "decided on before; give the seeds, as in seed=0,1,2"
        )
    if seeds.stop == ["equivalent"] and comparison.margin is None:
        raise UserError("seeds.stop=equivalent: nothing is equivalent without a margin; add comparison.margin=...")


def _records(runs: Sequence[PlannedRun]) -> list[tuple[Path, Record]]:
    """The records of those that have ended, in the order of the plan."""
    found = []
    for run in sorted(runs, key=lambda run: run.info.index):
        try:
            record = read_record(run.folder / RECORD_FILE)
        except UserError:
            continue
        if record.status in _ENDED and record.fingerprint == fingerprint(run.config):
            found.append((run.folder, replace(record, index=run.info.index)))
    return found


def _ended(
    going: Iterable[Arm], runs: Runs, decisions: Sequence[Decision], made: Sequence[PlannedRun], last: bool
) -> list[Ended]:
    """Whose seeds end: those of all whose comparisons are decided, and of a baseline that nobody needs any more.

    A placebo goes on with the arm whose settings it has: it says what differences come of nothing, on the same seeds.
    """
    arms = {run.info.index: arm_of(run.info) for run in made}
    of_cell = {cell: {arms[runs.records[place].index or 0] for place in places} for cell, places in runs.places.items()}
    on: set[Arm] = set()
    why: dict[Arm, str] = {}
    for one in decisions:
        if one.how == OPEN and not last:
            on = on.union(*(of_cell[cell] for cell in (*one.cells, *one.baselines)))
        why |= {arm: one.how for cell in one.cells for arm in of_cell[cell]}
    every, named = runs.every, {tuple(each.values()): variant for variant, each in runs.choices.items()}
    for (task, variant), places in every.places.items():
        original = named.get(tuple(every.choices[variant].values()), variant)
        if every.records[places[0]].placebo and on & of_cell.get((task, original), set()):
            on = on.union(arms[every.records[place].index or 0] for place in places)
    return [Ended(task=arm[0], variant=arm[1], why=why.get(arm, BASELINE)) for arm in going if arm not in on]
