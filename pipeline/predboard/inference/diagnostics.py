"""Diagnose, from a few hundred images, whether a model runs as it was trained: its outputs, labels and inputs.

Every check is a pure function of arrays that yields `Diagnosis` objects, or nothing where the sample cannot tell. It
knows no torch, no files and no pictures. What trying another scaling, size or order of classes shows is in
`alternatives` and `class_order`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.formatting import percent
from predboard.metrics.delete_one import auroc_half_width
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.score_histograms import auroc

MIN_LABELLED = 50
"""Labelled images below which no check that needs labels says anything."""

MIN_SINGLE = 8
"""Rows below which single outputs between 0 and 1 may well be logits."""

MAX_BLACK_SHARE = 0.05
"""Share of the model's input that a crop may pad with black without a word: libraries pad a pixel or two."""


@dataclass(frozen=True)
class Diagnosis:
    """One thing to look at before the long run.

    >>> Diagnosis("softmax", "the outputs are probabilities, not logits: use --scores probabilities").warning
    True
    """

    name: str
    """One word for programs, for example `batch_dependence`."""
    text: str
    """One line for people: what was found, a colon, what to do."""
    warning: bool = True
    """False for a note: it may well be intended."""
    again: bool = False
    """Whether stage two finds the same in the predictions by itself, so that the parts need not carry it."""


# --- the outputs alone ---


def check_finite(logits: NDArray[np.float32]) -> Iterator[Diagnosis]:
    """Report rows with NaN or infinity among their logits, float32 [rows, classes]."""
    if bad := int((~np.isfinite(logits).all(axis=1)).sum()):
        yield Diagnosis(
            "not_finite",
            f"the logits of {bad:,} of {len(logits):,} images are NaN or infinite, so these rows would fail: check the "
            "range of the inputs, or try --precision fp32",
        )


def check_normalised(logits: NDArray[np.float32]) -> Iterator[Diagnosis]:
    """Report outputs that have already been through a softmax or a sigmoid: float32 [rows, classes], all finite.

    Real logits never happen to lie between 0 and 1 and sum to 1 in every row. Log-probabilities are valid logits and
    pass.
    """
    wide = logits.astype(np.float64)
    if not len(wide) or wide.shape[1] < 2 or (wide < 0).any() or (wide > 1.0001).any():
        return
    if (np.abs(wide.sum(axis=1) - 1) < 0.01).all():
        yield Diagnosis(
            "softmax",
            "the outputs are probabilities, not logits, so confidence and loss would be wrong: use --scores "
            "probabilities, or leave the softmax out of forward",
        )
    else:
        yield Diagnosis(
            "sigmoid",
            "all outputs lie between 0 and 1 but do not sum to 1, as after a sigmoid for several labels per image; "
            "confidence and loss would be meaningless: add --task multi-label, or return the logits of a softmax "
            "classifier",
        )


def check_single(score: NDArray[np.float32]) -> Iterator[Diagnosis]:
    """Report a single output for two classes, float32 [rows], that has been through a sigmoid already."""
    if len(score) >= MIN_SINGLE and (score >= 0).all() and (score <= 1).all():
        yield Diagnosis(
            "sigmoid",
            "the outputs all lie between 0 and 1, as probabilities do, and every one would be taken for the positive "
            "class: use --scores probabilities if the model ends in a sigmoid",
        )


def check_positive(
    score: NDArray[np.floating[Any]], label: NDArray[np.int64], positive: int, names: Sequence[str]
) -> Iterator[Diagnosis]:
    """Report a single output that speaks for the other one of two classes than it is taken to.

    Args:
        score: [rows], that rises with the probability of the positive class.
        label: [rows], every row labelled.
        positive: index of the positive class.
        names: of the two classes.
    """
    area, half = auroc_of_rows(score, label == positive)
    if len(label) >= MIN_LABELLED and area + half < 0.5:
        other = names[1 - positive]
        yield Diagnosis(
            "positive",
            f"the output speaks for {other}, not {names[positive]}: the AUROC of {len(label):,} labelled images is "
            f"{area:.3f} (95 % interval {max(area - half, 0):.3f} to {area + half:.3f}), surely below one half: use "
            f"--positive {quote(other)}",
        )


