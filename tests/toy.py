"""Small data that tests make for themselves: predictions, runs on disk, folders of pictures, a model file."""

import contextlib
import dataclasses
import io
import logging
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2

from predboard import InputError
from predboard.images.manifest import Manifest
from predboard.panels import Panel, TwoPass, TwoPassPanel
from predboard.predictions.digests import ManifestDigest
from predboard.predictions.label_sets import Labels, LabelSets, MultiLabels
from predboard.predictions.schema import MULTI_LABEL, Part, Run, hash_refs, part_schema
from predboard.predictions.table import Predictions
from predboard.predictions.tasks import rows_of
from predboard.storage import part_plan
from predboard.storage.parts import PartWriter
from predboard.storage.paths import AnyPath, arrow_source
from predboard.storage.runs import part_path

ROOT = Path(__file__).parent.parent
PYTHONPATH = f"{ROOT / 'pipeline'}{os.pathsep}{ROOT}"
"""Where processes that tests start find the package and the tests."""

SHARED = Path(os.environ.get("PREDBOARD_TEST_DATA", ROOT.parent / "shared" / "data"))
"""Real models, images and predictions, where they are; never part of the repository."""

RUN = Run(classes=tuple(f"class{i}" for i in range(10)), model="toy.py:build")


def _jpeg(colour: str) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(encoded, "JPEG")
    return encoded.getvalue()


THUMBNAIL = _jpeg("green")
"""Of every row of `predictions`, where the run has thumbnails."""


