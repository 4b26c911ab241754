"""`ablab evaluate`: finished runs on other data than their own."""

from __future__ import annotations

import argparse
import contextlib
import signal

from ablab.cli.application import interrupt
from ablab.cli.parsing import Command, add_trust, folders_and_overrides


def evaluate(parser: argparse.ArgumentParser) -> Command:
    """Evaluate finished runs on longer sequences, another corpus or task, beside their records."""
    parser.add_argument(
        "words",
        metavar="RUN|STUDY|task...=VALUE",
        nargs="+",
        help="folders of runs, or of studies, all of whose runs that ended well are evaluated; and overrides of the "
        "task, of which a list makes several evaluations: task.seq_len=512,1024 task=text task.path=notes.txt",
    )
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="default: best")
    parser.add_argument("--again", action="store_true", help="also make those anew that are there already")
    add_trust(parser)

    def command(options: argparse.Namespace) -> int:
        from ablab.study.evaluate import evaluate_all

        places, overrides = folders_and_overrides(options.words)
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, interrupt)
        return evaluate_all(
            places, overrides, checkpoint=options.checkpoint, again=options.again, trust=options.trust, tell=_tell
        )

    return command


def _tell(line: str) -> None:
    print(line, flush=True)
