"""Try other preprocessing on a sample: which scalings and sizes to try, how to compare them, and what to advise.

Pure functions of arrays; a callback runs the model. It knows no torch, no files and no pictures. An alternative is
reported only if it is significantly better after correction for everything that one sample is tested for.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.formatting import percent
from predboard.inference.diagnostics import MIN_LABELLED, Diagnosis
from predboard.metrics.intervals import sign_test

FALSE_ALARM_RATE = 0.01
"""Probability that any test on one sample raises an alarm although no alternative is better."""

MAX_TESTS = 23
"""Tests on one sample at most: 15 scalings, 5 usual orders of the classes, a fitted order and 2 sizes (Bonferroni)."""

PLAINLY_WORSE = 0.05
"""p value of the sign test on 16 images at which an alternative is given up."""

PROMISING = 0.2
"""p value on the first half of a sample below which the second half is looked at as well."""

STANDS_OUT = 0.4
"""p value of the sign test on 64 images that an alternative must get below where the given way is right by chance."""

MIN_ERRORS_EXPLAINED = 0.1
"""Share of the errors that an alternative must remove: a network that is merely weak often gains a little."""

MIN_LOSS = 0.01
"""Mean loss, nats, below which no alternative is looked for: its part in a loss is that of the calibration."""

IMAGENET_MEAN_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of x/255, in RGB order."""

USUAL_SIDE_PIXELS = 224
"""Side of the pictures that most networks for photographs are trained on, cut from a shorter side of 256."""

Sides = tuple[int | None, int | None]
"""Resize and crop in pixels; None for neither."""


# --- comparing ---


@dataclass(frozen=True)
class Trial:
    """Accuracy of an alternative beside that of the given preprocessing, over the same images.

    >>> Trial("no mean and std", images=100, given=60, right=90, p=1e-6).errors_explained
    0.75
    """

    name: str
    images: int
    given: int
    """Images that are right with the given preprocessing."""
    right: int
    """Images that are right with the alternative."""
    p: float
    """p value of the sign test; 1 if the trial was stopped early."""

    @property
    def score(self) -> float:
        """How good the alternative is among others over the same images."""
        return float(self.right)

    @property
    def errors_explained(self) -> float:
        """Net share of the errors that the alternative removes."""
        return (self.right - self.given) / max(self.images - self.given, 1)

    @property
    def sentence(self) -> str:
        """First half of a diagnosis: what the accuracy would be."""
        would, now = percent(self.right / self.images), percent(self.given / self.images)
        return f"accuracy on {self.images:,} images would be {would} instead of {now}"


@dataclass(frozen=True)
class LossTrial(Trial):
    """Losses of an alternative beside those of the given preprocessing; each image is right for the one with less.

    >>> LossTrial("no mean and std", images=100, given=10, right=90, p=1e-6, given_loss=0.4, loss=0.1).errors_explained
    0.75
    """

    given_loss: float
    """Mean over the images with the given preprocessing, nats."""
    loss: float
    """Mean with the alternative."""

    @property
    def score(self) -> float:
        """How good the alternative is among others over the same images, as if its share of the loss were errors."""
        return self.images * self.errors_explained

    @property
    def errors_explained(self) -> float:
        """Net share of the loss that the alternative removes."""
        return round(1 - self.loss / self.given_loss, 6) if self.given_loss > 0 else 0.0

    @property
    def sentence(self) -> str:
        """First half of a diagnosis: what the loss would be."""
        lower = percent(self.right / self.images)
        return (
            f"the calibrated loss of {lower} of {self.images:,} images would be lower, and its mean {self.loss:.3g} "
            f"instead of {self.given_loss:.3g},"
        )


def compare_merits(name: str, given: NDArray[Any], other: NDArray[Any], complete: bool = True) -> Trial:
    """Compare two ways over the same images; `given` and `other` are [rows], whether each row is right, or -loss."""
    lost, won = int((other < given).sum()), int((other > given).sum())
    p = sign_test(lost, won) if complete else 1.0
    if given.dtype == bool:
        return Trial(name, len(given), int(given.sum()), int(other.sum()), p)
    return LossTrial(name, len(given), lost, won, p, float(-given.mean()), float(-other.mean()))


