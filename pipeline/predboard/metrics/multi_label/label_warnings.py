"""Says in words what is wrong with the data behind the metrics of several labels. It knows no drawing and no files."""

from collections.abc import Sequence

from predboard.formatting import percent
from predboard.metrics.data_warnings import missing_rows, never_predicted, uncounted_rows
from predboard.metrics.multi_label.label_counts import EMPTY, EXACT
from predboard.metrics.multi_label.label_state import LabelState

UNIT_SUM_SHARE = 0.99
"""Share of images whose probabilities sum to 1 from which they look like those of one label."""


def label_warnings(
    state: LabelState, names: Sequence[str], rows: int, manifest_rows: int, before: Sequence[str] = ()
) -> list[str]:
    """Return what a reader should know before trusting the numbers, the most serious first.

    Args:
        state: of the step.
        names: of the labels.
        rows: of the predictions.
        manifest_rows: rows that there should be.
        before: warnings of stage one.
    """
    uncounted = uncounted_rows(state.counts, "no known label", "BCE")
    return [*missing_rows(rows, manifest_rows, "labels"), *before, *uncounted, *_decisions(state, names)]


def _decisions(state: LabelState, names: Sequence[str]) -> list[str]:
    m, n = state.metrics, state.metrics.counted
    if not n:
        return []
    warnings = []
    predicted, known = int(m.predictions.sum()), int(m.known.sum())
    if len(names) > 1 and state.ranks.unit_sums >= UNIT_SUM_SHARE * n:
        warnings.append("the probabilities of each image sum to 1: are they a softmax, of one label for each image?")
    if not predicted:
        warnings.append("no label is predicted for any image")
    elif predicted == known:
        warnings.append("every label is predicted for every image")
    elif predicted > 0.3 * known and predicted > 2 * m.support.sum():
        many = f"{predicted / n:,.1f} labels are predicted for an image, which has {m.support.sum() / n:,.1f}"
        warnings.append(f"{many}: are the logits of another scale?")
    exact, empty = (int(state.counts.sums[:, place].sum()) for place in (EXACT, EMPTY))
    if predicted and exact < empty:
        warnings.append(
            f"predicting no label at all is more often exactly right: {percent(empty / n)} of images have none, and "
            f"{percent(exact / n)} of sets are right"
        )
    return [*warnings, *never_predicted(m, names, "labels")] if predicted else warnings
