"""The page of the command line: what each command says of itself when it is asked for help."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator

from ablab.cli.application import PLAN_HELP
from ablab.cli.commands import COMMANDS
from ablab.cli.parsing import Parser

_WIDTH = "100"  # columns of a help text


def command_page() -> str:
    """The page of all commands, in the order of `ablab --help`."""
    parts = [_OPENING, f"## `ablab plan`\n\n```text\n{PLAN_HELP}\n```"]
    parts += [f"## `ablab {name}`\n\n```text\n{help_of(name)}\n```{_further(name)}" for name in COMMANDS]
    return "\n\n".join(parts) + "\n"


def help_of(*words: str) -> str:
    """What a command prints for `--help`."""
    parser = Parser(prog=f"ablab {words[0]}", description=COMMANDS[words[0]].__doc__)
    COMMANDS[words[0]](parser)
    with _columns(), contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        parser.parse_args([*words[1:], "--help"])
    return out.getvalue().rstrip()


def _further(name: str) -> str:
    """The help of what a command has below it, as `ablab bench loop`."""
    below = re.findall(r"^    ([a-z]+)(?: +\S.*)?$", help_of(name).partition("options:")[0], re.MULTILINE)
    return "".join(f"\n\n### `ablab {name} {each}`\n\n```text\n{help_of(name, each)}\n```" for each in below)


@contextlib.contextmanager
def _columns() -> Iterator[None]:
    """Help texts as wide here as on every machine."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDTH
    try:
        yield
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update({"COLUMNS": before})


_OPENING = """\
# The command line

    ablab attention=windowed seed=3                # one run
    ablab -m attention=full,windowed seed=0,1,2    # every combination, compared and reported
    ablab -m study=quickstart                      # a study from a file
    ablab plan study=quickstart                    # the same before anything is trained
    ablab --help                                   # all axes and their options

Runs and sweeps are a Hydra application: [options](axes/attention.md) and [settings](settings.md) are written
`KEY=VALUE`, without dashes. Flags that go with them:

| flag | what it does |
|---|---|
| `-m`, `--multirun` | a sweep: every value between commas, compared when all is done |
| `--config-dir DIR` | adds options and studies of your own |
| `--cfg job` | prints the config and trains nothing; `-p attention` prints a part of it |
| `--info` | prints where Hydra looks for configs, and what it found |
| `--retry failed` | runs again what failed when the study was last run |
| `-sc install=bash` | prints what makes Tab complete options and keys: `eval "$(ablab -sc install=bash)"` |
| `--version` | |

Exit status: 0 all is done; 1 a run did not end well; 2 a mistake, told in one line, trains nothing; 130 Ctrl-C."""
