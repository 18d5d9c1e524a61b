"""Selects, sorts and counts the rows of a step that a query asks for. It knows no HTTP and no picture.

All functions are pure: from columns, masks and numbers to arrays. A mask is bool [rows], or None for all rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.predictions.arrow import as_numpy
from predboard.tab.columns import StepRows
from predboard.tab.pairs import MOVES, StepPair
from predboard.tab.query import Query, Range, Values
from predboard.tab.row_classes import FAILED, RIGHT, ROLES, UNLABELLED, WRONG, ClassSets
from predboard.tab.texts import Texts

Mask = NDArray[np.bool_] | None

CURVE_BINS = 1000
"""Thresholds of the curve, evenly spread over 0 to 1."""

_FEW_TO_SORT = 0.05
"""Share of rows below which these are sorted, instead of looked up in the order of all rows."""

_FEW_TO_SCATTER = 10_000
"""Rows up to which comparing sorts as fast as digits do."""

_BLOCK_ROWS = 2**16
"""Rows that are put into bins at once, so that what is between takes no memory worth mention."""

_VERDICTS = 4


@dataclass(frozen=True)
class QueryInputs:
    """What a query may need besides the columns of its step."""

    pair: StepPair | None = None
    """The step it is compared with."""
    points: NDArray[np.int16] | None = None
    """[2, rows] places on the map."""
    tagged: NDArray[np.bool_] | None = None
    """[rows] which rows have one of the query's tags."""
    suspects: NDArray[np.int64] | None = None
    """Rows whose labels are suspected, the likeliest first."""


def select(query: Query, step: StepRows, inputs: QueryInputs | None = None) -> Mask:
    """Return which rows a query asks for, bool [rows]; None if all.

    Raises InputError if the step has no such class or column, or lacks what the query needs.
    """
    inputs = inputs or QueryInputs()
    mask: Mask = None
    for clause in _clauses(query, step, inputs):
        mask = clause if mask is None else mask & clause
    return _select_text(query.text, step, mask) if query.text else mask


def _clauses(query: Query, step: StepRows, inputs: QueryInputs) -> Iterator[NDArray[np.bool_]]:
    for role in ROLES:
        if wanted := getattr(query, role):
            yield _has_class(step, role, wanted)
    if query.right is not None:
        yield step.verdict == (RIGHT if query.right else WRONG)
    if query.state == "labelled":
        yield step.verdict <= WRONG
    elif query.state:
        yield step.verdict == (FAILED if query.state == "failed" else UNLABELLED)
    for span in query.ranges:
        yield _is_between(step, span)
    for values in query.values:
        yield _has_value(step, values)
    if query.tags:
        yield _needed(inputs.tagged, "there are no tags")
    if query.suspect:
        suspected = np.zeros(step.rows, bool)
        suspected[_needed(inputs.suspects, "there is no list of suspected labels for this step")] = True
        yield suspected
    if query.kind:
        yield _needed(inputs.pair, "there is nothing to compare with").mask(query.kind)
    if query.was:
        pair = _needed(inputs.pair, "there is nothing to compare with")
        _check_classes(step, query.was)
        yield pair.old_has(query.was)
    for move in MOVES:
        if wanted := getattr(query, move):
            _check_classes(step, wanted)
            yield _needed(inputs.pair, "there is nothing to compare with").has_moved(move, wanted)
    if query.lasso:
        points = _needed(inputs.points, "there is no map of this step")
        yield is_inside(points, np.array(query.lasso))


def _needed(value: Any, why_not: str) -> Any:
    if value is None:
        raise InputError(why_not)
    return value


def _has_class(step: StepRows, role: str, wanted: Sequence[int]) -> NDArray[np.bool_]:
    _check_classes(step, wanted)
    return step.classes.has(role, wanted)


def _check_classes(step: StepRows, wanted: Sequence[int]) -> None:
    classes = len(step.file.classes)
    if wrong := [index for index in wanted if index >= classes]:
        raise InputError(f"there is no class {wrong[0]}: expected 0 to {classes - 1}, or -1 for none")


def _is_between(step: StepRows, span: Range) -> NDArray[np.bool_]:
    step.file.column(span.column, "number")
    values = step.numbers(span.column)
    # As in NumPy and pandas, the limits get the precision of the column.
    exact = np.float32 if values.dtype == np.float32 else np.float64
    mask = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), bool)
    with np.errstate(over="ignore"):
        if span.low is not None:
            mask &= values >= exact(span.low)
        if span.high is not None:
            mask &= values <= exact(span.high)
    return mask


