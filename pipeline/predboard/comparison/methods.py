"""How runs of each task are compared: what is counted, shown and written. It knows no logs and no flags."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from predboard.comparison import changes, label_changes, pages, paired_counts, paired_labels
from predboard.comparison.changes import ChangesTable, Examples
from predboard.comparison.class_mapping import ClassMapping
from predboard.comparison.differences import Comparison
from predboard.comparison.join import join_rows
from predboard.comparison.label_differences import LabelComparison
from predboard.comparison.label_pages import LABEL_VIEWS, labels_csv
from predboard.comparison.paired_counts import PairedCounts, count_pairs
from predboard.comparison.paired_labels import PairedLabels, count_label_pairs
from predboard.comparison.render import CLASS_VIEWS, TILE_LABELS, Views, gallery_kind
from predboard.comparison.two_class_scores import columns_of_scores, scored_runs
from predboard.drawing.comparison import PairTileText, SidePrediction, draw_pair_tile
from predboard.drawing.label_comparison import LabelPairText, draw_label_pair_tile
from predboard.errors import InputError
from predboard.metrics.class_groups import NO_GROUPS, ClassGroups
from predboard.metrics.slice_crosses import Crosses
from predboard.predictions.schema import MULTI_LABEL, SINGLE_LABEL, Run
from predboard.predictions.table import TileRows
from predboard.state import merge
from predboard.storage.runs import Step


@dataclass(frozen=True)
class Settings:
    """What the user says of a comparison."""

    crosses: Crosses = ()
    positive: str = ""
    groups: ClassGroups = NO_GROUPS


@dataclass(frozen=True)
class PairTile:
    """What a tile of an example says beside its row."""

    tag: str
    """Of the gallery."""
    sides: tuple[str, str]
    """Names of both steps."""
    name: str
    shared: int


@dataclass(frozen=True)
class Method:
    """How runs of a task are compared."""

    compare_pair: Callable[[Step, Step, ClassMapping, Settings, bool], Comparison]
    """Compares two steps; the last argument says whether slices are wanted."""
    compare_in_full: Callable[[Step, Step, ClassMapping, Settings, Path], tuple[Comparison, Examples]]
    """Compares two steps, with examples, and writes the table of changes to a file."""
    moves_csv: Callable[[Comparison], bytes]
    """Returns the file of what changed into what."""
    views: Views
    draw_tile: Callable[[Image.Image | None, TileRows, int, Sequence[str], PairTile], Image.Image]
    """Draws one row of the examples."""
    shared: bool = False
    """Whether only classes that both runs have are compared: of others a run without them would decide nothing."""


# --- one label ---


def _compare_classes(old: Step, new: Step, classes: ClassMapping, settings: Settings, kinds: bool) -> Comparison:
    state = count_pairs(old, new, classes, kinds, settings.crosses)
    return Comparison(state, classes.names, positive=settings.positive, groups=settings.groups)


def _classes_in_full(
    old: Step, new: Step, classes: ClassMapping, settings: Settings, file: Path
) -> tuple[Comparison, Examples]:
    state, examples = PairedCounts.zero(), changes.empty_examples()
    runs = scored_runs(old.run, new.run)
    more = changes.COLUMNS | columns_of_scores(runs)
    columns = paired_counts.OLD_COLUMNS | more, paired_counts.NEW_COLUMNS | more
    table = ChangesTable(classes.names, new.manifest_rows)
    for rows in join_rows(old, new, classes, columns):
        state = merge(state, PairedCounts.measure(len(classes.names), rows, settings.crosses, runs))
        examples = merge(examples, changes.choose_examples(rows))
        table.add(rows)
    table.write(file)
    return Comparison(state, classes.names, positive=settings.positive, groups=settings.groups), examples


def _draw_classes(
    picture: Image.Image | None, rows: TileRows, i: int, names: Sequence[str], about: PairTile
) -> Image.Image:
    old, new = about.sides
    words = PairTileText(
        verdict=TILE_LABELS[gallery_kind(about.tag)],
        true=names[rows["label"][i]],
        old=SidePrediction(old, names[rows["old"][i]], float(rows["confidence_old"][i])),
        new=SidePrediction(new, names[rows["new"][i]], float(rows["confidence_new"][i])),
        name=about.name,
        shared=about.shared,
    )
    return draw_pair_tile(picture, words)


# --- several labels ---


def _compare_labels(old: Step, new: Step, classes: ClassMapping, settings: Settings, kinds: bool) -> Comparison:
    state = count_label_pairs(old, new, classes, kinds, settings.crosses)
    return LabelComparison(state, classes.names, left_out=classes.left_out)


def _labels_in_full(
    old: Step, new: Step, classes: ClassMapping, settings: Settings, file: Path
) -> tuple[Comparison, Examples]:
    size = len(classes.names)
    state, examples = PairedLabels.zero(size), label_changes.empty_label_examples()
    scored = paired_labels.columns_of_ranks(old, new)
    more = changes.COLUMNS | scored
    columns = paired_labels.OLD_COLUMNS | more, paired_labels.NEW_COLUMNS | more
    table = label_changes.LabelChangesTable(classes.names, new.manifest_rows)
    for rows in join_rows(old, new, classes, columns):
        state = merge(state, PairedLabels.measure(size, rows, settings.crosses, bool(scored)))
        examples = merge(examples, label_changes.choose_label_examples(rows))
        table.add(rows)
    table.write(file)
    return LabelComparison(state, classes.names, left_out=classes.left_out), examples


def _draw_labels(
    picture: Image.Image | None, rows: TileRows, i: int, names: Sequence[str], about: PairTile
) -> Image.Image:
    confidences = (float(rows[f"confidence_{side}"][i]) for side in ("old", "new"))
    old, new = zip(about.sides, confidences, strict=True)
    sets = label_changes.named_sets(rows, i, names)
    wrong = any(sets[kind][1] for kind in ("lost", "added", "still_missed", "still_wrong"))
    words = LabelPairText(TILE_LABELS[gallery_kind(about.tag)], not wrong, sets, (old, new), about.name, about.shared)
    return draw_label_pair_tile(picture, words)


def choose_method(runs: Sequence[tuple[str, Run]]) -> Method:
    """Return how runs of a task are compared, each given with its name. Raises InputError for runs of two tasks."""
    (name, first), *others = runs
    for other, run in others:
        if run.task != first.task:
            raise InputError(f"{name} is a {first.task} run, {other} a {run.task} one; expected runs of one task")
    return METHODS[first.task]


METHODS: Mapping[str, Method] = {
    SINGLE_LABEL: Method(_compare_classes, _classes_in_full, pages.transitions_csv, CLASS_VIEWS, _draw_classes),
    MULTI_LABEL: Method(_compare_labels, _labels_in_full, labels_csv, LABEL_VIEWS, _draw_labels, shared=True),
}
