"""Pages whose commands are tried: what is written in them, and a folder in which that is done, in small."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from commands import Command
from drawn import plain_figures
from hydra.core.global_hydra import GlobalHydra

from ablab.cli import main
from ablab.cli.commands import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^( *)```(\w+)(?: title=\"(.+?)\")?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)

# In place of the sizes that a page has, which take minutes.
_SMALL = {
    "seed": "0",
    "task.seq_len": "32",
    "task.batch_size": "4",
    "task.eval_tokens": "256",
    "model.d_model": "16",
    "trainer.accelerator": "cpu",
    "trainer.max_steps": "4",
    "trainer.val_check_interval": "2",
    "trainer.log_every_n_steps": "1",
    "logger": "csv",
}
_FEWER = {"hydra.sweeper.n_trials": "2"}  # the same, where a page says how many
_AS_WRITTEN = ("logger",)  # where a page says something else
_ONE_JOB = ("activation=gelu", "norm=layer")  # of those of a launcher, which take seconds to begin
# Of the checks of each kind of component, some that take no time.
_CHECKS = {"my_optimizer": ["descends"], "my_conf/schedule": ["rates"]}
_CHECKS_OF_COMPONENTS = ["builds", "future", "gradients"]


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    language: str
    title: str | None
    text: str


def blocks(page: Path) -> list[Block]:
    """The blocks of code of a page, in order."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(language, title or None, textwrap.dedent(text)) for _, language, title, text in found]


def files_of(pages: list[Path]) -> Iterator[tuple[str, str]]:
    """Path and content of each file that the pages show, under its title."""
    for page in pages:
        yield from ((block.title, block.text) for block in blocks(page) if block.title)


def commands_of(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each command of a page that is to be tried, and the heads of the tables that it shows behind it."""
    found = blocks(page)
    for block, following in itertools.zip_longest(found, found[1:]):
        if block.language == "sh":
            lines = block.text.strip().splitlines()
            for line in lines:
                shown = following.text if following and following.language == "text" and line is lines[-1] else ""
                yield line, [each for each in shown.splitlines() if each.startswith("variant ")]


def in_small(words: list[str]) -> list[str]:
    """The words of a command of ablab with other sizes."""
    first = words[0]
    if first == "verify":
        special = next((checks for name, checks in _CHECKS.items() if words[1].startswith(name)), _CHECKS_OF_COMPONENTS)
        return words if "--check" in words else [*words, "--check", "settings", *special]
    if first == "plan":  # of which the sizes cost nothing
        return words if "--no-probe" in words else [*words, "--no-probe"]
    if first in COMMANDS:
        return words
    keys = {word.partition("=")[0] for word in words}
    small = {key: value for key, value in _SMALL.items() if key not in _AS_WRITTEN or key not in keys}
    small |= {key: value for key, value in _FEWER.items() if key in keys}
    kept = [word for word in words if word.partition("=")[0] not in small]
    return [*kept, *(f"{key}={value}" for key, value in small.items())]


@dataclass
class Workshop:
    """A folder with the files of all pages, in which their commands are carried out."""

    folder: Path

    def do(self, line: str) -> tuple[int, str]:
        """Carry out a line of a page; its exit status, and what it printed."""
        words = shlex.split(line)
        if words[0] == "ablab" and any(word.startswith("hydra/launcher=") for word in words):
            return self.launched(in_small([*words[1:], *_ONE_JOB]))
        if words[0] == "ablab":
            return self.ablab(in_small(words[1:]))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = ["bash", "-euo", "pipefail", "-c", line]
        ended = subprocess.run(
            command, cwd=self.folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
        )
        return ended.returncode, ended.stdout + ended.stderr

    def launched(self, words: list[str]) -> tuple[int, str]:
        """A sweep by another launcher, in a process of its own; its jobs read the code themselves."""
        command = Command(words, self.folder, os.environ | {"PYTHONPATH": str(self.folder)}, anew=True)
        out, err = command.communicate()
        return command.returncode or 0, out + err

    def ablab(self, words: list[str]) -> tuple[int, str]:
        """A command in this process, which has imported everything; runs have their own."""
        out = io.StringIO()
        status = 0
        GlobalHydra.instance().clear()
        with (
            contextlib.chdir(self.folder),
            mock.patch.object(sys, "argv", sys.argv),
            mock.patch.object(sys, "path", [*sys.path, str(self.folder)]),
            mock.patch.dict(os.environ),
            plain_figures(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
        ):
            try:
                main(words)
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 1
        return status, out.getvalue()
