"""The wire format of TensorBoard, byte by byte, and what TensorBoard's own reader makes of it."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto import event_pb2, types_pb2
from tensorboard.util import tensor_util

from predboard.formatting import escape_markdown
from predboard.predictions.tasks import no_tile_rows
from predboard.summaries import EncodedImages, Histogram, Picture, Scalar, Summary, Text, Tiles
from predboard.visualization import events
from tests import toy

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
SUMMARIES: list[Summary] = [
    Scalar("metrics/accuracy", 0.1, "Share of right images."),
    Picture("confusion/matrix", lambda: PIXELS, "A picture."),
    EncodedImages(
        "examples/random",
        7,
        5,
        (
            events.encode_png(PIXELS),
            events.encode_jpeg(Image.fromarray(PIXELS)),
            events.encode_png(PIXELS[::-1].copy()),
        ),
    ),
    Histogram("probabilities/cat", np.linspace(0, 1, 4), np.array([1, 0, 2**53 - 1])),
    Text("report/summary", "# Ünïcode\n\n| a | b |\n|---|---|\n| 1 | 2 |"),
]


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit, as RFC 3720 defines it: an independent check."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


def written(folder: Path, *summaries: Summary, step: int = 3, time: float = 1.7e9) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "events.out.tfevents.0"
    with events.EventWriter(file, time) as writer:
        for summary in summaries:
            writer.write(step, time + 1, summary)
    return file


def read(file: Path) -> Any:
    """What TensorBoard's Python reader sees."""
    seen = EventAccumulator(str(file.parent), size_guidance={"tensors": 0})
    seen.Reload()
    return seen


def tensor(file: Path, tag: str) -> Any:
    (event,) = read(file).Tensors(tag)
    return tensor_util.make_ndarray(event.tensor_proto)


def test_the_independent_crc_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


@given(st.binary(max_size=200))
def test_masked_crc_agrees_with_the_independent_one(data: bytes) -> None:
    assert events.masked_crc(data) == masked(data)


def test_records_are_framed_as_the_format_says(tmp_path: Path) -> None:
    data = written(tmp_path, *SUMMARIES).read_bytes()
    at, found = 0, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        assert struct.unpack_from("<I", data, at + 8)[0] == masked(data[at : at + 8])
        record = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked(record)
        found.append(event_pb2.Event.FromString(record))
        at += 12 + length + 4
    assert at == len(data)
    assert len(found) == 1 + len(SUMMARIES)
    assert found[0].file_version == "brain.Event:2"
    assert found[0].wall_time == 1.7e9
    assert [event.summary.value[0].tag for event in found[1:]] == [summary.tag for summary in SUMMARIES]
    assert {(event.step, event.wall_time) for event in found[1:]} == {(3, 1.7e9 + 1)}


def test_the_tests_own_reader_finds_a_file_that_ends_too_early(tmp_path: Path) -> None:
    file = written(tmp_path, *SUMMARIES)
    assert len(toy.read_events(file)) == 1 + len(SUMMARIES)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(AssertionError, match="inside a record"):
        toy.read_events(file)


def test_a_scalar_is_a_float32_without_dimensions(tmp_path: Path) -> None:
    file = written(tmp_path, SUMMARIES[0])
    value = tensor(file, "metrics/accuracy")
    assert value.dtype == np.float32
    assert value.shape == ()
    assert value == np.float32(0.1)
    (event,) = read(file).Tensors("metrics/accuracy")
    assert (event.step, event.wall_time) == (3, 1.7e9 + 1)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_every_float32_is_kept(value: float) -> None:
    encoded = events.encode(Scalar("a/b", value)).tensor
    assert encoded.dtype == types_pb2.DT_FLOAT
    assert np.frombuffer(encoded.tensor_content, "<f4").tobytes() == np.float32(value).tobytes()


def test_a_histogram_is_left_right_and_count_in_float64(tmp_path: Path) -> None:
    value = tensor(written(tmp_path, SUMMARIES[3]), "probabilities/cat")
    assert value.dtype == np.float64
    assert value.shape == (3, 3)
    assert value[:, 0] == pytest.approx([0, 1 / 3, 2 / 3])
    assert value[:, 1] == pytest.approx([1 / 3, 2 / 3, 1])
    assert value[:, 2].tolist() == [1, 0, 2**53 - 1]


