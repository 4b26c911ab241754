"""Judging a proposal: it is entered in the ledger, certified, trained seed by seed, and the verdict is written."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ablab.analysis.campaign_verdict import Judgement, level_of, verdict_on
from ablab.campaign.no_effect import has_no_effect
from ablab.campaign.opening import Asked, open_campaign
from ablab.campaign.proposal import Words, beside_us, identity_of, joined, parse
from ablab.campaign.runs import Train, by_supervisor, in_this_process, judged, met_limit, planned_run, read_run
from ablab.campaign.sources import import_anew, remember, sources_of
from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.results.campaign import BASELINE, Campaign, Decision, Proposal, campaign_of
from ablab.results.ledger import Ledger
from ablab.study.events import Observer
from ablab.study.launched import refuse_sweep
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision.lock import StudyLock
from ablab.training.begin import now

FOLDER = "outputs/campaign"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A proposal and what is said of it.

    Attributes:
        from_ledger: it had been said before, and nothing was run.
        runs_made: by this call, the baseline's among them.
    """

    campaign: Campaign = field(repr=False)
    proposal: Proposal
    judgement: Judgement
    from_ledger: bool
    runs_made: int

    @property
    def decision(self) -> Decision:
        return self.judgement.decision


def judge(
    proposal: str | Sequence[str],
    *,
    campaign: str | Path = FOLDER,
    baseline: Sequence[str] | str | None = None,
    move_baseline: Sequence[str] | str | None = None,
    metric: str | None = None,
    margin: float | None = None,
    level: float | None = None,
    proposals: int | None = None,
    max_runs: int | None = None,
    certify: bool = True,
    config_dirs: Sequence[str | Path] = (),
    in_process: bool = False,
    observe: Callable[[], Observer] = Observer,
) -> Judged:
    """Judge a proposal against the baseline of a campaign, which the first call begins.

    Args:
        proposal: the YAML file of an option ("my_conf/activation/mine.yaml"), overrides ("optimizer.lr=2e-3"), or both.
        campaign: its folder.
        baseline: overrides of the run that proposals are compared with; declared by the first call, and held.
        move_baseline: the same, from this proposal on: "activation=mine", once that was kept.
        metric: what is compared; default: the task's primary metric. Declared by the first call, as the next three.
        margin: an improvement has to exceed it to be kept; default: 0.
        level: the share of false ones among all that is kept; default: .05.
        proposals: that the campaign is planned for; default: 200. More may follow, at lower levels.
        max_runs: that this call may make; MORE SEEDS where they do not suffice. None: as many as it takes.
        certify: check the component first, as `ablab verify` does; one that fails is not trained.
        config_dirs: folders of the user's own options, beside those that files lie in.
        in_process: train in this process, where runs take a second or two.
        observe: makes what shows the progress of runs.

    Raises:
        UserError: the proposal or the baseline cannot work, something declared is to be changed, the ledger was
            changed, or another process judges in this campaign.
    """
    asked = Asked(
        baseline=_words("--baseline", baseline),
        move_baseline=_words("--move-baseline", move_baseline),
        metric=metric,
        margin=margin,
        level=level,
        proposals=proposals,
        config_dirs=tuple(map(Path, config_dirs)),
    )
    if max_runs is not None and max_runs < 0:
        raise UserError(f"max_runs={max_runs}: must be at least 0")
    import_anew()
    refuse_sweep()
    own = parse([proposal] if isinstance(proposal, str) else proposal, asked.config_dirs)
    folder, preflight = Path(campaign), Preflight()
    with StudyLock(folder) as lock:
        ledger = Ledger(folder)
        base = open_campaign(ledger, asked, preflight)
        train = in_this_process(preflight, lock.beat) if in_process else by_supervisor(preflight, observe, lock.beat)
        return _Judge(folder, ledger, own, base, preflight, train, max_runs, certify).run()


def _words(option: str, given: Sequence[str] | str | None) -> tuple[str, ...] | None:
    try:
        return None if given is None else tuple(shlex.split(given) if isinstance(given, str) else given)
    except ValueError as error:
        raise UserError(f"{option} {given}: a quote is not closed ({error})") from error


