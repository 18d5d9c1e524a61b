"""Computes what the routes of the tab answer, as plain values and arrays. It knows no HTTP.

Class -1 is none, a row is named by its place in the step, and a key is a text, because JavaScript would lose digits.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError
from predboard.log_names import ROWS_FILE, SUSPECTS_FILE
from predboard.metrics.seriation import seriate
from predboard.storage.mirror import is_mirror
from predboard.storage.paths import is_uri, join_ref
from predboard.tab import selection
from predboard.tab.columns import ColumnCache, RowsFile, StepRows
from predboard.tab.log_runs import GROUPS_FILE, LogRun, LogRuns
from predboard.tab.neighbours import can_compare, find_neighbours
from predboard.tab.pairs import BY_NAME, KINDS, MOVES, StepPair
from predboard.tab.query import OWN_NUMBERS, Query
from predboard.tab.row_classes import ROLES
from predboard.tab.selection import Mask, QueryInputs
from predboard.tab.shared_tags import SharedTags, find_key, pairs_by_other_keys
from predboard.tab.tags import TAGS_FILE, Tags
from predboard.tab.thumbnails import Pictures
from predboard.visualization.image_map import MAP_FILE
from predboard.visualization.log_folder import COMPARE_FILE, SUMMARY_FILE
from predboard.visualization.thumbnails import THUMBNAILS_FILE

LOG_FILES = (ROWS_FILE, THUMBNAILS_FILE, MAP_FILE, SUSPECTS_FILE, GROUPS_FILE, SUMMARY_FILE, COMPARE_FILE, TAGS_FILE)
"""Files of a log folder that the tab reads."""

SEEN_COLUMNS = ("key", "confidence", "loss")
"""What is shown of an image at another step, beside its classes."""

MASK_BYTES = 8 * 2**20
"""Bytes of the masks of queries in memory, a bit a row: those of some ten clicks on 1,000,000 rows."""

NOT_OUTCOMES = (*ROLES, "right", "state", "kind", "was", *MOVES, *OWN_NUMBERS)
"""What a query must not ask for where accuracy is computed: it would be that of the right or of the wrong ones."""


class View:
    """Everything the tab shows of a log folder."""

    def __init__(self, logdir: Path) -> None:
        """Look at nothing yet."""
        self.runs = LogRuns(logdir)
        self.tags = Tags(logdir / TAGS_FILE)
        self.pictures = Pictures()
        self._masks = ColumnCache(MASK_BYTES)

    def mask(self, query: Query, run: LogRun, step: StepRows) -> Mask:
        """Return which rows a query asks for."""
        if query == Query(other=query.other):
            return None
        key = (run.name, run.version, step.step, query, self._tags_version(query), self._other_version(query))

        def make() -> NDArray[np.uint8]:
            mask = selection.select(query, step, self.inputs(query, run, step))
            return np.packbits(np.ones(step.rows, bool) if mask is None else mask)

        bits = self._masks.get(key, make)
        return np.unpackbits(bits, count=step.rows).view(bool)

    def _tags_version(self, query: Query) -> tuple[object, ...]:
        if not query.tags:
            return ()
        self.tags.refresh()
        return self.tags.version, *((run.name, run.version) for run in self.runs.all().values())

    def _other_version(self, query: Query) -> str:
        return self.runs.get(query.other[0]).version if query.other else ""

    def inputs(self, query: Query, run: LogRun, step: StepRows, sort: str = "") -> QueryInputs:
        """Return what a query, and an order, need besides the columns."""
        suspects = run.suspects(step) if query.suspect or sort == "suspect" else None
        return QueryInputs(
            pair=self.runs.pair(step, query.other) if query.other else None,
            points=run.points(step) if query.lasso else None,
            tagged=self._tagged(run, step, query.tags) if query.tags else None,
            suspects=suspects.rows if suspects else None,
        )

    def _tagged(self, run: LogRun, step: StepRows, tags: Sequence[str]) -> NDArray[np.bool_]:
        """Return which rows have one of some tags, bool [rows]; the empty one stands for no tag at all."""
        tagged, shared = np.zeros(step.rows, bool), self.shared_tags(run, step)
        for tag in tags:
            has_tag = shared.rows_with(tag)
            tagged |= has_tag if tag else ~has_tag
        return tagged

    def shared_tags(self, run: LogRun, step: StepRows) -> SharedTags:
        """Return the tags of a step's rows, also those of the same images in runs that know them by other names."""
        others = {other.rows.last: other.name for other in self.runs.all().values() if other is not run}

        def join(other: StepRows) -> StepPair:
            return self.runs.pair(step, (others[other], other.step))

        return SharedTags(self.tags, step, pairs_by_other_keys(self.tags, step, others, join))

    def list_runs(self) -> dict[str, Any]:
        """Return all runs of the log folder, comparisons, and those that cannot be shown."""
        runs: list[dict[str, Any]] = []
        for name, run in self.runs.all().items():
            try:
                runs.append(describe_run(run))
            except InputError as error:
                runs.append({"name": name, "kind": "broken", "error": str(error)})
        runs += [{"name": name, "kind": "broken", "error": why} for name, why in self.runs.broken().items()]
        runs += [{"name": name, "kind": "comparison", **sides} for name, sides in self.runs.comparisons().items()]
        return {
            "runs": sorted(runs, key=lambda run: run["name"]),
            "tags": self.tags.counts(),
            "read_only": self.tags.read_only,
            "logdir": "" if is_mirror(self.runs.logdir) else str(self.runs.logdir),
        }

    def rows(
        self, query: Query, run: LogRun, step: StepRows, sort: str, descending: bool, offset: int, limit: int | None
    ) -> tuple[int, NDArray[np.int64]]:
        """Return how many rows a query asks for, and those of one page of them."""
        keys = selection.sort_keys(step, sort, self.inputs(Query(other=query.other), run, step, sort))
        mask = self.mask(query, run, step)
        order = None
        if keys is not None and step.has(sort):
            order = functools.partial(step.derived, ("order", sort, descending), lambda: _small_order(keys, descending))
        return selection.page(mask, keys, step.rows, descending, offset, limit, order)

    def describe_rows(
        self, query: Query, run: LogRun, step: StepRows, rows: NDArray[np.int64], columns: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Return what is shown of some rows."""
        keys = step.numbers("key")[rows].tolist()
        tags, labels = self.shared_tags(run, step).of_rows(rows)
        described: list[dict[str, Any]] = [
            {"id": row, "key": str(key), **classes, "tags": words, **({"relabel": label} if label else {})}
            for row, key, classes, words, label in zip(
                rows.tolist(), keys, step.classes.describe(rows), tags, labels, strict=True
            )
        ]
        for name, column in (("conf", "confidence"), ("loss", "loss"), ("margin", "margin")):
            for row, value in zip(described, step.numbers(column)[rows].tolist(), strict=True):
                row[name] = _number(value)
        if suspects := run.suspects(step):
            known = suspects.classes >= 0  # a name may be that of no class, if somebody wrote into the list
            places = {row: at for at, row in enumerate(suspects.rows.tolist()) if known[at]}
            for row in described:
                if (at := places.get(row["id"])) is not None:
                    row |= {"suggested": int(suspects.classes[at]), "given": bool(suspects.given[at])}
        if query.other:
            for row, old in zip(described, self.runs.pair(step, query.other).describe_old(rows), strict=True):
                row["old"] = old and {name: _number(value) for name, value in old.items()}
        for name in columns:
            step.file.column(name)
            for row, value in zip(described, step.few(name, rows), strict=True):
                row.setdefault("more", {})[name] = _number(value)
        return described

    def describe_row(self, query: Query, run: LogRun, step: StepRows, row: int) -> dict[str, Any]:
        """Return everything about one row, and where else its image is."""
        (described,) = self.describe_rows(query, run, step, np.array([row]))
        columns = [column.name for column in step.file.columns if column.name != "image"]
        lists = (("top_class", "top_probability"), *step.classes.probabilities)
        values = step.record(row, (*columns, "image", "error", *itertools.chain(*lists)))
        return {
            **described,
            "more": {name: _number(values[name]) for name in columns},
            "image": values["image"],
            "path": full_path(run, step, values["image"]),
            "error": values["error"],
            "entropy": _number(values["entropy"]),
            "top": _top_classes(values, described, lists),
            "seen": [seen for other in self.runs.all().values() for seen in self._seen(run, step, row, other)],
        }

    def _seen(self, run: LogRun, step: StepRows, row: int, other: LogRun) -> Iterator[dict[str, Any]]:
        """Yield the predictions of the same image at every step of a run, if it has the same classes."""
        if other.rows.classes != run.rows.classes:
            return
        key, joined_by = int(step.numbers("key")[row]), BY_NAME
        places = {number: place_of_key(old, key, row) for number, old in other.rows.steps.items()}
        if max(places.values()) < 0:  # perhaps another name of the same file
            last = other.rows.last
            pair = self.runs.pair(step, (other.name, last.step))
            if pair.old_row[row] >= 0:
                key, joined_by = int(last.numbers("key")[pair.old_row[row]]), pair.joined_by
                places = {number: place_of_key(old, key, row) for number, old in other.rows.steps.items()}
        for number, place in places.items():
            if place >= 0:
                at = other.rows.steps[number]
                values = at.record(place, (*SEEN_COLUMNS, *at.classes.seen))
                yield {
                    "run": other.name,
                    "step": number,
                    "key": str(key),
                    **at.classes.describe_values(values),
                    "conf": _number(values["confidence"]),
                    "loss": _number(values["loss"]),
                    "joined_by": joined_by,
                }

    def compare(self, query: Query, run: LogRun, step: StepRows) -> dict[str, Any]:
        """Return how many rows of a query are in another step too, and how many changed in each way since then."""
        if query.other is None:
            raise InputError("other is missing; expected RUN@STEP, the step to compare with")
        pair = self.runs.pair(step, query.other)
        mask = self.mask(query.without("kind", "was", *MOVES), run, step)
        masks = {"both": pair.old_row >= 0} | {kind: pair.mask(kind) for kind in KINDS}
        counts = {kind: int((m if mask is None else m & mask).sum()) for kind, m in masks.items()}
        both = counts.pop("both")
        name = f"{query.other[0]} step {query.other[1]}"
        sentence = f"{pair.both:,} of {step.rows:,} images are in {name} too, recognised by the {pair.joined_by}."
        if pair.other_pictures:
            sentence += f" {pair.other_pictures:,} of them are other pictures of the same name: their files differ."
        if not pair.both:
            sentence = f"No image of {run.name} is in {name}: neither names nor digests of the files agree."
        labels = {}
        if step.classes.is_multi_label and pair.old.classes.is_multi_label:
            labels = {move: counts.tolist() for move, counts in selection.moved_counts(pair, mask).items()}
        return {"kinds": counts, "both": both, "joined_by": pair.joined_by, "sentence": sentence, "labels": labels}

    def histogram(self, query: Query, run: LogRun, step: StepRows, column: str, bins: int) -> dict[str, Any]:
        """Return the rows of a query by the value of a column and their verdict."""
        if role := {"label": "true", "predicted": "predicted"}.get(column):
            mask = self.mask(query.without(role), run, step)
            counts = selection.class_counts(step, mask, role)
            answer: dict[str, Any] = {}
        elif step.file.column(column, "number", "category").kind == "number":
            mask = self.mask(query.without(column), run, step)
            counts = selection.histogram(step, mask, column, bins)
            answer = {"lo": counts.low, "hi": counts.high}
        else:
            mask = self.mask(query.without_values(column), run, step)
            counts, values = selection.value_counts(step, mask, column)
            answer = {"values": values}
        sides = ("right", "wrong", "unlabelled", "rest")
        return answer | {side: getattr(counts, side).tolist() for side in sides}

    def neighbours(self, query: Query, run: LogRun, step: StepRows, row: int, limit: int) -> dict[str, Any]:
        """Return the rows that the model sees as most similar to one."""
        nearest = find_neighbours(run, step, row, limit)
        answer: dict[str, Any] = {"by": nearest.by}
        sides = {"rows": nearest.rows, "of_true": nearest.of_true, "of_pred": nearest.of_predicted}
        for name, rows in sides.items():
            answer[name] = self.describe_rows(query, run, step, rows)
            for described, similarity in zip(answer[name], nearest.similarity[rows].tolist(), strict=True):
                described["similarity"] = _number(similarity)
        return answer

    def curve(self, query: Query, run: LogRun, step: StepRows, index: int | None) -> dict[str, Any]:
        """Return how many rows are accepted from each confidence on, and how many of them are right."""
        mask = self.mask(query.without(*NOT_OUTCOMES), run, step)
        curve = selection.threshold_curve(step, mask, index)
        return {
            "all": curve.all.tolist(),
            "right": curve.right.tolist(),
            "of": curve.rows,
            "known_from": curve.known_from,
        }


def describe_run(run: LogRun) -> dict[str, Any]:
    """Return what the tab needs to know of a run before it shows any row."""
    rows: RowsFile = run.rows
    columns = []
    for column in rows.columns:
        described: dict[str, Any] = {"name": column.name, "kind": column.kind}
        if column.kind == "category":
            described["values"] = list(column.values)
        if column.low is not None:
            described |= {"lo": _number(column.low), "hi": _number(column.high)}
        columns.append(described)
    has = {
        "thumbnails": (run.folder / THUMBNAILS_FILE).is_file(),
        "map": run.map_source is not None,
        "top": "top_class" in rows.schema.names,
        "suspects": (run.folder / SUSPECTS_FILE).is_file(),
        "predictions": bool(run.predictions),
        "neighbours": can_compare(run.predictions.get(rows.last.step)),
    }
    return {
        "name": run.name,
        "kind": "run",
        "version": run.version,
        "steps": list(rows.steps),
        "labelled": rows.has_labels,
        "multi_label": rows.last.classes.is_multi_label,
        "states": {str(number): step.count_unusual() for number, step in rows.steps.items()},
        "classes": list(rows.classes),
        "columns": columns,
        "levels": run.levels,
        "map": run.map_source,
        "has": has,
        "missing": missing_files(run, has),
    }


def missing_files(run: LogRun, has: Mapping[str, bool]) -> list[str]:
    """Return sentences on what cannot be shown, and what to run."""
    sentences = []
    if run.changed:
        steps = ", ".join(map(str, sorted(run.changed)))
        sentences.append(
            f"The predictions of step {steps} have changed since these logs were drawn: run predboard visualize again."
        )
    if not has["predictions"]:
        where = ", ".join(run.record.predictions) or "their folder"
        sentences.append(f"The predictions are not in their place any more ({where}): no picture in full size.")
    if not has["thumbnails"]:
        sentences.append(
            "There are no thumbnails, so pictures are read from their sources, which is slower, and only where these "
            "are in their place: predboard visualize --thumbnails always, with --image-root FOLDER if they were moved."
        )
    if not has["map"] and (has["neighbours"] or not has["predictions"]):
        sentences.append("There is no map of the images: run predboard visualize --map always.")
    return sentences


def class_order(step: StepRows) -> list[int]:
    """Return the classes in the order in which those that are often confused stand together."""

    def make() -> NDArray[np.int64]:
        classes = len(step.file.classes)
        row, column, images = selection.confusion(step, None).astype(np.int64)
        per_class = np.bincount(row, images, minlength=step.classes.axis)
        off = (row != column) & (np.maximum(row, column) < classes)
        share = images[off] / per_class[row[off]]
        return seriate(classes, row[off], column[off], share).items

    order: list[int] = step.derived("order of classes", make).tolist()
    return order


def _top_classes(
    values: Mapping[str, Any], described: Mapping[str, Any], lists: Sequence[tuple[str, str]]
) -> list[list[float]]:
    """Return the likeliest classes of a row with their probabilities, and its true ones; none for a failed row.

    Args:
        values: the row's values in the columns of `lists`.
        described: the row as `describe_rows` has it.
        lists: columns of lists of classes, each with that of their probabilities; the first are the likeliest ones.
    """
    pairs = itertools.chain(*(zip(values[one] or (), values[p] or (), strict=True) for one, p in lists))
    top = dict(sorted(pairs, key=lambda pair: -pair[1]))
    true, loss = described["true"], described["loss"]
    if top and isinstance(true, int) and true >= 0 and loss is not None and true not in top:
        top[true] = math.exp(-loss)  # the loss is the negative logarithm of its probability
    return [[index, _number(p)] for index, p in top.items()]


def full_path(run: LogRun, step: StepRows, ref: str | None) -> str | None:
    """Return where the file of an image is, or the ref if that is not known."""
    root = image_root_of(run, step)
    return ref if ref is None or is_uri(ref) or not root else str(join_ref(root, ref))


def image_root_of(run: LogRun, step: StepRows) -> str | None:
    """Return the folder that the refs of images are relative to; None if that is not known."""
    if run.image_root is not None:
        return str(run.image_root)
    predictions = run.predictions.get(step.step)
    return None if predictions is None else predictions.run.root


def place_of_key(step: StepRows, key: int, guess: int) -> int:
    """Return the first row of a key, -1 if there is none; steps of one run mostly have it at the same place."""
    if guess < step.rows and step.record(guess, (*SEEN_COLUMNS, *step.classes.seen))["key"] == key:
        return guess
    return int(find_key(step, np.array([key]))[0])


def _small_order(keys: NDArray[Any], descending: bool) -> NDArray[np.int32]:
    return selection.order_rows(keys, descending).astype(np.int32)


def _number(value: Any) -> Any:
    """Return a value as JSON has it: the nine digits that a float32 needs, None for NaN and infinity."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.9g}")
    if value is None or isinstance(value, bool | int | str | list):
        return value
    return str(value)
