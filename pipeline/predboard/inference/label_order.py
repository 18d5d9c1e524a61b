"""Find out from logits and sets of labels whether the classes are in another order than the model's outputs.

A label that an output ranks well is its own, whatever the thresholds are. It knows no model, no files and no pictures.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from predboard.inference.class_order import assign
from predboard.inference.diagnostics import MIN_LABELLED, Diagnosis
from predboard.inference.preprocessing_trials import best_trial, can_improve, compare_merits
from predboard.inference.row_losses import calibrated_losses
from predboard.predictions.label_sets import MultiLabels

MIN_LOSS_EXPLAINED = 0.1
"""Share of the calibrated loss that another order must take away: of weak outputs some rank other labels better."""

MIN_IMAGES = 3
"""Images with and without a label, below which it stays where it is."""

MAX_CLASSES = 300
"""Above, fitting an order takes longer than the preflight should."""


def fit_label_order(logits: NDArray[np.float32], labels: MultiLabels) -> NDArray[np.int64]:
    """Return the class of each output, [classes], that makes the outputs rank the labels best.

    The sum over labels of the AUROC (Mann and Whitney 1947), weighted by their pairs of images, is the largest.

    Args:
        logits: [rows, classes], finite.
        labels: [rows], every row labelled.
    """
    rows, classes = logits.shape
    true, unknown = labels.labels.mask(classes), labels.unknown.mask(classes)
    other = ~true & ~unknown
    positives, negatives = true.sum(axis=0), other.sum(axis=0)  # [classes]
    seen = np.flatnonzero(np.minimum(positives, negatives) >= MIN_IMAGES)
    ranks = logits.argsort(axis=0).argsort(axis=0)[:, seen].astype(np.float64)  # [rows, seen]
    mean_true = true[:, seen].T @ ranks / positives[seen, None]  # [label, output]
    mean_other = other[:, seen].T @ ranks / negatives[seen, None]
    weight = positives[seen] * negatives[seen] / rows
    gain = np.rint(1e3 * weight[:, None] * (mean_true - mean_other) / rows).astype(np.int64)
    order = np.arange(classes)
    # An output stays where another order is no better.
    order[seen] = seen[assign(gain.T * (len(seen) + 1) + np.eye(len(seen), dtype=np.int64))]
    return order


def diagnose_label_order(
    logits: NDArray[np.float32], labels: MultiLabels, names: Sequence[str]
) -> tuple[Diagnosis, NDArray[np.int64]] | None:
    """Return a diagnosis and the order that fits, class of each output [classes]; None if the given order stands.

    An order is fitted on each half of the rows and judged on the other half by the losses of its rows.

    Args:
        logits: [rows, classes], in an order of rows that is unrelated to the labels.
        labels: [rows], every row labelled.
        names: the classes.
    """
    usable = np.flatnonzero(np.isfinite(logits).all(axis=1))
    logits, labels = logits[usable], labels[usable]
    if len(logits) < MIN_LABELLED or not 1 < len(names) <= MAX_CLASSES:
        return None
    given = -calibrated_losses(logits, labels)
    if not can_improve(given):
        return None
    half, crossed = np.arange(len(logits)) % 2 == 0, np.empty_like(logits)
    for one in (half, ~half):
        crossed[np.ix_(~one, fit_label_order(logits[one], labels[one]))] = logits[~one]
    trial = compare_merits("the class names in another order", given, -calibrated_losses(crossed, labels))
    if best_trial([trial], MIN_LOSS_EXPLAINED) is None:
        return None
    order = fit_label_order(logits, labels)
    moved = [f"{names[k]} is {names[c]}" for k, c in enumerate(order.tolist()) if k != c]
    more = f" and {len(moved) - 4} more" if len(moved) > 4 else ""
    remedy = f"{', '.join(moved[:4])}{more}; --classes FILE names the outputs in their order"
    return Diagnosis("order", f"{trial.sentence} with {trial.name}: {remedy}"), order
