"""The commands beside Hydra's application."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablab.cli.application import interrupt, run_hydra
from ablab.cli.bench import bench
from ablab.cli.evaluate import evaluate
from ablab.cli.export import export
from ablab.cli.generate import generate
from ablab.cli.judge import judge
from ablab.cli.new import new
from ablab.cli.parsing import Command, Parser, add_trust, folders_and_overrides, trust_command
from ablab.cli.verify import verify
from ablab.config.schema import INTERVALS, SPLITS
from ablab.errors import UserError

FORMATS = ("terminal", "csv", "markdown", "json", "latex")


def run_command(words: list[str]) -> int:
    parser = Parser(prog=f"ablab {words[0]}", description=COMMANDS[words[0]].__doc__)
    command = COMMANDS[words[0]](parser)
    # Where folders and filters are named, options may stand between them.
    intermixed = words[0] in ("compare", "report", "evaluate", "verify", "judge")
    parse = parser.parse_intermixed_args if intermixed else parser.parse_args
    return command(parse(words[1:])) or 0


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        metavar="DIR|FILE|KEY=VALUE",
        nargs="+",
        help="folders of runs, files of kept results; and filters as overrides, attention=lsh,mla: seed=... and "
        "study=... restrict the runs that are compared, any other the comparisons that are shown",
    )
    parser.add_argument(
        "--baseline",
        metavar="OVERRIDES",
        help="such as attention=full; previous: the one before each; default: the study's, else the first",
    )
    parser.add_argument("--metric", help="what to compare by; default: the task's primary metric")
    parser.add_argument(
        "--margin", type=float, help="differences below this are equivalent, in the metric's unit; default: the study's"
    )
    parser.add_argument(
        "--split", choices=SPLITS, help="of the task's primary metric; default: the study's, validation as a rule"
    )
    parser.add_argument("--last", metavar="K", type=int, help="compare the mean of the last K evaluations (default: 1)")
    parser.add_argument(
        "--intervals",
        choices=INTERVALS,
        help="that are shown: of each comparison alone, or such that those of all hold together; default: the "
        "study's, single as a rule",
    )


def _terms(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "baseline": options.baseline,
        "metric": options.metric,
        "margin": options.margin,
        "last_k": options.last,
        "split": options.split,
        "intervals": options.intervals,
    }


def _compare(parser: argparse.ArgumentParser) -> Command:
    """Compare the variants in a folder of runs, paired by seed: a table and a verdict each."""
    _add_comparison(parser)
    parser.add_argument("--format", choices=FORMATS, default="terminal")
    parser.add_argument(
        "--by", choices=("suite", "task"), help="verdicts on all tasks together, or on each; default: both"
    )

    def command(options: argparse.Namespace) -> None:
        from ablab.report.commands import compare_command

        folders, filters = folders_and_overrides(options.words)
        text = compare_command(folders, filters, options.format, options.by, **_terms(options))
        try:
            text.encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"stdout takes {error.encoding} only; set PYTHONUTF8=1 to write UTF-8") from error
        print(text, end="", flush=True)

    return command


def _resume(parser: argparse.ArgumentParser) -> Command:
    """Go on with a study that was stopped or killed, from its folder, on any machine that sees it."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder of a sweep")
    parser.add_argument("--retry", choices=("failed",), help="also run those again that failed")
    parser.add_argument("--jobs", metavar="N", type=int, help="runs side by side; default: as the study says")
    add_trust(parser)

    def command(options: argparse.Namespace) -> int:
        from ablab.analysis.decisions import decide
        from ablab.config.redact import command_filled_in
        from ablab.report.conclude import compare_so_far, conclude_study
        from ablab.report.declared import declared_settings
        from ablab.report.live.screen import observer
        from ablab.study.launch import resume
        from ablab.study.plan_reader import read_plan, return_to

        folder = options.folder.resolve()
        plan = read_plan(folder, options.trust)
        return_to(plan, options.trust)
        if plan.runs is None:  # it was stopped while the plan was being made
            trust_command(folder, plan.command, options.trust)
            retry = ["--retry", options.retry] if options.retry else []
            words = command_filled_in(plan.command)
            return run_hydra([*words, *retry, *([] if options.jobs is None else [f"jobs={options.jobs}"])])
        terms = declared_settings(plan.comparison)
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, interrupt)
        try:
            retry = options.retry == "failed"
            records = resume(folder, plan, retry_failed=retry, jobs=options.jobs, observe=observer, decide=decide)
        except KeyboardInterrupt:
            compare_so_far(folder, **terms)
            raise
        # A run whose folder is another's has no record there, and counts all the same.
        unwell = any(record.status != "ok" for record in records.values())
        return conclude_study(folder, **terms) or int(unwell)

    return command


