"""Counts rows by class for all panels, and computes what follows without an interval. It knows no drawing and no files.

Failed rows and rows without a label are in no denominator, and are counted. A class is in a macro mean if it has
images or predictions; division by zero counts 0.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.confusions import Confusions
from predboard.metrics.grouped import cells_by_group, group_column, grouped_interval, no_groups, sum_by_group
from predboard.metrics.intervals import Floats, wilson_interval, wilson_intervals
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import FIXED_LIMIT, FIXED_UNIT, Counted, StatesByName, fixed_each, greatest, summed


@dataclass(frozen=True)
class Counts:
    """Mergeable counts of rows."""

    confusion: Counted  # of true * classes + predicted, over the labelled rows
    classes: np.int64 = greatest()  # how many there are
    rows: np.int64 = summed()
    failed: np.int64 = summed()  # rows without logits
    unlabelled: np.int64 = summed()  # rows without a label, failed or not
    loss: np.int64 = summed()  # sum over the labelled rows, fixed point
    losses: np.int64 = summed()  # labelled rows that have a loss: all or none
    cut_losses: np.int64 = summed()  # of these: above FIXED_LIMIT, which `fixed` cuts
    cells_by_group: StatesByName = field(default_factory=no_groups)  # as `confusion`, where rows belong together
    loss_by_group: StatesByName = field(default_factory=no_groups)  # as `loss`, [GROUPS]

    @classmethod
    def zero(cls, run: Run) -> "Counts":
        """Return the counts of no rows."""
        none = np.int64(0)
        classes = np.int64(len(run.classes))
        return cls(Counted.from_values(np.zeros(0, np.int64)), classes, none, none, none, none, none, none)

    @classmethod
    def measure(cls, run: Run, batch: Predictions) -> "Counts":
        """Return the counts of these rows alone, counted once for all panels that share them."""

        def count() -> Counts:
            labelled, classes = batch.labelled, len(run.classes)
            cell = labelled.label * classes + labelled.predicted
            loss = fixed_each(labelled.loss) if batch.has_scores else np.zeros(len(labelled), np.int64)
            return cls(
                Counted.from_values(cell),
                np.int64(len(run.classes)),
                np.int64(len(batch)),
                np.int64((batch.predicted < 0).sum()),
                np.int64((batch.label < 0).sum()),
                loss.sum(),
                np.int64(len(labelled) if batch.has_scores else 0),
                np.int64((labelled.loss > FIXED_LIMIT).sum() if batch.has_scores else 0),
                cells_by_group(labelled, cell, classes**2),
                sum_by_group(labelled, lambda: loss),
            )

        return batch.memoize(Counts, count)

    @cached_property
    def metrics(self) -> "CountMetrics":
        """The metrics that follow: the same object for all who ask, so that each is computed once."""
        return CountMetrics(self)


COLUMNS = frozenset({"label", "predicted", "loss"})
"""Columns that `Counts.measure` reads."""


@dataclass(frozen=True)
class CountsPanel:
    """Base of a panel whose state is `Counts` and nothing else."""

    columns: frozenset[str] = COLUMNS
    without_scores: bool = True

    def zero(self, run: Run) -> Counts:
        """Return the counts of no rows."""
        return Counts.zero(run)

    def measure(self, run: Run, batch: Predictions) -> Counts:
        """Return the counts of these rows alone."""
        return Counts.measure(run, batch)


@dataclass(frozen=True)
class CountMetrics(Confusions):
    """Counts by class, and the metrics that follow from them without an interval."""

    counts: Counts

    @cached_property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.counts.classes)

    @cached_property
    def cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """True class, predicted class and count of each pair that was seen, ascending: [cells] each."""
        true, predicted = np.divmod(self.counts.confusion.value, self.classes)
        return true, predicted, self.counts.confusion.count

    def _by_class(self, index: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
        totals = np.zeros(self.classes, np.int64)
        np.add.at(totals, index, count)
        return totals

    @cached_property
    def counted(self) -> int:
        """Rows with logits and a label: the denominator of accuracy."""
        return int(self.counts.confusion.count.sum())

    @cached_property
    def support(self) -> NDArray[np.int64]:
        """[classes] rows of each true class."""
        true, _, count = self.cells
        return self._by_class(true, count)

    @cached_property
    def predictions(self) -> NDArray[np.int64]:
        """[classes] rows predicted as each class."""
        _, predicted, count = self.cells
        return self._by_class(predicted, count)

    @cached_property
    def hits(self) -> NDArray[np.int64]:
        """[classes] rows of each class that were predicted as it."""
        true, predicted, count = self.cells
        same = true == predicted
        return self._by_class(true[same], count[same])

    @property
    def recall(self) -> NDArray[np.float64]:
        """[classes] hits / support."""
        return self.margins.recall

    @property
    def precision(self) -> NDArray[np.float64]:
        """[classes] hits / predictions."""
        return self.margins.precision

    @property
    def f1(self) -> NDArray[np.float64]:
        """[classes] harmonic mean of precision and recall."""
        return self.margins.f1

    @property
    def accuracy(self) -> float:
        """Share of rows whose highest logit is the true class."""
        return float(self.hits.sum() / self.counted)

    @cached_property
    def margins(self) -> "Margins":
        """Margins of the confusion matrix."""
        return Margins(*(n.astype(np.float64) for n in (self.hits, self.support, self.predictions)))

    @property
    def group_column(self) -> str:
        """Name of the column whose equal values make rows belong together; empty if each image stands for itself."""
        return group_column(self.counts.cells_by_group)

    @cached_property
    def margins_without(self) -> "Margins":
        """[groups, classes] margins of the confusion matrix without each group of rows that belong together."""
        columns = []
        for cell, count in self.counts.cells_by_group.states[self.group_column].present:
            true, predicted = np.divmod(cell, self.classes)
            same = true == predicted
            pairs = ((true[same], count[same]), (true, count), (predicted, count))
            columns.append([self._by_class(*pair) for pair in pairs])
        grouped = np.array(columns, np.int64).reshape(-1, 3, self.classes)  # of each group alone
        whole = np.stack([self.hits, self.support, self.predictions])
        return Margins(*np.moveaxis((whole - grouped).astype(np.float64), 1, 0))

    @property
    def accuracy_without(self) -> Floats:
        """[groups] accuracy without each group of rows that belong together."""
        m = self.margins_without
        return np.asarray(m.hits.sum(axis=-1) / np.maximum(m.rows, 1))

    @property
    def nll_without(self) -> Floats:
        """[groups] mean negative log-likelihood without each group of rows that belong together, nats."""
        grouped = self.counts.loss_by_group.states[self.group_column]
        return np.asarray(grouped.without * FIXED_UNIT / np.maximum(grouped.rows_without, 1))

    @cached_property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy: Wilson's, or the jackknife's where rows belong together.

        Where all rows are right, or none is, it is Wilson's of the groups, each of which counts as one row.
        """
        if not self.group_column:
            return wilson_interval(int(self.hits.sum()), self.counted)
        without = self.accuracy_without
        ends = grouped_interval(self.accuracy, without)
        return ends or (
            wilson_interval(round(self.accuracy * len(without)), len(without)) if len(without) > 1 else (0.0, 1.0)
        )

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood, nats; nan without losses, or with one that is beyond what is summed."""
        known = self.counts.losses and not self.counts.cut_losses
        return float(self.counts.loss * FIXED_UNIT / self.counted) if known else np.nan

    @cached_property
    def worst_first(self) -> NDArray[np.int64]:
        """[classes] all classes, by the upper end of the recall's interval, so that 0 of 1 comes after 10 of 100.

        Of equal ones those with more images come first; classes without images come last, by their predictions.
        """
        _, upper = wilson_intervals(self.hits, self.support)
        none = self.support == 0
        order = np.lexsort((np.arange(self.classes), -self.predictions * none, -self.support, upper, none))
        return order.astype(np.int64)

    def worst(self, limit: int) -> NDArray[np.int64]:
        """Return the classes that have mistakes, worst first."""
        return self.worst_first[(self.hits < self.support)[self.worst_first]][:limit]


@dataclass(frozen=True)
class Margins:
    """Margins of one confusion matrix, or of many at once: what the metrics that average over classes follow from."""

    hits: Floats  # [..., classes] rows of each class that were predicted as it
    support: Floats  # [..., classes] rows of each class
    predictions: Floats  # [..., classes] rows predicted as each class

    @cached_property
    def rows(self) -> Floats:
        """[...] all rows."""
        return self.support.sum(axis=-1)  # type: ignore[no-any-return]  # NumPy's stubs: a scalar or an array

    @cached_property
    def recall(self) -> Floats:
        """[..., classes] hits / support; 0 without images."""
        return self.hits / np.maximum(self.support, 1)

    @cached_property
    def precision(self) -> Floats:
        """[..., classes] hits / predictions; 0 without predictions."""
        return self.hits / np.maximum(self.predictions, 1)

    @cached_property
    def f1(self) -> Floats:
        """[..., classes] harmonic mean of precision and recall; 0 without hits."""
        return np.asarray(2 * self.hits / np.maximum(self.support + self.predictions, 1))

    def rows_of(self, name: str) -> Floats:
        """Return the rows that `recall`, `precision` or `f1` of each class rests on, [..., classes]."""
        if name == "f1":
            return self.support + self.predictions - self.hits
        return self.support if name == "recall" else self.predictions

    @cached_property
    def present(self) -> NDArray[np.int64]:
        """[...] classes with images or predictions, at least 1."""
        return np.asarray(np.maximum(((self.support > 0) | (self.predictions > 0)).sum(axis=-1), 1))


MarginMetric = Callable[[Margins], Floats]
"""Returns a metric, [...], from margins, [..., classes]; nan where it is undefined."""
