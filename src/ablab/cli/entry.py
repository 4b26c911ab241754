"""From the words of a command line to whatever does what they ask for."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ablab.cli.application import refuse, run_hydra, show_plan
from ablab.cli.commands import COMMANDS, run_command
from ablab.cli.flags import command_first
from ablab.config.nearest import nearest
from ablab.config.project import project_conf
from ablab.errors import UserError
from ablab.streams import lasting_output
from ablab.training.world import forget, launched
from ablab.version import __version__

_FOLDER_FLAGS = ("--config-dir", "-cd")
_WITH_FOLDERS = ("", "plan", "verify", "judge")  # commands that have them; "": a run, or a sweep
_HELP = frozenset({"-h", "--help", "help", "--version", "--hydra-help"})


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exit status: 0 done, 1 a run did not end well, 2 a mistake of the user's, 130 Ctrl-C.

    1 also where standard output could not be written, though all else is done. That nobody reads on is no failure.
    """
    words = command_first(sys.argv[1:] if arguments is None else arguments, ["plan", *COMMANDS])
    with lasting_output() as out, _home_for_packages():
        try:
            status = _run(words)
        except SystemExit as ended:  # with one line on stderr, or of Hydra's
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        out.flush()
        if out.failed is not None and not isinstance(out.failed, BrokenPipeError):
            print(f"ablab: standard output could not be written ({out.failed.strerror})", file=sys.stderr)
            status = status or 1
    sys.exit(status)


@contextlib.contextmanager
def _home_for_packages() -> Iterator[None]:
    """Lend the packages that insist on a home folder one, for as long as the command takes, where the user has none.

    Where it cannot be written to, Matplotlib alone gets a folder: each process would hear of it at length.
    """
    home = os.path.expanduser("~")
    name = "MPLCONFIGDIR" if os.path.isdir(home) else "HOME"
    if os.access(home, os.W_OK) or (name == "MPLCONFIGDIR" and name in os.environ):
        yield
        return
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory(prefix="ablab-home-", ignore_cleanup_errors=True) as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            os.environ.pop(name) if before is None else os.environ.update({name: before})


def _run(words: list[str]) -> int:
    """Do what the words ask for; the exit status."""
    # OpenMP's threads wait for each other by spinning. On a machine that does something else too, spinning as long
    # as is the default made training four times slower; this little costs nothing where the machine is free.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if launched() is None:
        forget()  # what the environment says of places among processes is not of this one, nor of those that it starts
    try:
        words = _with_project(words)
        if _opens_folder(words):
            os.environ["PYTHONSAFEPATH"] = "1"  # processes that are started look for no modules in the working folder
        else:
            _make_importable(words)
        if words and words[0] == "plan":
            status = show_plan(words[1:])
        elif words and words[0] in COMMANDS:
            status = run_command(words)
        elif words and words[0] in ("-h", "--help", "help"):
            status = _print_help()
        elif words and words[0] == "--version":
            status = _print_version()
        elif words and words[0].isalpha():
            known = nearest(words[0], ["plan", *COMMANDS], see="ablab --help")
            raise UserError(f"{words[0]}: not an override, which is KEY=VALUE, nor a command{known}")
        else:
            status = run_hydra(words)
    except KeyboardInterrupt:
        # Without a name its folder has the time of day as its name.
        first = words[0] if words else ""
        named = any(word.startswith(("name=", "study=")) for word in words) and first not in ("plan", *COMMANDS)
        named = named or first in ("resume", "evaluate")
        rest = "; the same command goes on with the runs that are left" if named else ""
        print(f"\nablab: interrupted{rest}", file=sys.stderr)
        status = 130
    except Exception as error:
        refuse(error)
    return status


def _with_project(words: list[str]) -> list[str]:
    """The words with the folder of options that the user's project names, where they name none and may have one."""
    command = words[0] if words and words[0] in ("plan", *COMMANDS) else ""
    named = any(word in _FOLDER_FLAGS or word.startswith(f"{_FOLDER_FLAGS[0]}=") for word in words)
    if named or command not in _WITH_FOLDERS or _HELP & {*words} or (conf := project_conf()) is None:
        return words
    flags = [_FOLDER_FLAGS[0], os.path.relpath(conf)]
    return [command, *flags, *words[1:]] if command else [*flags, *words]


def _opens_folder(words: list[str]) -> bool:
    """Whether the command reads a folder that may be a stranger's, and perhaps the working folder: no code is there."""
    return (
        bool(words) and words[0] in COMMANDS and words[0] not in ("bench", "verify", "judge") and "--trust" not in words
    )


def _make_importable(words: list[str]) -> None:
    """Let a component of the user's be found in the working folder, and beside and above the folder of --config-dir.

    Behind all that is installed, so that no file of theirs takes the place of a package. Processes of runs inherit it.
    """
    try:
        folders = [Path.cwd()]
    except FileNotFoundError as error:
        raise UserError("the working folder is not there any more: change to one that is") from error
    for before, word in zip(["", *words], words, strict=False):
        value = word.removeprefix("--config-dir=") if word.startswith("--config-dir=") else None
        if before in ("--config-dir", "-cd"):
            value = word
        if value:
            folder = Path(value).resolve()
            folders += [folder, folder.parent]
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]


def _print_help() -> int:
    from ablab.config import conf_folder, studies_folder

    print("ablab: train variants of a transformer under equal conditions, and say what can be concluded\n")
    print("  ablab [AXIS=OPTION ...] [KEY=VALUE ...]     one run, for example: ablab attention=windowed seed=3")
    print("  ablab -m AXIS=OPTION,OPTION ... seed=0,1,2  every combination, compared and reported")
    print("  ablab -m study=quickstart                   a study from a file")
    print("  ablab plan study=quickstart                 the same before anything is trained: runs, cost, errors\n")
    for name, command in COMMANDS.items():
        print(f"  ablab {name:12}{command.__doc__}")
    print("\nAxes and their options (every key of theirs can be overridden; --cfg job shows them all):\n")
    folders = [folder for folder in conf_folder().iterdir() if folder.is_dir()]
    if (studies := studies_folder()) is not None:
        folders.append(studies / "study")
    width = max(len(folder.name) for folder in folders) + 2
    for folder in sorted(folders, key=lambda path: path.name):
        print(f"  {folder.name:{width}}{', '.join(sorted(path.stem for path in folder.glob('*.yaml')))}")
    print("\n--config-dir DIR adds options of your own; --hydra-help tells the rest, which is Hydra's.")
    return 0


def _print_version() -> int:
    print(f"ablab {__version__}")
    return 0
