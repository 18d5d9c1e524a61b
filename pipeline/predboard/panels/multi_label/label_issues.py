"""Labels that are more likely wrong than the model: confident learning, each label against the rest. It knows no image.

A decision is suspected if it is wrong and its probability is beyond what the model gives such decisions on average
(Northcutt et al. 2021; cleanlab's `find_multilabel_issues_per_class` with `filter_by="confident_learning"`): a label
that is given, of a probability so low that 1 - p is at least its mean over the images without the label; or one that is
not given, of a probability of at least its mean over the images with it.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from predboard.log_names import SUSPECTS_FILE
from predboard.metrics import registry
from predboard.metrics.metric_spec import Direction
from predboard.metrics.multi_label import label_calibration
from predboard.metrics.multi_label.known_sets import KnownSets
from predboard.metrics.multi_label.label_calibration import LabelCalibration
from predboard.panels import RunInfo, TwoPass
from predboard.panels.pages.suspected_labels import SuspectedLabels, suspected_labels_csv, suspected_labels_page
from predboard.predictions.multi_label.derived_rows import MultiLabelDerivedRows
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import MULTI_LABEL, Run
from predboard.predictions.tasks import no_tile_rows
from predboard.state import FIXED_UNIT, Lowest, summed
from predboard.summaries import File, Metric, Metrics, Scalar, Summary, Text, Tiles

LACKING, TOO_MANY = 0, 1
"""Places in `SuspectedDecisions.suspected`."""


@dataclass(frozen=True)
class State:
    """Sums of the probability of each label: over all images, which other panels share, and over those that have it."""

    calibration: LabelCalibration
    given: NDArray[np.int64] = summed()  # [classes] in units of 2**-20, over the images that have the label

    @property
    def support(self) -> NDArray[np.int64]:
        """[classes] images that have each label."""
        return np.asarray(self.calibration.hits.sum(axis=1))

    def means(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean of p over the images with each label and of 1 - p over those without, [classes].

        nan where there are no such images.
        """
        given, every = self.given * FIXED_UNIT, self.calibration.sums.sum(axis=1)
        others = self.calibration.rows.sum(axis=1) - self.support
        with np.errstate(invalid="ignore", divide="ignore"):
            return given / self.support, 1 - (every - given) / others


@dataclass(frozen=True)
class SuspectedDecisions:
    """Counts of suspected decisions, those that are most likely wrong, and the images with the most likely ones."""

    decisions: Lowest
    images: Lowest
    suspected: NDArray[np.int64] = summed()  # [LACKING and TOO_MANY, classes]
    suspected_images: np.int64 = summed()


