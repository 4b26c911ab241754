"""TensorBoard over a folder of runs: curves by run, and the HPARAMS tab with one row per variant."""

from __future__ import annotations

import socket
import warnings
from pathlib import Path

from ablab.errors import UserError
from ablab.results.store import RECORD_FILE

_LOOPBACK = "127.0.0.1"  # TensorBoard asks for no password, so it is shown to this machine alone


def serve(folder: Path, port: int = 6006) -> None:
    """Show `folder` and everything below it until Ctrl-C; then return.

    Args:
        folder: a run, a study, or any folder of them.
        port: where on 127.0.0.1; 0 for any that is free. TensorBoard prints the address.

    Raises:
        UserError: there is nothing to show, or the port cannot be had.
    """
    _check_folder(folder)
    _check_port(port)
    try:
        failed = _run(folder, port)
    except KeyboardInterrupt:  # before TensorBoard listens; once it does, it ends by itself
        return
    if failed:
        raise UserError(f"TensorBoard could not start on port {port}: see above, or choose another port")


def _run(folder: Path, port: int) -> int:
    """TensorBoard's exit status, 0 after Ctrl-C."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of libraries that TensorBoard brings along
        from tensorboard import default, program

    board = program.TensorBoard(default.get_plugins())
    board.configure(argv=["tensorboard", "--logdir", str(folder), "--host", _LOOPBACK, "--port", str(port)])
    return int(board.main())


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if next(folder.rglob("*tfevents*"), None) is not None:
        return
    if next(folder.rglob(RECORD_FILE), None) is not None:
        raise UserError(f"{folder}: its runs have no TensorBoard files: train with logger=tensorboard, or use `report`")
    raise UserError(f"{folder}: no runs here or below; give the folder of a run or a study")


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
