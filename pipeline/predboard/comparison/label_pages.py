"""Shows which decisions on labels changed between two steps: a page, a file, and what the card says.

It is to several labels an image what the transitions of `pages` are to one; it knows no files and draws nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from predboard.comparison.differences import Comparison
from predboard.comparison.label_differences import LabelComparison
from predboard.comparison.pages import MAX_TABLE_ROWS, SIGN_WORDS
from predboard.comparison.paired_labels import ADDED, LOST
from predboard.comparison.render import Views
from predboard.comparison.report import Side, proven_sign
from predboard.csv_lines import format_csv_lines
from predboard.formatting import escape_markdown, signed
from predboard.summaries import Picture

_CARD_MOVES = 4


def _of_labels(comparison: Comparison) -> LabelComparison:
    if not isinstance(comparison, LabelComparison):
        raise TypeError(f"{type(comparison).__name__} is no comparison of several labels an image")
    return comparison


def labels_page(comparison: Comparison, old: Side, new: Side) -> str:
    """Return the table of fixed and broken decisions by label, the worst change of F1 first."""
    changes = _of_labels(comparison).by_label
    if not changes:
        return "No label is true or predicted on the images that both have."
    names = escape_markdown(old.name), escape_markdown(new.name)
    lines = [
        "Lost: found before and missed now; gained: the reverse; dropped: no longer wrongly predicted; added: wrongly "
        "predicted now. p: McNemar's exact test that fixed (gained and dropped) and broken (lost and added) decisions "
        "are equally likely.",
        "",
        f"| label | images | lost | gained | dropped | added | p | F1 {names[0]} | F1 {names[1]} | difference "
        "| 95 % interval | |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for c in changes[:MAX_TABLE_ROWS]:
        ends = "–" if c.f1.interval is None else f"{signed(c.f1.interval[0], 4)} to {signed(c.f1.interval[1], 4)}"
        counts = " | ".join(f"{n:,}" for n in (c.images, c.lost, c.gained, c.dropped, c.added))
        lines.append(
            f"| {escape_markdown(c.name)} | {counts} | {c.p:.2g} | {c.f1.old:.4f} | {c.f1.new:.4f} | "
            f"{signed(c.f1.difference, 4)} | {ends} | {SIGN_WORDS[proven_sign(c.f1)]} |"
        )
    if len(changes) > MAX_TABLE_ROWS:
        lines += ["", f"{len(changes) - MAX_TABLE_ROWS:,} more are in `labels.csv`."]
    return "\n".join(lines)


def labels_csv(comparison: Comparison) -> bytes:
    """Return labels.csv: a line for each label that is true or predicted somewhere, the worst change of F1 first."""
    changes = _of_labels(comparison).by_label
    none = (np.nan, np.nan)
    counts = [np.array([getattr(c, name) for c in changes], np.int64) for name in ("images", "fixed", "broken")]
    moved = [np.array([getattr(c, name) for c in changes], np.int64) for name in ("lost", "gained", "dropped", "added")]
    numbers = [(c.p, c.f1.old, c.f1.new, c.f1.difference, *(c.f1.interval or none)) for c in changes]
    columns = np.array(numbers, np.float64).reshape(-1, 6).T
    header = b"label,images,fixed,broken,lost,gained,dropped,added,p,f1_old,f1_new,f1_difference,lower,upper\n"
    return header + format_csv_lines([[c.name for c in changes], *counts, *moved, *columns])


def labels_card(comparison: Comparison) -> Mapping[str, Any]:
    """Return what the card shows of labels: which decisions were broken most often."""
    moved = _of_labels(comparison).moved
    kinds = [(int(moved[kind, c]), name, words) for kind, words in ((LOST, "missed"), (ADDED, "wrongly predicted"))
             for c, name in enumerate(comparison.names) if moved[kind, c]]  # fmt: skip
    most = sorted(kinds, key=lambda item: (-item[0], item[1], item[2]))[:_CARD_MOVES]
    fixed, broken = _of_labels(comparison).decisions
    return {
        "moves": [(name, words, f"{count:,}") for count, name, words in most],
        "moves_heading": "broken most often: label → now",
        "worst_heading": "labels, the worst first",
        "fixed": fixed,
        "broken": broken,
    }


def no_pictures(comparison: Comparison) -> Iterator[Picture]:  # noqa: ARG001  the differences by label say it
    """Yield nothing: decisions on labels have no matrix."""
    return iter(())


LABEL_VIEWS = Views(labels_card, no_pictures, ("report/labels", labels_page))
