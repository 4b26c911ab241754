"""Texts, images, curves and layouts for TensorBoard, as the protos that its plugins read.

TensorBoard's own helpers for text, images and layouts import TensorFlow, so the protos are made by hand here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from tensorboard.compat.proto import types_pb2
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_BLOB_SEQUENCE, DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.custom_scalar import metadata as layouts
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.image import metadata as images
from tensorboard.plugins.text import metadata as texts
from tensorboard.summary.writer.record_writer import RecordWriter

_VERSION = "brain.Event:2"  # of event files


def scalar(tag: str, value: float) -> Summary.Value:
    """One point of a curve."""
    return Summary.Value(tag=tag, simple_value=value)


def text(tag: str, markdown: str) -> Summary.Value:
    """A text, which TensorBoard shows as Markdown without HTML."""
    metadata = texts.create_summary_metadata(tag, "")
    metadata.data_class = DATA_CLASS_TENSOR
    return Summary.Value(tag=tag, metadata=metadata, tensor=_strings([markdown.encode()], scalar=False))


def image(tag: str, png: bytes, width: int, height: int, description: str) -> Summary.Value:
    """A picture, as the bytes of its PNG file, its size in pixels and in words what it shows."""
    metadata = images.create_summary_metadata(tag, description)
    metadata.data_class = DATA_CLASS_BLOB_SEQUENCE
    return Summary.Value(
        tag=tag, metadata=metadata, tensor=_strings([str(width).encode(), str(height).encode(), png], scalar=False)
    )


def layout(content: Layout) -> Summary.Value:
    """The charts of the tab "Custom Scalars"."""
    metadata: SummaryMetadata = layouts.create_summary_metadata()
    metadata.data_class = DATA_CLASS_TENSOR
    return Summary.Value(
        tag=layouts.CONFIG_SUMMARY_TAG, metadata=metadata, tensor=_strings([content.SerializeToString()], scalar=True)
    )


def event(step: int, values: Iterable[Summary.Value]) -> Event:
    """The values of one step, without a time."""
    return Event(step=step, summary=Summary(value=values))


def write_events(folder: Path, suffix: str, events: Iterable[Event], began: float) -> None:
    """Write an event file whose name ends in `suffix` into `folder`. Raises OSError if it cannot be written.

    TensorBoard's own writer takes the times of its clock; its format is a record for each event.

    Args:
        began: seconds since 1970, the time of all events. TensorBoard sorts runs by the first, and counts up its
            colours in that order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    owner = f"{socket.gethostname()}.{os.getpid()}.{int(began % 1 * 1e6)}"
    with (folder / f"events.out.tfevents.{int(began):010d}.{owner}{suffix}").open("wb") as file:
        records = RecordWriter(file)
        for each in (Event(file_version=_VERSION), *events):
            each.wall_time = began
            records.write(each.SerializeToString())


def _strings(values: list[bytes], scalar: bool) -> TensorProto:
    dimensions = [] if scalar else [TensorShapeProto.Dim(size=len(values))]
    return TensorProto(dtype=types_pb2.DT_STRING, string_val=values, tensor_shape=TensorShapeProto(dim=dimensions))
