"""Writes the pages of a comparison in Markdown. It draws nothing, and knows the files beside the event file by name.

Numbers come from `differences`, sentences from `report`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from predboard import csv_lines
from predboard.comparison.differences import Comparison
from predboard.comparison.flips import Flips
from predboard.comparison.report import (
    Side,
    format_points,
    missing_pair_notes,
    notes,
    proven_sign,
    rank_sides,
    uneven_notes,
    verdict_sentence,
)
from predboard.csv_lines import TextCodes
from predboard.formatting import escape_markdown, percent, signed

MAX_TABLE_ROWS = 100
"""Rows of a table: TensorBoard slows down above 200."""

SIGN_WORDS = {1: "**better**", -1: "**worse**", 0: ""}
"""Words for a sign in tables."""


def verdict_page(comparison: Comparison, old: Side, new: Side) -> str:
    """Return the first page: the verdict, its notes, all metrics, and how many predictions changed."""
    blocks = [f"# {escape_markdown(verdict_sentence(comparison, old.name, new.name))}"]
    blocks += ["\n".join(f"- {escape_markdown(note)}" for note in notes(comparison, old, new))]
    if comparison.rows:
        blocks += [_metrics(comparison, old, new), _rates(comparison)]
    if comparison.positive:
        blocks.append(f"The positive class is {escape_markdown(comparison.positive)} (`--positive`).")
    blocks.append(
        "Beside the event file, `changes.parquet` has every image that changed, "
        f"`{comparison.moves_file}` every change, and `compare.json` every metric."
    )
    return "\n\n".join(block for block in blocks if block)


def _metrics(comparison: Comparison, old: Side, new: Side) -> str:
    lines = [
        f"| | {escape_markdown(old.name)} | {escape_markdown(new.name)} | difference | 95 % interval | |",
        "|---|---:|---:|---:|---|---|",
    ]
    for name, d in (comparison.overall | comparison.of_groups).items():
        spec = comparison.spec(name)
        label = spec.label_with_unit
        if spec.group == "groups":
            label = f"{escape_markdown(name.split('/', 1)[1].rpartition('/')[0])}: {label}"
        ends = "–" if d.interval is None else f"{signed(d.interval[0], 4)} to {signed(d.interval[1], 4)}"
        word = SIGN_WORDS[{"more": 1, "less": -1, "neither": 0}[spec.better] * proven_sign(d)]
        lines.append(f"| {label} | {d.old:.4f} | {d.new:.4f} | {signed(d.difference, 4)} | {ends} | {word} |")
    return "\n".join(lines)


def _rates(comparison: Comparison) -> str:
    gained, lost = comparison.fixed_broken
    labels = {"churn": "predictions that changed", "negative_flip_rate": "broken", "positive_flip_rate": "fixed"}
    lines = ["| of all images | share | 95 % interval |", "|---|---:|---|"]
    for name, words in labels.items():
        rate = comparison.rates[name]
        low, high = rate.interval or (rate.value, rate.value)
        lines.append(
            f"| {words} ({name.replace('_', ' ')}) | {percent(rate.value)} | {percent(low)} to {percent(high)} |"
        )
    p = f"{comparison.p:.2g}" if comparison.p >= 1e-300 else "below 1e-300"
    lines += [
        "",
        f"McNemar's exact test: p = {p}, the probability of a split as uneven as {gained:,} fixed and {lost:,} broken "
        "if both were equally likely.",
    ]
    return "\n".join(lines)


def flips_table(flips: Sequence[Flips], what: str, words: str) -> str:
    """Return a table of what was fixed and broken by class or slice, worst first; `words` name the share of right."""
    if not flips:
        return f"No {what} has images on which the two can be compared."
    lines = [
        f"| {what} | images | fixed | broken | net | {words}, points | 95 % interval | |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for f in flips[:MAX_TABLE_ROWS]:
        ends = "–" if f.interval is None else " to ".join(map(format_points, f.interval))
        word = SIGN_WORDS[proven_sign(f)]
        lines.append(
            f"| {escape_markdown(f.name)} | {f.rows:,} | {f.fixed:,} | {f.broken:,} | {signed(f.net, 0)} | "
            f"{format_points(f.share)} "
            f"| {ends} | {word} |"
        )
    if len(flips) > MAX_TABLE_ROWS:
        lines += ["", f"{len(flips) - MAX_TABLE_ROWS:,} more are in `compare.json`."]
    return "\n".join(lines)


def list_transitions(comparison: Comparison) -> tuple[NDArray[np.int64], ...]:
    """Return label, old and new prediction and count of all changes, [changes] each, the most frequent first."""
    label, old, new, count = comparison.joint
    moved = np.flatnonzero(old != new)
    order = moved[np.lexsort((new[moved], old[moved], label[moved], -count[moved]))]
    return label[order], old[order], new[order], count[order]


TRANSITION_KINDS = ("fixed", "broken", "changed_wrong")
"""Kinds of change of a labelled image whose prediction changed."""


def _kinds(label: NDArray[np.int64], old: NDArray[np.int64], new: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place in `TRANSITION_KINDS` of each change, [changes]."""
    return np.where(new == label, 0, np.where(old == label, 1, 2))


