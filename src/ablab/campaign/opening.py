"""The beginning of a campaign: what is declared then, and holds; and a baseline that is moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ablab.analysis.metrics import directed
from ablab.analysis.online_fdr import LEVEL, PROPOSALS
from ablab.campaign.proposal import Words, beside_us, identity_of, parse
from ablab.campaign.sources import remember, sources_of
from ablab.config.nearest import nearest
from ablab.errors import UserError
from ablab.results.campaign import Baseline, Campaign, Declaration, campaign_of
from ablab.results.ledger import Ledger
from ablab.results.record import Direction
from ablab.study.planning.preflight import Preflight
from ablab.training.begin import changed_data, now


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a call says of the campaign as a whole; None where it leaves it to what was declared, or to the default."""

    baseline: tuple[str, ...] | None = None
    move_baseline: tuple[str, ...] | None = None
    metric: str | None = None
    margin: float | None = None
    level: float | None = None
    proposals: int | None = None
    config_dirs: tuple[Path, ...] = ()


def open_campaign(ledger: Ledger, asked: Asked, preflight: Preflight) -> Words:
    """Begin the campaign of a ledger, or make sure that it is the one that is asked for; the words of its baseline.

    Raises:
        UserError: the baseline cannot work, or what was declared is to be changed.
    """
    _refuse_values(asked)
    campaign = campaign_of(ledger.entries)
    if campaign is None or not campaign.baselines:
        if asked.move_baseline is not None:
            raise UserError("--move-baseline: no campaign has begun here; give --baseline, or the --campaign that has")
        words = parse_baseline(asked.baseline or (), asked.config_dirs)
        declared, baseline = _declared(words, asked, preflight)
        if campaign is None:
            ledger.append("campaign", asdict(declared), now())
        ledger.append("baseline", asdict(baseline), now())
        return words
    _refuse_changes(campaign, asked)
    present = _words_of(campaign.baseline)
    _check_baseline(campaign.baseline, _baseline(present, preflight))
    if asked.move_baseline is not None and list(asked.move_baseline) != campaign.baseline.overrides:
        words = parse_baseline(asked.move_baseline, (*map(Path, campaign.baseline.config_dirs), *asked.config_dirs))
        preflight.check(words.config())
        moved = _baseline(words, preflight)
        for before in campaign.baselines:
            if before.identity == moved.identity:
                _check_baseline(before, moved)
        ledger.append("baseline", asdict(moved), now())
        return words
    return present


def _words_of(baseline: Baseline) -> Words:
    return Words(tuple(baseline.overrides), tuple(map(Path, baseline.config_dirs)))


def parse_baseline(words: Sequence[str], config_dirs: Sequence[Path]) -> Words:
    """The same of words that are given, of which there may be none: the default config."""
    return parse(words, config_dirs) if words else Words((), tuple(config_dirs))


def _declared(words: Words, asked: Asked, preflight: Preflight) -> tuple[Declaration, Baseline]:
    config = words.config()
    preflight.check(config)
    metric, direction, by_name = _metric(words, asked.metric, preflight)
    declared = Declaration(
        metric=metric,
        direction=direction,
        by_name=by_name,
        margin=asked.margin or 0.0,
        level=LEVEL if asked.level is None else asked.level,
        proposals=PROPOSALS if asked.proposals is None else asked.proposals,
    )
    return declared, _baseline(words, preflight)


def _metric(words: Words, asked: str | None, preflight: Preflight) -> tuple[str, Direction, bool]:
    """What is compared, its direction, and whether that is taken from its name."""
    config = words.config()
    primary = preflight.task(config).primary
    names = preflight.metrics(config)
    if asked is None or asked == primary.name:
        return primary.name, primary.direction, False
    if names is not None and asked not in names:
        raise UserError(f"--metric {asked}: no run will have it{nearest(asked, names)}")
    return directed(asked, primary)


def _baseline(words: Words, preflight: Preflight) -> Baseline:
    config = words.config()
    sources = sources_of(config)
    remember(config)
    return Baseline(
        overrides=list(words.overrides),
        identity=identity_of(config, {name: each for name, each in sources.items() if not name.startswith("ablab.")}),
        config_dirs=[beside_us(folder) for folder in words.config_dirs],
        corpus=preflight.task(config).corpus.sha256,
    )


def _check_baseline(baseline: Baseline, now_there: Baseline) -> None:
    """Raises UserError where the baseline is not what the campaign's runs were made with."""
    if now_there.corpus != baseline.corpus:
        raise UserError(changed_data("the campaign's task"))
    if now_there.identity != baseline.identity:
        raise UserError(
            "the baseline is another than when the campaign began: ablab is of another version, or its files were "
            "changed; put them back, or begin another campaign"
        )


def _refuse_changes(campaign: Campaign, asked: Asked) -> None:
    declared = campaign.declaration
    for name in ("metric", "margin", "level", "proposals"):
        given, held = getattr(asked, name), getattr(declared, name)
        if given is not None and given != held:
            raise UserError(f"--{name} {given}: the campaign has declared {held}, which holds; begin another campaign")
    if asked.baseline is not None and list(asked.baseline) != campaign.baseline.overrides:
        held = " ".join(campaign.baseline.overrides) or "the default config"
        raise UserError(
            f"--baseline {' '.join(asked.baseline)}: the campaign's is {held}; leave it out, or move it by "
            "--move-baseline, or begin another campaign"
        )


def _refuse_values(asked: Asked) -> None:
    if asked.margin is not None and not 0 <= asked.margin < float("inf"):
        raise UserError(f"--margin {asked.margin}: must be at least 0, in the metric's unit")
    if asked.level is not None and not 0 < asked.level < 1:
        raise UserError(f"--level {asked.level}: must be between 0 and 1")
    if asked.proposals is not None and asked.proposals < 1:
        raise UserError(f"--proposals {asked.proposals}: must be at least 1")
