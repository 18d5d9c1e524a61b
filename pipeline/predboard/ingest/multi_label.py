"""Read the labels of saved rows where an image may have several, and name their classes in the order of the scores.

It knows nothing of the scores but their number and the names of their columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from predboard.config import ImportConfig
from predboard.errors import InputError
from predboard.formatting import plural
from predboard.images.label_lists import LabelOptions
from predboard.images.label_masks import MultiLabelReading, count_labels
from predboard.ingest import label_set_columns
from predboard.ingest.columns import abbreviate
from predboard.ingest.joined_rows import join_rows
from predboard.ingest.saved_scores import SavedLabelSets, SavedScores
from predboard.predictions.label_sets import MultiLabels


@dataclass(frozen=True)
class RowLabelSets:
    """The labels of each row of scores, and where they and the order of the classes come from, in words."""

    labels: MultiLabels
    source: str
    classes: tuple[str, ...]
    order: str


def label_options(config: ImportConfig) -> LabelOptions:
    """Return what the flags say of several labels of an image."""
    return LabelOptions(config.label_column, config.label_separator, config.empty, config.none)


def read_multi_labels(
    config: ImportConfig,
    saved: SavedScores,
    refs: Sequence[str | None],
    class_names: tuple[str, ...],
    log: Callable[[str], None],
) -> RowLabelSets:
    """Return the labels of saved rows: those of --labels, else of the file itself; without either all are unlabelled.

    Args:
        config: where labels come from, and what they mean.
        saved: the rows.
        refs: [rows] path of each image, None where a row has none.
        class_names: the classes of --classes, or ().
        log: takes a warning.

    Raises:
        InputError: for labels that are no classes, or that could be read in two ways; if they are not of as many
            classes as there are scores, or their order is not that of the scores for certain.
    """
    known = class_names or (() if saved.is_numbered else saved.names)
    sets, rows = saved.label_sets, np.arange(saved.rows)
    if config.labels is not None:
        sets, images = label_set_columns.read_label_file(
            config.labels, label_options(config), known, config.max_read_gb
        )
        rows = join_rows(config.labels, images, len(sets), refs, log)
        if missing := int((rows < 0).sum()):
            log(f"warning: {plural(missing, 'row has', 'rows have')} no label in {config.labels.name}")
    if sets is None:
        classes = known or saved.names or tuple(map(str, range(saved.classes)))
        _check_count(classes, saved, "the names")
        return RowLabelSets(MultiLabels.none(saved.rows), "none", classes, _order(config, saved, class_names))
    reading, order = _read(config, saved, sets, known, class_names, log)
    for note in reading.notes:
        log(f"warning: {note}")
    labels = _take(reading.labels, rows, saved.classes)
    words = f"{sets.words}, read as {reading.reading}, {count_labels(labels)}"
    return RowLabelSets(labels, words, reading.classes, order)


def _read(
    config: ImportConfig,
    saved: SavedScores,
    sets: SavedLabelSets,
    known: tuple[str, ...],
    class_names: tuple[str, ...],
    log: Callable[[str], None],
) -> tuple[MultiLabelReading, str]:
    """Return the labels with all classes named, and where the order of the classes comes from."""
    if known:
        _check_count(known, saved, f"--classes {config.classes}" if class_names else "the names")
        return sets.read(label_options(config), known), _order(config, saved, class_names)
    options = label_options(config)
    reading = sets.read(options, ())
    numbered = saved.names or tuple(map(str, range(saved.classes)))
    if set(reading.classes) <= set(numbered):
        if sets.array is not None:
            _check_count(tuple(map(str, range(sets.array.shape[1]))), saved, sets.words)
        return sets.read(options, numbered), _order(config, saved, class_names)
    _check_count(reading.classes, saved, sets.words)
    if reading.is_sorted:
        raise InputError(
            f"the labels in {sets.words} are names ({abbreviate(reading.classes)}) and the scores do not say which is "
            "whose: name the classes in the order of the scores with --classes FILE"
        )
    log(
        "warning: the scores do not name their classes, which are taken in the order of the label columns "
        f"({abbreviate(reading.classes)}): --classes FILE makes it certain"
    )
    return reading, f"the label columns of {sets.file}"


def _order(config: ImportConfig, saved: SavedScores, class_names: tuple[str, ...]) -> str:
    """Say where the order of classes comes from that is known without the labels."""
    if class_names:
        return f"--classes {config.classes}"
    if saved.is_numbered:
        return "the numbers of the score columns"
    if saved.names:
        return "the score columns" if len(saved.used) > 1 else "the class names in the file"
    return "the order of the scores, numbered from 0"


def _check_count(classes: Sequence[str], saved: SavedScores, source: str) -> None:
    """Raise InputError if there are not as many classes as scores in a row."""
    if len(classes) != saved.classes:
        raise InputError(
            f"each row has {saved.classes:,} scores, but {source} has {plural(len(classes), 'class', 'classes')} "
            f"({abbreviate(tuple(classes))}): name the classes in the order of the scores with --classes FILE"
        )


def _take(labels: MultiLabels, rows: NDArray[np.int64], classes: int) -> MultiLabels:
    """Return the labels of these rows, none where a row is -1."""
    taken = labels[np.maximum(rows, 0)]
    return replace(taken, labelled=taken.labelled & (rows >= 0)).settled(classes)
