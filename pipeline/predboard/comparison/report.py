"""What differs between steps, in numbers and in words: compare.json and the pages of text. Knows no drawing.

Figures come from `paired`; a difference counts as one where its interval leaves out 0.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard import csv_lines
from predboard.comparison.differences import Comparison, Difference, Flips
from predboard.csv_lines import TextCodes
from predboard.formatting import escape_markdown, percent, plural, signed
from predboard.metrics import registry
from predboard.storage.runs import Step
from predboard.summaries import Metric
from predboard.visualization import log_folder

COMPARE_FILE = log_folder.COMPARE_FILE
FORMAT = 1

SIGNIFICANT_DIGITS = 9
"""Significant digits that are written."""

MAX_TABLE_ROWS = 100
"""Rows of a table: TensorBoard slows down above 200."""


@dataclass(frozen=True)
class Side:
    """One of the steps."""

    name: str
    """What it is called beside the others."""
    run: str
    """Name of the folder of its run."""
    step: Step


def format_points(share: float) -> str:
    """A difference of shares in percentage points, with its sign.

    >>> format_points(0.01234), format_points(-0.0004), format_points(0.0)
    ('+1.2', '−0.0', '0.0')
    """
    return signed(100 * share, 1)


SIGN_WORDS = {1: "**better**", -1: "**worse**", 0: ""}
"""What tables say of a sign."""


def proven_sign(of: Difference | Flips) -> int:
    """1 if more for sure, -1 if less for sure, 0 if the interval does not tell."""
    if of.interval is None:
        return 0
    return int(of.interval[0] > 0) - int(of.interval[1] < 0)


def verdict_sentence(found: Comparison, old: str, new: str) -> str:
    """The comparison in one sentence, which claims no more than the interval of the accuracies."""
    if not found.state.both:
        return f"{new} and {old} cannot be compared: they have no image in common."
    if not found.rows:
        both = plural(int(found.state.both), "image")
        return (
            f"{new} and {old} cannot be compared: of the {both} that both have none has logits in both and one label."
        )
    accuracy = found.differences["accuracy"]
    images = plural(found.rows, "image")
    if found.state.identical:
        return f"{new} says exactly what {old} says of {images}."
    if accuracy.interval is None:
        raise ValueError("an accuracy without an interval")
    gained, lost = found.fixed_broken
    flips = f"{gained:,} fixed, {lost:,} broken of {images}"
    low, high = accuracy.interval
    if proven_sign(accuracy):
        word, least, most = ("better", low, high) if proven_sign(accuracy) > 0 else ("worse", -high, -low)
        by = f"{100 * abs(accuracy.difference):.1f} points of accuracy ({100 * least:.1f} to {100 * most:.1f})"
        return f"{new} is {word} than {old} by {by}: {flips}."
    by = f"{format_points(accuracy.difference)} points of accuracy ({format_points(low)} to {format_points(high)})"
    return f"{new} and {old} cannot be told apart: {by}, {flips}."


def notes(found: Comparison, old: Side, new: Side) -> list[str]:
    """What a person should know before believing the figures, gravest first."""
    s, said = found.state, []
    for side in (old, new):
        missing = side.step.manifest_rows - side.step.rows
        if missing:
            said.append(f"{plural(missing, 'row')} of {side.name} are missing: run the command that made it again")
    for count, what in (
        (s.labels_differ, "that both have {have} another label, or none, in one of them, and {are} in no figure"),
        (s.failed_old, f"failed in {old.name} and {{are}} in no figure"),
        (s.failed_new, f"failed in {new.name} and {{are}} in no figure"),
        (s.unlabelled, "that both have {have} no label"),
        (s.only_old, f"{{are}} in {old.name} only"),
        (s.only_new, f"{{are}} in {new.name} only"),
        (s.pictures_differ, "{have} another picture under the same name"),
        (s.repeated_old, f"of {old.name} share their key with another; the first goes with the first"),
        (s.repeated_new, f"of {new.name} share their key with another; the first goes with the first"),
    ):
        if count:
            verbs = {"are": "is", "have": "has"} if count == 1 else {"are": "are", "have": "have"}
            said.append(f"{plural(int(count), 'image')} {what.format(**verbs)}")
    return said


def uneven_notes(pairs: Mapping[tuple[int, int], Comparison]) -> list[str]:
    """What a person should know of a ranking of sides that have not the same images."""
    rows = [of.rows for of in pairs.values()]
    if min(rows) == max(rows):
        return []
    return [
        f"the pairs have from {min(rows):,} to {plural(max(rows), 'image')} in common: accuracies in the ranking are "
        "means over the pairs of a side, and those of few images may stand high by chance"
    ]


def missing_pair_notes(pairs: Mapping[tuple[int, int], Comparison], sides: int) -> list[str]:
    """What a person should know of sides too many to compare all with each other."""
    if len(pairs) == sides * (sides - 1) // 2:
        return []
    return [
        f"of {sides:,} sides each is compared with the first and the most accurate alone, in {len(pairs):,} pairs; "
        "name fewer for all pairs"
    ]


def compare_json(
    name: str,
    sides: Sequence[Side],
    pairs: Mapping[tuple[int, int], Comparison],
    mapped: bool,
    files: Sequence[str] = (),
) -> bytes:
    """All figures: of the first and the last side in full, of all other pairs those of all classes together.

    JSON without NaN or Infinity, UTF-8.

    Args:
        name: of the comparison.
        sides: at least two, the oldest first.
        pairs: by places of two sides, the older first.
        mapped: whether class lists were mapped by their names.
        files: names of what lies beside it.
    """
    first, last = sides[0], sides[-1]
    found = pairs[0, len(sides) - 1]
    record: dict[str, Any] = {
        "predboard_compare": FORMAT,
        "name": name,
        "verdict": verdict_sentence(found, first.name, last.name),
        "notes": [*notes(found, first, last), *missing_pair_notes(pairs, len(sides)), *uneven_notes(pairs)],
        "old": _about(first),
        "new": _about(last),
        "classes": found.classes,
        "mapped": mapped,
        "files": list(files),
        "rows": row_counts(found),
        "rates": {n: _rate(figure) for n, figure in found.rates.items()},
        "differences": {n: _numbers(d) for n, d in found.differences.items()},
        "by_class": [_flips(f) for f in found.by_class],
        "by_slice": [_flips(f) for f in found.by_slice],
        "definitions": _definitions(found),
    }
    if len(sides) > 2:
        record["sides"] = [_about(side) for side in sides]
        record["pairs"] = [
            {
                "old": sides[i].name,
                "new": sides[j].name,
                "verdict": verdict_sentence(of, sides[i].name, sides[j].name),
                "rows": row_counts(of),
                "rates": {n: _rate(figure) for n, figure in of.rates.items()},
                "differences": {n: _numbers(d) for n, d in of.overall.items()},
            }
            for (i, j), of in pairs.items()
        ]
        record["ranking"] = [
            {"name": sides[r.place].name, "accuracy": _short(r.accuracy), **_to_best(r)} for r in rank_sides(pairs)
        ]
    return (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_compare(content: bytes) -> dict[str, Any] | None:
    """What `compare_json` wrote; None if it is not that, or of a newer format."""
    try:
        found = json.loads(content)
        return found if isinstance(found, dict) and 1 <= int(found["predboard_compare"]) <= FORMAT else None
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


def row_counts(found: Comparison) -> dict[str, int]:
    """How many rows there are of each kind, by name."""
    s, (gained, lost) = found.state, found.fixed_broken
    return {
        "both": int(s.both),
        "compared": found.rows,
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
    found = {"old": _short(d.old), "new": _short(d.new), "difference": _short(d.difference)}
    return {**found, **_ends(d.interval), "rows": d.rows}


def _flips(f: Flips) -> dict[str, Any]:
    return {"name": f.name, "rows": f.rows, "fixed": f.fixed, "broken": f.broken, "net": f.net, **_ends(f.interval)}


def _definitions(found: Comparison) -> dict[str, dict[str, str]]:
    """What the names mean and how the intervals were made; those of classes and of slices once for all."""
    said: dict[str, dict[str, str]] = {}
    every: list[tuple[str, Metric | Difference]] = [*found.rates.items(), *found.differences.items()]
    for name, of in every:
        interval = {"interval": of.method} if of.method else {}
        said.setdefault(registry.pattern_of(name), {"definition": of.definition, **interval})
    return said


@dataclass(frozen=True)
class RankedSide:
    """One side among several."""

    place: int
    """Of the side."""
    accuracy: float
    """Mean over its pairs: that of its images, where all sides have the same."""
    difference_to_best: Difference | None
    """Accuracy of this side less that of the best, over the images of both; None of the best."""


def rank_sides(pairs: Mapping[tuple[int, int], Comparison]) -> list[RankedSide]:
    """All sides, the most accurate first, each with its difference to that one; none without labelled images."""
    mean = _means(pairs)
    order = list(mean)
    return [
        RankedSide(place, mean[place], None if place == order[0] else accuracy_difference(pairs, order[0], place))
        for place in order
    ]


def missing_pairs(pairs: Mapping[tuple[int, int], Comparison], sides: int) -> list[tuple[int, int]]:
    """Pairs that a ranking of so many sides needs besides: each with the most accurate."""
    best = next(iter(_means(pairs)), 0)
    needed = [(min(best, place), max(best, place)) for place in range(sides) if place != best]
    return [pair for pair in needed if pair not in pairs]


def _means(pairs: Mapping[tuple[int, int], Comparison]) -> dict[int, float]:
    """Mean accuracy of each side over its pairs, the highest first."""
    found: dict[int, list[float]] = {}
    for (i, j), of in pairs.items():
        if of.rows:
            found.setdefault(i, []).append(of.old.accuracy)
            found.setdefault(j, []).append(of.new.accuracy)
    mean = {place: float(np.mean(values)) for place, values in found.items()}
    return {place: mean[place] for place in sorted(mean, key=lambda place: (-mean[place], place))}


def accuracy_difference(pairs: Mapping[tuple[int, int], Comparison], old: int, new: int) -> Difference | None:
    """The accuracy of one side less that of another, whichever is older; None if nothing can be compared."""
    d = pairs[min(old, new), max(old, new)].overall.get("accuracy")
    if d is None or old < new:
        return d
    low, high = d.interval or (d.difference, d.difference)
    return replace(d, old=d.new, new=d.old, difference=0.0 - d.difference, interval=(0.0 - high, 0.0 - low))


def _to_best(r: RankedSide) -> dict[str, float]:
    d = r.difference_to_best
    return {} if d is None else {"difference": _short(d.difference), **_ends(d.interval), "rows": d.rows}


# --- pages ---


def verdict_page(found: Comparison, old: Side, new: Side) -> str:
    """The comparison in words and tables."""
    blocks = [f"# {escape_markdown(verdict_sentence(found, old.name, new.name))}"]
    blocks += ["\n".join(f"- {escape_markdown(note)}" for note in notes(found, old, new))]
    if found.rows:
        blocks += [_figures(found, old, new), _rates(found)]
    blocks.append(
        "`changes.parquet` beside the event file has every image that changed, `transitions.csv` every change, "
        "`compare.json` every figure."
    )
    return "\n\n".join(block for block in blocks if block)


def _figures(found: Comparison, old: Side, new: Side) -> str:
    lines = [
        f"| | {escape_markdown(old.name)} | {escape_markdown(new.name)} | difference | 95 % interval | |",
        "|---|---:|---:|---:|---|---|",
    ]
    for name, d in found.overall.items():
        spec = registry.require(name)
        ends = "–" if d.interval is None else f"{signed(d.interval[0], 4)} to {signed(d.interval[1], 4)}"
        word = SIGN_WORDS[{"more": 1, "less": -1, "neither": 0}[spec.better] * proven_sign(d)]
        lines.append(
            f"| {spec.label_with_unit} | {d.old:.4f} | {d.new:.4f} | {signed(d.difference, 4)} | {ends} | {word} |"
        )
    return "\n".join(lines)


def _rates(found: Comparison) -> str:
    gained, lost = found.fixed_broken
    said = {"churn": "predictions that changed", "negative_flip_rate": "broken", "positive_flip_rate": "fixed"}
    lines = ["| of all images | share | 95 % interval |", "|---|---:|---|"]
    for name, words in said.items():
        rate = found.rates[name]
        low, high = rate.interval or (rate.value, rate.value)
        lines.append(
            f"| {words} ({name.replace('_', ' ')}) | {percent(rate.value)} | {percent(low)} to {percent(high)} |"
        )
    p = f"{found.p:.2g}" if found.p >= 1e-300 else "below 1e-300"
    lines += [
        "",
        f"McNemar's exact test: p = {p}, that {gained:,} fixed and {lost:,} broken are split so unevenly if neither is "
        "likelier.",
    ]
    return "\n".join(lines)


def flips_table(found: Sequence[Flips], what: str) -> str:
    """What became of each class or slice, the worst first."""
    if not found:
        return f"No {what} has images that both steps can be compared on."
    lines = [
        f"| {what} | images | fixed | broken | net | accuracy, points | 95 % interval | |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for f in found[:MAX_TABLE_ROWS]:
        low, high = f.interval
        word = SIGN_WORDS[proven_sign(f)]
        lines.append(
            f"| {escape_markdown(f.name)} | {f.rows:,} | {f.fixed:,} | {f.broken:,} | {signed(f.net, 0)} | "
            f"{format_points(f.share)} "
            f"| {format_points(low)} to {format_points(high)} | {word} |"
        )
    if len(found) > MAX_TABLE_ROWS:
        lines += ["", f"{len(found) - MAX_TABLE_ROWS:,} more are in `compare.json`."]
    return "\n".join(lines)


def list_transitions(found: Comparison) -> tuple[NDArray[np.int64], ...]:
    """Label, old prediction, new prediction and count of all changes, the most frequent first: [moves] each."""
    label, old, new, count = found.joint
    moved = np.flatnonzero(old != new)
    order = moved[np.lexsort((new[moved], old[moved], label[moved], -count[moved]))]
    return label[order], old[order], new[order], count[order]


TRANSITION_KINDS = ("fixed", "broken", "changed_wrong")
"""What may have become of a labelled image whose prediction changed."""


def _kinds(label: NDArray[np.int64], old: NDArray[np.int64], new: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place in `TRANSITION_KINDS` of each change: [moves]."""
    return np.where(new == label, 0, np.where(old == label, 1, 2))