def table(run: Run, rows: int, seed: int = 0, ties: bool = False) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits [rows, classes] and labels [rows], about half right; with ties, few distinct values."""
    random = np.random.default_rng(seed)
    classes = len(run.classes)
    label = random.integers(0, classes, rows)
    if ties:
        return random.integers(0, 2, (rows, classes)).astype(np.float32), label
    logits = random.normal(size=(rows, classes)).astype(np.float32)
    logits[np.arange(rows), label] += random.choice([0.0, 4.0], rows).astype(np.float32)
    return logits, label


MULTI_LABEL_RUN = Run(classes=tuple("abcde"), model="toy.py:build", task=MULTI_LABEL)


def multi_label_table(
    run: Run, rows: int, seed: int = 0, unlabelled: float = 0.05, unknown: float = 0.05
) -> tuple[NDArray[np.float32], MultiLabels]:
    """Logits [rows, classes] and labels: a quarter apply and get higher logits; these shares of rows and labels do not.

    Some rows have no label that applies, and some logits are 0.
    """
    random = np.random.default_rng(seed)
    shape = (rows, len(run.classes))
    true, hidden = random.random(shape) < 0.25, random.random(shape) < unknown
    true[random.random(rows) < 0.2] = False
    logits = np.round(random.normal(size=shape) + np.where(true, 1.5, -1.5), 1).astype(np.float32)
    labelled = random.random(rows) >= unlabelled
    return logits, multi_labels(true, hidden, labelled)


def multi_labels(
    true: NDArray[np.bool_], unknown: NDArray[np.bool_] | None = None, labelled: NDArray[np.bool_] | None = None
) -> MultiLabels:
    """Labels that apply and that are unknown, each [rows, classes], of the rows that are labelled [rows], else all."""
    hidden = np.zeros_like(true) if unknown is None else unknown
    all_rows = np.ones(len(true), bool)
    sets = MultiLabels(
        LabelSets.from_mask(true & ~hidden), LabelSets.from_mask(hidden), all_rows if labelled is None else labelled
    )
    return sets.settled(true.shape[1])


def predictions(
    run: Run,
    logits: NDArray[np.float32],
    label: Labels,
    start: int = 0,
    failed: frozenset[int] = frozenset(),
    name: Callable[[int], str] = "{:06d}.png".format,
) -> Predictions:
    """Rows with ids from `start`; labels of -1 are unknown, rows in `failed` (by position) have an error.

    Of a multi-label run they are built from sets of labels.
    """
    image = [name(start + i) for i in range(len(label))]
    return rows_of(run).predictions.build(
        part_schema(run),
        id=np.arange(start, start + len(label), dtype=np.int64),
        key=hash_refs(image),
        image=pa.array(image, pa.string()),
        label=label,
        logits=logits,
        error=["broken" if i in failed else None for i in range(len(label))],
        more={
            "digest": [1] * len(label),
            "bytes": [1] * len(label),
            "width": [8] * len(label),
            "height": [8] * len(label),
            "brightness": [(start + i) % 8 / 8 for i in range(len(label))],
            "contrast": [0.1] * len(label),
            **({"thumbnail": [THUMBNAIL] * len(label)} if run.thumbnails else {}),
        },
    )


def manifest_digest(rows: Predictions) -> str:
    """Return the digest of the manifest that these rows are of."""
    digest = ManifestDigest()
    digest.add_rows(rows)
    return digest.hexdigest()


def write_run(
    folder: AnyPath,
    logits: NDArray[np.float32],
    label: Labels,
    run: Run = RUN,
    shard_size: int = 4096,
    group: int = 8192,
    failed: frozenset[int] = frozenset(),
    manifest_rows: int | None = None,
    warnings: tuple[str, ...] = (),
    name: Callable[[int], str] = "{:06d}.png".format,
) -> Run:
    """Write predictions as parts of `shard_size` rows, in row groups of `group` rows; one of `warnings` in each."""
    run = dataclasses.replace(run, shard_size=shard_size)
    for part_range in part_plan.plan_parts(len(label), shard_size):
        writer = PartWriter(part_path(folder, run.step, part_range.index), run)
        digest = ManifestDigest()
        for a in range(part_range.start, part_range.stop, group):
            b = min(a + group, part_range.stop)
            here = frozenset(i - a for i in failed if a <= i < b)
            rows = predictions(run, logits[a:b], label[a:b], a, here, name)
            writer.write(rows)
            digest.add_rows(rows)
        writer.publish(
            Part(
                *(part_range.start, part_range.stop, digest.hexdigest(), manifest_rows or len(label), ""),
                started=1.7e9,
                finished=1.7e9 + 60,
                provenance={"warnings": [warnings[part_range.index % len(warnings)]]} if warnings else {},
            )
        )
    return run


def class_labels(manifest: Manifest) -> list[int]:
    """Return the class of each row of a manifest with one label an image, -1 if unknown."""
    assert isinstance(manifest.label, np.ndarray)
    labels: list[int] = manifest.label.tolist()
    return labels


def pictures(folder: Path, classes: int = 3, each: int = 4, size: tuple[int, int] = (8, 8), seed: int = 0) -> Path:
    """Class folders `a`, `b`, … of small PNG pictures, coloured at random. -> the folder."""
    random = np.random.default_rng(seed)
    for c in range(classes):
        inside = folder / chr(ord("a") + c)
        inside.mkdir(parents=True, exist_ok=True)
        for i in range(each):
            pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(inside / f"{i:03d}.png")
    return folder


def tiff(array: NDArray[np.integer[Any]], colours: int, extra: bool = True) -> bytes:
    """A TIFF of [height, width, bands] numbers: `colours` bands of grey (1) or RGB (3), the others marked as extra.

    Pillow writes no such files. Uncompressed, one strip, little-endian (TIFF 6.0, section 2).
    """
    height, width, bands = array.shape
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    short, long = 3, 4
    fields: list[tuple[int, int, list[int]]] = [
        (256, long, [width]),
        (257, long, [height]),
        (258, short, [array.dtype.itemsize * 8] * bands),
        (259, short, [1]),  # not compressed
        (262, short, [2 if colours == 3 else 1]),  # RGB, or black is zero
        (273, long, [0]),  # where the strip is, filled in below
        (277, short, [bands]),
        (278, long, [height]),
        (279, long, [len(data)]),
    ]
    if extra and bands > colours:
        fields.append((338, short, [0] * (bands - colours)))  # of no stated kind
    behind = 8 + 2 + 12 * len(fields) + 4
    long_values = b""
    entries = []
    for tag, kind, values in fields:
        packed = struct.pack(f"<{len(values)}{'H' if kind == short else 'I'}", *values)
        if len(packed) > 4:
            packed, long_values = struct.pack("<I", behind + len(long_values)), long_values + packed
        entries.append([tag, kind, len(values), packed.ljust(4, b"\0")])
    next(e for e in entries if e[0] == 273)[3] = struct.pack("<I", behind + len(long_values))
    directory = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + directory + b"\0\0\0\0" + long_values + data


def sources(folder: Path, rows: int, size: tuple[int, int] = (8, 8), seed: int = 0) -> Path:
    """The pictures that the refs of `predictions` name. -> the folder."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(rows):
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"{i:06d}.png")
    return folder


