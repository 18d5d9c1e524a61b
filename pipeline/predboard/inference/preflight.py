"""Before the long run: a few hundred images through the model, and what they make one doubt. Knows no parts.

The images are chosen by the hash of their keys. What was found lies beside the steps, as
`_preflight/step=00000012.json` and, with some pictures as the model got them, `.png`.
"""

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from predboard.drawing.tiles import draw_contact_sheet
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.images import decode, preprocessing
from predboard.images.loader import image_size
from predboard.images.preprocessing import Recipe
from predboard.inference import diagnostics
from predboard.inference.diagnostics import Diagnosis, Scaling, Trial, percent
from predboard.inference.forward import BatchLimit, Normalizer, compute_outputs
from predboard.inference.worker import Job
from predboard.metrics.intervals import wilson_interval
from predboard.models.network import Network
from predboard.predictions.derive import to_logits
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import digest_records, hash64
from predboard.storage.paths import write_file
from predboard.storage.runs import preflight_path
from predboard.storage.shards import Task

SAMPLE_MAX_BYTES = 2**28
"""The pictures of the sample together are no larger; of large ones there are fewer."""

SHEET_PICTURES = 20
"""Pictures on the sheet."""

TRIALS_MAX_SHARE, TRIALS_MIN_SECONDS = 0.25, 10.0
"""Trying other scalings takes at most this share of the whole run's forward passes, or this long; on fewer images if
need be."""


@dataclass(frozen=True)
class PreflightReport:
    """What the images showed. Apart from the doubts made of JSON's types."""

    key: str
    """Digest of what decides it."""
    step: int
    images: int
    failed: int
    """Of those chosen, could not be read and are not among `images`."""
    labelled: int
    right: int
    transform: Mapping[str, Any]
    input_mean: tuple[float, ...]
    input_std: tuple[float, ...]
    """[channels] of what the model got."""
    decoded_per_second: float
    """By all threads."""
    inferred_per_second: float
    """By the model of one step."""
    seconds: float
    """What the preflight itself took."""
    doubts: tuple[Diagnosis, ...]
    tried: tuple[Trial, ...]
    """Other scalings and sizes, on labelled images."""
    order: tuple[str, ...] = ()
    """Names of the outputs in the order that would fit, where there is a doubt about it."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """What becomes of a picture, and what the model gets in the end."""
        return *describe_transform(
            self.transform
        ), f"inputs: mean {_list(self.input_mean)}, std {_list(self.input_std)}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line each."""
        return tuple(d.text for d in self.doubts if d.warning)

    @property
    def carried(self) -> tuple[str, ...]:
        """Warnings that stage two could not find by itself."""
        return tuple(d.text for d in self.doubts if d.warning and not d.again)

    def lines(self, decoded: int, inferred: int, devices: Sequence[torch.device]) -> Iterator[str]:
        """For a person, with how long the whole run will take.

        Args:
            decoded, inferred: images, and images times steps, of the whole run.
            devices: that it will take place on.
        """
        accuracy = "no labels"
        if self.labelled:
            low, high = wilson_interval(self.right, self.labelled)
            accuracy = (
                f"accuracy {percent(self.right / self.labelled)} of {self.labelled:,} labelled (95 % interval "
                f"{100 * low:.1f} to {100 * high:.1f})"
            )
        failed = f", {self.failed:,} more cannot be read" if self.failed else ""
        yield f"preflight of step {self.step}: {plural(self.images, 'image')} by hash{failed}; {accuracy}"
        yield f"  the model gets {'; '.join(self.inputs)}"
        each = len(devices)  # has threads of its own that decode
        waits = decoded / self.decoded_per_second / each, inferred / self.inferred_per_second / each
        shared = devices[0].type == "cpu"  # where decoding takes the model's processors
        yield (
            f"  decodes {self.decoded_per_second:,.0f} and infers {self.inferred_per_second:,.0f} images/s: about "
            f"{_duration(sum(waits) if shared else max(waits))} for {inferred:,} rows"
        )
        yield from (f"  {'warning' if d.warning else 'note'}: {d.text}" for d in self.doubts)


