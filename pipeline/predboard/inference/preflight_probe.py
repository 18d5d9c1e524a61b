"""Decode a sample of images and send it through a model, by the given preprocessing or another.

It knows nothing of reports, and does not judge what comes out.
"""

import itertools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from predboard.images import decode
from predboard.images.label_items import with_item_labels
from predboard.images.loader import LoadedImage, image_size
from predboard.inference.cpu_passes import count_pieces, share_threads, torch_threads
from predboard.inference.forward import Batch, BatchLimit, Normalizer, compute_outputs, forward
from predboard.inference.part_builder import PartBuilder
from predboard.inference.preprocessing_trials import Scaling, Sides
from predboard.inference.worker import Job, part_spec
from predboard.models.network import Network
from predboard.parallel.threads import ordered_map
from predboard.predictions.label_sets import Labels, MultiLabels
from predboard.predictions.tasks import to_task_logits
from predboard.storage.part_plan import PartRange, Task

_CHUNK_ROWS = 8
"""Images that a thread decodes before it takes the next task."""

READ_AHEAD_SECONDS = 5.0
"""Longest duration for which the rest of the sample is decoded beside other work, before anybody asks for it."""

KEPT_BYTES = 2**27
"""The run takes over no more of other images than those of the sample."""

TOGETHER_SECONDS = 2.0
"""Seconds, as far as they can be foreseen, of the trial from which the duration of the run is forecast."""

TOGETHER_MAX_SHARE, SLOW_PER_SECOND = 0.02, 200.0
"""That trial is left out where it is more than this share of the run and fewer images than this go through in a second:
what surrounds decoding and the model, some tenths of a millisecond for an image, does not matter then."""

STRETCHES = 8
"""Places in the data from which the images of that trial are."""


@dataclass(frozen=True)
class Sample:
    """Decoded images of the manifest, with their labels."""

    ids: NDArray[np.int64]
    """[images] row of the manifest."""
    pixels: NDArray[Any]
    """uint8 [images, height, width, channels], or float32 [images, channels, height, width]."""
    label: Labels
    """[images], -1 if unknown; or sets of labels."""
    sizes: tuple[tuple[int, int], ...]
    """Width and height in pixels of each picture file before any preprocessing, as far as they are known."""
    failed: int
    """Images that could not be read; they are not in the arrays."""
    decoded_per_second: float
    """Images per second, by all threads and with nothing beside them."""

    @property
    def are_files(self) -> bool:
        """Whether the pixels are uint8, which preprocessing flags apply to."""
        return self.pixels.dtype == np.uint8