def photographs(folder: Path, names: list[str], size: tuple[int, int] = (500, 375)) -> list[str]:
    """JPEG pictures with detail at all scales, as photographs have it, about 47 kB each of 500×375. -> the names."""
    if not folder.exists():
        random = np.random.default_rng(0)
        folder.mkdir()
        for name in names:
            sum_ = np.zeros((size[1], size[0], 3), np.float32)
            for side in (4, 16, 64, 192):
                noise = random.normal(size=(side * 3 // 4, side, 3)).astype(np.float32)
                layers = [Image.fromarray(noise[:, :, c]).resize(size, Image.Resampling.BICUBIC) for c in range(3)]
                sum_ += np.stack([np.asarray(layer) for layer in layers], axis=2) * (120 / side**0.5)
            Image.fromarray(np.clip(sum_ + 128, 0, 255).astype(np.uint8)).save(folder / name, "JPEG", quality=90)
    return names


def state_of(panel: Panel, run: Run, batch: Predictions) -> Any:
    """What `render` gets of these rows: the state, or both states of a panel that looks again."""
    first = panel.measure(run, batch)
    if not isinstance(panel, TwoPassPanel):
        return first
    return TwoPass(first, panel.measure_second(run, first, rows_of(run).derive(run, 0, batch)))


def read_events(file: AnyPath) -> list[event_pb2.Event]:
    """All events of an event file. Raises AssertionError if it does not end where a record ends."""
    data, at, events = file.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        assert at + length + 16 <= len(data), "the file ends inside a record"
        events.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + length]))
        at += length + 16
    return events


def read_values(file: AnyPath) -> dict[tuple[str, int], summary_pb2.Summary.Value]:
    """The values of an event file by (tag, step), in its order. Raises AssertionError if one is there twice."""
    values: dict[tuple[str, int], summary_pb2.Summary.Value] = {}
    for event in read_events(file)[1:]:
        for value in event.summary.value:
            assert (value.tag, event.step) not in values
            values[value.tag, event.step] = value
    return values


def local(place: AnyPath) -> Path:
    """A place that is on this machine, as a path."""
    assert isinstance(place, Path)
    return place


def spoil(part: AnyPath, column: str) -> None:
    """Turn one bit near the end of a column of a part file, behind the page header."""
    group = pq.read_metadata(arrow_source(part)).row_group(0)
    (found,) = (c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column)
    content = bytearray(part.read_bytes())
    content[found.data_page_offset + found.total_compressed_size - 3] ^= 1
    part.write_bytes(content)