def test_pictures_are_width_height_and_the_encoded_samples(tmp_path: Path) -> None:
    samples = SUMMARIES[2]
    assert isinstance(samples, EncodedImages)
    value = tensor(written(tmp_path, samples), "examples/random")
    assert value.tolist() == [b"7", b"5", *samples.samples]


def test_a_drawing_is_encoded_without_loss(tmp_path: Path) -> None:
    width, height, png = tensor(written(tmp_path, SUMMARIES[1]), "confusion/matrix").tolist()
    assert (width, height) == (b"7", b"5")
    assert png.startswith(b"\x89PNG")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), PIXELS)


@given(st.integers(1, 70), st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_a_png_is_what_any_reader_takes_for_its_pixels(width: int, height: int, factor: int, seed: int) -> None:
    own = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    pixels = own.repeat(factor, axis=0).repeat(factor, axis=1)
    encoded = events.encode_png(pixels)
    Image.open(io.BytesIO(encoded)).verify()  # the checksums of its chunks
    with Image.open(io.BytesIO(encoded)) as file:
        assert (file.format, file.mode, file.size) == ("PNG", "RGB", (width * factor, height * factor))
        assert np.array_equal(np.asarray(file), pixels)
    assert encoded == events.encode_png(Image.fromarray(pixels)) == events.encode_png(pixels[::-1].copy()[::-1])
    # As the format says (ISO/IEC 15948): the signature, and the end, which has nothing in it.
    assert encoded[:16] == b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"
    assert encoded[-12:] == b"\x00\x00\x00\x00IEND\xaeB`\x82"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_a_png_of_other_than_three_channels_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|reshape"):
        events.encode_png(Image.new(mode, (7, 5)))


def test_a_photograph_is_a_jpeg_close_to_its_pixels() -> None:
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    encoded = events.encode_jpeg(Image.fromarray(smooth))
    assert encoded.startswith(b"\xff\xd8")
    assert np.abs(np.asarray(Image.open(io.BytesIO(encoded))).astype(int) - smooth).max() <= 6
    red = np.full((16, 16, 3), 255, np.uint8)
    red[:, 5:6] = 213, 94, 0  # one column in a colour: subsampling would smear it
    seen = np.asarray(Image.open(io.BytesIO(events.encode_jpeg(Image.fromarray(red))))).astype(int)
    assert np.abs(seen[:, 5] - (213, 94, 0)).max() < 30


def test_a_text_is_utf8_without_dimensions(tmp_path: Path) -> None:
    value = tensor(written(tmp_path, SUMMARIES[4]), "report/summary")
    assert value.shape == ()
    assert value.item() == "# Ünïcode\n\n| a | b |\n|---|---|\n| 1 | 2 |".encode()


def test_each_summary_belongs_to_its_plugin_and_has_its_description(tmp_path: Path) -> None:
    seen = read(written(tmp_path, *SUMMARIES))
    plugins = {s.tag: seen.SummaryMetadata(s.tag).plugin_data.plugin_name for s in SUMMARIES}
    assert list(plugins.values()) == ["scalars", "images", "images", "histograms", "text"]
    assert seen.SummaryMetadata("metrics/accuracy").summary_description == "Share of right images."
    assert [seen.SummaryMetadata(s.tag).data_class for s in SUMMARIES] == [1, 3, 3, 2, 2]  # scalar, blobs, tensor
    assert set(seen.Tags()["tensors"]) == {s.tag for s in SUMMARIES}


def test_equal_summaries_give_equal_bytes_and_other_ones_others(tmp_path: Path) -> None:
    first = written(tmp_path / "a", *SUMMARIES).read_bytes()
    assert first == written(tmp_path / "b", *SUMMARIES).read_bytes()
    assert first != written(tmp_path / "c", *SUMMARIES[1:]).read_bytes()
    assert first != written(tmp_path / "d", *SUMMARIES, step=4).read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e39])
def test_a_number_that_no_float32_can_hold_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="metrics/nll is"):
        events.encode(Scalar("metrics/nll", value))


@pytest.mark.parametrize("what", [Tiles("a/b", no_tile_rows(toy.RUN)), "text", None, 0.5])
def test_what_is_no_drawable_is_refused(what: Any) -> None:
    with pytest.raises(TypeError, match=f"{type(what).__name__} is no single value"):
        events.encode(what)


def test_a_markdown_cell_cannot_break_its_table() -> None:
    assert escape_markdown("a|b\n  c\t") == "a\\|b c"