def _has_value(step: StepRows, wanted: Values) -> NDArray[np.bool_]:
    step.file.column(wanted.column, "category")
    codes, values = step.category(wanted.column)
    chosen = np.zeros(len(values) + 1, bool)  # the last one is that of no value
    chosen[-1] = None in wanted.values
    for code, value in enumerate(values):
        chosen[code] = value in wanted.values
    return np.asarray(chosen[codes])


def _select_text(text: str, step: StepRows, mask: Mask) -> NDArray[np.bool_]:
    """Return the rows of a mask in whose image's name a text is, in upper or lower case."""

    def contain(names: pa.ChunkedArray) -> NDArray[np.bool_]:
        hits = pc.match_substring(names, text, ignore_case=True).cast(pa.uint8()).combine_chunks()
        return as_numpy(hits, 0).astype(bool)

    return step.texts("image").where(mask, contain)


def is_inside(points: NDArray[np.int16], corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points are in a polygon, by the even-odd rule, bool [rows].

    Args:
        points: [2, rows].
        corners: [corners, 2].
    """
    x, y = points
    low, high = corners.min(axis=0), corners.max(axis=0)
    near = np.flatnonzero((x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1]))
    px, py, odd = x[near].astype(np.float64), y[near].astype(np.float64), np.zeros(len(near), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 != y1:
            odd ^= ((y0 > py) != (y1 > py)) & (px < (x1 - x0) * (py - y0) / (y1 - y0) + x0)
    inside = np.zeros(len(x), bool)
    inside[near[odd]] = True
    return inside


def chosen_rows(mask: Mask, rows: int) -> NDArray[np.int64]:
    """Return the places of the rows of a mask, ascending."""
    return np.arange(rows) if mask is None else np.flatnonzero(mask)


def order_rows(keys: NDArray[Any], descending: bool) -> NDArray[np.int64]:
    """Return the places of rows in the order of their keys; NaN is last in both directions, equal ones stay in order.

    Args:
        keys: numbers, [rows].
        descending: whether the highest number comes first.
    """
    if keys.dtype == np.float32 and len(keys) > _FEW_TO_SCATTER:
        return _order_float32(keys, descending)
    numbers = keys if keys.dtype.kind == "f" else keys.astype(np.int64)
    return np.argsort(-numbers if descending else numbers, kind="stable")


def _order_float32(keys: NDArray[np.float32], descending: bool) -> NDArray[np.int64]:
    """Do what `order_rows` does by two radix sorts, of the lower and the upper half of the bits: a fifth of the time.

    NumPy sorts numbers of 16 bits by their digits. The bits of a float, as a whole number, are in the order of the
    floats once those of negative ones are inverted, and the sign of the others (Herf 2001, Radix tricks).
    """
    bits = (keys + np.float32(0)).view(np.uint32)  # -0 and 0 are equal
    bits ^= np.where(bits >> 31, np.uint32(2**32 - 1), np.uint32(2**31))
    if descending:
        bits = ~bits
    bits[np.isnan(keys)] = 2**32 - 1
    order = np.argsort((bits & 0xFFFF).astype(np.uint16), kind="stable")
    return order[np.argsort((bits >> 16).astype(np.uint16)[order], kind="stable")]


def page(
    mask: Mask,
    keys: NDArray[Any] | None,
    rows: int,
    descending: bool,
    offset: int = 0,
    limit: int | None = None,
    order: Callable[[], NDArray[np.integer[Any]]] | None = None,
) -> tuple[int, NDArray[np.int64]]:
    """Return how many rows a mask has, and those of one page of them in an order.

    Args:
        mask: the rows.
        keys: numbers to sort by, [rows], as for `order_rows`; None is the order of the data.
        rows: of the step.
        descending: whether the highest number comes first.
        offset, limit: the page; all if there is no limit.
        order: returns `order_rows` of the keys, where it may be in memory already.
    """
    total = rows if mask is None else int(np.count_nonzero(mask))
    stop = total if limit is None else min(offset + limit, total)
    if keys is None:
        chosen = chosen_rows(mask, rows)
        return total, (chosen[::-1] if descending else chosen)[offset:stop]
    if mask is not None and total < rows * _FEW_TO_SORT:
        chosen = np.flatnonzero(mask)
        return total, chosen[order_rows(keys[chosen], descending)][offset:stop]
    everything: NDArray[np.integer[Any]] = order() if order else order_rows(keys, descending)
    if mask is not None:
        everything = everything[mask[everything]]
    return total, everything[offset:stop].astype(np.int64)


def sort_keys(step: StepRows, sort: str, inputs: QueryInputs | None = None) -> NDArray[Any] | None:
    """Return the numbers by which rows are sorted, [rows]; None for the order of the data.

    Args:
        step: whose rows.
        sort: `id`, a column, `suspect` (the likeliest wrong label first), or `old_confidence` of the compared step.
        inputs: for the last two.
    """
    inputs = inputs or QueryInputs()
    if sort == "id":
        return None
    if sort == "suspect":
        suspects = _needed(inputs.suspects, "there is no list of suspected labels for this step")
        place = np.full(step.rows, np.nan)
        place[suspects] = np.arange(len(suspects))
        return place
    if sort == "old_confidence":
        pair = _needed(inputs.pair, "there is nothing to compare with")
        return np.where(pair.old_row >= 0, pair.old.numbers("confidence")[pair.old_row], np.float32(np.nan))
    if step.file.column(sort).kind == "number":
        return step.numbers(sort)
    return step.derived(f"rank {sort}", lambda: _text_ranks(step.texts(sort)))


def _text_ranks(texts: Texts) -> NDArray[np.float64]:
    """Return the rank of each text among all, equal ones alike, [rows]; NaN for null."""
    everything = pa.chunked_array(texts.blocks(), pa.string())
    ranks = pc.rank(everything, sort_keys="ascending", tiebreaker="dense")
    numbers = as_numpy(ranks).astype(np.float64)
    if everything.null_count:
        numbers[numbers == numbers.max()] = np.nan
    return numbers


def confusion(step: StepRows, mask: Mask) -> NDArray[np.int32]:
    """Count the cells of the confusion matrix, int32 [3, cells]: class of the row, class of the column, images.

    Rows and columns are those of `RowClasses.matrix`: true and predicted classes, or missed and wrongly predicted ones.
    """
    order, starts, cells = step.classes.cells
    if not len(cells):
        return np.zeros((3, 0), np.int32)
    if mask is None:
        counts = np.diff(starts, append=len(order))
    else:
        counts = np.add.reduceat(mask[order].view(np.uint8), starts, dtype=np.int32)
        cells, counts = cells[counts > 0], counts[counts > 0]
    return np.stack([*np.divmod(cells, step.classes.axis), counts]).astype(np.int32)


def change_matrix(pair: StepPair, mask: Mask) -> NDArray[np.int32]:
    """Count old predictions against new ones, int32 [3, cells]: old class, new class, images."""
    if pair.new.classes.is_multi_label:
        raise InputError("there is no matrix of changes where images have several labels: /compare counts each label")
    classes = len(pair.new.file.classes)
    old, new = pair.predicted
    known = (old >= 0) & (new >= 0)
    if mask is not None:
        known &= mask
    cell = old[known].astype(np.int64) * classes + new[known]
    cells, counts = np.unique(cell, return_counts=True)
    return np.stack([cells // classes, cells % classes, counts]).astype(np.int32)


def moved_counts(pair: StepPair, mask: Mask) -> dict[str, NDArray[np.int64]]:
    """Count the images in which the decision about each label changed, int64 [labels], in the ways of `MOVES`."""
    labels = len(pair.new.file.classes)
    return {
        move: np.bincount(label if mask is None else label[mask[rows]], minlength=labels)
        for move, (rows, label) in pair.moved.items()
    }


@dataclass(frozen=True)
class VerdictCounts:
    """Counts of the rows of a query by the value of a column."""

    low: float
    high: float
    """Range of the bins; 0 and their number for a category."""
    right: NDArray[np.int64]  # [bins]
    wrong: NDArray[np.int64]  # [bins]
    unlabelled: NDArray[np.int64]  # [bins]
    rest: NDArray[np.int64]  # [bins] rows that the query leaves out


def histogram(step: StepRows, mask: Mask, column: str, bins: int) -> VerdictCounts:
    """Count rows by the value of a column and their verdict; rows without a value are in no bin."""
    info = step.file.column(column, "number")
    if column in ("confidence", "margin"):
        low, high = 0.0, 1.0
    else:
        low, high = info.low or 0.0, info.high if info.high is not None else 1.0
    high = high if high > low else low + 1

    def place() -> NDArray[np.uint16]:
        values, code = step.numbers(column), step.verdict.astype(np.uint16)
        for start in range(0, len(values), _BLOCK_ROWS):
            block = values[start : start + _BLOCK_ROWS].astype(np.float64)
            with np.errstate(invalid="ignore"):
                at = np.clip((block - low) * (bins / (high - low)), 0, bins - 1)
            at[np.isnan(at)] = bins
            code[start : start + _BLOCK_ROWS] += at.astype(np.uint16) * np.uint16(_VERDICTS)
        return code

    code = step.derived(f"histogram {column} {bins}", place)
    whole = step.derived(f"histogram of all {column} {bins}", lambda: _count_verdicts(code, bins + 1))
    chosen = whole if mask is None else _count_verdicts(code[mask], bins + 1)
    return _split_verdicts(low, high, chosen[:bins], whole[:bins])


def value_counts(step: StepRows, mask: Mask, column: str) -> tuple[VerdictCounts, list[str | None]]:
    """Count rows by the value of a category and their verdict; also return the values, last None if it occurs."""
    codes, names = step.category(column)
    place = {value: at for at, value in enumerate(names)}
    listed = [value for value in step.file.column(column, "category").values if value in place]
    at = np.array([place[value] for value in listed] + [-1], np.int64)

    def combine() -> NDArray[np.uint32]:
        return np.where(codes < 0, len(names), codes).astype(np.uint32) * np.uint32(_VERDICTS) + step.verdict

    code = step.derived(f"verdicts of {column}", combine)
    whole = _count_verdicts(code, len(names) + 1)[at]
    chosen = whole if mask is None else _count_verdicts(code[mask], len(names) + 1)[at]
    values: list[str | None] = [*listed, None]
    if not whole[-1].any():
        whole, chosen, values = whole[:-1], chosen[:-1], values[:-1]
    return _split_verdicts(0, len(values), chosen, whole), values


def class_counts(step: StepRows, mask: Mask, role: str) -> VerdictCounts:
    """Count rows by each class that they have in a role, and their verdict."""
    classes = len(step.file.classes)
    rows, index = step.classes.entries(role)
    code = index * _VERDICTS + step.verdict[rows]
    whole = _count_verdicts(code, classes)
    chosen = whole if mask is None else _count_verdicts(code[mask[rows]], classes)
    return _split_verdicts(0, classes, chosen, whole)


def _count_verdicts(code: NDArray[np.integer[Any]], groups: int) -> NDArray[np.int64]:
    return np.bincount(code, minlength=groups * _VERDICTS).reshape(-1, _VERDICTS)


def _split_verdicts(low: float, high: float, chosen: NDArray[np.int64], whole: NDArray[np.int64]) -> VerdictCounts:
    rest = (whole - chosen).sum(axis=1)
    return VerdictCounts(low, high, chosen[:, RIGHT], chosen[:, WRONG], chosen[:, UNLABELLED], rest)


@dataclass(frozen=True)
class ThresholdCurve:
    """How many rows are accepted from a confidence on, by bin of confidence."""

    all: NDArray[np.int64]  # [CURVE_BINS] rows, or those predicted as the class
    right: NDArray[np.int64]  # [CURVE_BINS] right ones among them
    rows: int
    """Labelled rows, or those of the class."""
    known_from: int = 0
    """Bin from which on `all` has them all: below it a label is not predicted, and its probability not stored."""


def threshold_curve(step: StepRows, mask: Mask, index: int | None = None) -> ThresholdCurve:
    """Count labelled rows by confidence, of one predicted class if `index` is given."""
    labelled = step.verdict <= WRONG
    if mask is not None:
        labelled &= mask
    rows = int(labelled.sum())
    if index is not None and isinstance(step.classes, ClassSets):
        return _label_curve(step.classes, labelled, index)
    if index is not None:
        rows = int((labelled & _has_class(step, "true", [index])).sum())
        labelled &= _has_class(step, "predicted", [index])

    def place() -> NDArray[np.uint16]:
        at = _curve_bins(np.nan_to_num(step.numbers("confidence")))
        return np.asarray((at * 2 + (step.verdict == RIGHT)).astype(np.uint16))

    counts = np.bincount(step.derived("curve", place)[labelled], minlength=2 * CURVE_BINS).reshape(-1, 2)
    return ThresholdCurve(counts.sum(axis=1), counts[:, 1], rows)


def _curve_bins(probability: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the bin of the curve of each probability, int32 [...]."""
    return np.asarray(np.clip((probability * np.float32(CURVE_BINS)).astype(np.int32), 0, CURVE_BINS - 1))


def _label_curve(classes: ClassSets, labelled: NDArray[np.bool_], label: int) -> ThresholdCurve:
    """Count the images that have one of several labels by its probability, and those that are predicted to have it."""
    has, of_true = classes.probability_of("true", label)
    predicted, of_predicted = classes.probability_of("predicted", label)
    # A label of which it is not known whether it applies is no decision.
    judged = classes.has("true", [label]) | classes.has("wrongly_predicted", [label])
    right = np.bincount(_curve_bins(of_true[labelled[has]]), minlength=CURVE_BINS)
    bins = _curve_bins(of_predicted)
    every = np.bincount(bins[(labelled & judged)[predicted]], minlength=CURVE_BINS)
    return ThresholdCurve(every, right, int(right.sum()), int(bins.min(initial=CURVE_BINS)))