def model_file(folder: Path, classes: int = 3) -> str:
    """A model of one linear layer on the mean colour, as FILE.py:FACTORY; takes pictures of any size."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "toy_model.py"
    file.write_text(
        "import torch\n\n\n"
        "class Toy(torch.nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.head = torch.nn.Linear(3, classes)\n\n"
        "    def forward(self, x):\n"
        "        return self.head(x.mean((2, 3)))\n\n\n"
        f"def build(classes={classes}):\n"
        "    return Toy(classes)\n"
    )
    return f"{file}:build"


def predboard(
    *arguments: str | AnyPath, cwd: Path | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "predboard", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def heed_ctrl_c() -> None:
    """Do as a terminal does, in a process that begins: a shell lets what it runs in the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class CountCalls:
    """Counts calls of functions on this thread in a `with` block: a measure of work that no other process disturbs."""

    def __init__(self) -> None:
        self.calls = 0

    def __enter__(self) -> Self:
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _count(self, _frame: FrameType, event: str, _argument: object) -> None:
        self.calls += event in ("call", "c_call")


# What tests of processes call in them.


class Folded:
    """A function for `ProcessPool.fold` that collects the items it was given."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function, self.given = function, list[Any]()

    def __call__(self, item: Any) -> Any:
        self.given.append(item)
        return self.function(item)

    def drain(self) -> list[Any]:
        return self.given


def takes_a_second() -> None:
    """What a process does before it is there, so that whoever waits for nobody is first even on a busy machine."""
    time.sleep(1)


def sign(folder: Path) -> None:
    """Leave a mark of this process."""
    with (folder / str(os.getpid())).open("ab") as file:
        file.write(b".")


def slow_square(item: tuple[int, float]) -> tuple[int, int]:
    """The square of a number, after so many seconds, and which process found it."""
    time.sleep(item[1])
    print("this must not get between the answers")  # noqa: T201  on purpose
    return item[0] ** 2, os.getpid()


def refuses_three(item: int) -> int:
    """Raises for 3."""
    if item == 3:
        raise InputError(f"no good: {item}")
    return item


class OddError(Exception):
    """One that pickle cannot make again."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


def raises_odd(item: int) -> int:
    """Raises for any number, after a moment."""
    time.sleep(0.05)
    raise OddError(str(item), "toy")


def kills_another_process(mine: int) -> None:
    """As the system does to a process that takes too much memory, unless it is this one."""
    time.sleep(0.05)
    if os.getpid() != mine:
        os.kill(os.getpid(), signal.SIGKILL)


def code_of_the_user(place: Path, steps: int) -> tuple[list[Path], dict[str, Any]]:
    """Checkpoints of a linear head, and a dataset over `place / "data"` and a transform of the user's own.

    -> files of the checkpoints, options of stage one
    """
    import torch

    (place / "mine.py").write_text(
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from PIL import Image\n\n\n"
        "class Tiles:\n"
        "    classes = ('a', 'b', 'c')\n\n"
        "    def __init__(self):\n"
        f"        self.files = sorted(Path({str(place / 'data')!r}).glob('*/*.png'))\n\n"
        "    def __len__(self):\n"
        "        return len(self.files)\n\n"
        "    def __getitem__(self, i):\n"
        "        return Image.open(self.files[i]), self.classes.index(self.files[i].parent.name)\n\n\n"
        "def prepare(picture):\n"
        "    return np.asarray(picture, np.float32).transpose(2, 0, 1) / 255\n"
    )
    files = []
    for step in range(1, steps + 1):
        torch.manual_seed(step)
        files.append(place / f"toy_epoch{step}.pt")
        torch.save({"head.weight": torch.randn(3, 3), "head.bias": torch.randn(3)}, files[-1])
    return files, {"data": f"{place / 'mine.py'}:Tiles", "transform": f"{place / 'mine.py'}:prepare"}


@contextlib.contextmanager
def small_ray() -> Iterator[None]:
    """A Ray of two processors, little memory, a short path for its sockets, and nobody else's."""
    import ray

    with (
        tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder,
        # The folder is also for those that commands start.
        unittest.mock.patch.dict(os.environ, {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder}),
    ):
        ray.init(
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=200_000_000,
            _temp_dir=folder,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": PYTHONPATH}},
        )
        try:
            yield
        finally:
            ray.shutdown()