def _report(parser: argparse.ArgumentParser) -> Command:
    """Write one self-contained HTML report on a folder of runs."""
    _add_comparison(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="default: report.html in the (first) folder, or beside the (first) file, named after it",
    )

    def command(options: argparse.Namespace) -> None:
        from ablab.report.commands import report_command

        folders, filters = folders_and_overrides(options.words)
        print(report_command(folders, filters, options.output, **_terms(options)))

    return command


def _keep(parser: argparse.ArgumentParser) -> Command:
    """Keep the results of a study in one small file, which compare, report and load() read."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="a run, a study, or any folder of them")
    parser.add_argument("file", metavar="FILE", type=Path, help="named ....jsonl.xz; an earlier one is replaced")
    parser.add_argument(
        "--trials", action="store_true", help="also runs that chose settings or measured speeds, for `ablab restore`"
    )

    def command(options: argparse.Namespace) -> None:
        from ablab.results.keep import keep

        print(keep(options.folder, options.file, trials=options.trials))

    return command


def _restore(parser: argparse.ArgumentParser) -> Command:
    """Make a folder of kept results again, so that a study can go on with it: more seeds, more variants."""
    parser.add_argument("file", metavar="FILE", type=Path, help="by `ablab keep`, with --trials where the study tunes")
    parser.add_argument("folder", metavar="DIR", type=Path, help="the study's: outputs/NAME; new")

    def command(options: argparse.Namespace) -> None:
        from ablab.results.restore import restore

        print(restore(options.file, options.folder))

    return command


def _dashboard(parser: argparse.ArgumentParser) -> Command:
    """Show a folder of runs in TensorBoard, on this machine only (127.0.0.1)."""
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--port", type=int, default=6006)

    def command(options: argparse.Namespace) -> None:
        from ablab.report.dashboard import serve
        from ablab.report.declared import declared_comparison

        with contextlib.suppress(KeyboardInterrupt):
            with contextlib.suppress(ValueError):  # not in the main thread
                signal.signal(signal.SIGTERM, interrupt)
            serve(options.folder, options.port, **declared_comparison([options.folder]))

    return command


def _sync(parser: argparse.ArgumentParser) -> Command:
    """Upload the runs in a folder that were logged to Weights & Biases offline and have ended."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="a run, a study, or any folder of them")

    def command(options: argparse.Namespace) -> int:
        from ablab.report.sync import sync

        return sync(options.folder)

    return command


def _consolidate(parser: argparse.ArgumentParser) -> Command:
    """Write a checkpoint that is in shards (strategy.checkpoint=sharded) as one file beside it."""
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")

    def command(options: argparse.Namespace) -> None:
        from ablab.training.checkpoint_folders import consolidate

        print(consolidate(options.run, options.checkpoint))

    return command


COMMANDS: dict[str, Callable[[argparse.ArgumentParser], Command]] = {
    "resume": _resume,
    "compare": _compare,
    "report": _report,
    "keep": _keep,
    "restore": _restore,
    "dashboard": _dashboard,
    "sync": _sync,
    "generate": generate,
    "export": export,
    "evaluate": evaluate,
    "consolidate": _consolidate,
    "bench": bench,
    "verify": verify,
    "judge": judge,
    "new": new,
}
