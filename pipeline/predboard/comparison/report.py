"""Says in sentences and in compare.json what differs between steps. It knows no drawing.

Numbers come from `differences`; a difference counts as one if its interval excludes 0.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from predboard.comparison.differences import Comparison
from predboard.comparison.flips import Difference, Flips
from predboard.formatting import plural, signed
from predboard.metrics import registry
from predboard.storage.runs import Step
from predboard.summaries import Metric
from predboard.visualization import log_folder

COMPARE_FILE = log_folder.COMPARE_FILE
FORMAT = 1

SIGNIFICANT_DIGITS = 9
"""Significant digits that are written."""


@dataclass(frozen=True)
class Side:
    """One of the steps."""

    name: str
    """Its name beside the others."""
    run: str
    """Name of the folder of its run."""
    step: Step


def format_points(share: float) -> str:
    """Return a difference of shares in percentage points, with its sign.

    >>> format_points(0.01234), format_points(-0.0004), format_points(0.0)
    ('+1.2', '−0.0', '0.0')
    """
    return signed(100 * share, 1)


def proven_sign(change: Difference | Flips) -> int:
    """Return 1 if the interval is above 0, -1 if it is below, 0 if it holds 0 or there is none."""
    if change.interval is None:
        return 0
    return int(change.interval[0] > 0) - int(change.interval[1] < 0)


def verdict_sentence(comparison: Comparison, old: str, new: str) -> str:
    """Return the comparison in one sentence, which claims no more than the interval of the accuracies."""
    if not comparison.state.both:
        return f"{new} and {old} cannot be compared: they have no image in common."
    if not comparison.rows:
        both = plural(int(comparison.state.both), "image")
        return (
            f"{new} and {old} cannot be compared: none of the {both} they share has logits and the same label in both."
        )
    headline = comparison.differences[comparison.headline]
    images = plural(comparison.rows, "image")
    if comparison.state.identical:
        return f"{new} and {old} give exactly the same predictions for {images}."
    flips, points = comparison.moved_words, f"points of {comparison.headline_words}"
    low, high = headline.interval or (-1.0, 1.0)  # of fewer than two groups of images nothing is known
    if proven_sign(headline):
        word, least, most = ("better", low, high) if proven_sign(headline) > 0 else ("worse", -high, -low)
        by = f"{100 * abs(headline.difference):.1f} {points} ({100 * least:.1f} to {100 * most:.1f})"
        return f"{new} is {word} than {old} by {by}: {flips}."
    by = f"{format_points(headline.difference)} {points} ({format_points(low)} to {format_points(high)})"
    return f"{new} and {old} cannot be told apart: {by}, {flips}."


def notes(comparison: Comparison, old: Side, new: Side) -> list[str]:
    """Return what a reader should know before believing the numbers, most severe first."""
    s, lines = comparison.state, comparison.notes
    for side in (old, new):
        missing = side.step.manifest_rows - side.step.rows
        if missing:
            lines.append(f"{plural(missing, 'row')} of {side.name} are missing: re-run the command that wrote it")
    for count, what in (
        (s.labels_differ, "{have} a different label in the two, or none in one, and {are} not compared"),
        (s.failed_old, f"failed in {old.name} and {{are}} not compared"),
        (s.failed_new, f"failed in {new.name} and {{are}} not compared"),
        (s.unlabelled, "{have} no label in either"),
        (s.only_old, f"{{are}} only in {old.name}"),
        (s.only_new, f"{{are}} only in {new.name}"),
        (s.pictures_differ, "{have} the same name but different content in the two"),
        (s.repeated_old, f"of {old.name} share a key with another image; they are matched in order"),
        (s.repeated_new, f"of {new.name} share a key with another image; they are matched in order"),
    ):
        if count:
            verbs = {"are": "is", "have": "has"} if count == 1 else {"are": "are", "have": "have"}
            lines.append(f"{plural(int(count), 'image')} {what.format(**verbs)}")
    return lines


def uneven_notes(pairs: Mapping[tuple[int, int], Comparison]) -> list[str]:
    """Return what a reader should know about a ranking of sides that have different images."""
    rows = [pair.rows for pair in pairs.values()]
    if min(rows) == max(rows):
        return []
    return [
        f"the pairs share between {min(rows):,} and {plural(max(rows), 'image')}: each accuracy in the ranking is a "
        "mean over pairs, and a side with few images may rank high by chance"
    ]


def missing_pair_notes(pairs: Mapping[tuple[int, int], Comparison], sides: int) -> list[str]:
    """Return what a reader should know where there are too many sides to compare every pair."""
    if len(pairs) == sides * (sides - 1) // 2:
        return []
    return [
        f"each of the {sides:,} sides is compared only with the first and with the most accurate one, in "
        f"{len(pairs):,} pairs; name fewer to compare all pairs"
    ]


def compare_json(
    name: str,
    sides: Sequence[Side],
    pairs: Mapping[tuple[int, int], Comparison],
    mapped: bool,
    files: Sequence[str] = (),
    amended: Sequence[str] = (),
) -> bytes:
    """Return compare.json: everything about the first and last side, and the overall metrics of all other pairs.

    JSON without NaN or Infinity, UTF-8.

    Args:
        name: of the comparison.
        sides: at least two, the oldest first.
        pairs: by places of two sides, the older first.
        mapped: whether class lists were mapped by their names.
        files: names of what lies beside it.
        amended: what corrected labels and further columns did, a note each.
    """
    first, last = sides[0], sides[-1]
    comparison = pairs[0, len(sides) - 1]
    record: dict[str, Any] = {
        "predboard_compare": FORMAT,
        "name": name,
        "verdict": verdict_sentence(comparison, first.name, last.name),
        "notes": [
            *amended,
            *notes(comparison, first, last),
            *missing_pair_notes(pairs, len(sides)),
            *uneven_notes(pairs),
        ],
        "old": _about(first),
        "new": _about(last),
        "classes": comparison.classes,
        **({"positive": comparison.positive} if comparison.positive else {}),
        **({"headline": comparison.headline} if comparison.headline != Comparison.headline else {}),
        "mapped": mapped,
        "files": list(files),
        "rows": row_counts(comparison),
        "rates": {n: _rate(figure) for n, figure in comparison.rates.items()},
        "differences": {n: _numbers(d) for n, d in comparison.differences.items()},
        "by_class": [_flips(f) for f in comparison.by_class],
        "by_slice": [_flips(f) for f in comparison.by_slice],
        "definitions": _definitions(comparison),
    }
    if len(sides) > 2:
        record["sides"] = [_about(side) for side in sides]
        record["pairs"] = [
            {
                "old": sides[i].name,
                "new": sides[j].name,
                "verdict": verdict_sentence(pair, sides[i].name, sides[j].name),
                "rows": row_counts(pair),
                "rates": {n: _rate(figure) for n, figure in pair.rates.items()},
                "differences": {n: _numbers(d) for n, d in pair.overall.items()},
            }
            for (i, j), pair in pairs.items()
        ]
        record["ranking"] = [
            {"name": sides[r.place].name, comparison.headline: _short(r.accuracy), **_to_best(r)}
            for r in rank_sides(pairs)
        ]
    return (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_compare(content: bytes) -> dict[str, Any] | None:
    """Return what `compare_json` wrote; None if it is something else, or of a newer format."""
    try:
        record = json.loads(content)
        return record if isinstance(record, dict) and 1 <= int(record["predboard_compare"]) <= FORMAT else None
    except (ValueError, KeyError, TypeError):
        return None


def _about(side: Side) -> dict[str, Any]:
    run, step = side.step.run, side.step
    return {
        "name": side.name,
        "run": side.run,
        "step": step.step,
        "model": run.model,
        "model_args": dict(run.model_args),
        "code": run.code,
        "weights": run.weights,
        "transform": dict(run.transform),
        "precision": run.precision,
        "rows": step.rows,
        "missing": step.manifest_rows - step.rows,
        "finished": step.finished,
    }


def row_counts(comparison: Comparison) -> dict[str, int]:
    """Return how many rows there are of each kind, by name."""
    s, (gained, lost) = comparison.state, comparison.fixed_broken
    return {
        "both": int(s.both),
        "compared": comparison.rows,
        "fixed": gained,
        "broken": lost,
        "changed": int(s.scored - s.agreed),
        "only_old": int(s.only_old),
        "only_new": int(s.only_new),
        "failed_old": int(s.failed_old),
        "failed_new": int(s.failed_new),
        "unlabelled": int(s.unlabelled),
        "labels_differ": int(s.labels_differ),
        "pictures_differ": int(s.pictures_differ),
        "repeated_old": int(s.repeated_old),
        "repeated_new": int(s.repeated_new),
    }


def _short(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _ends(interval: tuple[float, float] | None) -> dict[str, float]:
    return {} if interval is None else {"lower": _short(interval[0]), "upper": _short(interval[1])}


def _rate(figure: Metric) -> dict[str, float]:
    return {"value": _short(figure.value), **_ends(figure.interval)}


def _numbers(d: Difference) -> dict[str, float]:
    numbers = {"old": _short(d.old), "new": _short(d.new), "difference": _short(d.difference)}
    return {**numbers, **_ends(d.interval), "rows": d.rows}


def _flips(f: Flips) -> dict[str, Any]:
    return {"name": f.name, "rows": f.rows, "fixed": f.fixed, "broken": f.broken, "net": f.net, **_ends(f.interval)}


def _definitions(comparison: Comparison) -> dict[str, dict[str, str]]:
    """Return what the names mean and how intervals were made, once for all classes and once for all slices."""
    definitions: dict[str, dict[str, str]] = {}
    every: list[tuple[str, Metric | Difference]] = [*comparison.rates.items(), *comparison.differences.items()]
    for name, number in every:
        interval = {"interval": number.method} if number.method else {}
        definitions.setdefault(registry.pattern_of(name), {"definition": number.definition, **interval})
    return definitions


@dataclass(frozen=True)
class RankedSide:
    """One side among several."""

    place: int
    """Place of the side."""
    accuracy: float
    """Mean over its pairs, which is its own accuracy if all sides have the same images."""
    difference_to_best: Difference | None
    """Accuracy of this side less that of the best, over the images of both; None for the best."""


def rank_sides(pairs: Mapping[tuple[int, int], Comparison]) -> list[RankedSide]:
    """Return all sides that have labelled images, the most accurate first, each with its difference to that one."""
    mean = _means(pairs)
    order = list(mean)
    return [
        RankedSide(place, mean[place], None if place == order[0] else accuracy_difference(pairs, order[0], place))
        for place in order
    ]


def missing_pairs(pairs: Mapping[tuple[int, int], Comparison], sides: int) -> list[tuple[int, int]]:
    """Return the pairs that a ranking still needs: each side with the most accurate one."""
    best = next(iter(_means(pairs)), 0)
    needed = [(min(best, place), max(best, place)) for place in range(sides) if place != best]
    return [pair for pair in needed if pair not in pairs]


def _means(pairs: Mapping[tuple[int, int], Comparison]) -> dict[int, float]:
    """Return the mean accuracy of each side over its pairs, the highest first."""
    accuracies: dict[int, list[float]] = {}
    for (i, j), comparison in pairs.items():
        if comparison.rows:
            for place, share in zip((i, j), comparison.shares, strict=True):
                accuracies.setdefault(place, []).append(share)
    mean = {place: float(np.mean(values)) for place, values in accuracies.items()}
    return {place: mean[place] for place in sorted(mean, key=lambda place: (-mean[place], place))}


def accuracy_difference(pairs: Mapping[tuple[int, int], Comparison], old: int, new: int) -> Difference | None:
    """Return the accuracy of one side less that of another; None if nothing can be compared."""
    pair = pairs[min(old, new), max(old, new)]
    d = pair.overall.get(pair.headline)
    if d is None or old < new:
        return d
    low, high = d.interval or (d.difference, d.difference)
    return replace(d, old=d.new, new=d.old, difference=0.0 - d.difference, interval=(0.0 - high, 0.0 - low))


def _to_best(r: RankedSide) -> dict[str, float]:
    d = r.difference_to_best
    return {} if d is None else {"difference": _short(d.difference), **_ends(d.interval), "rows": d.rows}
