"""The dashboard as a process of its own, asked over the loopback interface as TensorBoard's pages ask."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from commands import Command
from processes import wait_for

T = TypeVar("T")
PATIENCE_S = 60
_ADDRESS = re.compile(r"^TensorBoard at (http://\S+)\s", re.MULTILINE)


class Board:
    """A TensorBoard at an address, and what was printed when it started."""

    def __init__(self, address: str, process: Command) -> None:
        self.address, self.process = address, process

    @property
    def said(self) -> list[str]:
        return self.process.err.splitlines()

    def get(self, path: str, **query: str) -> Any:
        return json.loads(self.read(path, **query))

    def read(self, path: str, **query: str) -> bytes:
        with urllib.request.urlopen(f"{self.address}data/{path}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
            return bytes(answer.read())

    def post(self, path: str, **body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}data/{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def curve(self, run: str, tag: str) -> list[tuple[int, float]]:
        """(step, value) of each point that a margin chart would be given."""
        found = self.get("plugin/custom_scalars/scalars", run=run, tag=re.escape(tag))["tag_to_events"]
        return [(step, value) for _, step, value in found.get(tag, [])]

    def text(self, tag: str, run: str = "dashboard") -> str:
        """The HTML of the text, or "" as long as there is none."""
        tags = self.get("plugin/text/tags").get(run, {})
        return " ".join(each["text"] for each in self.get("plugin/text/text", run=run, tag=tag)) if tag in tags else ""

    def rows(self) -> dict[str, Any]:
        """The rows of the HPARAMS tab by their names, in its order."""
        request = {
            "experimentName": "",
            "allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING", "STATUS_UNKNOWN"],
            "colParams": [{"metric": {"tag": "final/val_loss", "group": ""}}],
            "startIndex": 0,
            "sliceSize": 100,
        }
        found = self.post("plugin/hparams/session_groups", **request)["sessionGroups"]
        return {row["name"]: row for row in found}

    def columns(self) -> list[str]:
        """The names of the hyper-parameters that the HPARAMS tab shows."""
        experiment = self.post("plugin/hparams/experiment", experimentName="", includeMetrics=True)
        return [column["name"] for column in experiment.get("hparamInfos", [])]


@contextmanager
def board(folder: Path, every_s: float = 30.0) -> Iterator[Board]:
    """The dashboard over `folder`, on any free port; it looks for ended runs so often."""
    code = (
        "from pathlib import Path; from ablab.report.dashboard import serve; "
        f"serve(Path({str(folder)!r}), 0, every_s={every_s})"
    )
    process = Command([], folder, dict(os.environ), code=code)
    try:
        wait_for(lambda: _ADDRESS.search(process.err) is not None or process.poll() is not None, 170.0)
        found = _ADDRESS.search(process.err)
        assert found is not None, process.err  # a failed start fails here
        yield Board(found[1], process)
    finally:
        process.kill()
        process.communicate()


def until(ask: Callable[[], T], true: Callable[[T], object] = bool) -> T:
    """The first answer that is `true`: TensorBoard reads in the background, and has not found at first."""
    limit = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(urllib.error.HTTPError):
            if true(answer := ask()):
                return answer
        assert time.monotonic() < limit, "TensorBoard does not come to it"
        time.sleep(0.05)  # whoever is asked all the time has none to read in


def end(served: Board) -> tuple[int, str]:
    """(exit status, what was printed) after Ctrl-C."""
    served.process.send_signal(signal.SIGINT)
    _, said = served.process.communicate(timeout=60)
    assert served.process.returncode is not None
    return served.process.returncode, said
