"""The one place that knows TensorBoard's wire format: summaries -> protos -> records of an event file.

Knows no metrics. A file is a sequence of records

    uint64 length | uint32 masked CRC-32C of the length | data | uint32 masked CRC-32C of the data      (little-endian)

whose data are serialised `Event` messages, the first with file_version "brain.Event:2". The bytes depend on what is
written and on nothing else: times are given by the caller. Scalars are float32 (the default loader shows doubles as
nothing); text, pictures and histograms are tensors in their plugins' present form.
"""

import io
import struct
from collections.abc import Iterable
from functools import singledispatch
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2

from pipeline.summaries import Encoded, Histogram, Picture, Pixels, Scalar, Summary, Text

_DTYPES = {"float32": types_pb2.DT_FLOAT, "float64": types_pb2.DT_DOUBLE}


def png(pixels: Pixels) -> bytes:
    """A drawing or a picture in large pixels, without loss."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG", compress_level=6)
    return encoded.getvalue()


def jpeg(pixels: Pixels) -> bytes:
    """A photograph with words: quality 90 with full colour resolution, so that small coloured letters stay clean."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=90, subsampling=0)
    return encoded.getvalue()


def _numbers(values: NDArray[Any]) -> tensor_pb2.TensorProto:
    shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=n) for n in values.shape])
    little = values.astype(values.dtype.newbyteorder("<"))
    return tensor_pb2.TensorProto(dtype=_DTYPES[values.dtype.name], tensor_shape=shape, tensor_content=little.tobytes())


def _strings(values: Iterable[bytes]) -> tensor_pb2.TensorProto:
    kept = list(values)
    shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=len(kept))])
    return tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape=shape, string_val=kept)


def _value(summary: Any, plugin: str, kind: Any, tensor: tensor_pb2.TensorProto) -> summary_pb2.Summary.Value:
    metadata = summary_pb2.SummaryMetadata(
        plugin_data=summary_pb2.SummaryMetadata.PluginData(
            plugin_name=plugin
        ),  # empty content is version 0, the only one
        summary_description=summary.description,
        data_class=kind,
    )
    return summary_pb2.Summary.Value(tag=summary.tag, metadata=metadata, tensor=tensor)


@singledispatch
def encode(summary: Summary) -> summary_pb2.Summary.Value:
    """A summary as a proto. Raises TypeError for what is none, and for `Tiles`, which have no pictures yet."""
    raise TypeError(f"{type(summary).__name__} cannot be encoded: see pipeline/summaries.py")


@encode.register
def _(summary: Scalar) -> summary_pb2.Summary.Value:
    if not abs(summary.value) <= float(np.finfo(np.float32).max):  # so written that it is true of nan
        raise ValueError(f"{summary.tag} is {summary.value}: a panel leaves out what it cannot compute")
    return _value(summary, "scalars", summary_pb2.DATA_CLASS_SCALAR, _numbers(np.array(summary.value, np.float32)))


@encode.register
def _(summary: Picture) -> summary_pb2.Summary.Value:
    height, width, _ = summary.pixels.shape
    return encode(Encoded(summary.tag, width, height, (png(summary.pixels),), summary.description))


@encode.register
def _(summary: Encoded) -> summary_pb2.Summary.Value:
    tensor = _strings([str(summary.width).encode(), str(summary.height).encode(), *summary.samples])
    return _value(summary, "images", summary_pb2.DATA_CLASS_BLOB_SEQUENCE, tensor)


@encode.register
def _(summary: Histogram) -> summary_pb2.Summary.Value:
    left, right = summary.edges[:-1], summary.edges[1:]
    buckets = np.stack([left, right, summary.counts.astype(np.float64)], axis=1)  # [bins, 3]
    return _value(summary, "histograms", summary_pb2.DATA_CLASS_TENSOR, _numbers(buckets))


@encode.register
def _(summary: Text) -> summary_pb2.Summary.Value:
    # Without dimensions: a list of one text would be shown as a table of one cell.
    tensor = tensor_pb2.TensorProto(
        dtype=types_pb2.DT_STRING,
        tensor_shape=tensor_shape_pb2.TensorShapeProto(),
        string_val=[summary.markdown.encode()],
    )
    return _value(summary, "text", summary_pb2.DATA_CLASS_TENSOR, tensor)


def masked_crc(data: bytes) -> int:
    """CRC-32C, rotated right by 15 bits and shifted by a constant, as the record format wants it."""
    crc = google_crc32c.value(data)
    return int((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class Writer:
    """Writes one event file, synchronously."""

    def __init__(self, path: Path, wall_time: float) -> None:
        """Create the file. `wall_time` of the first record, seconds since 1970, decides the order of runs."""
        self._file = path.open("wb", buffering=2**20)
        self._record(event_pb2.Event(wall_time=wall_time, file_version="brain.Event:2"))

    def write(self, step: int, wall_time: float, summary: Summary) -> None:
        """Write one summary at a step."""
        values = summary_pb2.Summary(value=[encode(summary)])
        self._record(event_pb2.Event(wall_time=wall_time, step=step, summary=values))

    def _record(self, event: event_pb2.Event) -> None:
        data = event.SerializeToString(deterministic=True)
        length = struct.pack("<Q", len(data))
        self._file.write(length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data)))

    def close(self) -> None:
        """Write out what is buffered."""
        self._file.close()

    def __enter__(self) -> "Writer":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()