class SampleReader:
    """Decodes a sample portion by portion, so that its reader can stop when it has taken too long.

    Attributes:
        rows: images of the whole sample.
        taken: images decoded so far, those that could not be read included.
    """

    def __init__(self, job: Job, rows: Sequence[int], classes: int, hands_on: bool) -> None:
        """Decode nothing yet.

        Args:
            job: has the manifest.
            rows: of the manifest.
            classes: number of classes; a label that is not one of them is unknown.
            hands_on: whether the images will be handed on to the run, which may want thumbnails.
        """
        self._job, self._ids, self._classes, self._hands_on = job, rows, classes, hands_on
        self._loader = job.loader if hands_on else job.loader.without_thumbnails()
        self.rows, self.taken = len(rows), 0
        self._timed, self._seconds = 0, 0.0
        self._kept: dict[int, LoadedImage] = {}
        self._beside: Generator[LoadedImage, None, None] | None = None
        self._ahead, self._ahead_of = iter(list[LoadedImage]()), 0
        self._good: list[tuple[int, LoadedImage]] = []  # without pixels
        self._pixels: list[NDArray[Any]] = []

    def read(self, count: int) -> NDArray[Any]:
        """Decode the next rows, and return the pictures that could be read, [images, …]."""
        good = self._take(count)
        pixels = [row.pixels for _, row in good if row.pixels is not None]
        self._good += [(i, replace(row, pixels=None)) for i, row in good]
        self._pixels.append(np.stack(pixels) if pixels else np.zeros((0, *self._job.like.shape), self._job.like.dtype))
        return self._pixels[-1]

    @property
    def is_ahead(self) -> bool:
        """Whether the next rows are decoded beside what the caller does."""
        return self._ahead_of > self.taken

    def decode_beside(self, until: int) -> bool:
        """Begin to decode the rows up to this one beside what the caller does. -> whether it was begun.

        Not on processes, which start anew for each stream.
        """
        if until > self.taken and not self._job.config.processes:
            rows = self._ids[self.taken : until]
            self._beside = self._stream(rows, -(-len(rows) // _CHUNK_ROWS))
            first = next(self._beside)  # a generator does nothing before it is asked
            self._ahead, self._ahead_of = itertools.chain([first], self._beside), until
        return self.is_ahead

    def read_ahead(self, until: int) -> bool:
        """Begin to decode the rows up to this one before anybody asks for them, if the run wants them and it is soon
        done. -> whether it was begun.
        """
        soon = (until - self.taken) * self._seconds < READ_AHEAD_SECONDS * self._timed
        return self._hands_on and soon and self.decode_beside(until)

    @property
    def decode_seconds(self) -> float:
        """Processor time that an image takes to decode; 0 without any."""
        return sum(row.processor_seconds for _, row in self._good) / max(len(self._good), 1)

    def finish(self) -> None:
        """Wait for what is decoded ahead."""
        if self.is_ahead:
            self._kept.update(self._take(self._ahead_of - self.taken))

    def stop(self) -> None:
        """Decode no more."""
        if self._beside is not None:
            self._beside.close()
        self._beside, self._ahead_of = None, self.taken

    def ready(self) -> dict[int, LoadedImage]:
        """Return the images that could be read, by their row."""
        pixels = itertools.chain.from_iterable(self._pixels)
        read = {i: replace(row, pixels=p) for (i, row), p in zip(self._good, pixels, strict=True)}
        return read | self._kept

    def keep(self, row: int, image: LoadedImage) -> None:
        """Hand on an image that was loaded for something else, while they take no more than `KEPT_BYTES`."""
        if self._hands_on and image.pixels is not None and (len(self._kept) + 1) * self._job.like.nbytes <= KEPT_BYTES:
            self._kept[row] = image

    def _take(self, count: int) -> list[tuple[int, LoadedImage]]:
        """Return the next rows that can be read."""
        rows = self._ids[self.taken : self.taken + count]
        if self.is_ahead:
            loaded = list(itertools.islice(self._ahead, len(rows)))
        else:
            began = time.perf_counter()
            loaded = list(self._stream(rows, 2 * self._job.threads))
            self._seconds += time.perf_counter() - began
            self._timed += len(rows)
        self.taken += len(rows)
        if not self.is_ahead:
            self.stop()
        return [(i, row) for i, row in zip(rows, loaded, strict=True) if row.pixels is not None]

    def _stream(self, rows: Sequence[int], ahead: int) -> Generator[LoadedImage, None, None]:
        chunks = ((None, rows[at : at + _CHUNK_ROWS]) for at in range(0, len(rows), _CHUNK_ROWS))
        for _, chunk in self._loader.stream(chunks, self._job.like, self._job.threads, ahead):
            yield from chunk

    def sample(self) -> Sample:
        """Return what was decoded so far; the picture that all are like if none could be read."""
        ids = np.array([i for i, _ in self._good], np.int64)
        label = with_item_labels(
            self._job.loader.manifest.label[ids], [row.label for _, row in self._good], self._classes
        )
        self._pixels = [np.concatenate(self._pixels)]
        if not len(ids):
            label = MultiLabels.none(1) if isinstance(label, MultiLabels) else np.full(1, -1)
        return Sample(
            ids=ids,
            pixels=self._pixels[0] if len(ids) else self._job.like[None],
            label=label,
            sizes=tuple((p.width, p.height) for _, row in self._good if (p := row.properties) is not None),
            failed=self.taken - len(ids),
            decoded_per_second=self._timed / self._seconds,
        )


@dataclass(frozen=True)
class ValueRange:
    """The range of a sample's pixel values, and the scaling that the model's input went through.

    Floats go to the model unchanged, so for them the given scaling only undoes the division by the range.
    """

    top: float
    """Values lie between 0 and this, 1 or 255, if `unit`."""
    unit: bool
    """Whether dividing by `top` gives values between 0 and 1; floats may be scaled already."""
    given: Scaling

    @classmethod
    def of_sample(cls, pixels: NDArray[Any], like: NDArray[Any], transform: Mapping[str, Any]) -> "ValueRange":
        """Measure the range of `pixels`; `like` is one picture, `transform` the run's record of its preprocessing."""
        top, unit = 255.0, True
        if pixels.dtype == np.uint8:
            mean, std = transform["mean"], transform["std"]
        else:
            low, high = float(pixels.min()), float(pixels.max())
            unit = low >= 0 and high <= 255
            top = 255.0 if unit and high > 2 else 1.0
            mean, std = 0.0, 1 / top
        ones = np.ones(image_size(like)[2])
        given = Scaling(transform.get("channels") == "bgr", tuple((mean * ones).tolist()), tuple((std * ones).tolist()))
        return cls(top, unit, given)

    def moments(self, pixels: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation of each channel of the values between 0 and 1, each [channels]."""
        if pixels.dtype == np.uint8:
            counts = np.zeros((pixels.shape[-1], 256))
            for picture in pixels:
                for of_channel, plane in zip(counts, np.moveaxis(picture, 2, 0), strict=True):
                    of_channel += Image.fromarray(np.ascontiguousarray(plane)).histogram()
            values = np.arange(256) / self.top
            mean, square = (counts @ powers / counts[0].sum() for powers in (values, values**2))
        else:
            mean = square = np.zeros(1)
            for picture in pixels:  # one at a time: all of them in float64 would be 2 GB
                scaled = picture.astype(np.float64) / self.top
                mean = mean + scaled.mean((1, 2)) / len(pixels)
                square = square + (scaled**2).mean((1, 2)) / len(pixels)
        return mean, np.sqrt(np.maximum(square - mean**2, 0))


def spread_rows(total: int, count: int, stretches: int = STRETCHES) -> list[int]:
    """Return about `count` of `total` rows in stretches of neighbours, which lie evenly in the data.

    Neighbours are read as in the run, from the same archive; one stretch alone would be of one class.

    >>> spread_rows(100, 6, 3), spread_rows(3, 100)
    ([0, 1, 33, 34, 66, 67], [0, 1, 2])
    """
    starts = [i * total // stretches for i in range(stretches + 1)]
    length = -(-count // stretches)
    return [row for at, end in itertools.pairwise(starts) for row in range(at, min(at + length, end))]


class Probe:
    """A model on a device, and the means to send pictures through it by any scaling.

    Attributes:
        limit: rows that go through the model at a time; fewer than asked if the device's memory was not enough.
        training: names of the modules that say they are in train mode.
        values: the range of the sample's values.
        threads: of PyTorch; None for as many as there are.
    """

    def __init__(
        self, job: Job, device: torch.device, module: torch.nn.Module, values: ValueRange, limit: BatchLimit
    ) -> None:
        self._job, self._device, self.values = job, device, values
        self._run = next(iter(job.runs.values()))
        self._network = Network(module, device, job.config.precision, embeddings=False)
        self.limit = limit
        self.training = [name or "the model itself" for name, m in module.named_modules() if m.training]
        self.threads: int | None = None
        self._timed: dict[int, list[tuple[float, float]]] = {}
        """Seconds by the clock and of processor time of each batch that had nothing beside it, by its rows."""

    def _seconds_each(self) -> NDArray[np.float64]:
        """Return the seconds of an image so far, by the clock and of processor time.

        Without the first batch of each size, which warms up unless it is the only one.
        """
        warm = {rows: seconds[1:] for rows, seconds in self._timed.items() if len(seconds) > 1} or self._timed
        rows = sum(rows * len(seconds) for rows, seconds in warm.items())
        return np.maximum(sum((np.sum(seconds, axis=0) for seconds in warm.values()), np.zeros(2)), 1e-6) / rows

    @property
    def inferred_per_second(self) -> float:
        """Images per second so far."""
        return float(1 / self._seconds_each()[0])

    @property
    def quiet_per_second(self) -> float:
        """Images per second with all processors of a CPU to themselves, whatever else is at work now."""
        on_processors = self._device.type == "cpu"
        return float(torch.get_num_threads() / self._seconds_each()[1]) if on_processors else self.inferred_per_second

    @property
    def piece_rows(self) -> int:
        """Pictures that go through the model together."""
        return self._piece(self._job.like, self._job.batch_size)

    def share_processors(self, decode_seconds: float) -> None:
        """Leave processors to threads that decode from now on; a picture takes each of them so many seconds."""
        if self._device.type == "cpu":
            self.threads = share_threads(torch.get_num_threads(), self._seconds_each()[1], decode_seconds)

    def _piece(self, like: NDArray[Any], size: int) -> int:
        """Return how many pictures of a batch go through the model together, as in the run."""
        divides = self._device.type == "cpu" and self._network.takes_any_size
        return -(-size // count_pieces(like, size)) if divides else size

    def prepare(self, pixels: NDArray[Any], scaling: Scaling) -> torch.Tensor:
        """Return float32 [rows, channels, height, width] on the device, as the model would get it by this scaling."""
        given = self.values.given
        reverse = scaling.bgr != given.bgr
        if pixels.dtype == np.uint8:
            pixels = np.ascontiguousarray(pixels[..., ::-1]) if reverse else pixels
        elif scaling != given:
            mean, std = _channel_columns(scaling)
            turned = pixels[:, ::-1] if reverse else pixels
            pixels = np.ascontiguousarray(turned / np.float32(self.values.top) - mean) / std
        return Normalizer(self._device, scaling.mean, scaling.std)(pixels)

    def logits(
        self, pixels: NDArray[Any], scaling: Scaling | None = None, limit: BatchLimit | None = None
    ) -> NDArray[np.float32]:
        """Return the logits of pictures [rows, classes], by the given scaling unless told otherwise."""
        prepare = partial(self.prepare, scaling=scaling or self.values.given)
        batches: list[NDArray[np.float32]] = []
        start = 0
        while start < len(pixels):
            size = self._piece(pixels[0], self._job.batch_size)
            batch, began = pixels[start : start + size], time.perf_counter()
            start += size
            at_work = time.process_time()
            with torch_threads(self.threads or torch.get_num_threads()):
                outputs, _ = compute_outputs({0: self._network}, prepare, batch, limit or self.limit)
                batches.append(outputs[0][0].cpu().numpy())
            if limit is None and self.threads is None:  # pictures of the run's own size, and nothing beside them
                took = time.perf_counter() - began, time.process_time() - at_work
                self._timed.setdefault(len(batch), []).append(took)
        return to_task_logits(np.concatenate(batches), self._job.config.scores, self._run)[0]

    def logits_at(self, sides: Sides, ids: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Return the logits of rows of the manifest at another resize and crop, [rows, classes].

        None if the model rejects pictures of that size: it was not trained on them, so none is right.
        """
        resize, crop = sides
        job = self._job
        preprocessing = job.loader.preprocessing
        decoding = replace(preprocessing.decoding, resize=resize, crop=crop)
        loader = replace(job.loader.without_thumbnails(), preprocessing=replace(preprocessing, decoding=decoding))
        stream = loader.stream(((None, [i]) for i in ids.tolist()), None, job.threads, 2 * job.threads)
        pixels = [row.pixels for _, (row,) in stream]
        if len({p.shape if p is not None else None for p in pixels}) > 1 or not pixels or pixels[0] is None:
            return None
        fewer = max(1, job.batch_size * job.like.size // pixels[0].size)
        try:
            return self.logits(
                np.stack([p for p in pixels if p is not None]), limit=BatchLimit(fewer, self._device, lambda _: None)
            )
        except Exception:  # whatever a model raises for pictures that it was not made for
            return None

    def measure_together(
        self,
        part_index: int,
        manifest_rows: int,
        decoded_per_second: float,
        limit_seconds: float,
        keep: Callable[[int, LoadedImage], object] = lambda _, __: None,
    ) -> float:
        """Measure how fast images go through decoding, the model and the writer at the same time, as the run does it.

        On a CPU, threads that decode, those of the model and that of the writer slow each other down. All but the
        images is warm by now: few of them were read before, so that a slow disk counts. All batches count, the first
        and the last too: while the first goes through the model, most of a short trial is decoded. The part that is
        written is thrown away.

        Args:
            part_index: of the part that is written, one of this share of the run: only those are removed where it is
                killed.
            manifest_rows: rows of the whole manifest, of which as many are taken as need two seconds or so, or a
                twentieth of the whole run.
            decoded_per_second: by decoding alone.
            limit_seconds: it is left out if it would probably take longer.
            keep: takes each row and its image.

        Returns:
            images per second; 0 where they are slow and too large a share of the run, whose duration then is the sum of
            both.
        """
        job, step = self._job, next(iter(self._job.runs))
        size = min(job.batch_size, self.limit.rows)
        alone = 1 / (1 / decoded_per_second + 1 / self.inferred_per_second)
        wanted = min(TOGETHER_SECONDS, max(TOGETHER_SECONDS / 4, manifest_rows / alone / 20)) * alone
        rows = spread_rows(manifest_rows, max(4 * size, int(wanted)))
        on_processors = self._device.type == "cpu"
        too_large = on_processors and alone < SLOW_PER_SECOND and len(rows) > TOGETHER_MAX_SHARE * manifest_rows
        if too_large or len(rows) / alone > limit_seconds:
            return 0.0
        task = Task(PartRange(part_index, 0, len(rows)), (step,), (step,), tuple(rows))
        chunks = ((task, rows[at : at + _CHUNK_ROWS]) for at in range(0, len(rows), _CHUNK_ROWS))
        ahead = 2 * job.threads + -(-2 * size // _CHUNK_ROWS)
        stream = job.loader.stream(chunks, job.like, job.threads, ahead)

        def load() -> Iterator[tuple[Task, LoadedImage]]:
            for i, row in zip(rows, (row for _, chunk in stream for row in chunk), strict=True):
                keep(i, row)
                yield task, row

        scaling = job.loader.preprocessing
        normalizer = Normalizer(self._device, scaling.mean, scaling.std)
        batches = forward(load(), {step: self._network}, normalizer, job.like, self._piece(job.like, size), self.limit)
        without_embeddings = replace(job, runs={step: replace(job.runs[step], embedding=0)})
        with PartBuilder(part_spec(without_embeddings, self._device, task, step)) as part:  # which is not published

            def write(batch: Batch) -> int:
                part.add(batch.rows, batch.outputs[step][0])
                return len(batch.rows)

            began = time.perf_counter()
            with torch_threads(self.threads or torch.get_num_threads()):
                done = sum(ordered_map(write, batches, workers=1, ahead=4))
            return done / max(time.perf_counter() - began, 1e-6)

    def previews(self, pixels: NDArray[Any]) -> list[Image.Image]:
        """Return pictures as the model gets them, scaled back to what a person can look at."""
        x = self.prepare(pixels, self.values.given).cpu().numpy()
        if self.values.unit:
            mean, std = _channel_columns(self.values.given)
            back = np.clip(np.rint((x * std + mean) * 255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
            x = back[..., ::-1] if self.values.given.bgr else back
        return [decode.make_preview(one, self._job.loader.thumbnails.bands).convert("RGB") for one in x]


def _channel_columns(scaling: Scaling) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and std as float32 [1, channels, 1, 1]."""
    mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (scaling.mean, scaling.std))
    return mean, std
