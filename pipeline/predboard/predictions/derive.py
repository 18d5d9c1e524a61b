"""Computes the derived columns of predictions from their logits, and logits from probabilities.

It works on NumPy arrays alone and knows nothing of files, tables or models.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError

MIN_PROBABILITY = float(np.finfo(np.float32).tiny)
"""Smallest normal float32, 1.2e-38. Stored probabilities are at least this: their logarithm (-87.3) is finite."""

_SUM_TOLERANCE = 0.02
"""Largest accepted difference of a row's sum of probabilities from 1: half precision has three digits."""


_BLOCK_NUMBERS = 2**16
"""Numbers in a block of rows: what is computed of a block stays in the processor's cache."""

_SOFTMAX_NUMBERS = 2**18
"""Numbers in a block of `softmax`, which needs fewer arrays."""


def derive(logits: NDArray[np.float32], label: NDArray[np.integer[Any]]) -> dict[str, NDArray[Any]]:
    """Compute the derived columns of rows that have logits, in float64 from the logits as they are stored.

    Args:
        logits: [rows, classes], finite.
        label: [rows], -1 if unknown.

    Returns:
        predicted int32, and confidence, loss (NaN where the label is unknown), margin and entropy float32, each [rows].

    >>> derived = derive(np.log(np.array([[1, 3]], np.float32)), np.array([0]))
    >>> {name: round(float(values[0]), 3) for name, values in derived.items()}
    {'predicted': 1.0, 'confidence': 0.75, 'loss': 1.386, 'margin': 0.5, 'entropy': 0.562}
    """
    size = max(_BLOCK_NUMBERS // logits.shape[1], 1)
    blocks = [_derive(logits[i : i + size], label[i : i + size]) for i in range(0, max(len(logits), 1), size)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _derive(logits: NDArray[np.float32], label: NDArray[np.integer[Any]]) -> dict[str, NDArray[Any]]:
    """Compute the derived columns of a few rows."""
    rows = np.arange(len(logits))
    predicted = logits.argmax(axis=1)
    shifted = logits.astype(np.float64)  # [rows, classes]
    shifted -= shifted[rows, predicted][:, None]
    exp = np.exp(shifted)
    rest = exp.copy()
    rest[rows, predicted] = 0
    log_sum = np.log1p(rest.sum(axis=1))  # log1p keeps the losses of confident rows, which log(1 + x) would round to 0
    confidence = np.exp(-log_sum)
    known = label >= 0
    loss = np.where(known, log_sum - shifted[rows, np.where(known, label, 0)], np.nan)
    loss = np.minimum(loss, np.finfo(np.float32).max)  # logits twice the largest float32 apart still have a finite loss
    margin = (1 - rest.max(axis=1)) * confidence if logits.shape[1] > 1 else confidence
    entropy = log_sum - (exp * shifted).sum(axis=1) * confidence  # H = logsumexp(z) - sum p z
    return {
        "predicted": predicted.astype(np.int32),
        "confidence": confidence.astype(np.float32),
        "loss": loss.astype(np.float32),
        "margin": margin.astype(np.float32),
        "entropy": np.maximum(entropy, 0).astype(np.float32),
    }


def derive_from_confidence(scores: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Return the derived columns of rows of which only the predicted class and its confidence are known, [rows, 2].

    All columns are as of `derive`; those that need the scores of all classes are NaN.
    """
    unknown = np.full(len(scores), np.nan, np.float32)
    predicted, confidence = scores[:, 0].astype(np.int32), scores[:, 1].astype(np.float32)
    columns = {"predicted": predicted, "confidence": confidence}
    return columns | dict.fromkeys(("loss", "margin", "entropy"), unknown)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the softmax [rows, classes] of logits, in blocks of rows that stay in the processor's cache."""
    p = np.empty(logits.shape, np.float32)
    size = max(_SOFTMAX_NUMBERS // logits.shape[1], 1)
    for start in range(0, len(p), size):
        z, block = logits[start : start + size], p[start : start + size]
        with np.errstate(over="ignore"):  # logits further apart than the largest float give a probability of 0
            np.subtract(z, z.max(axis=1, keepdims=True), out=block)
        np.exp(block, out=block)
        block /= block.sum(axis=1, keepdims=True)
    return p


def to_log_probabilities(probabilities: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float32], int]:
    """Convert probabilities to logits: the softmax of their logarithms gives the probabilities back.

    Args:
        probabilities: [rows, classes], at least 0; the sum of each row is 1 within its precision.

    Returns:
        Natural logarithms, float32 [rows, classes], and how many probabilities were raised to `MIN_PROBABILITY`.
        NaN stays NaN.

    >>> logarithms, raised = to_log_probabilities(np.array([[0.25, 0.75, 0.0]]))
    >>> [round(float(value), 3) for value in logarithms[0]], raised
    ([-1.386, -0.288, -87.337], 1)
    """
    p = probabilities.astype(np.float64, copy=False)
    return np.log(np.maximum(p, MIN_PROBABILITY)).astype(np.float32), int(np.count_nonzero(p < MIN_PROBABILITY))


def to_logits(
    scores: NDArray[np.floating[Any]], kind: str, positive: int | None = None
) -> tuple[NDArray[np.float32], int]:
    """Convert a model's scores to the column `logits`.

    Args:
        scores: [rows, classes]; or [rows, 1] of the positive one of two classes.
        kind: `logits` are kept as they are; `probabilities` and `log_probabilities` are stored as logarithms.
        positive: index of the positive one of two classes; None if there are not two.

    Returns:
        float32 [rows, classes], and how many probabilities were raised to `MIN_PROBABILITY`. NaN stays NaN.

    Raises:
        InputError: if the scores are not probabilities: outside 0 to 1, or in a row whose sum is not 1 within 0.02.
    """
    if positive is not None and scores.shape[1] == 1:
        return spread_single(scores[:, 0], kind, positive)
    if kind == "logits":
        return scores.astype(np.float32, copy=False), 0
    wide = scores.astype(np.float64)
    # Capped at 1, so that too large a logarithm is refused below and does not overflow.
    p = wide if kind == "probabilities" else np.exp(np.minimum(wide, 1.0))
    whole = p[~np.isnan(p).any(axis=1)]
    outside = ((whole < 0) | (whole > 1 + _SUM_TOLERANCE)).any(axis=1)
    wrong = outside | (np.abs(whole.sum(axis=1) - 1) > _SUM_TOLERANCE)
    if wrong.any():
        row = whole[wrong.argmax()]
        raise InputError(
            f"a row of {kind.replace('_', ' ')} sums to {row.sum():.4g}, with values from {row.min():.4g} to "
            f"{row.max():.4g}{' after exp' * (kind == 'log_probabilities')}; expected values from 0 to 1 that sum to "
            "1: are the scores logits, or is the model multi-label?"
        )
    if kind == "probabilities":
        return to_log_probabilities(scores)
    return np.maximum(wide, np.log(MIN_PROBABILITY)).astype(np.float32), int((p < MIN_PROBABILITY).sum())


def spread_single(score: NDArray[np.floating[Any]], kind: str, positive: int) -> tuple[NDArray[np.float32], int]:
    """Convert the score of the positive one of two classes to the column `logits`, whose softmax is its sigmoid.

    Args:
        score: [rows] the logit z, which becomes (0, z); or the probability p or its logarithm, which become
            (ln(1 - p), ln p), computed in float64: in float32 1 - p is 0 from p = 1 - 3e-8.
        kind: `logits`, `probabilities` or `log_probabilities`.
        positive: index of the positive class, 0 or 1.

    Returns:
        float32 [rows, 2], and how many probabilities were raised to `MIN_PROBABILITY`. NaN stays NaN.

    Raises:
        InputError: if the scores are not what `kind` says: a probability is outside 0 to 1.

    >>> [spread_single(np.array([-1.5]), "logits", positive)[0].tolist() for positive in (1, 0)]
    [[[0.0, -1.5]], [[-1.5, 0.0]]]
    """
    z, least = score.astype(np.float64), np.log(MIN_PROBABILITY)
    if kind == "logits":
        columns, raised = [np.where(np.isnan(z), np.nan, 0.0), z], 0
    else:
        p = z if kind == "probabilities" else np.exp(np.minimum(z, 1.0))
        if (outside := (p < 0) | (p > 1 + _SUM_TOLERANCE)).any():
            raise InputError(
                f"the score of the positive class is {z[outside][0]:.4g}, which is no {_SINGULAR[kind]}: is it a logit?"
            )
        p = np.minimum(p, 1.0)
        with np.errstate(divide="ignore"):
            rest = np.log1p(-p) if kind == "probabilities" else np.log(-np.expm1(np.minimum(z, 0.0)))
            logarithms = np.stack([rest, np.log(p) if kind == "probabilities" else np.minimum(z, 0.0)])
        raised = int((logarithms < least).sum())
        columns = list(np.maximum(logarithms, least))
    return np.stack(columns if positive else columns[::-1], axis=1).astype(np.float32), raised


_SINGULAR = {"probabilities": "probability", "log_probabilities": "logarithm of a probability"}
