"""Compare labels with predictions before an import writes anything: the preflight's checks that need no model.

It knows no files and no flags. What is wrong becomes a diagnosis, in the words of the preflight. An order of
the classes that is only assumed and does not fit the rows is refused.
"""

from collections.abc import Iterator
from shlex import quote

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.formatting import percent
from predboard.images.label_values import numbers_of
from predboard.images.manifest import Manifest
from predboard.inference import class_order, diagnostics
from predboard.inference.diagnostics import Diagnosis
from predboard.ingest import labels, validation
from predboard.ingest.columns import abbreviate, label_candidates
from predboard.ingest.saved_scores import SavedScores
from predboard.metrics.intervals import wilson_interval
from predboard.predictions.sampling import Salt, mix

_DIAGNOSED_ROWS, _DIAGNOSED_ROWS_MANY = 5_000, 2_000
"""Rows on which the order of the classes is judged, chosen by a hash of their keys; the second above 1,000 classes."""


def check_label_column(
    saved: SavedScores, manifest: Manifest, predicted: NDArray[np.int32], asked: str | None, own: bool
) -> Iterator[Diagnosis]:
    """Report a label column that may be the prediction, and columns that could be the truth as well.

    Args:
        saved: the columns of the file.
        manifest: the labels as they were read.
        predicted: [rows] class with the highest score, -1 if there is none.
        asked: the column that --label-column names.
        own: whether the labels come from the file's own column.
    """
    if not own or saved.label is None:
        return
    others = [repr(name) for name in label_candidates(saved.columns.column_names) if name != saved.label]
    known = (manifest.class_label >= 0) & (predicted >= 0)
    if known.sum() >= diagnostics.MIN_LABELLED and (manifest.class_label == predicted)[known].all():
        truth = f"; the truth may be {' or '.join(others)}" if others else ""
        yield Diagnosis(
            "label_is_prediction",
            f"column {saved.label!r} is the class with the highest score in every row, as if it were the prediction"
            f"{truth}: see --label-column",
        )
    elif others and asked is None:
        yield Diagnosis(
            "several_labels",
            f"labels are taken from {saved.label!r}, but {' and '.join(others)} could be the truth as well: see "
            "--label-column",
        )


def diagnose_rows(labelled: labels.LabelledManifest, check: validation.ScoreCheck) -> Iterator[Diagnosis]:
    """Run the checks of the preflight that need no model.

    Raises InputError if the order of the classes is assumed and the rows do not bear it out.
    """
    manifest, predicted = labelled.manifest, check.predicted
    rows = np.flatnonzero((manifest.class_label >= 0) & (predicted >= 0))
    most = _DIAGNOSED_ROWS if len(manifest.classes) <= 1_000 else _DIAGNOSED_ROWS_MANY
    rows = rows[np.argsort(mix(manifest.key[rows], Salt.PREFLIGHT), kind="stable")[:most]]
    if check.single is not None:
        yield from _diagnose_single(labelled, check, check.single, rows)
        return
    if check.is_normalised and check.sample is not None:
        yield from diagnostics.check_normalised(check.sample.astype(np.float32))
    guess, label = predicted[rows].astype(np.int64), manifest.class_label[rows].astype(np.int64)
    yield from _check_indices(guess, label, manifest.classes)
    other = class_order.diagnose_order(guess, label, manifest.classes)
    chance = [*diagnostics.check_chance(guess, label, len(manifest.classes))]
    if labelled.assumed:
        yield _check_assumed_order(guess, label, manifest.classes, None if other is None else other[1])
    if other is not None:
        yield other[0]
    yield from chance


