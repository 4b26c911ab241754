"""The command `verify`: a certificate of one component."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ablab.cli.parsing import Command


def verify(parser: argparse.ArgumentParser) -> Command:
    """Check a component before anything is trained with it: leaks, padding, gradients, resume, cost."""
    parser.add_argument(
        "target", metavar="TARGET", help="a class (my_module.MyAttention), an option (attention=dsa), or its YAML file"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as for a run: its settings, other components, model.d_model"
    )
    parser.add_argument("--axis", metavar="AXIS", help="that it is an option of; default: what its base class says")
    parser.add_argument(
        "--check", metavar="NAME", nargs="+", action="extend", help="these alone; a wrong name lists them"
    )
    parser.add_argument(
        "--config-dir", "-cd", metavar="DIR", type=Path, action="append", default=[], help="options of your own"
    )
    parser.add_argument("--json", action="store_true", help="print the certificate as JSON")

    def command(options: argparse.Namespace) -> int:
        from ablab.certify import certify

        found = certify(
            options.target,
            axis=options.axis,
            overrides=options.overrides,
            checks=options.check,
            config_dirs=options.config_dir,
        )
        print(json.dumps(found.to_dict(), indent=1) if options.json else found.text())
        return 0 if found.passed else 1

    return command
