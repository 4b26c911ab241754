"""The command line. `ablab` is a Hydra application with a few commands beside it.

What is heavy is imported where it is used: help must not wait for torch.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ablab import __version__
from ablab.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

PLAN_HELP = """\
Shows what `ablab -m ...` would do, before anything is trained: the runs, how long they take and how much memory (from
a few steps of each variant, which --no-probe leaves out), the smallest effect that the seeds could show, and every
error of every run."""
FORMATS = ("terminal", "csv", "markdown", "json")


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exit status: 0 done, 1 a run did not end well, 2 a mistake of the user's, 130 Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # OpenMP's threads wait for each other by spinning. On a machine that does something else too, spinning as long
    # as is the default made training four times slower; this little costs nothing where the machine is free.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    _make_importable(words)
    try:
        if words and words[0] == "plan":
            status = _plan(words[1:])
        elif words and words[0] in COMMANDS:
            status = _run_command(words)
        elif words and words[0] in ("-h", "--help", "help"):
            status = _print_help()
        elif words and words[0] == "--version":
            status = _print_version()
        else:
            status = _run_hydra(words)
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        # Without a name its folder has the time of day as its name.
        named = words[:1] == ["resume"] or any(word.startswith(("name=", "study=")) for word in words)
        rest = "; the same command goes on with the runs that are left" if named else ""
        print(f"\nablab: interrupted{rest}", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # `ablab compare | head`: nobody reads on
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the interpreter's own flush at exit)
        status = 0
    sys.exit(status)


def _make_importable(words: list[str]) -> None:
    """Let a component of the user's be found in the working folder, and beside and above the folder of --config-dir.

    Behind all that is installed, so that no file of theirs takes the place of a package. Processes of runs inherit it.
    """
    folders = [Path.cwd()]
    for before, word in zip(["", *words], words, strict=False):
        value = word.removeprefix("--config-dir=") if word.startswith("--config-dir=") else None
        if before in ("--config-dir", "-cd"):
            value = word
        if value:
            folder = Path(value).resolve()
            folders += [folder, folder.parent]
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str) -> NoReturn:
    print(f"ablab: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _run_hydra(words: list[str]) -> int:
    """Hand the command line to Hydra: one run, or with -m a sweep."""
    import hydra

    from ablab.config import conf_folder, register_schema
    from ablab.config.explain import ConfigErrors, explain

    register_schema()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would otherwise print at length; it is explained here
    sys.argv = ["ablab", *_overrides_last(_retry(words))]
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _interrupt)  # a scheduler's polite end is treated like Ctrl-C
    statuses: list[str] = []

    def job(config: DictConfig) -> float:
        from ablab.study.conduct import objective
        from ablab.study.job import run_job

        try:
            record = run_job(config)
        except UserError as error:
            _fail(str(error))
        statuses.append(record.status)
        return objective(record)

    try:
        hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")(job)()
    except ConfigErrors as error:
        _fail(explain(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        _fail(": ".join(filter(None, [error.filename, error.strerror or str(error)])))
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        _fail(f"each axis needs the name of an option ({error})")  # attention=null, attention=3
    return 130 if "interrupted" in statuses else int(any(status != "ok" for status in statuses))


def _plan(words: list[str]) -> int:
    """`ablab plan ...` takes what `ablab -m ...` takes, and `--no-probe`."""
    if "-h" in words or "--help" in words:
        print("ablab plan [--no-probe] STUDY, as in ablab plan study=quickstart\n\n" + PLAN_HELP)
        return 0
    probe = "--no-probe" not in words
    planner = ["hydra/sweeper=ablab_plan", f"hydra.sweeper.probe={str(probe).lower()}"]
    return _run_hydra(["-m", *planner, *(word for word in words if word not in ("--no-probe", "-m"))])


def _retry(words: list[str]) -> list[str]:
    """`--retry failed`, as `ablab resume` has it, for the setting of that name."""
    if "--retry" not in words[:-1]:
        return words
    place = words.index("--retry")
    return [*words[:place], *words[place + 2 :], f"retry={words[place + 1]}"]


def _overrides_last(words: list[str]) -> list[str]:
    """Hydra's parser refuses overrides on both sides of an option, as in `ablab name=windows -m seed=0,1`."""
    options: list[str] = []
    overrides: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        value = before in ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p")
        is_override = not word.startswith("-") and not value and ("=" in word or word.startswith("~"))
        (overrides if is_override else options).append(word)
    return [*options, *overrides]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything here does; the usage is in the help."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _run_command(words: list[str]) -> int:
    parser = _Parser(prog=f"ablab {words[0]}", description=COMMANDS[words[0]].__doc__)
    command = COMMANDS[words[0]](parser)
    return command(parser.parse_args(words[1:])) or 0


