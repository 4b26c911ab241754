"""TensorBoard on this machine alone, and the view of the study beside it, made anew when runs have ended."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
import urllib.request
import warnings
from pathlib import Path
from typing import Unpack

from ablab.analysis.comparison import ComparisonSettings
from ablab.errors import UserError, named
from ablab.report.dashboard.view import VIEW_FOLDER, make_view, remove_view, write_view
from ablab.results.find import record_files
from ablab.results.kept import why_no_folder
from ablab.results.store import RECORD_FILE

_LOOPBACK = "127.0.0.1"  # TensorBoard asks for no password, so it is shown to this machine alone
_FORGET_S = 60  # that TensorBoard is given to notice that an earlier view is gone; it looks every 5


def serve(folder: Path, port: int = 6006, every_s: float = 30.0, **comparison: Unpack[ComparisonSettings]) -> None:
    """Show `folder` and everything below it until Ctrl-C; then return.

    A view of the study is written into `folder`/dashboard first, and again whenever runs have ended. Where none can be
    written, one line on stderr says why, and the runs are shown without it.

    Args:
        folder: a run, a study, or any folder of them.
        port: where on 127.0.0.1; 0 for any that is free. The address is printed.
        every_s: so often it is looked whether runs have ended.
        comparison: as `ablab.analysis.comparison.compare` takes it.

    Raises:
        UserError: there is nothing to show, or the port cannot be had.
    """
    _check_folder(folder)
    _check_port(port)
    view = LiveView(folder, comparison)
    try:
        view.refresh()
        view.address = _launch(folder, port)
        print(f"TensorBoard at {view.address} (Ctrl-C ends it)", file=sys.stderr)
        print(f"The study:     {view.address}#custom_scalars&regexInput=%5E{VIEW_FOLDER}", file=sys.stderr, flush=True)
        while True:
            time.sleep(every_s)
            view.refresh()
    except KeyboardInterrupt:
        return


class LiveView:
    """Keeps the view of a folder as its records are.

    Attributes:
        address: of a TensorBoard that shows the folder, once there is one.
    """

    def __init__(self, folder: Path, comparison: ComparisonSettings) -> None:
        self._folder, self._comparison = folder, comparison
        self._made_from: set[tuple[Path, int]] | None = None
        self._said = ""
        self.address: str | None = None

    def refresh(self) -> bool:
        """Make the view anew if there are other records to compare than it was made from; whether it was written.

        Where it cannot be, one line on stderr says why, once.
        """
        try:
            records = {(path, path.stat().st_mtime_ns) for path in record_files(self._folder)}
            if records == self._made_from:
                return False
            view = make_view(self._folder, **self._comparison)
            removed = remove_view(self._folder)
            if self.address is not None:
                _await_forgotten(self.address, removed.runs)
            write_view(self._folder, view, removed.columns)
        except Exception as error:  # of figures of half a study, too: the server outlives whatever it shows
            why = str(error) if isinstance(error, UserError | OSError) else named(error)
            if why != self._said:
                print(f"ablab: no view of the study beside its runs: {why}", file=sys.stderr, flush=True)
            self._said = why
            return False
        self._made_from = records
        return True


def _await_forgotten(address: str, runs: set[str]) -> None:
    """Wait until TensorBoard has noticed that `runs` are gone: of files that replace others it would keep old points,
    texts and columns."""
    end = time.monotonic() + _FORGET_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}data/runs", timeout=_FORGET_S) as answer:
            if not runs & set(json.load(answer)):
                return
        time.sleep(0.2)


def _launch(folder: Path, port: int) -> str:
    """Start TensorBoard in a thread of its own; its address."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of libraries that TensorBoard brings along
        from tensorboard import default, program

    board = program.TensorBoard(default.get_plugins())
    board.configure(argv=["tensorboard", "--logdir", str(folder), "--host", _LOOPBACK, "--port", str(port)])
    try:
        return str(board.launch())
    except program.TensorBoardServerException as error:
        raise UserError(f"TensorBoard could not start on port {port} ({error}): choose another port") from error


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(why_no_folder(folder))
    if _has_below(folder, "*tfevents*"):
        return
    if _has_below(folder, RECORD_FILE):
        raise UserError(f"{folder}: its runs have no TensorBoard files: train with logger=tensorboard, or use `report`")
    raise UserError(f"{folder}: no runs here or below; give the folder of a run or a study")


def _has_below(folder: Path, name: str) -> bool:
    with contextlib.closing(folder.rglob(name)) as found:
        return next(found, None) is not None


def _check_port(port: int) -> None:
    if not 0 <= port <= 65535:
        raise UserError(f"port {port} does not exist: choose one from 1024 to 65535, or 0 for any")
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as the server does: what just ended is no hindrance
        try:
            probe.bind((_LOOPBACK, port))
        except OSError as error:
            raise UserError(f"port {port} cannot be used ({error.strerror}): choose another, or 0 for any") from error