def auroc_of_rows(score: NDArray[np.floating[Any]], is_positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the area under the ROC curve of [rows], and half its 95 % interval; nan where it is undefined.

    >>> auroc_of_rows(np.array([0, 1, 2, 3], np.float32), np.array([False, True, False, True]))[0]
    0.75
    """
    _, place = np.unique(score, return_inverse=True)
    every = np.bincount(place, minlength=1)
    true = np.bincount(place[is_positive], minlength=len(every))
    return float(auroc(true, every).value), float(auroc_half_width(true, every))


def check_nondeterministic(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    regrouped: NDArray[np.float32],
    training: Sequence[str],
    tolerance: float,
) -> Iterator[Diagnosis]:
    """Report a model that is not in eval mode, judged by what it does rather than by its flags.

    Args:
        first, second: [rows, classes] logits of one batch, computed twice.
        regrouped: [some, classes] logits of the batch's first images, computed beside other images.
        training: names of the modules that say they are in train mode.
        tolerance: largest difference that arithmetic alone can cause, in standard deviations of the logits.
    """
    named = f" ({', '.join(training[:3])}{' …' * (len(training) > 3)} in train mode)" if training else ""
    if not all(np.isfinite(logits).all() for logits in (first, second, regrouped)):
        return
    spread = max(float(first.std(dtype=np.float64)), 1e-6)
    if np.abs(first - second).max(initial=0) / spread > tolerance:
        changed = float((first.argmax(axis=1) != second.argmax(axis=1)).mean())
        yield Diagnosis(
            "nondeterministic",
            f"a second pass over the same images gives different logits, and another class for {percent(changed)} of "
            f"them{named}: dropout or noise is active although eval() was called; check self.training and "
            "functional.dropout in the model",
        )
    elif np.abs(first[: len(regrouped)] - regrouped).max(initial=0) / spread > tolerance:
        yield Diagnosis(
            "batch_dependence",
            f"the logits of an image depend on the other images in its batch{named}: batch normalisation uses batch "
            "statistics although eval() was called; check track_running_stats and self.training in the model",
        )


# --- predictions and labels ---


def check_chance(predicted: NDArray[np.int64], label: NDArray[np.int64], classes: int) -> Iterator[Diagnosis]:
    """Report an accuracy that is not clearly above always predicting the most frequent class.

    `predicted` and `label` are [rows], every row labelled. "Clearly" is the lower end of Wilson's 95 % interval.
    """
    n = len(label)
    counts = np.bincount(label, minlength=classes)
    if n < MIN_LABELLED or np.count_nonzero(counts) < 2:
        return
    hits, baseline = int((predicted == label).sum()), max(float(counts.max() / n), 1 / classes)
    if wilson_interval(hits, n)[0] <= baseline:
        yield Diagnosis(
            "chance",
            f"accuracy is {percent(hits / n)}, and always predicting the most frequent class gives "
            f"{percent(baseline)}: check the checkpoint, the class names and the preprocessing",
            again=True,
        )


def check_dominant_class(
    predicted: NDArray[np.int64], label: NDArray[np.int64], classes: int, names: Sequence[str]
) -> Iterator[Diagnosis]:
    """Report one class that takes most of the predictions and more than twice its share of the labels.

    `predicted` and `label` are [rows]; a label of -1 is unknown.
    """
    n = len(predicted)
    if n < MIN_LABELLED or classes < 3:
        return
    top = int(np.bincount(predicted, minlength=classes).argmax())
    hits, known = int((predicted == top).sum()), label[label >= 0]
    # Without labels the true share is unknown: only a class that takes nearly everything is suspicious.
    expected = float((known == top).mean()) if len(known) >= MIN_LABELLED else 0.4
    if wilson_interval(hits, n)[0] > max(0.5, 2 * expected):
        yield Diagnosis(
            "dominant_class",
            f"{percent(hits / n)} of the predictions are one class, {names[top]}: check the range of the inputs and "
            "the checkpoint",
            again=len(known) > 0,
        )


# --- the inputs ---


def check_input_range(mean: NDArray[np.float64], std: NDArray[np.float64]) -> Iterator[Diagnosis]:
    """Report inputs whose mean and standard deviation, [channels] as the model gets them, are far from 0 and 1."""
    m, s = float(np.abs(mean).max()), float(std.mean())
    inputs = f"the model's inputs have mean {_listed(mean)} and standard deviation {_listed(std)}"
    if m > 20 or s > 20:
        yield Diagnosis(
            "range",
            f"{inputs}: --mean and --std apply to x/255, so they lie between 0 and 1; one of them may be meant for 0 "
            "to 255",
        )
    elif m > 1.5 or not 0.4 < s < 2.5:
        yield Diagnosis(
            "range", f"{inputs}, where training code usually gives about 0 and 1: check --mean and --std", warning=False
        )


def check_padding(sizes: Sequence[tuple[int, int]], crop: int, resized: bool) -> Iterator[Diagnosis]:
    """Report a crop larger than most pictures, which are then padded with black.

    Args:
        sizes: width and height in pixels of each picture before the crop.
        crop: side of the square crop in pixels.
        resized: whether a resize comes before it.
    """
    smaller = [size for size in sizes if min(size) < crop]
    black = 1 - sum(min(w, crop) * min(h, crop) for w, h in sizes) / max(len(sizes) * crop**2, 1)
    if 2 * len(smaller) > len(sizes) and black > MAX_BLACK_SHARE:
        ((width, height), _), *_ = Counter(smaller).most_common(1)
        remedy = f"use --resize {crop} or more" if resized else "add --resize"
        yield Diagnosis(
            "padding",
            f"the crop of {crop} is larger than most pictures ({height}×{width}), so {percent(black)} of the model's "
            f"input is black padding: {remedy}",
        )


def diagnose_recipe(differences: Sequence[str], source: str, own_weights: bool) -> Diagnosis:
    """Report preprocessing that differs from the model's library: with its own weights a mistake, else a note.

    Args:
        differences: what differs, in words, for example "crop 224, not 256".
        source: the library and model, for example "timm:resnet18".
        own_weights: whether the weights are the library's own.
    """
    return Diagnosis(
        "library",
        f"the preprocessing differs from {source}: {', '.join(differences)}; leave out the flags unless the model was "
        "trained this way",
        warning=own_weights,
    )


def _listed(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{v:.3g}" for v in values[:3]) + (" …" if len(values) > 3 else "")
