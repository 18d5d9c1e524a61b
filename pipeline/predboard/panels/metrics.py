"""How good the model is, in standard numbers, over the steps. Knows no single image."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from predboard.metrics import classification
from predboard.metrics import counts as tally
from predboard.metrics.classification import Basis, Evidence
from predboard.panels import Better, Subject
from predboard.predictions.table import Predictions, Run
from predboard.summaries import Band, Figure, Figures, Scalar, Summary

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

    evidence: type[Basis] | type[Evidence] = Evidence
    columns: frozenset[str] = classification.COLUMNS

    def zero(self, run: Run) -> Basis | Evidence:
        """No rows."""
        return self.evidence.zero(run)

    def measure(self, run: Run, batch: Predictions) -> Basis | Evidence:
        """These rows alone."""
        return self.evidence.measure(run, batch)

    def render(self, subject: Subject, states: Mapping[int, Basis | Evidence]) -> Iterator[tuple[int, Summary]]:
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
                Band(
                    f"intervals/{name}",
                    f"metrics/{name}",
                    f"intervals/{name}/lower",
                    f"intervals/{name}/upper",
                    f"metrics/{name} with its 95 % interval.",
                ),
            )
        yield from self.figures(subject, states)

    @property
    def figured(self) -> Mapping[str, Better]:
        """Counts have no better and worse."""
        of_rows: dict[str, Better] = {
            name: "less" if name in classification.LESS_IS_BETTER else "more" for name in classification.DEFINITIONS
        }
        return {**dict.fromkeys(COUNTS, "neither"), **of_rows}

    def only(self, wanted: Collection[str]) -> Self:
        """Without logits where nothing is wanted that needs them."""
        light = set(wanted) <= classification.WITHOUT_LOGITS | set(COUNTS)
        return replace(self, evidence=Basis, columns=tally.COLUMNS) if light else self

    def figures(self, subject: Subject, states: Mapping[int, Basis | Evidence]) -> Iterator[tuple[int, Figures]]:
        """Counts of images, and all metrics where images are labelled."""
        for step, state in states.items():
            counts = _counts(state, subject.facts[step].manifest_rows)
            yield step, Figures("metrics", {**counts, **state.overall})


def _counts(state: Basis | Evidence, manifest_rows: int) -> dict[str, Figure]:
    rows, failed, unlabelled = (int(n) for n in (state.tally.rows, state.tally.failed, state.tally.unlabelled))
    numbers = (rows, manifest_rows - rows, failed, unlabelled, state.scores.counted)
    return {
        name: Figure(n, definition=definition) for (name, definition), n in zip(COUNTS.items(), numbers, strict=True)
    }