def transitions_table(comparison: Comparison, old: Side, new: Side) -> str:
    """Return the table of which predictions changed into which, the most frequent first."""
    label, before, now, count = list_transitions(comparison)
    if not len(count):
        return "No prediction changed."
    names = comparison.names
    lines = [
        f"| true | {escape_markdown(old.name)} | {escape_markdown(new.name)} | images | |",
        "|---|---|---|---:|---|",
    ]
    columns = (label, before, now, count, _kinds(label, before, now))
    for true, a, b, images, kind in zip(*(column[:MAX_TABLE_ROWS].tolist() for column in columns), strict=True):
        words = TRANSITION_KINDS[kind].replace("_", ", still ")
        lines.append(
            f"| {escape_markdown(names[true])} | {escape_markdown(names[a])} | {escape_markdown(names[b])} | "
            f"{images:,} | {words} |"
        )
    if len(count) > MAX_TABLE_ROWS:
        lines += ["", f"{len(count) - MAX_TABLE_ROWS:,} more are in `transitions.csv`."]
    return "\n".join(lines)


def transitions_csv(comparison: Comparison) -> bytes:
    """Return transitions.csv: all of them."""
    label, old, new, count = list_transitions(comparison)
    kinds = TextCodes(TRANSITION_KINDS, _kinds(label, old, new))
    names = (TextCodes(comparison.names, column) for column in (label, old, new))
    return b"label_name,old_name,new_name,images,kind\n" + csv_lines.format_csv_lines([*names, count, kinds])


def pairs_table(sides: Sequence[Side], pairs: Mapping[tuple[int, int], Comparison]) -> str:
    """Return the ranking of several sides and the table of their pairs."""
    lines = [f"- {note}\n" for note in (*missing_pair_notes(pairs, len(sides)), *uneven_notes(pairs))]
    words = next(iter(pairs.values())).headline_words
    lines += [f"| | {words} | less than the best, points | 95 % interval | |", "|---|---:|---:|---|---|"]
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
        f"| old | new | images | {words}, points | 95 % interval | fixed | broken | changed | p (McNemar) | |",
        "|---|---|---:|---:|---|---:|---:|---:|---:|---|",
    ]
    for (i, j), comparison in list(pairs.items())[:MAX_TABLE_ROWS]:
        names = f"| {escape_markdown(sides[i].name)} | {escape_markdown(sides[j].name)} | {comparison.rows:,} |"
        accuracy = comparison.overall.get(comparison.headline)
        if accuracy is None or accuracy.interval is None:
            lines.append(f"{names} – | – | – | – | – | – | |")
            continue
        (low, high), (gained, lost) = accuracy.interval, comparison.fixed_broken
        word = SIGN_WORDS[proven_sign(accuracy)]
        lines.append(
            f"{names} {format_points(accuracy.difference)} | {format_points(low)} to {format_points(high)} | "
            f"{gained:,} | {lost:,} "
            f"| {percent(comparison.rates['churn'].value)} | {comparison.p:.2g} | {word} |"
        )
    if len(pairs) > MAX_TABLE_ROWS:
        lines += ["", f"{len(pairs) - MAX_TABLE_ROWS:,} more are in `compare.json`."]
    return "\n".join(lines)