def run_trials(
    names: Sequence[str],
    given: NDArray[Any],
    outputs: Callable[[str, int, int], NDArray[Any]],
    merit: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray,
    in_time: Callable[[int], bool] = lambda _: True,
    by_chance: bool = False,
    quick: bool = False,
) -> list[Trial]:
    """Try alternatives on a growing part of the sample, and stop each once it is no better than the best so far.

    Stopping early makes no false alarm more likely. An alternative that is no better costs an eighth of the sample, or
    64 images if that is more, one that is plainly worse 16 images, and one that is right for none of 29 errors 32.

    Args:
        names: the alternatives, likeliest first.
        given: [rows] whether each row is right with the given preprocessing, or minus its loss.
        outputs: name, start, stop -> [stop - start, …] what the alternative gives for these rows.
        merit: outputs of the first rows -> [rows] the same as `given` of these.
        in_time: whether there is time to send so many more rows through the model.
        by_chance: whether the given preprocessing is right no more often than chance. The right one then stands out at
            once, so alternatives that do not are stopped as well.
        quick: whether one look of 16 images must do for alternatives that are right for none of them, where the given
            preprocessing is right by chance.
    """
    n, trials, leader = len(given), [], given
    for name in names:
        other, pieces = np.zeros(0, given.dtype), []
        first = max(n // 8, min(n, 64))
        for stop in (min(n, 16), min(n, 32), first, n // 4, n // 2, n):
            if stop > len(other):
                if not in_time(stop - len(other)):
                    break
                pieces.append(outputs(name, len(other), stop))
                other = merit(np.concatenate(pieces))
                before = given[:stop]
                won, lost = int((other > before).sum()), int((other < before).sum())
                enough = (by_chance and quick) or (1 - MIN_ERRORS_EXPLAINED) ** _count_errors(before) < PLAINLY_WORSE
                if not won and enough:
                    break
                if stop < first:  # too few to tell which of two is a little better
                    if sign_test(won, lost) < PLAINLY_WORSE:
                        break
                    continue
                if by_chance and sign_test(lost, won) >= STANDS_OUT:
                    break
                lead = other.sum(dtype=float) - leader[: len(other)].sum(dtype=float)
                if lead < 0 or (lead == 0 and len(other) > first):
                    break
        complete = len(other) == n
        if len(other):
            trials.append(compare_merits(name, given[: len(other)], other, complete))
        if complete and other.sum() > leader.sum():
            leader = other
    return trials


def best_trial(trials: Iterable[Trial], min_explained: float = MIN_ERRORS_EXPLAINED) -> Trial | None:
    """Return the significantly better trial, or None; among trials within 1 % of the best, the first.

    Args:
        trials: likeliest first.
        min_explained: share of the errors that the alternative must remove.
    """
    good = [t for t in trials if t.p * MAX_TESTS < FALSE_ALARM_RATE and t.errors_explained >= min_explained]
    top = max((t.score for t in good), default=0.0)
    return next((t for t in good if t.score >= top - 0.01 * t.images), None)


def is_promising(trials: Iterable[Trial]) -> bool:
    """Tell whether an alternative that went through all its images may be better on more of them."""
    return any(trial.p < PROMISING for trial in trials)


def can_improve(merit: NDArray[Any]) -> bool:
    """Tell whether any alternative could be significantly better; `merit` is [rows], as of `compare_merits`."""
    if merit.dtype != bool and -merit.sum() < MIN_LOSS * len(merit):
        return False
    errors = _count_errors(merit)
    return len(merit) >= MIN_LABELLED and sign_test(0, errors) * MAX_TESTS < FALSE_ALARM_RATE


def _count_errors(merit: NDArray[Any]) -> int:
    """Return the number of rows that an alternative could be better for."""
    return int((merit < (1 if merit.dtype == bool else 0)).sum())


# --- scalings ---


@dataclass(frozen=True)
class Scaling:
    """The scaling of values between 0 and 1 to the model's input: order of channels, then (x - mean) / std.

    >>> Scaling(True, (0.5,), (0.25,)).flags(Scaling(False, (0.0,), (1.0,)))
    '--channels bgr --mean 0.5 --std 0.25'
    """

    bgr: bool
    """Whether the channels are reversed, from RGB to BGR."""
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def flags(self, given: "Scaling") -> str:
        """Return the flags that give this scaling instead of `given`."""
        flags = []
        if self.bgr != given.bgr:
            flags.append(f"--channels {'bgr' if self.bgr else 'rgb'}")
        if (self.mean, self.std) != (given.mean, given.std):
            mean, std = (",".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
            flags.append(f"--mean {mean} --std {std}")
        return " ".join(flags)


def candidate_scalings(
    given: Scaling, mean: NDArray[np.float64], std: NDArray[np.float64], unit: bool = True
) -> dict[str, Scaling]:
    """Return other scalings that training code is known to use, by name, likeliest first and without duplicates.

    Args:
        given: the scaling in use.
        mean, std: [channels] over the sample, before the scaling.
        unit: whether values lie between 0 and 1 before it. If not, only the sample's own mean and std can be tried.
    """
    channels = len(mean)

    def widened(m: Sequence[float], s: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        ones = np.ones(channels)
        return tuple((np.asarray(m) * ones).tolist()), tuple((np.asarray(s) * ones).tolist())

    own, to_255 = "the images' own mean and std", "ImageNet's mean and inputs to 255"
    kinds = {"": widened(given.mean, given.std)}
    if unit:
        if max(*given.mean, *given.std) > 1.5:
            over_255 = (np.divide(values, 255).tolist() for values in (given.mean, given.std))
            kinds["mean and std over 255"] = widened(*over_255)
        if channels == 3:
            kinds["ImageNet's mean and std"] = widened(*IMAGENET_MEAN_STD)
        kinds["no mean and std"] = widened([0], [1])
        kinds["inputs from -1 to 1"] = widened([0.5], [0.5])
        kinds["inputs from 0 to 255"] = widened([0], [1 / 255])
        if channels == 3:
            kinds[to_255] = widened(IMAGENET_MEAN_STD[0], [1 / 255])
    kinds[own] = widened(mean.round(4).tolist(), np.maximum(std, 1e-3).round(4).tolist())
    scalings: dict[str, Scaling] = {}
    for bgr in (given.bgr, not given.bgr) if channels == 3 else (given.bgr,):
        order = "" if bgr == given.bgr else f"channels in {'BGR' if bgr else 'RGB'} order"
        for kind, (m, s) in kinds.items():
            if kind == own and bgr != given.bgr:
                m, s = m[::-1], s[::-1]
            if kind == to_255 and bgr:  # as in Caffe's models
                m = m[::-1]
            scaling = Scaling(bgr, m, s)
            name = " and ".join(filter(None, (kind, order)))
            if name and scaling not in (Scaling(given.bgr, *kinds[""]), *scalings.values()):
                scalings[name] = scaling
    return {name: scalings[name] for name in sorted(scalings, key=lambda name: " and channels" in name)}


def diagnose_scaling(trial: Trial, remedy: str) -> Diagnosis:
    """Report a scaling that is better; `remedy` says how to get it."""
    return Diagnosis("scaling", f"{trial.sentence} with {trial.name}: {remedy}, if the model was trained that way")


# --- sizes ---


def candidate_sizes(given: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> dict[str, Sides]:
    """Return other sizes that training code is known to use, by name; none is the given one.

    Args:
        given: height and width in pixels of the model's input.
        sizes: width and height in pixels of each picture of the sample before any preprocessing.
    """
    candidates: dict[str, Sides] = {}
    distinct = set(sizes)
    if len(distinct) == 1 and (size := next(iter(distinct))) != given[::-1]:
        candidates[f"pictures at their own size, {size[1]}×{size[0]}"] = None, None
    if sizes and given != (USUAL_SIDE_PIXELS, USUAL_SIDE_PIXELS):
        small = max(min(size) for size in sizes) < USUAL_SIDE_PIXELS
        sides = (USUAL_SIDE_PIXELS, USUAL_SIDE_PIXELS) if small else (256, USUAL_SIDE_PIXELS)
        candidates[f"pictures of {USUAL_SIDE_PIXELS}×{USUAL_SIDE_PIXELS}"] = sides
    return candidates


def diagnose_size(trial: Trial, sides: Sides) -> Diagnosis:
    """Report a size that is better, given as its resize and crop."""
    flags = " ".join(f"--{name} {side or 'none'}" for name, side in zip(("resize", "crop"), sides, strict=True))
    return Diagnosis("size", f"{trial.sentence} with {trial.name}: {flags}, if the model was trained that way")