def _diagnose_single(
    labelled: labels.LabelledManifest, check: validation.ScoreCheck, positive: int, rows: NDArray[np.int64]
) -> Iterator[Diagnosis]:
    """Judge a single score of two classes by how it ranks the rows.

    Args:
        labelled: the labels.
        check: the scores.
        positive: class that the score speaks for.
        rows: those with a label and a score that are looked at.

    Raises InputError if the scores are those of the predicted class, whichever it is; and where the order of the
    classes is assumed, if the rows do not bear it out.
    """
    names, label = labelled.manifest.classes, labelled.manifest.class_label[rows].astype(np.int64)
    score = check.score[rows]
    both = len(np.unique(label)) == 2
    least = {"probabilities": 0.5, "log_probabilities": np.log(0.5), "logits": np.inf}[check.kind]
    if both and len(rows) >= validation.MIN_SORTED_ROWS and (score >= least).all():
        raise InputError(
            "every probability is at least one half, as that of the predicted class is, whichever that is; expected "
            f"that of {names[positive]}: import confidences with --scores confidence"
        )
    if check.kind == "logits":
        yield from diagnostics.check_single(score.astype(np.float32))
    swapped = list(diagnostics.check_positive(score, label, positive, names))
    area, half = diagnostics.auroc_of_rows(score, label == positive) if both else (np.nan, np.nan)
    ranks_well = bool(area - half > 0.5)
    if labelled.assumed and not ranks_well:
        why = swapped[0].text if swapped else "the rows do not tell, either: use --positive NAME"
        raise InputError(f"the labels are names, and nothing says which of them is the positive class; {why}")
    if labelled.assumed:
        yield Diagnosis(
            "assumed_order",
            f"nothing says which class is the positive one; {names[positive]} is taken, and the rows bear it out with "
            f"an AUROC of {area:.3f}: --positive {quote(names[positive])} makes it certain",
        )
    yield from swapped
    if not swapped and not ranks_well:
        yield from diagnostics.check_chance(check.predicted[rows].astype(np.int64), label, 2)


def _check_indices(
    predicted: NDArray[np.int64], label: NDArray[np.int64], classes: tuple[str, ...]
) -> Iterator[Diagnosis]:
    """Report labels that are read as the numbers of the classes and fit far better as indices from 0."""
    numbers = np.array(numbers_of(classes), np.int64)
    if not len(numbers) or not len(label) or (as_index := numbers[label]).max() >= len(classes):
        return
    hits, hits_as_index = int((predicted == label).sum()), int((predicted == as_index).sum())
    if wilson_interval(hits_as_index, len(label))[0] > wilson_interval(hits, len(label))[1]:
        yield Diagnosis(
            "labels_are_indices",
            f"labels that are the numbers of classes ({abbreviate(classes)}) give an accuracy of "
            f"{percent(hits / len(label))}, and as indices from 0 {percent(hits_as_index / len(label))}: write their "
            "class names into the labels, or name the classes with --classes",
        )


def _check_assumed_order(
    predicted: NDArray[np.int64], label: NDArray[np.int64], names: tuple[str, ...], other: NDArray[np.int64] | None
) -> Diagnosis:
    """Report that the classes are taken in alphabetical order, which nothing but the rows says.

    Args:
        predicted, label: [rows], every row labelled.
        names: the classes in alphabetical order.
        other: class of each output [classes] if another order fits the rows better.

    Raises InputError if the rows do not bear the order out: another one fits, or accuracy is near chance.
    """
    n = len(label)
    hits, most = int((predicted == label).sum()), int(np.bincount(label, minlength=1).max())
    if other is None and n and wilson_interval(hits, n)[0] > most / n:
        return Diagnosis(
            "assumed_order",
            f"the scores do not name their classes, which are taken in alphabetical order ({abbreviate(names)}); the "
            f"rows bear it out with an accuracy of {percent(hits / n)}: --classes FILE makes it certain",
        )
    fits = "" if other is None else f"; they fit {', '.join(names[c] for c in other.tolist())}"
    raise InputError(
        f"the labels are names, the scores do not say which is whose, and the rows do not fit alphabetical order "
        f"({abbreviate(names)}){fits}: name the classes in the order of the scores with --classes FILE"
    )
