"""The page of corrected labels: how many there are, and what they did to the accuracy. It knows no single image."""

import functools
from collections.abc import Iterator, Mapping, Sequence

from predboard.drawing import plots
from predboard.drawing.plots import IntervalLine
from predboard.formatting import escape_markdown, markdown_table, plural, signed
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.label_effect import LabelEffect
from predboard.panels import RunInfo
from predboard.summaries import Picture, Summary, Text

LISTED_MOVES = 20
"""Pairs of an old and a new class on the page."""

DRAWN_STEPS = 5
"""Steps in the picture, each with two lines."""


def corrected_labels(info: RunInfo) -> Iterator[tuple[int, Summary]]:
    """Yield the page and a picture, at the last step, if there are corrected labels."""
    effects = {step: known.new_labels for step, known in info.steps.items() if known.new_labels is not None}
    if not effects:
        return
    last = max(effects)
    yield last, Text("report/labels", labels_page(effects, info.run.classes), "What corrected labels changed.")
    effect = effects[last]
    if effect.before is not None:
        title = plural(effect.replaced, "corrected label")
        draw = functools.partial(plots.draw_intervals, title, before_and_after(effects), effect.before, "before")
        words = f"The {effect.figure_label} with the old and the new labels."
        yield last, Picture("report/corrected_labels", draw, words)


def labels_page(effects: Mapping[int, LabelEffect], classes: Sequence[str]) -> str:
    """Write the page. `effects` are by step, ascending, one at least."""
    last = effects[max(effects)]
    rows = [[str(step), *_numbers(effect)] for step, effect in effects.items()]
    titles = ("step", "before", "after", "points", "95 % interval", "became right", "became wrong", "McNemar's p")
    parts = [
        f"# {plural(last.replaced, 'corrected label')}",
        f"{escape_markdown(last.file)} names {plural(last.named, 'image')}, and {last.replaced:,} of them had another "
        "label in the predictions, which stay as they are. Every other page, figure and file is of the new labels.",
        markdown_table(titles, "rrrrlrrr", rows),
        f"*Before* and *after*: {last.figure_label} over the images with a label. Points, interval (Newcombe 1998, "
        "method 10) and McNemar's exact test are over the images that have one both times, pair by pair.",
    ]
    if last.moves:
        names = {-1: "no label", **dict(enumerate(map(escape_markdown, classes)))}
        ordered = sorted(last.moves.items(), key=lambda move: (-move[1], move[0]))
        moves = [(names[old], names[new], f"{count:,}") for (old, new), count in ordered[:LISTED_MOVES]]
        parts += ["### From which class to which", markdown_table(("was", "is", "images"), "llr", moves)]
        if len(ordered) > LISTED_MOVES:
            parts.append(f"{len(ordered) - LISTED_MOVES:,} more pairs of classes.")
    return "\n\n".join(parts)


def _numbers(effect: LabelEffect) -> list[str]:
    if effect.before is None or effect.after is None or not effect.both:
        return ["–"] * 7
    gain, ends = 100 * effect.difference, [signed(100 * end, 2) for end in effect.interval]
    return [
        *(f"{effect.before:.4f}", f"{effect.after:.4f}", signed(gain, 2), " to ".join(ends)),
        *(f"{effect.gained:,}", f"{effect.lost:,}", f"{effect.p:.2g}"),
    ]


def before_and_after(effects: Mapping[int, LabelEffect]) -> list[IntervalLine]:
    """Return the accuracy of the last steps before and after, with Wilson's intervals, for a picture."""
    lines = []
    for step in sorted(effects)[-DRAWN_STEPS:]:
        effect = effects[step]
        for when, right, rows in (
            ("before", effect.right_before, effect.rows_before),
            ("after", effect.right_after, effect.rows_after),
        ):
            if rows:
                ends = wilson_interval(right, rows)
                lines.append(IntervalLine(f"step {step}, {when}", right / rows, *ends, f"{rows:,}"))
    return lines
