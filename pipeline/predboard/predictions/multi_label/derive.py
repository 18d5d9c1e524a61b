"""Computes the derived columns of multi-label predictions from their logits, and log-odds from probabilities.

It works on NumPy arrays and sets of labels, and knows nothing of files, tables or models.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.predictions.derive import MIN_PROBABILITY
from predboard.predictions.label_sets import LabelSets, MultiLabels

MAX_PROBABILITY = 1 - 2.0**-24
"""Largest probability that is stored as log-odds, 16.6: the next float32 is 1, of which they would be infinite."""

_TOLERANCE = 0.02
"""How far a probability may be outside 0 to 1 by rounding: half precision has three digits."""

_BLOCK_NUMBERS = 2**19
"""Numbers in a block of rows: what is computed of a block stays in the processor's cache."""


def sigmoid(logits: NDArray[np.floating[Any]]) -> NDArray[Any]:
    """Return 1 / (1 + exp(-logits)) in the precision of the logits, of any shape; 0 where it underflows."""
    with np.errstate(over="ignore"):
        p = np.exp(-logits)
        p += 1
        return np.asarray(np.reciprocal(p, out=p))


def predict_labels(logits: NDArray[np.floating[Any]]) -> LabelSets:
    """Return the labels that are predicted: those whose logit [rows, classes] is above 0, so of a probability over 1/2.

    At exactly 0 a label is not predicted, as in scikit-learn (`decision_function > 0`) and torchmetrics.
    """
    return LabelSets.from_mask(logits > 0)


def derive_label_sets(logits: NDArray[np.float32], known: MultiLabels) -> tuple[LabelSets, dict[str, NDArray[Any]]]:
    """Compute the derived columns of multi-label rows that have logits, in float64 from the logits as they are stored.

    Labels are taken as independent: the confidence is the probability of just the predicted set.

    Args:
        logits: [rows, classes], finite.
        known: [rows] labels. Unknown ones are in no loss; confidence, margin and entropy need no labels and have all.

    Returns:
        The predicted labels [rows]; and confidence, loss (NaN for a row without labels, or with unknown ones only),
        margin and entropy, float32 [rows].

    >>> known = MultiLabels(LabelSets.from_lists([[0]]), LabelSets.from_lists([[]]), np.array([True]))
    >>> predicted, derived = derive_label_sets(np.log(np.array([[3, 1 / 4]], np.float32)), known)
    >>> predicted.label.tolist(), {name: round(float(values[0]), 3) for name, values in derived.items()}
    ([0], {'confidence': 0.6, 'loss': 0.255, 'margin': 0.5, 'entropy': 0.531})
    """
    rows, classes = logits.shape
    confidence, loss, margin, entropy = (np.empty(rows) for _ in range(4))
    step = max(_BLOCK_NUMBERS // classes, 1)
    for start in range(0, rows, step):
        block = np.arange(start, min(start + step, rows))
        z = logits[block].astype(np.float64)  # [block, classes]
        distance = np.abs(z)
        exp = np.exp(-distance)  # odds of the less probable answer
        log_sum = np.log1p(exp)  # -ln of the probability of the more probable one
        confidence[block] = np.exp(-log_sum.sum(axis=1))
        margin[block] = np.tanh(distance.min(axis=1) / 2)  # |2 sigmoid(z) - 1|
        entropy[block] = (log_sum + distance * exp / (1 + exp)).sum(axis=1) / classes
        labels = known[block]
        z[labels.labels.row, labels.labels.label] *= -1  # now large where the label and the logit disagree
        log_sum += np.maximum(z, 0)  # log(1 + exp(z)), without cancellation
        log_sum[labels.unknown.row, labels.unknown.label] = 0
        loss[block] = log_sum.sum(axis=1)
    counted = np.where(known.labelled, classes - known.unknown.size, 0)
    loss = np.divide(loss, counted, out=np.full(rows, np.nan), where=counted > 0)
    loss = np.minimum(loss, np.finfo(np.float32).max)
    columns = {"confidence": confidence, "loss": loss, "margin": margin, "entropy": entropy}
    return predict_labels(logits), {name: values.astype(np.float32) for name, values in columns.items()}


def to_multi_label_logits(scores: NDArray[np.floating[Any]], kind: str) -> tuple[NDArray[np.float32], int]:
    """Convert a model's scores for each label to the column `logits`, as `derive.to_logits` does for one label.

    Args:
        scores: [rows, classes].
        kind: `logits` are kept as they are; `probabilities` and `log_probabilities` are stored as log-odds.

    Returns:
        float32 [rows, classes], and how many probabilities were moved, see `to_log_odds`. NaN stays NaN.

    Raises:
        InputError: if the scores are not probabilities.
    """
    if kind == "logits":
        return scores.astype(np.float32, copy=False), 0
    wide = scores.astype(np.float64)
    return to_log_odds(wide if kind == "probabilities" else np.exp(np.minimum(wide, 1.0)))


def derive_at_thresholds(
    logits: NDArray[np.float32], thresholds: NDArray[np.float64]
) -> tuple[LabelSets, NDArray[np.float32]]:
    """Return the labels whose logit [rows, classes] is at least its threshold [classes], and the sets' probabilities.

    The probability of just the predicted set, float32 [rows], is the product of p over its labels and of 1 - p over the
    others.

    >>> predicted, confidence = derive_at_thresholds(np.log(np.array([[3, 1 / 4]], np.float32)), np.array([2.0, -2.0]))
    >>> predicted.label.tolist(), round(float(confidence[0]), 3)  # 1/4 · 1/5
    ([1], 0.05)
    """
    mask, confidence = np.empty(logits.shape, bool), np.empty(len(logits))
    step = max(_BLOCK_NUMBERS // logits.shape[1], 1)
    for start in range(0, len(logits), step):
        block = slice(start, start + step)
        z = logits[block].astype(np.float64)
        mask[block] = z >= thresholds
        confidence[block] = np.exp(-np.logaddexp(0, np.where(mask[block], -z, z)).sum(axis=1))
    return LabelSets.from_mask(mask), confidence.astype(np.float32)


def to_log_odds(probabilities: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float32], int]:
    """Convert probabilities of labels, each by itself, to logits: their sigmoid gives the probabilities back.

    Computed in float64: in float32, 1 - p is 0 from 1 - 3e-8 on.

    Args:
        probabilities: [rows, classes], 0 to 1 within their precision; a row need not sum to 1.

    Returns:
        ln p - ln(1 - p), float32 [rows, classes], and how many probabilities were moved to `MIN_PROBABILITY` or
        `MAX_PROBABILITY` first. NaN stays NaN.

    Raises:
        InputError: if a probability is outside 0 to 1 by more than 0.02.

    >>> odds, moved = to_log_odds(np.array([[0.25, 0.5, 1.0]]))
    >>> [round(float(value), 3) for value in odds[0]], moved
    ([-1.099, 0.0, 16.636], 1)
    """
    p = probabilities.astype(np.float64)
    outside = (p < -_TOLERANCE) | (p > 1 + _TOLERANCE)
    if outside.any():
        raise InputError(
            f"a probability of a label is {p[outside][0]:.4g}; expected values from 0 to 1: are the scores logits? "
            "then --scores logits"
        )
    moved = int(((p < MIN_PROBABILITY) | (p > MAX_PROBABILITY)).sum())
    p = np.clip(p, MIN_PROBABILITY, MAX_PROBABILITY)
    return (np.log(p) - np.log1p(-p)).astype(np.float32), moved