def describe_transform(transform: Mapping[str, Any]) -> tuple[str, ...]:
    """What becomes of a picture, and who said so.

    >>> describe_transform({"resize": 256, "crop": 224, "channels": "rgb", "mean": [0.5], "std": [1], "size": [8, 8, 3],
    ...     "source": "flags"})
    ('resize 256, crop 224, rgb -> 3×8×8 (from flags)', 'x/255, mean 0.5, std 1')
    """
    height, width, channels = transform["size"]
    said = [f"{name} {transform[name]}" for name in ("dataset", "function", "resize", "crop") if transform.get(name)]
    source = f"from {transform['source']}"
    if not transform.get("floats"):
        said.append(str(transform["channels"]))
    shape = f"{', '.join(said)} -> {channels}×{height}×{width} ({source})"
    if transform.get("floats"):
        return shape, "floats as they are"
    return shape, f"x/255, mean {_list(transform['mean'])}, std {_list(transform['std'])}"


def _duration(seconds: float) -> str:
    """Rounded for a person.

    >>> [_duration(s) for s in (0.2, 42, 400, 40000)]
    ['1 s', '42 s', '7 min', '11.1 h']
    """
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _list(values: Any) -> str:
    return " ".join(f"{v:.3g}" for v in list(values)[:3]) + (" …" if len(values) > 3 else "")


def preflight(
    job: Job,
    devices: Sequence[torch.device],
    modules: Callable[[int], torch.nn.Module],
    tasks: Sequence[Task],
    recipe: Recipe | None,
    say: Callable[[str], None],
) -> Job:
    """Send a sample through the model of the last step that is to be inferred, and say what makes one doubt.

    A report of the same sample and model that is there already is not made again.

    Args:
        job: what is to be done.
        devices: that it will be done on.
        modules: gives the model of a step.
        tasks: what is to be done.
        recipe: of the model's library.
        say: takes a line for a person.

    Returns: the job with the warnings that its parts are to carry, and a batch size that fits.

    Raises InputError if the outputs are not what --scores says or the report cannot be written, and with --strict if
    there is a warning.
    """
    step = max(step for task in tasks for step in task.steps)  # the most trained; it stands for the others
    rows = sum(task.rows for task in tasks)
    sample = _sample(job)
    key = _key(job, step, sample, recipe)
    found = _known(job, step, key)
    if found is None:
        trial = _Trial(job, devices[0], modules(step), step, sample, say)
        found = _examined(trial, rows, recipe, key)
        job = replace(job, batch_size=trial.limit.rows)  # fewer if the device's memory was not enough
    for line in found.lines(sum(len(task.ids) for task in tasks), rows, devices):
        say(line)
    if job.config.strict and found.warnings:
        raise InputError(f"the preflight warns, and --strict stops before the long run: {found.warnings[0]}")
    return replace(job, warnings=(*job.warnings, *found.carried))


