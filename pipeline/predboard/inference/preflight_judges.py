"""Judge what a model says of a sample, by its task: which rows are right, and which checks of the outputs apply.

Whoever runs the model knows no task, and a judge knows no model: it gets logits, and has the labels of the sample.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from predboard.inference import class_order, diagnostics, label_diagnostics, label_order
from predboard.inference.diagnostics import Diagnosis
from predboard.inference.row_losses import calibrated_losses
from predboard.predictions.label_sets import Labels, LabelSets, MultiLabels
from predboard.predictions.multi_label.derive import predict_labels
from predboard.predictions.schema import Run

Caption = tuple[str | None, str, int]
"""True and predicted labels of a picture, in words, and 1 if they are right, 0 if wrong; None and -1 if unlabelled."""


class Judge(Protocol):
    """Knows the labels of the images of a sample."""

    @property
    def measure(self) -> str:
        """The share of the images that are right, in a word."""
        ...

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Places in the sample of the images with a label."""
        ...

    def right(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return whether each labelled image is right, [labelled], by the logits of the sample [images, classes]."""
        ...

    def merit(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Return how good the logits of the first labelled images are, [rows, classes] -> [rows]: more is better."""
        ...

    def check_outputs(self, logits: NDArray[np.float32]) -> Iterator[Diagnosis]:
        """Report outputs of another kind than logits, by those of the images that are finite, [rows, classes]."""
        ...

    def check_meaning(self, logits: NDArray[np.float32], /) -> Iterator[Diagnosis]:
        """Report outputs that mean another class than they are taken for, which explains why most images are wrong."""
        ...

    def check_predictions(
        self, logits: NDArray[np.float32], explained: float
    ) -> tuple[list[Diagnosis], tuple[str, ...]]:
        """Report predictions that fit the labels badly. -> diagnoses, class names in an order that fits better.

        Args:
            logits: of the sample, [images, classes].
            explained: accuracy with a preprocessing that fits better; 0 without one.
        """
        ...

    def captions(self, logits: NDArray[np.float32]) -> list[Caption]:
        """Return the true and the predicted labels of each image of the sample."""
        ...


def judge_of(label: Labels, run: Run, single_output: bool = False) -> Judge:
    """Return who judges a sample with these labels, [images], of a run.

    Args:
        label: of the sample.
        run: has the classes.
        single_output: whether the model has one output, for the positive one of two classes.
    """
    if isinstance(label, MultiLabels):
        return LabelSetJudge(label, run.classes)
    positive = run.positive_index if run.positive_class else None
    return ClassJudge(label.astype(np.int64), run.classes, positive, single_output)


def _finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return logits with NaN as the lowest."""
    return np.where(np.isnan(logits), -np.inf, logits)


@dataclass(frozen=True)
class ClassJudge:
    """Knows the one class of each image."""

    label: NDArray[np.int64]
    """[images], -1 if unknown."""
    names: Sequence[str]
    positive: int | None = None
    """Index of the positive one of two classes; None if there are not two."""
    single_output: bool = False
    """Whether the model has one output, for the positive class."""
    measure: str = "accuracy"

    @cached_property
    def labelled(self) -> NDArray[np.int64]:
        """Places in the sample of the images with a label."""
        return np.flatnonzero(self.label >= 0)

    def right(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return whether the class of each labelled image has the highest logit; NaN counts as the lowest."""
        return np.asarray((self._predicted(logits) == self.label)[self.labelled])

    def merit(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Return whether each is right; none is without logits."""
        right = self._predicted(logits) == self.label[self.labelled[: len(logits)]]
        return np.asarray(right & ~np.isnan(logits).all(axis=1))

    def check_outputs(self, logits: NDArray[np.float32]) -> Iterator[Diagnosis]:
        """Report a softmax or a sigmoid at the end."""
        if self.single_output:
            yield from diagnostics.check_single(logits[:, self.positive])
        else:
            yield from diagnostics.check_normalised(logits)

    def check_meaning(self, logits: NDArray[np.float32]) -> Iterator[Diagnosis]:
        """Report a single output that speaks for the other class."""
        if self.single_output and self.positive is not None:
            yield from diagnostics.check_positive(*self._ranked(logits, self.positive), self.positive, self.names)

    def check_predictions(
        self, logits: NDArray[np.float32], explained: float
    ) -> tuple[list[Diagnosis], tuple[str, ...]]:
        """Report another order of the classes, an accuracy near chance, and one class that takes nearly everything."""
        predicted, label = self._predicted(logits), self.label[self.labelled]
        reordered = None
        if not self.single_output:
            reordered = class_order.diagnose_order(predicted[self.labelled], label, self.names, explained)
        diagnoses = [] if reordered is None else [reordered[0]]
        if not self._ranks_well(logits):
            diagnoses += diagnostics.check_chance(predicted[self.labelled], label, len(self.names))
        diagnoses += diagnostics.check_dominant_class(predicted, self.label, len(self.names), self.names)
        return diagnoses, () if reordered is None else tuple(self.names[c] for c in reordered[1].tolist())

    def captions(self, logits: NDArray[np.float32]) -> list[Caption]:
        """Return the true and the predicted class of each image."""
        pairs = zip(self.label.tolist(), self._predicted(logits).tolist(), strict=False)
        return [
            (self.names[true] if true >= 0 else None, self.names[guess], int(true == guess) if true >= 0 else -1)
            for true, guess in pairs
        ]

    def _predicted(self, logits: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.asarray(_finite(logits).argmax(axis=1))

    def _ranked(self, logits: NDArray[np.float32], positive: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scores that rise with the probability of the positive class, and labels, of labelled images."""
        score = logits[:, positive] - logits[:, 1 - positive]
        rows = self.labelled[np.isfinite(score[self.labelled])]
        return score[rows], self.label[rows]

    def _ranks_well(self, logits: NDArray[np.float32]) -> bool:
        """Return whether there are two classes that are told apart, whatever the accuracy at one half is."""
        if self.positive is None:
            return False
        score, label = self._ranked(logits, self.positive)
        area, half = diagnostics.auroc_of_rows(score, label == self.positive)
        return area - half > 0.5


@dataclass(frozen=True)
class LabelSetJudge:
    """Knows the labels of each image, of which there may be several."""

    labels: MultiLabels
    names: Sequence[str]
    measure: str = "exact"

    @cached_property
    def labelled(self) -> NDArray[np.int64]:
        """Places in the sample of the images with a label."""
        return np.flatnonzero(self.labels.labelled)

    def right(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return whether the predicted set of each labelled image is the true one, as far as that is known."""
        known = self.labels[self.labelled]
        predicted = predict_labels(_finite(logits)[self.labelled]).minus(known.unknown)
        return predicted.equals(known.labels)

    def merit(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Return minus the loss of each after all are calibrated together, see `row_losses`."""
        return -calibrated_losses(logits, self.labels[self.labelled[: len(logits)]])

    def check_outputs(self, logits: NDArray[np.float32]) -> Iterator[Diagnosis]:
        """Report a sigmoid at the end, which would be applied twice, and a softmax."""
        yield from label_diagnostics.check_label_outputs(logits)

    def check_meaning(self, _: NDArray[np.float32], /) -> Iterator[Diagnosis]:
        """Report nothing: labels by themselves tell no order of the classes."""
        yield from ()

    def check_predictions(
        self, logits: NDArray[np.float32], explained: float
    ) -> tuple[list[Diagnosis], tuple[str, ...]]:
        """Report another order of the classes, else that nothing is predicted or everything, if nothing explains it."""
        images = np.bincount(self._predicted(logits).label, minlength=len(self.names))
        diagnoses = label_diagnostics.check_predicted_share(images, self.labels, len(logits))
        if explained:
            return [], ()
        known = self.labels[self.labelled]
        reordered = label_order.diagnose_label_order(logits[self.labelled], known, self.names)
        if reordered is None:
            return [*diagnoses], ()
        return [reordered[0]], tuple(self.names[c] for c in reordered[1].tolist())

    def captions(self, logits: NDArray[np.float32]) -> list[Caption]:
        """Return the true and the predicted labels of each image."""
        sets = (self.labels.labels, self._predicted(logits))
        true, predicted = ([self._words(of_row) for of_row in _lists(each)] for each in sets)
        right = np.full(len(true), -1)
        right[self.labelled] = self.right(logits)
        return [(t if r >= 0 else None, p, r) for t, p, r in zip(true, predicted, right.tolist(), strict=True)]

    def _predicted(self, logits: NDArray[np.float32]) -> LabelSets:
        return predict_labels(_finite(logits))

    def _words(self, labels: Sequence[int]) -> str:
        return ", ".join(self.names[i] for i in labels) or "no label"


def _lists(sets: LabelSets) -> list[list[int]]:
    return [of_row.tolist() for of_row in np.split(sets.label, sets.start[1:-1])]