def transitions_table(found: Comparison, old: Side, new: Side) -> str:
    """Which predictions changed into which, the most frequent first."""
    label, before, now, count = list_transitions(found)
    if not len(count):
        return "No prediction of a compared image changed."
    names = found.names
    lines = [
        f"| true | {escape_markdown(old.name)} | {escape_markdown(new.name)} | images | |",
        "|---|---|---|---:|---|",
    ]
    columns = (label, before, now, count, _kinds(label, before, now))
    for true, a, b, images, kind in zip(*(column[:MAX_TABLE_ROWS].tolist() for column in columns), strict=True):
        said = TRANSITION_KINDS[kind].replace("_", ", still ")
        lines.append(
            f"| {escape_markdown(names[true])} | {escape_markdown(names[a])} | {escape_markdown(names[b])} | "
            f"{images:,} | {said} |"
        )
    if len(count) > MAX_TABLE_ROWS:
        lines += ["", f"{len(count) - MAX_TABLE_ROWS:,} more are in `transitions.csv`."]
    return "\n".join(lines)


def transitions_csv(found: Comparison) -> bytes:
    """All of them."""
    label, old, new, count = list_transitions(found)
    kinds = TextCodes(TRANSITION_KINDS, _kinds(label, old, new))
    names = (TextCodes(found.names, of) for of in (label, old, new))
    return b"label_name,old_name,new_name,images,kind\n" + csv_lines.format_csv_lines([*names, count, kinds])