def _sample(job: Job) -> list[int]:
    """Rows of the manifest, in the order of another hash of their keys."""
    count = min(job.config.preflight, max(SAMPLE_MAX_BYTES // job.like.nbytes, 16))
    order = np.argsort(mix(job.loader.manifest.key, Salt.PREFLIGHT), kind="stable")
    return list(map(int, order[:count]))


def _key(job: Job, step: int, sample: list[int], recipe: Recipe | None) -> str:
    """Digest of what decides the report."""
    manifest = job.loader.manifest
    rows = hash64(manifest.key[sample].tobytes() + manifest.label[sample].tobytes())
    return digest_records(
        {"run": job.runs[step].fingerprint, "sample": rows, "recipe": "" if recipe is None else recipe.source}
    )


def _known(job: Job, step: int, key: str) -> PreflightReport | None:
    """The report that is there, if it is of this sample and this model."""
    try:
        record: dict[str, Any] = json.loads(preflight_path(job.out, step, ".json").read_text("utf-8"))
        if record["key"] != key or not preflight_path(job.out, step, ".png").exists():
            return None
        record |= {"doubts": [Diagnosis(**d) for d in record["doubts"]], "tried": [Trial(**t) for t in record["tried"]]}
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in record.items()}
        return PreflightReport(**values)
    except (OSError, ValueError, KeyError, TypeError):  # none, or of another version: it is made again
        return None


def _examined(sample: "_Trial", forward_rows: int, recipe: Recipe | None, key: str) -> PreflightReport:
    """Look at a sample from all sides, and leave the report and the sheet."""
    began = time.perf_counter()
    job, run = sample.job, sample.run
    names, label, given = run.classes, sample.label, sample.given
    known = label >= 0
    wanted = label[known]

    once = sample.logits(sample.pixels)
    found = [*diagnostics.check_finite(once), *sample.unsteady(once), *sample.padded()]
    if job.config.scores == "logits":
        found += diagnostics.check_normalised(once[np.isfinite(once).all(axis=1)])
    predicted = np.where(np.isnan(once), -np.inf, once).argmax(axis=1)
    right = (predicted == label)[known]

    mean, std = _moments(sample.pixels, sample.range)
    others = diagnostics.candidate_scalings(given, mean, std, sample.unit) if diagnostics.can_improve(right) else {}
    some = sample.affordable(len(right), len(others), forward_rows)
    pixels = sample.pixels[known] if others else sample.pixels[:0]

    def right_with(name: str, start: int, stop: int) -> NDArray[np.bool_]:
        return np.asarray(sample.logits(pixels[start:stop], others[name]).argmax(axis=1) == wanted[start:stop])

    tried = diagnostics.run_trials(list(others), right[:some], right_with)
    better = diagnostics.best_trial(tried, diagnostics.MIN_ERRORS_EXPLAINED)
    if better is not None:
        found.append(diagnostics.diagnose_scaling(better, sample.remedy(better.name, others[better.name])))
    elif others and (sizes := sample.other_sizes()):

        def right_of(name: str, start: int, stop: int) -> NDArray[np.bool_]:
            return sample.right_of(*sizes[name], np.flatnonzero(known)[start:stop])

        resized = []
        for name, (_, crop) in sizes.items():
            fewer = sample.affordable(len(right), 1, forward_rows, 1 if crop is None else crop**2)
            resized += diagnostics.run_trials([name], right[:fewer], right_of)
        tried += resized
        better = diagnostics.best_trial(resized, diagnostics.MIN_ERRORS_EXPLAINED)
        if better is not None:
            found.append(diagnostics.diagnose_size(better, sizes[better.name]))
    order = None
    reached = better.right / better.images if better is not None else 0.0
    if other := diagnostics.diagnose_order(predicted[known], wanted, names, reached):
        found.append(other[0])
        order = other[1]
    found += diagnostics.check_chance(predicted[known], wanted, len(names))
    found += diagnostics.check_dominant_class(predicted, label, len(names), names)
    if recipe is not None and (unlike := preprocessing.describe_differences(run.transform, recipe)):
        found.append(diagnostics.diagnose_recipe(unlike, recipe.source, own_weights=not job.steps[run.step]))
    input_mean, input_std = (mean - given.mean) / given.std, std / given.std
    if better is None:  # else it is explained
        plausible = len(right) >= diagnostics.MIN_LABELLED and not any(d.again for d in found)
        found += (d for d in diagnostics.check_input_range(input_mean, input_std) if d.warning or not plausible)
    report = PreflightReport(
        key=key,
        step=run.step,
        images=len(label),
        failed=sample.failed,
        labelled=len(right),
        right=int(right.sum()),
        transform=run.transform,
        input_mean=tuple(input_mean.tolist()),
        input_std=tuple(input_std.tolist()),
        decoded_per_second=sample.decoded_per_second,
        inferred_per_second=sample.inferred_per_second,
        seconds=time.perf_counter() - began + sample.seconds,
        doubts=tuple(found),
        tried=tuple(tried),
        order=() if order is None else tuple(names[c] for c in order.tolist()),
    )
    _leave(job, report, sample.shown(SHEET_PICTURES), label, predicted)
    return report


class _Trial:
    """Decoded images, and the model that they are sent through."""

    def __init__(
        self,
        job: Job,
        device: torch.device,
        module: torch.nn.Module,
        step: int,
        chosen: Sequence[int],
        say: Callable[[str], None],
    ) -> None:
        began = time.perf_counter()
        self.job, self.run, self._device = job, job.runs[step], device
        config, manifest, transform = job.config, job.loader.manifest, self.run.transform
        loader = replace(job.loader, thumbnail=0)
        chunks = ((None, chosen[at : at + 8]) for at in range(0, len(chosen), 8))
        stream = loader.stream(chunks, job.like, job.threads, 2 * job.threads)
        loaded = [row for _, rows in stream for row in rows]
        self.decoded_per_second = len(loaded) / (time.perf_counter() - began)
        self._network = Network(module, device, config.precision, embeddings=False)
        self.limit = BatchLimit(job.batch_size, device, say)
        self._training = [name or "the model itself" for name, m in module.named_modules() if m.training]
        good = [(i, row) for i, row in zip(chosen, loaded, strict=True) if row.pixels is not None]
        self.failed = len(loaded) - len(good)
        self._ids = np.array([i for i, _ in good], np.int64)
        self._sizes = [(row.properties.width, row.properties.height) for _, row in good if row.properties is not None]
        self.pixels: NDArray[Any] = np.stack([row.pixels for _, row in good if row.pixels is not None] or [job.like])
        """[images, height, width, channels] uint8 or [images, channels, height, width] float32."""
        classes = len(self.run.classes)
        said = [int(manifest.label[i]) if row.label is None else row.label for i, row in good] or [-1]
        self.label: NDArray[np.int64] = np.array([c if c < classes else -1 for c in said], np.int64)
        """[images], -1 if unknown."""
        wide = np.ones(image_size(job.like)[2])
        self.range = 255.0
        """Of the pixels' values: they are from 0 to this, if they are in `unit`."""
        self.unit = True
        if self.pixels.dtype == np.uint8:
            scale: tuple[Any, Any] = transform["mean"], transform["std"]
        else:
            low, high = float(self.pixels.min()), float(self.pixels.max())
            self.unit = low >= 0 and high <= 255
            self.range = 255.0 if self.unit and high > 2 else 1.0
            scale = 0.0, 1 / self.range  # they go to the model as they are
        self.given = Scaling(
            transform.get("channels") == "bgr", tuple((scale[0] * wide).tolist()), tuple((scale[1] * wide).tolist())
        )
        self.inferred_per_second = 0.0
        self.seconds = time.perf_counter() - began

    def _prepared(self, pixels: NDArray[Any], scaling: Scaling) -> torch.Tensor:
        """[rows, channels, height, width] float32, as the model would get them by that scaling."""
        turned = scaling.turned != self.given.turned
        if pixels.dtype == np.uint8:
            pixels = np.ascontiguousarray(pixels[..., ::-1]) if turned else pixels
        elif scaling != self.given:
            mean, std = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (scaling.mean, scaling.std))
            pixels = np.ascontiguousarray((pixels[:, ::-1] if turned else pixels) / np.float32(self.range) - mean) / std
        return Normalizer(self._device, scaling.mean, scaling.std)(pixels)

    def logits(
        self, pixels: NDArray[Any], scaling: Scaling | None = None, limit: BatchLimit | None = None
    ) -> NDArray[np.float32]:
        """[rows, classes] of pictures by a scaling, the given one by default, in batches of the usual size."""
        scaling, limit = scaling or self.given, limit or self.limit
        size, found, began = self.job.batch_size, [], time.perf_counter()
        for start in range(0, len(pixels), size):
            batch = pixels[start : start + size]
            outputs, _ = compute_outputs({0: self._network}, partial(self._prepared, scaling=scaling), batch, limit)
            found.append(outputs[0][0].cpu().numpy())
            if start == 0 and len(pixels) > size:
                began = time.perf_counter()  # the first batch warms up
        if not self.inferred_per_second:
            counted = len(pixels) - size if len(pixels) > size else len(pixels)
            self.inferred_per_second = counted / max(time.perf_counter() - began, 1e-6)
        return to_logits(np.concatenate(found), self.job.config.scores)[0]

    def unsteady(self, once: NDArray[np.float32]) -> Iterator[Diagnosis]:
        """Whether the logits are the same the second time, and with other images in the batch."""
        first = self.pixels[: self.job.batch_size]
        some = min(8, len(first), len(self.pixels) // 2)
        if not some:
            return
        again = self.logits(first)
        # The first few with the last few between them, so that a batch of any size has other company.
        company = np.stack([self.pixels[:some], self.pixels[-some:]], axis=1).reshape(2 * some, *self.pixels.shape[1:])
        elsewhere = self.logits(company)[::2]
        tolerance = 1e-3 if self.job.config.precision == "fp32" else 0.1
        yield from diagnostics.check_nondeterministic(once[: len(first)], again, elsewhere, self._training, tolerance)

    def padded(self) -> Iterator[Diagnosis]:
        """Whether the crop makes much of the pictures black; of functions the size before the crop is not known."""
        loader, shape = self.job.loader, self.job.loader.shape
        if shape.crop is not None and self.pixels.dtype == np.uint8 and loader.transform is loader.own is None:
            sizes = [decode.size_after_resize(*size, shape) for size in self._sizes]
            yield from diagnostics.check_padding(sizes, shape.crop, shape.resize is not None)

    def other_sizes(self) -> dict[str, diagnostics.Sides]:
        """Sizes that picture files could be brought to instead; none for what user code makes of them."""
        loader = self.job.loader
        if self.pixels.dtype != np.uint8 or not loader.transform is loader.own is loader.manifest.dataset is None:
            return {}
        height, width, _ = self.pixels.shape[1:]
        return diagnostics.candidate_sizes((height, width), self._sizes)

    def right_of(self, resize: int | None, crop: int | None, rows: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Whether these rows of the sample are right where their pictures are of another size. -> [rows] bool.

        A model that takes no pictures of that size was not trained on them: none is right.
        """
        job = self.job
        loader = replace(job.loader, thumbnail=0, shape=replace(job.loader.shape, resize=resize, crop=crop))
        ids = self._ids[rows].tolist()
        stream = loader.stream(((None, [i]) for i in ids), None, job.threads, 2 * job.threads)
        pixels = [row.pixels for _, (row,) in stream]
        if len({p.shape if p is not None else None for p in pixels}) > 1 or not pixels or pixels[0] is None:
            return np.zeros(len(rows), bool)
        some = BatchLimit(max(1, job.batch_size * self.pixels[0].size // pixels[0].size), self._device, lambda _: None)
        try:
            logits = self.logits(np.stack([p for p in pixels if p is not None]), limit=some)
        except Exception:  # whatever a model says of pictures that it was not made for
            return np.zeros(len(rows), bool)
        return np.asarray(logits.argmax(axis=1) == self.label[rows])

    def affordable(self, labelled: int, ways: int, forward_rows: int, size: int = 1) -> int:
        """How many of the labelled images other scalings, or pictures of so many pixels, are tried on."""
        most = max(TRIALS_MAX_SHARE * forward_rows, TRIALS_MIN_SECONDS * self.inferred_per_second)
        each = ways / 8 + 2  # of an image, as most ways are given up early
        each *= max(1.0, size * self.pixels.shape[-1] / self.pixels[0].size)
        return labelled if labelled * each <= most else max(int(most / each), min(labelled, 64))

    def remedy(self, name: str, scaling: Scaling) -> str:
        """How to get another scaling."""
        flags = scaling.flags(self.given) + " or the training images' own" * ("own mean" in name)
        if self.pixels.dtype == np.uint8 and self.job.loader.manifest.dataset is None:
            return flags
        return f"what {flags} does for files, in your own transform"

    def shown(self, images_: int) -> list[Image.Image]:
        """The first pictures as the model gets them, scaled back."""
        few = self.pixels[:images_]
        x = self._prepared(few, self.given).cpu().numpy()
        if self.unit:
            mean, std = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (self.given.mean, self.given.std))
            back = np.clip(np.rint((x * std + mean) * 255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
            x = back[..., ::-1] if self.given.turned else back
        return [decode.make_preview(one, self.job.loader.bands).convert("RGB") for one in x]


def _moments(pixels: NDArray[Any], range_: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel, over the range. -> two of [channels]."""
    total = squares = np.zeros(1)
    for picture in pixels:  # one at a time: all of them in float64 would be 2 GB
        wide = (picture if picture.dtype == np.uint8 else np.moveaxis(picture, 0, 2)).astype(np.float64) / range_
        total = total + wide.mean((0, 1)) / len(pixels)
        squares = squares + (wide**2).mean((0, 1)) / len(pixels)
    return total, np.sqrt(np.maximum(squares - total**2, 0))


def _leave(
    job: Job,
    found: PreflightReport,
    pictures: list[Image.Image],
    label: NDArray[np.int64],
    predicted: NDArray[np.int64],
) -> None:
    """Write the report and the sheet beside the steps."""
    names = job.runs[found.step].classes
    tiles = [
        (picture, names[true] if true >= 0 else None, names[said])
        for picture, true, said in zip(pictures, label.tolist(), predicted.tolist(), strict=False)
    ]
    title = f"what the model sees: {len(tiles)} of {found.images:,} images"
    encoded = io.BytesIO()
    sheet = draw_contact_sheet(tiles, title, found.inputs)
    Image.fromarray(sheet).save(encoded, "PNG")
    write_file(preflight_path(job.out, found.step, ".png"), encoded.getvalue())
    record = json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n"
    write_file(preflight_path(job.out, found.step, ".json"), record.encode())
