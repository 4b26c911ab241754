"""`ablab bench`: what is measured, and with which settings."""

from __future__ import annotations

import argparse
from pathlib import Path

from ablab.cli.parsing import Command


def bench(parser: argparse.ArgumentParser) -> Command:
    """Measure speed side by side, in one run."""
    what = parser.add_subparsers(metavar="WHAT", required=True)
    _bench_loop(what.add_parser("loop", help="the harness beside a bare PyTorch loop: same model, same batches"))
    _bench_runs(
        what.add_parser("runs", help="what a run costs beyond its training: forked from a warm process, or not")
    )
    _bench_attention(what.add_parser("attention", help="the attention options beside public implementations"))
    _bench_layers(what.add_parser("layers", help="experts and attention, whole layers, beside those of transformers"))
    _bench_decode(what.add_parser("decode", help="generation, token by token, beside that of transformers"))
    _bench_strategies(what.add_parser("strategies", help="ways of spreading a run over processes, whole runs in turn"))
    _bench_links(what.add_parser("links", help="predicted step times beside those over throttled links (needs root)"))
    _bench_gpu(what.add_parser("gpu", help="all that is to be known of a GPU at hand, in eight minutes at most"))
    _bench_widths(what.add_parser("widths", help="how training moves models of several widths, standard beside mup"))
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


def _bench_gpu(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", nargs="+", default=[], metavar="NAME", help="default: all; a wrong name lists them")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("outputs/gpu-check"),
        help="of the results (default: outputs/gpu-check); those of steps that are not run now stay as they are",
    )
    parser.add_argument("--limit", type=float, default=480.0, metavar="S", help="seconds of all (default: 480)")

    def command(options: argparse.Namespace) -> int:
        from ablab.bench.gpu.command import bench_gpu

        said, status = bench_gpu(options.out, options.steps, options.limit)
        print(said)
        return status

    parser.set_defaults(bench=command)


def _bench_widths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for a run, for example optimizer=muon")
    parser.add_argument(
        "--widths", nargs="+", type=int, metavar="N", help="values of model.d_model (default: 32 64 128 256 512)"
    )
    parser.add_argument("--steps", type=int, default=5, help="of training (default: 5)")
    parser.add_argument("--seeds", type=int, default=2, help="of each model (default: 2)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures here")
    parser.add_argument(
        "--figure", metavar="FILE", type=Path, default=Path("widths.svg"), help="the picture (default: widths.svg)"
    )

    def command(options: argparse.Namespace) -> None:
        from ablab.bench.widths.command import WIDTHS, Request, check_widths, courses, described
        from ablab.report.figures.widths import over_widths, require_picture, save

        require_picture(options.figure)
        request = Request(
            overrides=options.overrides,
            widths=options.widths or WIDTHS,
            steps=options.steps,
            seeds=options.seeds,
            output=options.json,
        )
        cells = check_widths(request)
        save(over_widths(courses(cells)), options.figure)
        print(described(cells), f"the picture: {options.figure}", sep="\n")

    parser.set_defaults(bench=command)


def _bench_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for a run, for example model.d_model=128")
    parser.add_argument("--rounds", type=int, default=5, help="runs in both ways, in turn (default: 5)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures here")

    def command(options: argparse.Namespace) -> None:
        from ablab.bench.runs import bench_runs

        print(bench_runs(options.overrides, options.rounds, options.json))

    parser.set_defaults(bench=command)


