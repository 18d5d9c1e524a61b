"""Encodes summaries as TensorBoard's protos and writes them as the records of an event file. It knows no metrics.

No other module knows TensorBoard's formats. An event file is a sequence of records

    uint64 length | uint32 masked CRC-32C of the length | data | uint32 masked CRC-32C of the data      (little-endian)

whose data are serialised `Event` messages, the first with file_version "brain.Event:2". The bytes depend only on what
is written, because the caller gives all times. Scalars are float32 (TensorBoard's default loader does not show
doubles); text, images and histograms are tensors in the present form of their plugins.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterable
from functools import singledispatch
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2 as hparams_api_pb2
from tensorboard.plugins.hparams import plugin_data_pb2 as hparams_plugin_pb2
from tensorboard.plugins.pr_curve import plugin_data_pb2 as pr_curves_pb2
from tensorboard.plugins.projector import projector_config_pb2

from predboard.summaries import (
    BandChart,
    EncodedImages,
    File,
    Histogram,
    HParams,
    LineChart,
    Picture,
    Pixels,
    PrCurve,
    Projector,
    Scalar,
    Summary,
    Text,
)

_DTYPES = {"float32": types_pb2.DT_FLOAT, "float64": types_pb2.DT_DOUBLE}


def encode_png(picture: Pixels | Image.Image) -> bytes:
    """Encode a drawing, or an image that was enlarged, as PNG: [height, width, 3] uint8, without loss.

    Rows are compressed without a filter. With the filters that Pillow chooses it takes three times as long, and where
    pixels repeat, as in enlarged images and around text, the file is larger. Raises ValueError if it is not RGB.
    """
    pixels = np.asarray(picture)
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter, 0 for none
    rows[:, 1:] = pixels.reshape(height, 3 * width)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),  # 8 bits, RGB
        (b"IDAT", zlib.compress(rows.data, 3)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def encode_jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    """Encode a photograph with text as JPEG, with full colour resolution for small coloured letters."""
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=quality, subsampling=0)
    return encoded.getvalue()


def _numbers(values: NDArray[Any]) -> tensor_pb2.TensorProto:
    shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=n) for n in values.shape])
    little = values.astype(values.dtype.newbyteorder("<"))
    return tensor_pb2.TensorProto(dtype=_DTYPES[values.dtype.name], tensor_shape=shape, tensor_content=little.tobytes())


def _strings(values: Iterable[bytes]) -> tensor_pb2.TensorProto:
    strings = list(values)
    shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=len(strings))])
    return tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape=shape, string_val=strings)


def _value(
    tag: str, plugin: str, kind: Any, tensor: tensor_pb2.TensorProto, description: str = "", content: bytes = b""
) -> summary_pb2.Summary.Value:
    metadata = summary_pb2.SummaryMetadata(
        # Empty content stands for version 0, the only one.
        plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name=plugin, content=content),
        summary_description=description,
        data_class=kind,
    )
    return summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def encode_picture(picture: Picture) -> EncodedImages:
    """Draw a picture and encode it as PNG."""
    height, width, _ = picture.pixels.shape
    return EncodedImages(picture.tag, width, height, (encode_png(picture.pixels),), picture.description)


@singledispatch
def encode(summary: Summary) -> summary_pb2.Summary.Value:
    """Encode a summary as one value of an event.

    Raises TypeError for kinds that are not one value: `Tiles` become `EncodedImages` first, charts are encoded together
    by `encode_layout`, `HParams` by `encode_session`, and `File` and `Metrics` are not in the event file.
    """
    raise TypeError(f"{type(summary).__name__} is no single value of an event file: see predboard/summaries.py")


@encode.register
def _(summary: Scalar) -> summary_pb2.Summary.Value:
    if not abs(summary.value) <= float(np.finfo(np.float32).max):  # also true of NaN
        raise ValueError(f"{summary.tag} is {summary.value}: a panel leaves out what it cannot compute")
    return _value(
        summary.tag,
        "scalars",
        summary_pb2.DATA_CLASS_SCALAR,
        _numbers(np.array(summary.value, np.float32)),
        summary.description,
    )


@encode.register
def _(summary: Picture) -> summary_pb2.Summary.Value:
    return encode(encode_picture(summary))


@encode.register
def _(summary: EncodedImages) -> summary_pb2.Summary.Value:
    tensor = _strings([str(summary.width).encode(), str(summary.height).encode(), *summary.samples])
    return _value(summary.tag, "images", summary_pb2.DATA_CLASS_BLOB_SEQUENCE, tensor, summary.description)


@encode.register
def _(summary: Histogram) -> summary_pb2.Summary.Value:
    left, right = summary.edges[:-1], summary.edges[1:]
    buckets = np.stack([left, right, summary.counts.astype(np.float64)], axis=1)  # [bins, 3]
    return _value(summary.tag, "histograms", summary_pb2.DATA_CLASS_TENSOR, _numbers(buckets), summary.description)


@encode.register
def _(summary: Text) -> summary_pb2.Summary.Value:
    # Without dimensions, because TensorBoard would show a list of one text as a table with one cell.
    tensor = tensor_pb2.TensorProto(
        dtype=types_pb2.DT_STRING,
        tensor_shape=tensor_shape_pb2.TensorShapeProto(),
        string_val=[keep_numbers_whole(summary.markdown).encode()],
    )
    return _value(summary.tag, "text", summary_pb2.DATA_CLASS_TENSOR, tensor, summary.description)


@encode.register
def _(summary: PrCurve) -> summary_pb2.Summary.Value:
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(summary.tp / (summary.tp + summary.fp))
        recall = np.nan_to_num(summary.tp / (summary.tp + summary.fn))
    rows = (summary.tp, summary.fp, summary.tn, summary.fn, precision, recall)
    content = pr_curves_pb2.PrCurvePluginData(version=0, num_thresholds=len(summary.tp))
    numbers = _numbers(np.stack(rows).astype(np.float32))  # [6, points]
    return _value(
        summary.tag,
        "pr_curves",
        summary_pb2.DATA_CLASS_TENSOR,
        numbers,
        summary.description,
        content.SerializeToString(),
    )


def keep_numbers_whole(markdown: str) -> str:
    """Return Markdown whose tables break no number at a space: TensorBoard squeezes columns to their longest words.

    >>> [keep_numbers_whole(line).replace(chr(0xA0), "_") for line in ("| a b | 93.7 % | 0.91 to 0.95 |", "93.7 %")]
    ['| a b | 93.7_% | 0.91_to_0.95 |', '93.7 %']
    """
    lines = markdown.split("\n")
    return "\n".join(_NUMBERS.sub(_join_words, line) if line.startswith("|") else line for line in lines)


_NUMBERS = re.compile(r"(?<=\| )[*~+−<>\d][^|A-Za-z]*(?:(?: to | of | points?)[^|A-Za-z]*)*(?= \|)")
"""Finds cells of numbers, their signs and the words between them."""


def _join_words(cell: re.Match[str]) -> str:
    return cell[0].replace(" ", "\N{NO-BREAK SPACE}")


def encode_layout(charts: Iterable[LineChart | BandChart]) -> summary_pb2.Summary.Value:
    """Encode all charts of Custom Scalars, in their order: TensorBoard expects one value for a run."""
    categories: dict[str, layout_pb2.Category] = {}
    for chart in charts:
        category, _, title = chart.tag.partition("/")
        section = categories.setdefault(category, layout_pb2.Category(title=category))
        if isinstance(chart, LineChart):
            section.chart.add(title=title, multiline=layout_pb2.MultilineChartContent(tag=chart.patterns))
        else:
            series = layout_pb2.MarginChartContent.Series(value=chart.value, lower=chart.lower, upper=chart.upper)
            section.chart.add(title=title, margin=layout_pb2.MarginChartContent(series=[series]))
    whole = layout_pb2.Layout(category=categories.values())
    tensor = tensor_pb2.TensorProto(
        dtype=types_pb2.DT_STRING,
        tensor_shape=tensor_shape_pb2.TensorShapeProto(),
        string_val=[whole.SerializeToString(deterministic=True)],
    )
    return _value("custom_scalars__config__", "custom_scalars", summary_pb2.DATA_CLASS_TENSOR, tensor)


def encode_session(summary: HParams, wall_time: float) -> list[summary_pb2.Summary.Value]:
    """Encode a run's line in HParams as three values: the experiment, the start with its settings, and the end.

    The experiment lists the columns; without it TensorBoard would take every scalar for a metric.
    """
    kinds = {str: "DATA_TYPE_STRING", bool: "DATA_TYPE_BOOL", float: "DATA_TYPE_FLOAT64", int: "DATA_TYPE_FLOAT64"}
    experiment = hparams_api_pb2.Experiment(
        time_created_secs=wall_time,
        hparam_infos=[
            hparams_api_pb2.HParamInfo(name=name, type=kinds[type(value)]) for name, value in summary.settings.items()
        ],
        metric_infos=[
            hparams_api_pb2.MetricInfo(name=hparams_api_pb2.MetricName(tag=tag), display_name=shown)
            for tag, shown in summary.metrics.items()
        ],
    )
    start = hparams_plugin_pb2.SessionStartInfo(group_name=summary.name, start_time_secs=wall_time)
    for name, value in summary.settings.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    end = hparams_plugin_pb2.SessionEndInfo(status="STATUS_SUCCESS", end_time_secs=wall_time)
    datas = (
        ("experiment", hparams_plugin_pb2.HParamsPluginData(version=0, experiment=experiment)),
        ("session_start_info", hparams_plugin_pb2.HParamsPluginData(version=0, session_start_info=start)),
        ("session_end_info", hparams_plugin_pb2.HParamsPluginData(version=0, session_end_info=end)),
    )
    none = _numbers(np.zeros(0, np.float32))
    return [
        _value(
            f"_hparams_/{tag}",
            "hparams",
            summary_pb2.DATA_CLASS_TENSOR,
            none,
            content=data.SerializeToString(deterministic=True),
        )
        for tag, data in datas
    ]


def encode_projector(summary: Projector, sprite: bytes, side: int) -> list[File]:
    """Return the files that TensorBoard's Projector reads: float32 vectors, labels, the images, and their index.

    The Projector takes vectors for text if they happen to be valid UTF-8, as zeros are; those are written as text.

    Args:
        summary: the points.
        sprite: JPEG of all images in a square grid; empty if there are none.
        side: of one image, in pixels.
    """
    folder, floats = "projector", np.ascontiguousarray(summary.vectors, np.dtype("<f4"))  # [points, dims]
    raw = floats.tobytes()
    config = projector_config_pb2.ProjectorConfig()
    embedding = config.embeddings.add(tensor_name=summary.tag, metadata_path=f"{folder}/metadata.tsv")
    embedding.tensor_shape.extend(floats.shape)
    files = []
    if sprite:  # without images, coloured points say more than grey squares
        embedding.sprite.image_path = f"{folder}/sprite.jpg"
        embedding.sprite.single_image_dim.extend([side, side])
        files.append(File(embedding.sprite.image_path, sprite))
    try:
        raw.decode()
        content = "".join("\t".join(f"{x:.9g}" for x in row) + "\n" for row in floats.tolist()).encode()
        embedding.tensor_path = f"{folder}/vectors.tsv"
        del embedding.tensor_shape[:]
    except UnicodeDecodeError:
        content = raw
        embedding.tensor_path = f"{folder}/vectors.bytes"
    lines = zip(*summary.metadata.values(), strict=True)
    words = "".join("\t".join(" ".join(w.split()) for w in line) + "\n" for line in (summary.metadata, *lines))
    return [
        *files,
        File(embedding.tensor_path, content),
        File(embedding.metadata_path, words.encode()),
        File("projector_config.pbtxt", text_format.MessageToString(config).encode()),
    ]


def masked_crc(data: bytes) -> int:
    """Return the checksum of the record format: CRC-32C, rotated right by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return int((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class EventWriter:
    """Writes one event file."""

    def __init__(self, path: Path, wall_time: float) -> None:
        """Create the file.

        Args:
            path: of the file.
            wall_time: of the first record, seconds since 1970; TensorBoard orders runs by it.
        """
        self._file = path.open("wb", buffering=2**20)
        self._wall_time = wall_time
        self._charts: list[LineChart | BandChart] = []
        self._record(event_pb2.Event(wall_time=wall_time, file_version="brain.Event:2"))

    def write(self, step: int, wall_time: float, summary: Summary) -> None:
        """Write one summary at a step; charts are collected, and written when the file is closed."""
        if isinstance(summary, LineChart | BandChart):
            self._charts.append(summary)
            return
        values = encode_session(summary, wall_time) if isinstance(summary, HParams) else [encode(summary)]
        self._record(event_pb2.Event(wall_time=wall_time, step=step, summary=summary_pb2.Summary(value=values)))

    @property
    def size(self) -> int:
        """The bytes written so far."""
        return self._file.tell()

    def _record(self, event: event_pb2.Event) -> None:
        data = event.SerializeToString(deterministic=True)
        length = struct.pack("<Q", len(data))
        self._file.write(length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data)))

    def close(self) -> None:
        """Write the charts, and close the file."""
        if self._charts:
            values = summary_pb2.Summary(value=[encode_layout(self._charts)])
            self._record(event_pb2.Event(wall_time=self._wall_time, summary=values))
            self._charts = []
        self._file.close()

    def __enter__(self) -> "EventWriter":
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()