def pairs_table(sides: Sequence[Side], pairs: Mapping[tuple[int, int], Comparison]) -> str:
    """The pairs of several sides, and the ranking."""
    lines = [f"- {note}\n" for note in (*missing_pair_notes(pairs, len(sides)), *uneven_notes(pairs))]
    lines += ["| | accuracy | less than the best, points | 95 % interval | |", "|---|---:|---:|---|---|"]
    for r in rank_sides(pairs):
        d = r.difference_to_best
        if d is None:
            ends, gain, word = "", "", "**best**"
        else:
            low, high = d.interval or (d.difference, d.difference)
            gain, ends = format_points(d.difference), f"{format_points(low)} to {format_points(high)}"
            word = "" if proven_sign(d) else "cannot be told from the best"
        lines.append(f"| {escape_markdown(sides[r.place].name)} | {percent(r.accuracy)} | {gain} | {ends} | {word} |")
    lines += [
        "",
        "| old | new | images | accuracy, points | 95 % interval | fixed | broken | changed | p (McNemar) | |",
        "|---|---|---:|---:|---|---:|---:|---:|---:|---|",
    ]
    for (i, j), found in list(pairs.items())[:MAX_TABLE_ROWS]:
        names = f"| {escape_markdown(sides[i].name)} | {escape_markdown(sides[j].name)} | {found.rows:,} |"
        accuracy = found.overall.get("accuracy")
        if accuracy is None or accuracy.interval is None:
            lines.append(f"{names} – | – | – | – | – | – | |")
            continue
        (low, high), (gained, lost) = accuracy.interval, found.fixed_broken
        word = SIGN_WORDS[proven_sign(accuracy)]
        lines.append(
            f"{names} {format_points(accuracy.difference)} | {format_points(low)} to {format_points(high)} | "
            f"{gained:,} | {lost:,} "
            f"| {percent(found.rates['churn'].value)} | {found.p:.2g} | {word} |"
        )
    if len(pairs) > MAX_TABLE_ROWS:
        lines += ["", f"{len(pairs) - MAX_TABLE_ROWS:,} more are in `compare.json`."]
    return "\n".join(lines)
