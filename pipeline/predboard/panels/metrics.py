"""How good the model is, in standard numbers, over the steps. Knows no single image."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from predboard.metrics import classification
from predboard.metrics import counts as tally
from predboard.metrics.classification import CountState, MetricState
from predboard.panels import Direction, RunInfo
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.summaries import BandChart, Metric, Metrics, Scalar, Summary

HEADLINES = ("accuracy", "balanced_accuracy", "f1_macro", "nll", "auroc_macro", "average_precision_macro")
"""The six that are drawn with their intervals."""

COUNTS = {
    "images": "Rows of predictions, failed ones included.",
    "images/missing": "Rows of the manifest without predictions yet.",
    "images/failed": "Images that could not be read or gave no finite logits.",
    "images/unlabelled": "Images without a label.",
    "images/counted": "Images with logits and a label: what the figures count.",
}


@dataclass(frozen=True)
class Panel:
    """Scalars: accuracy, top-2, top-5, balanced; macro P, R, F1; MCC, NLL, Brier, AUROC, AP, AURC; intervals."""

    evidence: type[CountState] | type[MetricState] = MetricState
    columns: frozenset[str] = classification.COLUMNS

    def zero(self, run: Run) -> CountState | MetricState:
        """No rows."""
        return self.evidence.zero(run)

    def measure(self, run: Run, batch: Predictions) -> CountState | MetricState:
        """These rows alone."""
        return self.evidence.measure(run, batch)

    def render(self, info: RunInfo, states: Mapping[int, CountState | MetricState]) -> Iterator[tuple[int, Summary]]:
        """One point of each curve for each step that has labelled rows; the bands show the interval of each."""
        banded: dict[str, int] = {}
        for step, state in states.items():
            for name, figure in state.overall.items():
                yield step, Scalar(f"metrics/{name}", figure.value, figure.definition)
                if name in HEADLINES and figure.interval is not None:
                    banded[name] = step
                    for end, value in zip(("lower", "upper"), figure.interval, strict=True):
                        said = f"{end.capitalize()} end of the 95 % interval of metrics/{name}: {figure.method}."
                        yield step, Scalar(f"intervals/{name}/{end}", value, said)
        for name, step in banded.items():
            yield (
                step,
                BandChart(
                    f"intervals/{name}",
                    f"metrics/{name}",
                    f"intervals/{name}/lower",
                    f"intervals/{name}/upper",
                    f"metrics/{name} with its 95 % interval.",
                ),
            )
        yield from self.metrics(info, states)

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Counts have no better and worse."""
        of_rows: dict[str, Direction] = {
            name: "less" if name in classification.LESS_IS_BETTER else "more" for name in classification.DEFINITIONS
        }
        return {**dict.fromkeys(COUNTS, "neither"), **of_rows}

    def restricted_to(self, wanted: Collection[str]) -> Self:
        """Without logits where nothing is wanted that needs them."""
        light = set(wanted) <= classification.WITHOUT_LOGITS | set(COUNTS)
        return replace(self, evidence=CountState, columns=tally.COLUMNS) if light else self

    def metrics(self, info: RunInfo, states: Mapping[int, CountState | MetricState]) -> Iterator[tuple[int, Metrics]]:
        """Counts of images, and all metrics where images are labelled."""
        for step, state in states.items():
            counts = _counts(state, info.steps[step].manifest_rows)
            yield step, Metrics("metrics", {**counts, **state.overall})


def _counts(state: CountState | MetricState, manifest_rows: int) -> dict[str, Metric]:
    rows, failed, unlabelled = (int(n) for n in (state.tally.rows, state.tally.failed, state.tally.unlabelled))
    numbers = (rows, manifest_rows - rows, failed, unlabelled, state.scores.counted)
    return {
        name: Metric(n, definition=definition) for (name, definition), n in zip(COUNTS.items(), numbers, strict=True)
    }