class _Judge:
    """One call, which holds the lock of the campaign's folder."""

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        own: Words,
        base: Words,
        preflight: Preflight,
        train: Train,
        max_runs: int | None,
        certify: bool,
    ) -> None:
        self._folder, self._ledger, self._own, self._preflight = folder, ledger, own, preflight
        self._train, self._left, self._certify = train, max_runs, certify
        self._base, self._whole = base, own.upon(base)
        self._made = 0

    def run(self) -> Judged:
        """See the proposal to its verdict, or to the last run that may be made."""
        config, baseline = self._whole.config(), self._base.config()
        _refuse_other_task(config, baseline)
        self._preflight.check(config)
        sources = sources_of(config, baseline)
        remember(config)
        identity = self._known_by(identity_of(config, sources))
        known = self._campaign.find(identity)
        if known is not None and known.verdict is not None:
            return self._judged(known, Judgement.from_dict(known.verdict), from_ledger=True)
        if known is None:
            self._enter(identity, sources)
        if self._proposal(identity).certificate is None and self._certify:
            self._add_certificate(identity)
        if not self._proposal(identity).runs and (why := self._is_baseline(identity, config, baseline)):
            return self._conclude(identity, self._without_effect(identity, why))
        return self._by_seeds(identity)

    def _known_by(self, own: str) -> str:
        """What a proposal is known by in the ledger: beside another baseline it is another proposal."""
        present, first = self._campaign.baseline.identity, self._campaign.baselines[0].identity
        return own if present == first else joined(own, present)

    def _by_seeds(self, identity: str) -> Judged:
        while True:
            said = verdict_on(self._proposal(identity), self._campaign, self._ledger.entries)
            if isinstance(said, Judgement):
                return self._conclude(identity, said)
            wanted = self._missing(identity, said.seed)
            if self._left is not None and self._made + len(wanted) > self._left:
                return self._judged(self._proposal(identity), said.so_far, from_ledger=False)
            if limit := self._run(identity, said.seed, wanted):
                open_still = replace(said.so_far, reason="limit", detail=limit)
                return self._judged(self._proposal(identity), open_still, from_ledger=False)

    @property
    def _campaign(self) -> Campaign:
        campaign = campaign_of(self._ledger.entries)
        assert campaign is not None
        return campaign

    def _proposal(self, identity: str) -> Proposal:
        found = self._campaign.find(identity)
        assert found is not None
        return found

    def _write(self, kind: str, content: dict[str, Any]) -> None:
        self._ledger.append(kind, content, now())

    def _enter(self, identity: str, sources: dict[str, str]) -> None:
        content = {
            "number": len(self._campaign.proposals) + 1,
            "identity": identity,
            "label": self._own.label,
            "overrides": list(self._own.overrides),
            "config_dirs": [beside_us(folder) for folder in self._own.config_dirs],
            "sources": sources,
        }
        self._write("proposal", content)

    def _add_certificate(self, identity: str) -> None:
        from ablab.campaign.certificate import certificate_of

        found = certificate_of(self._own, self._whole)
        if found is not None:
            self._write("certificate", {"of": identity, "certificate": found})

    def _is_baseline(self, identity: str, config: RunConfig, baseline: RunConfig) -> str:
        """Why it is known to be the baseline without a run; "" where it is not."""
        passed = self._proposal(identity).certificate
        return has_no_effect(config, baseline) if passed is None or passed["passed"] else ""

    def _without_effect(self, identity: str, why: str) -> Judgement:
        level = level_of(self._proposal(identity), self._campaign)
        return Judgement(decision="DISCARD", reason="no effect", detail=why, level=level)

    def _missing(self, identity: str, seed: int) -> list[str]:
        """Whose runs on a seed the ledger does not have."""
        proposal = self._proposal(identity)
        there = {BASELINE: self._campaign.baseline_runs[proposal.baseline - 1], identity: proposal.runs}
        return [of for of, runs in there.items() if seed not in {run.seed for run in runs}]

    def _run(self, identity: str, seed: int, wanted: Sequence[str]) -> str:
        """Make the runs that are missing on a seed, and write them down, the baseline's first.

        Returns:
            the limit of the machine that the proposal's met, which then is not written down; else "".
        """
        runs = []
        for index, of in enumerate(wanted):
            words, place = (
                (self._base, self._baseline_folder) if of == BASELINE else (self._whole, self._place(identity))
            )
            label = BASELINE if of == BASELINE else self._own.label
            runs.append(planned_run(words.config(seed), self._folder / place / f"seed={seed}", label, index))
        records = self._train(runs)
        self._made += len(runs)
        declared = self._campaign.declaration
        for of, run, record in zip(wanted, runs, records, strict=True):
            if of != BASELINE and met_limit(record):
                return f"seed {seed}: {record.reason}"
            base = None if of == BASELINE else read_run(self._folder / self._baseline_folder / f"seed={seed}")
            told = judged(record, run.folder.relative_to(self._folder), of, declared, base)
            self._write("run", asdict(told))
        return ""

    @property
    def _baseline_folder(self) -> str:
        return f"baseline-{self._campaign.baseline.identity}"

    def _place(self, identity: str) -> str:
        return f"proposals/{self._proposal(identity).number:04d}-{identity}"

    def _conclude(self, identity: str, said: Judgement) -> Judged:
        self._write("verdict", {"of": identity, **said.to_dict()})
        return self._judged(self._proposal(identity), said, from_ledger=False)

    def _judged(self, proposal: Proposal, said: Judgement, from_ledger: bool) -> Judged:
        return Judged(
            campaign=self._campaign,
            proposal=proposal,
            judgement=said,
            from_ledger=from_ledger,
            runs_made=self._made,
        )


def _refuse_other_task(config: RunConfig, baseline: RunConfig) -> None:
    if config.options["task"] != baseline.options["task"]:
        raise UserError("task: a proposal is compared on the baseline's task and data; leave it to the baseline")
