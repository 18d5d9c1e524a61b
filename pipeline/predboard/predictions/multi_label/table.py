"""Holds rows of multi-label predictions: each has a set of true labels and one of predicted labels.

They take the place of `Predictions` where an image may have several labels; `derived_rows` holds the rows
without logits. This module knows nothing of files.
"""

import abc
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predboard.predictions.arrow import as_arrow, as_numpy
from predboard.predictions.label_sets import Labels, LabelSets, MultiLabels
from predboard.predictions.multi_label.derive import derive_label_sets, sigmoid
from predboard.predictions.sampling import mix
from predboard.predictions.schema import MULTI_LABEL
from predboard.predictions.table import TILE_CLASSES, PredictionRows, Predictions, TileRows


@dataclass(frozen=True)
class MultiLabelRows(PredictionRows):
    """Rows of multi-label predictions, with logits or without: sets of labels in place of `label` and `predicted`.

    A row is right if the predicted labels are the true ones, where that is known: unknown labels do not count.
    """

    task: ClassVar[str] = MULTI_LABEL
    right_share: ClassVar[str] = "exact"

    @cached_property
    def labels(self) -> LabelSets:
        """True labels, [rows]; empty for a row that has none and for one that is not labelled."""
        return LabelSets.from_arrow(self.column("labels"))

    @cached_property
    def unknown(self) -> LabelSets:
        """Labels of which it is not known whether they apply, [rows]."""
        return LabelSets.from_arrow(self.column("unknown"))

    @cached_property
    def predicted_labels(self) -> LabelSets:
        """Labels with a probability above 1/2, [rows]; empty for a failed row. Unknown ones may be among them."""
        return LabelSets.from_arrow(self.column("predicted_labels"))

    @property
    def known_labels(self) -> MultiLabels:
        """What is known of the labels of all rows."""
        return MultiLabels(self.labels, self.unknown, self.is_labelled)

    @cached_property
    def is_scored(self) -> NDArray[np.bool_]:
        """Whether each row has logits, bool [rows]; only rows that have failed have none."""
        return _is_valid(self.column("predicted_labels"))

    @cached_property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Whether the labels of each row are known, bool [rows]; maybe it has none."""
        return _is_valid(self.column("labels"))

    @cached_property
    def missed(self) -> LabelSets:
        """True labels that were not predicted, [rows]; none of a failed row."""
        missed = self.labels.minus(self.predicted_labels)
        return missed if self.is_scored.all() else missed.subset(self.is_scored[missed.row])

    @cached_property
    def wrongly_predicted(self) -> LabelSets:
        """Predicted labels that do not apply, [rows]; none of a row without labels, and no unknown label."""
        wrong = self.predicted_labels.minus(self.labels).minus(self.unknown)
        return wrong if self.is_labelled.all() else wrong.subset(self.is_labelled[wrong.row])

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether no label was missed and none wrongly predicted, bool [rows]; false without logits or labels."""
        return np.asarray(
            self.is_scored & self.is_labelled & (self.missed.size == 0) & (self.wrongly_predicted.size == 0)
        )

    @property
    def jaccard(self) -> NDArray[np.float64]:
        """Jaccard index of the true and predicted labels that are known, float64 [rows]; 1 where there are none."""
        union = self.labels.size + self.wrongly_predicted.size
        return np.where(union > 0, (self.labels.size - self.missed.size) / np.maximum(union, 1), 1.0)

    @property
    def lead_label(self) -> NDArray[np.int64]:
        """First of the true labels, int64 [rows], -1 if there is none or they are not known."""
        lead = np.full(len(self), -1, np.int64)
        some = self.labels.size > 0
        lead[some] = self.labels.label[self.labels.start[:-1][some]]
        return lead

    @property
    def label_code(self) -> NDArray[np.int64]:
        """A hash that is equal for equal sets of true and unknown labels, int64 [rows]; -1 without labels."""
        code = np.zeros(len(self), np.int64)
        with np.errstate(over="ignore"):
            for salt, sets in enumerate((self.labels, self.unknown)):
                np.add.at(code, sets.row, mix(sets.label, salt))
        return np.where(self.is_labelled, code, -1)

    @property
    @abc.abstractmethod
    def label_probability(self) -> NDArray[np.float32]:
        """Probability of each true label, float32 [labels], beside `labels.label`; NaN of a failed row."""

    @property
    @abc.abstractmethod
    def predicted_probability(self) -> NDArray[np.float32]:
        """Probability of each predicted label, float32 [labels], beside `predicted_labels.label`."""

    def _tile_labels(self, chosen: NDArray[np.integer[Any]]) -> TileRows:
        """Return what tiles show of the labels of the chosen scored rows.

        Returns:
            `missed` (least probable first), `wrongly_predicted` and `hit` (most probable first) int64 [chosen,
            TILE_CLASSES], -1 where there are fewer, each with `<name>_probability` float32 and `<name>_count` int64
            [chosen], how many there are; `true_class` and `predicted_class`, likewise the first labels of each by
            number, with `true_count` and `predicted_count`; and `is_labelled` bool [chosen].
        """
        rows = type(self)(self.batch.take(as_arrow(chosen, pa.int64())))
        hit = rows.labels.minus(rows.missed)
        kinds = {
            "missed": (rows.missed, rows.label_probability[rows.missed.contains(rows.labels)]),
            "wrongly_predicted": (
                rows.wrongly_predicted,
                rows.predicted_probability[rows.wrongly_predicted.contains(rows.predicted_labels)],
            ),
            "hit": (hit, rows.label_probability[hit.contains(rows.labels)]),
        }
        columns: TileRows = {"is_labelled": rows.is_labelled}
        for kind, sets in (("true", rows.labels), ("predicted", rows.predicted_labels)):
            number = sets.label.astype(np.float32)
            columns[f"{kind}_count"], columns[f"{kind}_class"] = sets.size, _first_columns(sets, number, number)[0]
        for kind, (sets, probability) in kinds.items():
            order = probability if kind == "missed" else -probability
            columns[f"{kind}_count"] = sets.size
            columns[kind], columns[f"{kind}_probability"] = _first_columns(sets, probability, order)
        return columns


