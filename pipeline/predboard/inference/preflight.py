"""Send a few hundred images through the model before the long run, and report what looks wrong.

It knows nothing of parts. The sample is chosen by a hash of the images' keys. The report lies beside the steps (see
`preflight_report`), and a report of the same sample and model is not made again.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.images import decode, preprocessing, sources
from predboard.images.preprocessing import Recipe
from predboard.inference import diagnostics, preprocessing_trials
from predboard.inference.diagnostics import Diagnosis
from predboard.inference.forward import BatchLimit
from predboard.inference.preflight_judges import Judge, judge_of
from predboard.inference.preflight_probe import Probe, Sample, SampleReader, ValueRange
from predboard.inference.preflight_report import PreflightReport, read_report, write_report
from predboard.inference.preprocessing_trials import Scaling, Trial
from predboard.inference.worker import Job
from predboard.predictions.label_sets import MultiLabels, label_values
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import digest_records, hash64
from predboard.storage.part_plan import Task

SAMPLE_MAX_BYTES = 2**28
"""The decoded pictures of the sample take no more memory; of large pictures there are fewer."""

SHEET_PICTURES = 20
"""Pictures on the contact sheet."""

FIRST_IMAGES, FIRST_PORTION = 256, 16
"""Images that are looked at first, and those of them that warm all up. The rest of the sample is looked at where the
first ones leave a doubt that more could settle."""

TIMED_IMAGES = 64
"""Images that are decoded and go through the model one after the other, which shows how long either takes. All others
are decoded while those before them go through the model."""

SAMPLE_MAX_SHARE, SAMPLE_MIN_SECONDS, SAMPLE_MIN_IMAGES = 0.1, 2.5, 64
"""Forward passes of the sample are at most this share of those of the whole run, so many seconds, or so many images,
whichever is more. These seconds are of processor time on all processors, so other programs change nothing."""

MIN_ACCURACY = 0.5
"""Share of the first images that must be right for the rest not to be looked at."""

MAX_ORDERED_CLASSES = 128
"""Classes whose order the whole sample can show, but hardly its first images."""

MAX_SECONDS = 60.0
"""The preflight begins nothing that would probably end later; it looks at `FIRST_PORTION` images whatever they take."""

SAMPLE_MAX_SECONDS, SHEET_SECONDS = 25.0, 2.0
"""Of these the sample takes at most the first, and the second are left for the end."""

TRIALS_MAX_SHARE, TRIALS_MIN_SECONDS = 0.25, 5.0
"""Trying other scalings takes at most this share of the whole run's forward passes, or this many seconds, counted
likewise, if that is longer; on fewer images if need be, but on `SAMPLE_MIN_IMAGES` at least."""


def preflight(
    job: Job,
    devices: Sequence[torch.device],
    modules: Callable[[int], torch.nn.Module],
    tasks: Sequence[Task],
    recipe: Recipe | None,
    log: Callable[[str], None],
    hands_on: bool = False,
) -> Job:
    """Send a sample through the model of the last step to be inferred, and log what looks wrong.

    Args:
        job: what is to be done.
        devices: where it will be done.
        modules: gives the model of a step.
        tasks: the parts to make.
        recipe: preprocessing by the model's library, if it has one.
        log: takes a line for a person.
        hands_on: whether this process does the tasks, and need not decode what the sample has of them again.

    Returns:
        The job with the warnings that its parts are to carry, and a batch size that fits the device.

    Raises:
        InputError: if the outputs are not what --scores says, if the report cannot be written, and with --strict if
            there is a warning.
    """
    step = max(step for task in tasks for step in task.steps)  # the most trained; it stands for the others
    rows = sum(task.rows for task in tasks)
    chosen = _choose(job)
    key = _key(job, step, chosen, recipe, devices)
    report = read_report(job.out, step, key)
    if report is None:
        reader = SampleReader(job, chosen, len(job.runs[step].classes), hands_on)
        examined = _Examined.begin(tasks, job, devices[0], modules(step), step, reader, log)
        report = examined.report(recipe, key)
        if hands_on:
            ready = {i: row for i, row in reader.ready().items() if any(i in task.ids for task in tasks)}
            job = replace(job, loader=replace(job.loader, ready=ready))
        job = replace(job, batch_size=examined.probe.limit.rows)  # fewer if the device's memory was not enough
    for line in report.lines(sum(len(task.ids) for task in tasks), rows, devices):
        log(line)
    if job.config.strict and report.warnings:
        raise InputError(f"the preflight has a warning, and --strict stops before the long run: {report.warnings[0]}")
    return replace(job, warnings=(*job.warnings, *report.carried_warnings))


def _choose(job: Job) -> list[int]:
    """Return the rows of the sample, in the order of a hash of their keys."""
    count = min(job.config.preflight, max(SAMPLE_MAX_BYTES // job.like.nbytes, 16))
    order = np.argsort(mix(job.loader.manifest.key, Salt.PREFLIGHT), kind="stable")
    return list(map(int, order[:count]))


def _key(job: Job, step: int, chosen: list[int], recipe: Recipe | None, devices: Sequence[torch.device]) -> str:
    """Digest what decides the report: also the pictures, which may be written again, and what its speeds depend on."""
    manifest = job.loader.manifest
    refs = [] if manifest.is_dataset else [manifest.image[row].as_py() for row in chosen]
    stamps = [sources.stamp_of(manifest.root, ref) for ref in refs]
    speeds = [sorted({device.type for device in devices}), torch.get_num_threads(), job.threads, job.batch_size]
    label = manifest.label[np.array(chosen)]
    labels = str(list(label_values(label))).encode() if isinstance(label, MultiLabels) else label.tobytes()
    rows = hash64(manifest.key[chosen].tobytes() + labels)
    return digest_records(
        {
            "run": job.runs[step].fingerprint,
            "sample": rows,
            "pictures": stamps,
            "speeds": speeds,
            "recipe": "" if recipe is None else recipe.source,
        }
    )


@dataclass(frozen=True)
class _Examined:
    """A sample, the model, and what the model says of the sample."""

    began: float
    tasks: Sequence[Task]
    """The parts to make."""
    job: Job
    step: int
    reader: SampleReader
    sample: Sample
    values: ValueRange
    probe: Probe
    logits: NDArray[np.float32]
    """[images, classes]"""
    tried_logits: dict[Scaling, NDArray[np.float32]]
    """[labelled images so far, classes] by each other scaling."""
    first_rows: int
    """Images of the first batches that went through the model."""

    @classmethod
    def begin(
        cls,
        tasks: Sequence[Task],
        job: Job,
        device: torch.device,
        module: torch.nn.Module,
        step: int,
        reader: SampleReader,
        log: Callable[[str], None],
    ) -> "_Examined":
        """Decode the sample and send it through the model once: first images, and the rest if these leave a doubt."""
        began, run = time.perf_counter(), job.runs[step]
        like = job.like[None]
        values = ValueRange.of_sample(like, job.like, run.transform)
        probe = Probe(job, device, module, values, BatchLimit(job.batch_size, device, log))
        logits, tried = list[NDArray[np.float32]](), dict[Scaling, NDArray[np.float32]]()
        first_rows = 0
        rows = reader.rows
        for first in (True, False):
            goal = min(FIRST_IMAGES, rows) if first else rows
            while (portion := cls._portion(goal, time.perf_counter() - began, reader, probe)) > 0:
                pixels = reader.read(portion)
                if len(pixels):
                    logits.append(probe.logits(pixels))
                if reader.taken == TIMED_IMAGES and logits:
                    affordable = _rows_within(SAMPLE_MAX_SHARE, tasks, SAMPLE_MIN_SECONDS, probe)
                    rows = min(rows, max(int(affordable), SAMPLE_MIN_IMAGES))
                    goal = min(goal, rows)
                    if reader.decode_beside(goal):
                        probe.share_processors(reader.decode_seconds)
            if not logits:
                logits.append(probe.logits(like))
            first_rows = first_rows or min(len(logits[0]), job.batch_size)
            logits = [np.concatenate(logits)]
            sample = reader.sample()
            probe.values = ValueRange.of_sample(sample.pixels, job.like, run.transform)
            examined = cls(began, tasks, job, step, reader, sample, probe.values, probe, logits[0], tried, first_rows)
            if reader.taken == goal and reader.read_ahead(rows):
                probe.share_processors(reader.decode_seconds)
            if reader.taken < goal:
                reader.stop()
            if reader.taken < goal or goal == rows or not examined.leaves_doubt():
                break
        return examined

    @staticmethod
    def _portion(goal: int, took: float, reader: SampleReader, probe: Probe) -> int:
        """Return how many images to look at next: as many as fit the time, and as can be decoded beside the model."""
        if not reader.taken:
            return min(goal, FIRST_PORTION)
        fit = min(goal - reader.taken, int((SAMPLE_MAX_SECONDS - took) / took * reader.taken))
        if reader.taken < TIMED_IMAGES:
            return min(fit, TIMED_IMAGES - reader.taken)
        return min(fit, probe.piece_rows) if reader.is_ahead else fit

    @functools.cached_property
    def judge(self) -> Judge:
        """Who knows the labels of the sample."""
        return judge_of(self.sample.label, self.job.runs[self.step], self.job.single_output)

    @functools.cached_property
    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of the sample before the scaling, each [channels]."""
        return self.values.moments(self.sample.pixels)

    @functools.cached_property
    def findings(self) -> set[str]:
        """Names of the diagnoses of the predictions, if nothing else explains them."""
        return {diagnosis.name for diagnosis in self.judge.check_predictions(self.logits, 0.0)[0]}

    def leaves_doubt(self) -> bool:
        """Return whether more images could prove a mistake that these do not, or refute one.

        Of several labels a row is right only with all of them, which says little: more images are always looked at.
        """
        judge, known = self.judge, len(self.judge.labelled)
        right = judge.right(self.logits)
        if self.job.random_weights:  # of which no prediction is judged
            return False
        if 2 * known < len(self.sample.label) or judge.measure != PreflightReport.measure:
            return True
        classes = self.logits.shape[1]
        few_of_each = known < 16 * classes <= 16 * MAX_ORDERED_CLASSES
        if self.findings & {"chance"} and self.findings <= {"chance", "dominant_class"}:
            return few_of_each or preprocessing_trials.is_promising(self.tried[0])
        if right.mean() < MIN_ACCURACY or self.findings:
            return True
        if not preprocessing_trials.can_improve(np.tile(right, 2)):  # with as many errors among the others
            return False
        if few_of_each or not preprocessing_trials.can_improve(right):
            return True
        return preprocessing_trials.is_promising(self.tried[0])

    def report(self, recipe: Recipe | None, key: str) -> PreflightReport:
        """Run every check, and write the report and the contact sheet.

        Args:
            recipe: preprocessing by the model's library, if it has one.
            key: the report's.
        """
        job, sample, run, values = self.job, self.sample, self.job.runs[self.step], self.values
        right = self.judge.right(self.logits)
        diagnoses = [*diagnostics.check_finite(self.logits), *self._nondeterministic(), *self._padding()]
        if job.config.scores == "logits":
            diagnoses += self.judge.check_outputs(self.logits[np.isfinite(self.logits).all(axis=1)])
        mean, std = self.moments
        swapped = [] if job.random_weights else [*self.judge.check_meaning(self.logits)]
        tried: tuple[list[Trial], Trial | None, list[Diagnosis]] = [], None, swapped
        if not swapped:  # which explains why most are wrong
            tried = self.tried
        trials, better, improvement = tried
        diagnoses += improvement
        explained = better.right / better.images if better is not None else 0.0
        order: tuple[str, ...] = ()
        if not job.random_weights and not swapped:
            misfits, order = self.judge.check_predictions(self.logits, explained)
            diagnoses += misfits
        if recipe is not None and (differences := preprocessing.describe_differences(run.transform, recipe)):
            own_weights = not job.steps[run.step]
            diagnoses.append(diagnostics.diagnose_recipe(differences, recipe.source, own_weights))
        input_mean, input_std = (mean - values.given.mean) / values.given.std, std / values.given.std
        if better is None:  # else the inputs are explained already
            plausible = len(right) >= diagnostics.MIN_LABELLED and not any(d.again for d in diagnoses)
            odd = diagnostics.check_input_range(input_mean, input_std)
            diagnoses += (d for d in odd if d.warning or not plausible)

        self.reader.finish()
        together = 0.0
        if sum(task.rows for task in self.tasks) > len(sample.label):
            limit = self._seconds_left()
            self.probe.share_processors(self.reader.decode_seconds)
            together = self.probe.measure_together(
                self.tasks[0].part_range.index,
                len(job.loader.manifest),
                sample.decoded_per_second,
                limit,
                self.reader.keep,
            )
        report = PreflightReport(
            key=key,
            step=run.step,
            images=len(sample.label),
            failed=sample.failed,
            labelled=len(right),
            right=int(right.sum()),
            transform=run.transform,
            input_mean=tuple(input_mean.tolist()),
            input_std=tuple(input_std.tolist()),
            decoded_per_second=sample.decoded_per_second,
            inferred_per_second=self.probe.inferred_per_second,
            seconds=time.perf_counter() - self.began,
            diagnoses=tuple(diagnoses),
            trials=tuple(trials),
            order=order,
            together_per_second=together,
            measure=self.judge.measure,
        )
        previews = self.probe.previews(sample.pixels[:SHEET_PICTURES])
        write_report(job.out, report, previews, self.judge.captions(self.logits))
        return report

    def _nondeterministic(self) -> Iterator[Diagnosis]:
        """Compare with the logits of a second pass, and of a batch with other images in it."""
        pixels = self.sample.pixels
        batch = pixels[: self.first_rows]  # which went through together before
        some = min(8, len(batch), len(pixels) // 2)
        if not some or not self._has_time(len(batch) + 2 * some):
            return
        second = self.probe.logits(batch)
        # The first few with the last few between them, so that a batch of any size has other company.
        mixed = np.stack([pixels[:some], pixels[-some:]], axis=1).reshape(2 * some, *pixels.shape[1:])
        regrouped = self.probe.logits(mixed)[::2]
        tolerance = 1e-3 if self.job.config.precision == "fp32" else 0.1
        yield from diagnostics.check_nondeterministic(
            self.logits[: len(batch)], second, regrouped, self.probe.training, tolerance
        )

    def _padding(self) -> Iterator[Diagnosis]:
        """Check the crop, unless code of the user or the library prepares the pictures: their size is then unknown."""
        preprocessing = self.job.loader.preprocessing
        shape = preprocessing.decoding
        if shape.crop is not None and self.sample.are_files and preprocessing.function is None:
            sizes = [decode.size_after_resize(*size, shape) for size in self.sample.sizes]
            yield from diagnostics.check_padding(sizes, shape.crop, shape.resize is not None)

    @functools.cached_property
    def tried(self) -> tuple[list[Trial], Trial | None, list[Diagnosis]]:
        """Other scalings, then other sizes if no scaling is better: all trials, the better one, its diagnosis."""
        probe, sample, judge, (mean, std) = self.probe, self.sample, self.judge, self.moments
        given = judge.merit(self.logits[judge.labelled])
        if self.job.random_weights or not preprocessing_trials.can_improve(given):
            return [], None, []
        scalings = preprocessing_trials.candidate_scalings(self.values.given, mean, std, self.values.unit)
        pixels, ids = sample.pixels, sample.ids
        if len(judge.labelled) < len(ids):
            pixels, ids = pixels[judge.labelled], ids[judge.labelled]

        def logits_with(name: str, start: int, stop: int) -> NDArray[np.float32]:
            before = self.tried_logits.get(scalings[name])
            at = 0 if before is None else len(before)
            if stop > at:
                further = probe.logits(pixels[at:stop], scalings[name])
                self.tried_logits[scalings[name]] = further if before is None else np.concatenate([before, further])
            return self.tried_logits[scalings[name]][start:stop]

        some, by_chance = self._affordable(len(scalings)), "chance" in self.findings
        run_trials = functools.partial(preprocessing_trials.run_trials, merit=judge.merit, by_chance=by_chance)
        quick = self._trial_rows() < 2 * FIRST_PORTION * len(scalings)
        trials = run_trials(list(scalings), given[:some], logits_with, in_time=self._has_time, quick=quick)
        better = preprocessing_trials.best_trial(trials)
        if better is not None:
            remedy = self._remedy(better.name, scalings[better.name])
            return trials, better, [preprocessing_trials.diagnose_scaling(better, remedy)]

        sizes = self._sizes() if scalings else {}

        def logits_at(name: str, start: int, stop: int) -> NDArray[np.float32]:
            logits = probe.logits_at(sizes[name], ids[start:stop])
            nothing = np.full((stop - start, self.logits.shape[1]), np.nan, np.float32)
            return nothing if logits is None else logits

        resized: list[Trial] = []
        for name, (_, crop) in sizes.items():
            area = 1 if crop is None else crop**2
            in_time = functools.partial(self._has_time, pixels=area, decodes=True)
            some = self._affordable(1, area)
            resized += run_trials([name], given[:some], logits_at, in_time=in_time)
        better = preprocessing_trials.best_trial(resized)
        diagnoses = [] if better is None else [preprocessing_trials.diagnose_size(better, sizes[better.name])]
        return trials + resized, better, diagnoses

    def _seconds_left(self) -> float:
        return MAX_SECONDS - SHEET_SECONDS - (time.perf_counter() - self.began)

    def _trial_rows(self) -> float:
        """Return the rows that trying other ways may send through the model."""
        return _rows_within(TRIALS_MAX_SHARE, self.tasks, TRIALS_MIN_SECONDS, self.probe)

    def _affordable(self, ways: int, pixels: int = 1) -> int:
        """Return the number of labelled images to try this many ways on, with pictures of so many pixels."""
        labelled, budget = len(self.judge.labelled), self._trial_rows()
        passes = (ways / 8 + 2) * self._passes(pixels)  # for each image, as most ways are stopped early
        return labelled if labelled * passes <= budget else max(int(budget / passes), min(labelled, SAMPLE_MIN_IMAGES))

    def _passes(self, pixels: int) -> float:
        """Return how many pictures of the run's size take as long as one of so many pixels."""
        like = self.sample.pixels[0]
        return float(max(1.0, pixels * like.shape[-1] / like.size))

    def _has_time(self, rows: int, pixels: int = 1, decodes: bool = False) -> bool:
        """Return whether so many rows can go through the model in time; `decodes` if they are read again for it."""
        each = self._passes(pixels) / self.probe.inferred_per_second
        return rows * (each + (1 / self.sample.decoded_per_second if decodes else 0.0)) <= self._seconds_left()

    def _sizes(self) -> dict[str, preprocessing_trials.Sides]:
        """Return other sizes for picture files; none where code of the user or the library prepares the pictures."""
        loader = self.job.loader
        if not self.sample.are_files or loader.preprocessing.function is not None or loader.manifest.is_dataset:
            return {}
        height, width, _ = self.sample.pixels.shape[1:]
        return preprocessing_trials.candidate_sizes((height, width), self.sample.sizes)

    def _remedy(self, name: str, scaling: Scaling) -> str:
        """Say how to get another scaling."""
        flags = scaling.flags(self.values.given) + " or the training images' own" * ("own mean" in name)
        if self.sample.are_files and not self.job.loader.manifest.is_dataset:
            return flags
        return f"do in your own transform what {flags} does for files"


def _rows_within(share: float, tasks: Sequence[Task], seconds: float, probe: Probe) -> float:
    """Return this share of the run's rows, images times steps, or what a model at rest does in so many seconds."""
    return max(share * sum(task.rows for task in tasks), seconds * probe.quiet_per_second)