Command = Callable[[argparse.Namespace], int | None]


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="a folder of runs")
    parser.add_argument(
        "--baseline", metavar="OVERRIDES", help="for example attention=full; default: the first variant"
    )
    parser.add_argument("--metric", help="what to compare by; default: the task's primary metric")
    parser.add_argument("--margin", type=float, help="differences below this are equivalent, in the metric's unit")


def _compare(parser: argparse.ArgumentParser) -> Command:
    """Compare the variants in a folder of runs, paired by seed: a table and a verdict each."""
    _add_comparison(parser)
    parser.add_argument("--format", choices=FORMATS, default="terminal")

    def command(options: argparse.Namespace) -> None:
        from ablab.report.commands import compare_command

        print(compare_command(options.folders, options.baseline, options.metric, options.margin, options.format))

    return command


def _resume(parser: argparse.ArgumentParser) -> Command:
    """Go on with a study that was stopped or killed, from its folder, on any machine that sees it."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder of a sweep")
    parser.add_argument("--retry", choices=("failed",), help="also run those again that failed")
    parser.add_argument("--jobs", metavar="N", type=int, help="runs side by side; default: as the study says")

    def command(options: argparse.Namespace) -> int:
        from ablab.report.conclude import compare_so_far, conclude_study
        from ablab.report.live import observer
        from ablab.study.plan_file import read_plan, return_to
        from ablab.study.resume import resume

        folder = options.folder.resolve()
        plan = read_plan(folder)
        return_to(plan)
        if plan.runs is None:  # it was stopped while the plan was being made
            retry = ["--retry", options.retry] if options.retry else []
            return _run_hydra([*plan.command, *retry, *([f"jobs={options.jobs}"] if options.jobs else [])])
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, _interrupt)
        try:
            resume(folder, plan.runs, retry_failed=options.retry == "failed", jobs=options.jobs, observe=observer)
        except KeyboardInterrupt:
            compare_so_far(folder, **plan.terms)
            raise
        return conclude_study(folder, **plan.terms)

    return command


def _report(parser: argparse.ArgumentParser) -> Command:
    """Write one self-contained HTML report on a folder of runs."""
    _add_comparison(parser)
    parser.add_argument("--output", metavar="FILE", type=Path, help="default: report.html in the (first) folder")

    def command(options: argparse.Namespace) -> None:
        from ablab.report.commands import report_command

        print(report_command(options.folders, options.output, options.baseline, options.metric, options.margin))

    return command


def _dashboard(parser: argparse.ArgumentParser) -> Command:
    """Show a folder of runs in TensorBoard, on this machine only (127.0.0.1)."""
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--port", type=int, default=6006)

    def command(options: argparse.Namespace) -> None:
        from ablab.report.dashboard import serve

        with contextlib.suppress(KeyboardInterrupt):
            serve(options.folder, options.port)

    return command


def _generate(parser: argparse.ArgumentParser) -> Command:
    """Continue a text with the model of a finished run."""
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument("--prompt", default="\n")
    parser.add_argument("--tokens", type=int, default=200, help="how many to add (default: 200)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0: always the likeliest token")
    parser.add_argument("--top-k", type=int, help="sample among the k likeliest tokens only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")

    def command(options: argparse.Namespace) -> None:
        from ablab.training.generation import generate

        pieces = generate(
            options.run,
            prompt=options.prompt,
            tokens=options.tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            seed=options.seed,
            checkpoint=options.checkpoint,
        )
        print(pieces)

    return command


def _bench(parser: argparse.ArgumentParser) -> Command:
    """Measure speed side by side, in one run."""
    what = parser.add_subparsers(metavar="WHAT", required=True)
    _bench_loop(what.add_parser("loop", help="the harness beside a bare PyTorch loop: same model, same batches"))
    _bench_runs(
        what.add_parser("runs", help="what a run costs beyond its training: forked from a warm process, or not")
    )
    _bench_attention(what.add_parser("attention", help="the attention options beside public implementations"))
    return lambda options: options.bench(options)


def _bench_loop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for a run, for example model.d_model=128")
    parser.add_argument("--steps", type=int, default=10, help="steps of each round (default: 10)")
    parser.add_argument("--rounds", type=int, default=60, help="rounds of both, in turn (default: 60)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures here")

    def command(options: argparse.Namespace) -> None:
        from ablab.bench.loop import bench_loop

        print(bench_loop(options.overrides, options.steps, options.rounds, options.json))

    parser.set_defaults(bench=command)


def _bench_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for a run, for example model.d_model=128")
    parser.add_argument("--rounds", type=int, default=5, help="runs in both ways, in turn (default: 5)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures here")

    def command(options: argparse.Namespace) -> None:
        from ablab.bench.runs import bench_runs

        print(bench_runs(options.overrides, options.rounds, options.json))

    parser.set_defaults(bench=command)


def _bench_attention(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lengths", nargs="+", metavar="T", help="in tokens (default: 256, 512, 1024, ... 65536)")
    parser.add_argument("--implementations", nargs="+", metavar="NAME", help="default: all; a wrong name lists them")
    parser.add_argument("--passes", nargs="+", metavar="PASS", help="forward, forward_backward (default: both)")
    for name, default, help in (
        ("batch", 1, ""),
        ("heads", 4, ""),
        ("head-size", 64, ""),
        ("window", 128, "keys that a query sees"),
        ("chunk", 64, "keys in a bucket, and the block of those that work in blocks"),
        ("hash-rounds", 2, "of LSH"),
        ("rounds", 30, "repetitions at most"),
    ):
        help = f"{help} (default: {default})".lstrip()
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help)
    parser.add_argument("--dtype", default="float32", help="float32 (default), bfloat16, float16")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument(
        "--budget",
        type=float,
        default=3.0,
        metavar="S",
        help="seconds for the repetitions of one implementation in one pass at one length (default: 3)",
    )
    parser.add_argument("--longest-call", type=float, default=30.0, metavar="S", help="skip slower ones (default: 30)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write all figures here")
    parser.add_argument("--figure", metavar="FILE", type=Path, help="also draw them, as PNG or SVG")

    def command(options: argparse.Namespace) -> None:
        from ablab.bench.attention.command import bench_attention, request

        print(bench_attention(request(options)))

    parser.set_defaults(bench=command)


COMMANDS: dict[str, Callable[[argparse.ArgumentParser], Command]] = {
    "resume": _resume,
    "compare": _compare,
    "report": _report,
    "dashboard": _dashboard,
    "generate": _generate,
    "bench": _bench,
}


def _print_help() -> int:
    from ablab.config import conf_folder, studies_folder

    print("ablab: train variants of a transformer under equal conditions, and say what can be concluded\n")
    print("  ablab [AXIS=OPTION ...] [KEY=VALUE ...]     one run, for example: ablab attention=windowed seed=3")
    print("  ablab -m AXIS=OPTION,OPTION ... seed=0,1,2  every combination, compared and reported")
    print("  ablab -m study=quickstart                   a study from a file")
    print("  ablab plan study=quickstart                 the same before anything is trained: runs, cost, errors\n")
    for name, command in COMMANDS.items():
        print(f"  ablab {name:10}{command.__doc__}")
    print("\nAxes and their options (every key of theirs can be overridden; --cfg job shows them all):\n")
    folders = [folder for folder in conf_folder().iterdir() if folder.is_dir()]
    if (studies := studies_folder()) is not None:
        folders.append(studies / "study")
    for folder in sorted(folders, key=lambda path: path.name):
        print(f"  {folder.name:13}{', '.join(sorted(path.stem for path in folder.glob('*.yaml')))}")
    print("\n--config-dir DIR adds options of your own; --hydra-help tells the rest, which is Hydra's.")
    return 0


def _print_version() -> int:
    print(f"ablab {__version__}")
    return 0