def _is_valid(column: pa.Array) -> NDArray[np.bool_]:
    return as_numpy(column.is_valid().cast(pa.uint8())).astype(bool)


def _first_columns(
    sets: LabelSets, probability: NDArray[np.float32], order: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the labels of each row that come first by `order` [labels], with their probabilities, [rows, few]."""
    classes = np.full((len(sets), TILE_CLASSES), -1, np.int64)
    probabilities = np.full((len(sets), TILE_CLASSES), np.nan, np.float32)
    by = np.lexsort((sets.label, order, sets.row))
    place = np.arange(len(by)) - sets.start[sets.row]
    first = place < TILE_CLASSES
    at = (sets.row[first], place[first])
    classes[at], probabilities[at] = sets.label[by[first]], probability[by[first]]
    return classes, probabilities


@dataclass(frozen=True)
class MultiLabelPredictions(MultiLabelRows, Predictions):
    """Rows of multi-label predictions with their logits, by the columns of `MULTI_LABEL_COLUMNS`."""

    @classmethod
    def _label_columns(
        cls,
        schema: pa.Schema,  # noqa: ARG003  always with logits
        label: Labels,
        logits: NDArray[np.float32],
        ok: NDArray[np.bool_],
    ) -> tuple[dict[str, pa.Array], dict[str, NDArray[Any]]]:
        """Return the columns of labels and predictions, and derived numbers, as `Predictions` does."""
        known = cast(MultiLabels, label)
        predicted, derived = derive_label_sets(logits, known[ok])
        labels, unknown = known.to_arrow()
        of_all = LabelSets.from_pairs(np.flatnonzero(ok)[predicted.row], predicted.label, len(ok))
        return {"labels": labels, "unknown": unknown, "predicted_labels": of_all.to_arrow(ok)}, derived

    def compute_losses(self) -> NDArray[np.float32]:
        """Compute the losses anew from logits and labels, float32 [rows], NaN without labels."""
        return np.asarray(derive_label_sets(self.logits, self.known_labels)[1]["loss"])

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Sigmoid of the logits, float32 [rows, classes], each with a relative error of about 1e-6, tiny ones too."""
        return sigmoid(self.logits)

    @cached_property
    def label_probability(self) -> NDArray[np.float32]:
        """Probability of each true label, float32 [labels], beside `labels.label`; NaN of a failed row."""
        scored = self.scored.labels
        probability = np.full(len(self.labels.label), np.nan, np.float32)
        probability[self.is_scored[self.labels.row]] = sigmoid(self.scored.logits[scored.row, scored.label])
        return probability

    @cached_property
    def predicted_probability(self) -> NDArray[np.float32]:
        """Probability of each predicted label, float32 [labels], beside `predicted_labels.label`."""
        predicted = self.scored.predicted_labels  # failed rows have none
        return sigmoid(self.scored.logits[predicted.row, predicted.label])
