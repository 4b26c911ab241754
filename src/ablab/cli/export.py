"""The command `ablab export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ablab.cli.parsing import Command, add_trust


def export(parser: argparse.ArgumentParser) -> Command:
    """Write the trained model of a run for other programs: safetensors, or a folder that transformers opens."""
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument(
        "--format",
        choices=("safetensors", "transformers"),
        required=True,
        help="safetensors: weights and config, which load() reads again; transformers: a folder that "
        "AutoModelForCausalLM.from_pretrained opens, of models that it has",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, help="default: export/FORMAT in the run's folder")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    add_trust(parser)

    def command(options: argparse.Namespace) -> None:
        from ablab.export.write import export_run

        print(export_run(options.run, options.format, options.output, options.checkpoint, options.trust))

    return command
