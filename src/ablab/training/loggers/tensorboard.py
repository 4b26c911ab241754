"""Learning curves as TensorBoard's event files, straight in the run's folder.

So TensorBoard, shown a study's folder, calls each run by its path below it: `attention=lsh/seed=0`.
"""

from __future__ import annotations

import io
import os
import time
import zlib
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ablab.results.record import Status
from ablab.results.store import PROFILE_FOLDER
from ablab.training.loggers.base import ContinuesCurves, EndsWithStatus, RunInfo, TakesPictures


class EventsLogger(TensorBoardLogger, ContinuesCurves, EndsWithStatus, TakesPictures):
    """Lightning's logger without its folders of versions and its hyper-parameters.

    Lightning writes the status SUCCESS when training starts, and TensorBoard keeps the first that it reads; `hparams`
    writes them when the run has ended.

    Args:
        flush_s: seconds after which what was logged is on the disk at the latest.
        pictures: also show attention maps, one per layer and evaluation.
    """

    def __init__(self, *, run: RunInfo, flush_s: int = 10, pictures: bool = True) -> None:
        super().__init__(save_dir=run.folder, name="", version="", default_hp_metric=False, flush_secs=flush_s)
        self.pictures = pictures

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing to do, as said above."""

    @rank_zero_only
    def log_picture(self, name: str, picture: Tensor, step: int) -> None:
        # `add_image` would make three equal channels of it and pack them with care: thrice the bytes, each of which
        # TensorBoard's writer goes through in Python, and ten times as long.
        if self.experiment.file_writer is None:  # closed by the Trainer at its end; `add_image` opens another
            self.experiment.add_image(name, picture[None], step)
            return
        height, width = picture.shape
        packed = io.BytesIO()
        Image.fromarray(picture.numpy(), mode="L").save(packed, "PNG", compress_type=zlib.Z_RLE)
        image = Summary.Image(height=height, width=width, colorspace=1, encoded_image_string=packed.getvalue())
        self.experiment.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def continue_from(self, step: int) -> None:
        earlier = set(Path(self.save_dir).glob("events.out.tfevents.*"))
        if not earlier:
            return  # nothing of an earlier attempt, as of one that was killed before its first checkpoint
        # Files are read in the order of their names, and those hold the second in which they were begun: one of the
        # same second could come before what it is to purge.
        while int(time.time()) in map(_begun, earlier):
            time.sleep(0.05)
        SummaryWriter(self.save_dir, purge_step=step + 1).close()  # a file that says so, and no more
        # Their last part counts the files of the process, and 10 comes before 9: it is to be read before what follows.
        for purge in set(Path(self.save_dir).glob(f"events.out.tfevents.*.{os.getpid()}.*")) - earlier:
            purge.rename(purge.with_suffix(".0"))

    @rank_zero_only
    def save(self) -> None:
        """Flush; Lightning's would write an hparams.yaml beside config.yaml."""
        self.experiment.flush()

    @rank_zero_only
    def close(self, status: Status) -> None:
        for table in sorted((Path(self.save_dir) / PROFILE_FOLDER).glob("*.txt")):
            # Markdown shows a block as it is if it is set in by four blanks.
            text = "".join(f"    {line}\n" for line in table.read_text(encoding="utf-8").splitlines())
            self.experiment.add_text(f"profile/{table.stem}", text)
        self.finalize("success" if status == "ok" else "failed")


def _begun(file: Path) -> int:
    """The second since 1970 in which an event file was begun: events.out.tfevents.1700000000.host..."""
    second = file.name.split(".")[3]
    return int(second) if second.isdecimal() else 0
