"""The command `judge`: whether a proposal is kept, by its campaign so far."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ablab.cli.application import interrupt
from ablab.cli.parsing import Command
from ablab.errors import UserError, printable

if TYPE_CHECKING:
    from ablab.study.events import Observer


def judge(parser: argparse.ArgumentParser) -> Command:
    """Judge a proposal against a campaign's baseline: KEEP, DISCARD or MORE SEEDS, few of all that is kept false."""
    parser.add_argument(
        "proposal",
        nargs="*",
        metavar="FILE|KEY=VALUE",
        help="the YAML file of an option, my_conf/activation/mine.yaml, or overrides, or both; without any: --list",
    )
    parser.add_argument(
        "--campaign", metavar="DIR", type=Path, default=Path("outputs/campaign"), help="default: outputs/campaign"
    )
    parser.add_argument("--list", action="store_true", help="show the campaign's ledger, and run nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout, and nothing else there")
    declared = parser.add_argument_group("declared by the first command of a campaign, and held")
    declared.add_argument("--baseline", metavar="OVERRIDES", help="in quotes: 'model=tiny task.seq_len=64'")
    declared.add_argument("--metric", help="what is compared (default: the task's primary metric)")
    declared.add_argument("--margin", type=float, help="that an improvement must exceed (default: 0)")
    declared.add_argument("--level", type=float, help="the share of false ones among all that is kept (default: .05)")
    declared.add_argument("--proposals", metavar="N", type=int, help="that are planned; more may follow (default: 200)")
    parser.add_argument(
        "--move-baseline", metavar="OVERRIDES", help="compare with these from now on, as with what was kept"
    )
    parser.add_argument("--max-runs", metavar="N", type=int, help="that this command may make; then it says MORE SEEDS")
    parser.add_argument("--no-certify", action="store_true", help="train without the checks of `ablab verify`")
    parser.add_argument(
        "--config-dir", "-cd", metavar="DIR", type=Path, action="append", default=[], help="options of your own"
    )
    return _judge


def _judge(options: argparse.Namespace) -> int:
    from ablab.report.campaign import EXIT_STATUS, judgement_json, judgement_text

    if options.list or not options.proposal:
        return _list(options)
    from ablab.campaign import judge

    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, interrupt)
    with contextlib.redirect_stdout(sys.stderr):  # progress; what is said of the proposal is all of stdout
        found = judge(
            options.proposal,
            campaign=options.campaign,
            baseline=options.baseline,
            move_baseline=options.move_baseline,
            metric=options.metric,
            margin=options.margin,
            level=options.level,
            proposals=options.proposals,
            max_runs=options.max_runs,
            certify=not options.no_certify,
            config_dirs=options.config_dir,
            observe=_observer,
        )
    told = (found.campaign, found.proposal, found.judgement, found.runs_made, found.from_ledger)
    print(
        json.dumps(judgement_json(options.campaign, *told)) if options.json else printable(judgement_text(*told)[:-1])
    )
    return EXIT_STATUS[found.decision]


def _observer() -> Observer:
    from rich.console import Console

    from ablab.report.live.screen import observer

    return observer(console=Console(stderr=True, highlight=False))


def _list(options: argparse.Namespace) -> int:
    from ablab.report.campaign import campaign_json, campaign_table
    from ablab.results.campaign import read_campaign

    if options.proposal:
        raise UserError("--list: shows the ledger and judges nothing; leave the proposal out")
    campaign = read_campaign(options.campaign)
    found = json.dumps(campaign_json(options.campaign, campaign)) if options.json else campaign_table(campaign)
    print(printable(found.rstrip("\n")))
    return 0
