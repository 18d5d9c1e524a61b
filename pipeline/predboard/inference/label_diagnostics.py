"""Diagnose, from a few hundred images, whether a model of several labels runs as it was trained.

What holds for one label of many does not here: no order of the classes is fitted to predictions of several labels, and
no most frequent class is a baseline. Every check is a pure function of arrays, as in `diagnostics`. It knows no torch
and no files.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from predboard.formatting import percent
from predboard.inference.diagnostics import MIN_LABELLED, Diagnosis
from predboard.predictions.label_sets import MultiLabels

_ONE_SUM = 0.01
"""How far the sum of a row of a softmax may be from 1 by rounding."""

MAX_PREDICTED = 0.9
"""Share of all decisions from which on everything counts as predicted."""


def check_label_outputs(logits: NDArray[np.float32]) -> Iterator[Diagnosis]:
    """Report outputs that have been through a sigmoid or a softmax: float32 [rows, classes], all finite.

    Real logits never happen to lie between 0 and 1 in every row.
    """
    wide = logits.astype(np.float64)
    if not len(wide) or wide.shape[1] < 2:
        return
    if (wide >= 0).all() and (wide <= 1 + _ONE_SUM).all():
        if (np.abs(wide.sum(axis=1) - 1) < _ONE_SUM).all():
            yield Diagnosis(
                "softmax",
                "the outputs are probabilities that sum to 1, as after a softmax for one label of many: leave --task "
                "multi-label out and use --scores probabilities, or return the logits of a model of several labels",
            )
        else:
            yield Diagnosis(
                "sigmoid",
                "all outputs lie between 0 and 1, as after a sigmoid, which would be applied twice and predict every "
                "label: use --scores probabilities, or leave the sigmoid out of forward",
            )
    elif (wide <= 0).all() and (np.abs(np.exp(wide).sum(axis=1) - 1) < _ONE_SUM).all():
        yield Diagnosis(
            "log_softmax",
            "the outputs are log-probabilities that sum to 1, as after a log-softmax for one label of many: leave "
            "multi-label out, or return the logits of a model of several labels",
        )


def check_predicted_share(
    predicted: NDArray[np.integer], labels: MultiLabels | None, images: int
) -> Iterator[Diagnosis]:
    """Report a model that predicts no label of any image, or nearly all of them.

    Args:
        predicted: [classes] images for which each label is predicted.
        labels: the true labels of some of the images; None if there are none.
        images: number of images.
    """
    decisions = len(predicted) * images
    if images < MIN_LABELLED:
        return
    known = labels is not None and int(labels.labelled.sum()) >= MIN_LABELLED
    true = len(labels.labels.label) / max(int(labels.labelled.sum()), 1) if labels is not None else 0.0
    if not predicted.any() and (not known or true):
        per_image = f", where an image has {true:.2g} on average" if known else ""
        yield Diagnosis(
            "nothing_predicted",
            f"no label is predicted for any of {images:,} images, as every probability is at most 1/2{per_image}: "
            "check the checkpoint and the preprocessing, or find the thresholds of each label with visualize",
            again=True,
        )
    elif predicted.sum() > MAX_PREDICTED * decisions and true < MAX_PREDICTED / 2 * len(predicted):
        yield Diagnosis(
            "everything_predicted",
            f"{percent(float(predicted.sum() / decisions))} of all labels of {images:,} images are predicted: check "
            "that the outputs are logits (else --scores probabilities), the checkpoint and the preprocessing",
            again=True,
        )