@dataclass(frozen=True)
class Panel:
    """Label errors: which labels are lacking or too many, and on which images (confident learning for each label)."""

    per_gallery: int = 24
    """Images in a gallery."""
    csv_rows: int = 10_000
    """Decisions in `suspects.csv`."""
    listed: int = 100
    """Rows of a table on the page."""
    columns: frozenset[str] = label_calibration.COLUMNS
    needs_half: bool = True

    def zero(self, run: Run) -> State:
        """Return the state of no rows."""
        return State(LabelCalibration.zero(run), np.zeros(len(run.classes), np.int64))

    def measure(self, run: Run, batch: MultiLabelPredictions) -> State:
        """Return the state of these rows alone."""
        true, p = KnownSets.measure(run, batch).true, batch.labelled.probabilities
        fixed = np.rint(p[true.row, true.label].astype(np.float64) / FIXED_UNIT)
        given = np.bincount(true.label, fixed, len(run.classes)).astype(np.int64)
        return State(LabelCalibration.measure(run, batch), given)

    def zero_second(self, run: Run, first: State) -> SuspectedDecisions:  # noqa: ARG002  no rows in any case
        """Return the second state of no rows."""
        nothing, none = no_tile_rows(run), np.zeros(0, np.int64)
        more = {"suspected": none, "suspected_probability": np.zeros(0), "is_given": np.zeros(0, bool)}
        decisions = Lowest(self.csv_rows, none, np.zeros(0), {**nothing, **more})
        images = Lowest(self.per_gallery, none, np.zeros(0), nothing)
        return SuspectedDecisions(decisions, images, np.zeros((2, len(run.classes)), np.int64), np.int64(0))

    def measure_second(self, run: Run, first: State, rows: MultiLabelDerivedRows) -> SuspectedDecisions:
        """Return the second state of these rows alone."""
        known, k = rows.labelled, len(run.classes)
        of_given, of_others = first.means()
        missed, wrong = known.missed, known.wrongly_predicted
        p_missed = known.label_probability[missed.contains(known.labels)].astype(np.float64)
        p_wrong = known.predicted_probability[wrong.contains(known.predicted_labels)].astype(np.float64)
        # The means are sums of numbers that were rounded to FIXED_UNIT.
        too_many = 1 - p_missed + FIXED_UNIT >= of_others[missed.label]
        lacking = p_wrong + FIXED_UNIT >= of_given[wrong.label]
        row = np.append(missed.row[too_many], wrong.row[lacking])
        label = np.append(missed.label[too_many], wrong.label[lacking])
        p = np.append(p_missed[too_many], p_wrong[lacking])
        is_given = np.arange(len(row)) < np.count_nonzero(too_many)
        score = np.where(is_given, p, 1 - p)  # the probability of what is given
        counts = [np.bincount(sets.label[s], minlength=k) for sets, s in ((wrong, lacking), (missed, too_many))]
        group = np.zeros(len(row), np.int64)
        order = np.lexsort((label, row))  # equal decisions of an image come in one order
        row, label, p, is_given, score = row[order], label[order], p[order], is_given[order], score[order]
        stay = Lowest.choose(self.csv_rows, group, score, known.key[row], known.id[row])
        more = {"suspected": label[stay], "suspected_probability": p[stay], "is_given": is_given[stay]}
        decisions = Lowest(self.csv_rows, group[stay], score[stay], {**known.tile_rows(row[stay]), **more})
        return SuspectedDecisions(
            decisions, self._images(known, row, score), np.stack(counts).astype(np.int64), np.int64(len(np.unique(row)))
        )

    def _images(self, rows: MultiLabelDerivedRows, row: NDArray[np.int64], score: NDArray[np.float64]) -> Lowest:
        """Return the images with the lowest scores; `row` and `score` are of decisions."""
        least = np.full(len(rows), np.inf)
        np.minimum.at(least, row, score)
        some = np.flatnonzero(least < np.inf)
        return Lowest.of_tiles(self.per_gallery, rows, some, least[some])

    def render(self, info: RunInfo, states: Mapping[int, TwoPass]) -> Iterator[tuple[int, Summary]]:
        """Yield numbers and galleries for each step, and the page and the file of the last step."""
        for step, metrics in self.metrics(info, states):
            second: SuspectedDecisions = states[step].second
            for name, metric in metrics.metrics.items():
                yield step, Scalar(name, float(metric.value), metric.definition)
            yield step, metrics
            if len(second.images.score):
                description = "Images with the labels that are most likely wrong (confident learning), surest first."
                yield step, Tiles("examples/suspected_label_errors", second.images.rows, description)
            if step == max(states):
                values = {name.rpartition("/")[2]: int(metric.value) for name, metric in metrics.metrics.items()}
                issues = SuspectedLabels(
                    info.run.classes, states[step].first.support, second.suspected, second.decisions.rows, **values
                )
                page = suspected_labels_page(issues, self.listed, self.csv_rows)
                yield step, Text("report/label_issues", page, "Labels that may be wrong.")
                yield step, File(SUSPECTS_FILE, suspected_labels_csv(issues))

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Give no direction: a model is no better because fewer labels are suspected."""
        return registry.directions("label_issues", task=MULTI_LABEL)

    def restricted_to(self, wanted: Collection[str]) -> Self:  # noqa: ARG002  all come from one state
        """Return the same panel: fewer metrics need no less."""
        return self

    def metrics(self, info: RunInfo, states: Mapping[int, TwoPass]) -> Iterator[tuple[int, Metrics]]:  # noqa: ARG002
        """Yield how many labels may be wrong, for each step that has labelled rows."""
        for step, state in states.items():
            if state.first.calibration.rows.any():
                second: SuspectedDecisions = state.second
                lacking, too_many = second.suspected.sum(axis=1).tolist()
                values = (lacking + too_many, int(second.suspected_images), lacking, too_many)
                every = zip(registry.rows("label_issues", task=MULTI_LABEL), values, strict=True)
                yield step, Metrics("label_issues", {s.name: Metric(v, definition=s.definition) for s, v in every})
