"""What is no plain file is refused in a line, where opening it would wait, or never end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ablab.errors import UserError
from ablab.tasks.corpus import read_path
from ablab.tasks.images import _read
from ablab.tasks.multimodal.digits import _read as read_recordings
from ablab.tasks.plain_files import read_plain
from ablab.tasks.synthetic.listops_files import sha256
from ablab.tasks.tables import read_tables
from ablab.tasks.tokenizers.choice import _of_file

READERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: read_path(str(path), any_bytes=False),
    "bytes": lambda path: read_path(str(path), any_bytes=True, binary=True),
    "table": lambda path: read_tables(str(path), "text", "label"),
    "images": _read,
    "tokenizer": _of_file,
    "expressions": sha256,
}


@pytest.mark.parametrize("reader", READERS)
def test_pipes_and_devices_are_refused(reader: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(UserError, match=f"^{path}: .*no plain file") as refused:
            READERS[reader](path)
        assert "\n" not in str(refused.value)


def test_a_pipe_among_recordings_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1_me_0.wav")
    with pytest.raises(UserError, match="no plain file"):
        read_recordings(tmp_path)


@pytest.mark.parametrize("reader", [name for name in READERS if name != "images"])
def test_a_file_of_the_kernel_is_not_waited_for(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that it is plain and holds nothing, as /proc/kmsg does, whose reader waits for the kernel to speak."""
    silent = tmp_path / "kmsg.csv"
    silent.touch()

    def wait(path: Path, *_: object, **__: object) -> bytes:
        raise AssertionError(f"{path} is waited for")

    monkeypatch.setattr(Path, "read_bytes", wait)
    monkeypatch.setattr(Path, "open", wait)
    assert read_plain(silent) == b""
    with pytest.raises(UserError):
        READERS[reader](silent)