def _bench_strategies(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for a run, for example model.d_model=256")
    parser.add_argument(
        "--strategies",
        nargs="+",
        default=["single", "ddp"],
        metavar="NAME",
        help="options of the axis, each with settings of its own after commas (default: single ddp)",
    )
    parser.add_argument("--steps", type=int, default=40, help="of each run (default: 40)")
    parser.add_argument("--rounds", type=int, default=5, help="of all of them in turn (default: 5)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures here")

    def command(options: argparse.Namespace) -> None:
        from ablab.bench.strategies import bench_strategies

        words = (options.overrides, options.strategies, options.steps, options.rounds, options.json)
        print(bench_strategies(*words))

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
    _add_clock(parser)
    parser.add_argument("--figure", metavar="FILE", type=Path, help="also draw them, as PNG or SVG")

    def command(options: argparse.Namespace) -> None:
        from ablab.bench.attention.command import bench_attention, request

        print(bench_attention(request(options)))

    parser.set_defaults(bench=command)


def _bench_layers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="default: all; a wrong name lists them")
    parser.add_argument(
        "--lengths", nargs="+", type=int, metavar="T", help="in tokens (default: 512, 1024, 2048, 4096)"
    )
    parser.add_argument("--passes", nargs="+", metavar="PASS", help="forward, forward_backward (default: both)")
    for name, default, help in (
        ("batch", 1, ""),
        ("width", 256, "of the stream"),
        ("heads", 4, ""),
        ("experts", 16, ""),
        ("chosen", 4, "experts of a token"),
        ("units", 128, "hidden units of an expert"),
        ("window", 128, "keys that attention to compressed ones sees one by one"),
        ("keys", 64, "that an indexer picks"),
    ):
        help = f"{help} (default: {default})".lstrip()
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help)
    parser.add_argument("--rounds", type=int, default=15, help="of all layers in turn (default: 15)")
    _add_clock(parser)

    def command(options: argparse.Namespace) -> None:
        from ablab.bench.layers.command import bench_layers, request

        print(bench_layers(request(options)))

    parser.set_defaults(bench=command)


def _bench_decode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--attentions", nargs="*", metavar="NAME", help="options of the axis; default: all with a cache"
    )
    parser.add_argument("--recipes", nargs="*", metavar="NAME", help="timed beside transformers (default: llama)")
    parser.add_argument(
        "--lengths", nargs="+", type=int, metavar="T", help="tokens of the prompt (default: 512, 2048, 8192)"
    )
    parser.add_argument("--batches", nargs="+", type=int, metavar="N", help="samples side by side (default: 1)")
    for name, default, help in (
        ("width", 256, "of the stream"),
        ("heads", 4, ""),
        ("layers", 4, ""),
        ("words", 256, "of the vocabulary"),
        ("steps", 8, "tokens that are timed together"),
        ("rounds", 9, "of all models in turn"),
    ):
        help = f"{help} (default: {default})".lstrip()
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help)
    _add_clock(parser)

    def command(options: argparse.Namespace) -> None:
        from ablab.bench.decode.command import bench_decode, request

        print(bench_decode(request(options)))

    parser.set_defaults(bench=command)


def _add_clock(parser: argparse.ArgumentParser) -> None:
    """What the commands that let models or layers take turns have in common."""
    parser.add_argument("--threads", type=int, metavar="N", help="default: as many as there are cores")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: time of the processor, for a machine that does other things, too; with --threads 1",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write all figures here")


def _bench_links(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for a run, for example model.d_model=128")
    parser.add_argument(
        "--strategies", nargs="+", metavar="NAME", help="default: ddp, ddp_bf16, ddp_powersgd, local_sgd"
    )
    parser.add_argument("--rates", nargs="+", type=float, metavar="MBIT", help="in Mbit/s (default: 50, 200, 1000)")
    parser.add_argument("--delay", type=float, default=0.0, metavar="MS", help="of each direction (default: 0)")
    parser.add_argument("--steps", type=int, default=10, help="steps of a block (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="blocks at each rate, in turn (default: 3)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures here")

    def command(options: argparse.Namespace) -> None:
        from ablab.bench.links.command import RATES, STRATEGIES, Request, bench_links

        request = Request(
            overrides=options.overrides,
            strategies=tuple(options.strategies or STRATEGIES),
            rates=tuple(options.rates or RATES),
            delay_ms=options.delay,
            steps=options.steps,
            rounds=options.rounds,
            output=options.json,
        )
        print(bench_links(request))

    parser.set_defaults(bench=command)
