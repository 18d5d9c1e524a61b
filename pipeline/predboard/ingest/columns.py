"""Decide which array or column holds the scores, the label and the image of each row.

This is the one place for these choices. It looks at names and types and knows no values: what is chosen is read in
`scores`.
"""

import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from predboard.config import ImportedKind
from predboard.errors import InputError
from predboard.formatting import did_you_mean
from predboard.images.columns import IMAGE_COLUMNS, LABEL_COLUMNS, TRUTH_COLUMNS, find_usual, plain_name
from predboard.images.label_lists import LabelOptions
from predboard.images.label_values import numbers_of
from predboard.images.unread_labels import NO_COLUMN, PREDICTED, refuse_unread
from predboard.storage.paths import MAX_READ_GB

_KIND_NAMES: dict[ImportedKind, tuple[str, ...]] = {
    "logits": ("logits", "logit"),
    "probabilities": ("probabilities", "probability", "probs", "prob", "proba", "pred_probs", "softmax", "confidences"),
    "confidence": (),
    "log_probabilities": ("log_probabilities", "log_probs", "log_prob", "logprobs", "log_softmax"),
}
_SCORE_NAMES = ("scores", "score", "predictions", "preds", "pred", "outputs", "output", "y_score", "y_prob", "y_pred")
LABEL_COLUMN_NAMES = (*TRUTH_COLUMNS, *LABEL_COLUMNS)
IMAGE_COLUMN_NAMES = (
    *IMAGE_COLUMNS,
    *("images", "paths", "files", "filenames", "file_names", "image_paths", "img_path", "names"),
)
"""Names tried in this order where no flag names the column; the first one present that fits is taken."""

_UNNAMED = re.compile(r"arr_\d+|\d+")
"""Names that NumPy and tuples of tensors give to arrays without one."""

_STATISTICS = re.compile(
    "max|min|mean|avg|average|std|var|sum|total|median|norm|entropy|margin|gap|diff|thresh(old)?|cutoff|argmax|pred(icted)?"
    "|prediction|label|true|target|index|idx|id|loss|temperature|conf(idence)?|error|rank",
    re.IGNORECASE,
)
"""Ends of the names of columns that say something about the scores, as `logit_max` does, and are no class."""

_ONE_SCORE_NAMES = ("prob", "logit")
"""Further names of a column with one score in each row."""

_PREDICTED_CLASS = re.compile(r"pred(icted|iction)?[_.\- ]?(label|class|name|index|idx)?", re.IGNORECASE)
"""Names of a column with the predicted class, beside which a score is that of this class."""

_CONFIDENCE = re.compile("confidences?|conf|max_prob|msp", re.IGNORECASE)
"""Names of a column with the score of the predicted class, whichever that is."""


@dataclass(frozen=True)
class ColumnRequest:
    """The flags that name arrays or columns; None leaves the choice to the usual names."""

    kind: ImportedKind
    score: str | None = None
    """A name, a pattern such as prob_*, or names with commas between them."""
    label: str | None = None
    image: str | None = None
    key: str | None = None
    classes: tuple[str, ...] = ()
    """Names of the classes, which may be names of columns."""
    predicted: str | None = None
    needs_label: bool = True
    """Whether the labels are looked for in this file."""
    needs_image: bool = True
    """Whether the images are looked for in this file."""
    max_read_gb: float = MAX_READ_GB
    label_sets: LabelOptions | None = None
    """What the user says of several labels of an image; None where each has one."""

    @property
    def usual_score_names(self) -> tuple[str, ...]:
        """Names of score columns, those of the requested kind first and those of other kinds last."""
        others = (name for kind, names in _KIND_NAMES.items() if kind != self.kind for name in names)
        return (*_KIND_NAMES[self.kind], *_SCORE_NAMES, *others)


@dataclass(frozen=True)
class ScoreColumns:
    """Columns of a vector: one column of lists, or one column of numbers for each place in it."""

    columns: tuple[str, ...]
    names: tuple[str, ...] = ()
    """The classes, where the columns are named after them."""
    left_out: tuple[str, ...] = ()
    """Columns with names alike that are no classes."""
    is_flat: bool = False
    """Whether it is one column of numbers: the score of the positive one of two classes."""


@dataclass(frozen=True)
class ColumnTypes:
    """Names of the columns that may hold scores."""

    all: tuple[str, ...]
    vectors: tuple[str, ...]
    """Columns with a list in each row, printed as text or not."""
    float_lists: tuple[str, ...]
    """Columns with a list of floats in each row."""
    numbers: tuple[str, ...]
    """Columns with one number in each row."""
    floats: tuple[str, ...] = ()
    """Those of them whose numbers are floats."""
    ranked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns that a list of label and score in each row became, by the name of the list."""


def find_column(
    names: Sequence[str], asked: str | None, usual: Sequence[str], file: Path | str, flag: str
) -> str | None:
    """Return the name that was asked for, else the first usual name that is present, in any case, else None.

    Raises InputError if the name that was asked for is not present.
    """
    if asked is not None and asked not in names:
        raise InputError(f"{file} has no {asked!r}; it has {abbreviate(names)}: see {flag}{did_you_mean(asked, names)}")
    return find_usual(names, usual) if asked is None else asked


def choose_label(names: Sequence[str], discrete: Collection[str], request: ColumnRequest, file: Path) -> str | None:
    """Return the column of the true class, None if there is none.

    Without a usual name it is the only column whose name speaks of labels, as `all_labels` does, or the only other
    array of a file that names none.

    Args:
        names: columns that have one value in each row.
        discrete: those of them that have text or whole numbers.
        request: what the flags say.
        file: for a message.
    """
    if request.label == NO_COLUMN and NO_COLUMN not in names:
        return None
    name = find_column(names, request.label, LABEL_COLUMN_NAMES, file, "--label-column")
    if name is not None:
        return name
    rest = [n for n in names if n in discrete]
    speaking = [n for n in rest if re.search("label|target|truth", n, re.IGNORECASE) and not PREDICTED.search(n)]
    unnamed = [n for n in rest if _UNNAMED.fullmatch(n)]
    return next((only[0] for only in (speaking, unnamed) if len(only) == 1), None)


def label_candidates(names: Sequence[str]) -> tuple[str, ...]:
    """Return all columns that could be the true class by their name, the likeliest first.

    >>> label_candidates(["label", "score", "target"])
    ('label', 'target')
    """
    of_plain: dict[str, list[str]] = {}
    for name in names:
        of_plain.setdefault(plain_name(name), []).append(name)
    return tuple(dict.fromkeys(name for usual in LABEL_COLUMN_NAMES for name in of_plain.get(plain_name(usual), ())))


def refuse_unread_labels(names: Sequence[str], fitting: Collection[str], request: ColumnRequest, file: Path) -> None:
    """Raise InputError if no label was recognised, but columns could be labels by their names or by their values.

    Args:
        names: all columns that are left.
        fitting: those of them whose values could be labels.
        request: what the flags say.
        file: for the message.
    """
    if request.needs_label and request.label is None:
        refuse_unread(names, fitting, file)


def is_image_name(name: str) -> bool:
    """Return whether a column of this name is one of images."""
    return plain_name(name) in set(map(plain_name, IMAGE_COLUMN_NAMES))


def choose_image(
    names: Sequence[str], usable: Collection[str], others: Mapping[str, str], request: ColumnRequest, file: Path
) -> str | None:
    """Return the column of the image's path, None if there is none. Unless asked for, it is one of the `usable`.

    Args:
        names: columns that have one value in each row.
        usable: those of them that may be paths.
        others: what the columns hold that may not, by name.
        request: what the flags say.
        file: for a message.

    Raises InputError if a column is named like one of images, and cannot be used.
    """
    if request.image == NO_COLUMN and NO_COLUMN not in names:
        return None
    candidates = names if request.image is not None else [name for name in names if name in usable]
    name = find_column(candidates, request.image, IMAGE_COLUMN_NAMES, file, "--image-column")
    unusable = None if name else find_usual(list(others), IMAGE_COLUMN_NAMES)
    if unusable is not None and request.needs_image:
        raise InputError(
            f"{unusable!r} of {file} is named like a column of images, but has {others[unusable]}; expected the path "
            f"of an image in each row: name another with --image-column, or give --image-column {NO_COLUMN}"
        )
    return name


def choose_score_array(arrays: Mapping[str, NDArray[Any]], request: ColumnRequest, file: Path) -> str:
    """Return the name of the array of scores, by the names, shapes and types of the arrays.

    It is of [rows, classes], else of [rows], where two classes may have one score.

    Raises InputError if the array that was asked for is not present, or if several could be meant.
    """
    if request.score is not None:
        find_column(list(arrays), request.score, (), file, "--score-column")
        return request.score
    matrices = [name for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind in "fiu"]
    if (name := find_usual(matrices, request.usual_score_names)) is not None:
        return name
    flat = [name for name, array in arrays.items() if array.ndim == 1 and array.dtype.kind == "f"]
    if (name := find_usual(flat, request.usual_score_names)) is not None:
        return _single(name, list(arrays), request, file)
    wide = [name for name in matrices if arrays[name].dtype.kind == "f" and arrays[name].shape[1] > 1]
    for names in (list(arrays), wide):
        if len(names) == 1:
            return names[0]
    raise InputError(f"{file} has {abbreviate(list(arrays))}; which are the scores? Name them with --score-column")


def choose_score_columns(types: ColumnTypes, request: ColumnRequest, file: Path) -> ScoreColumns:
    """Return the columns of the scores. Raises InputError if it is not clear which they are, or they are not enough."""
    if request.score is not None:
        return _requested_columns(types, request.score, request, file)
    if name := find_usual(types.vectors, request.usual_score_names):
        return ScoreColumns((name,))
    for usual in request.usual_score_names:
        # `pred_label` and `pred_score` are not two classes, so after most names only a number may follow.
        any_end = usual in (*_KIND_NAMES[request.kind], "score", "scores")
        end = r"[_.\- ](.+)|(\d+)" if any_end else r"[_.\- ]?(\d+)()"
        if matched := match_columns(types.numbers, re.compile(f"{usual}(?:{end})", re.IGNORECASE), request.classes):
            return matched
    named = len(request.classes) > 1 and all(name in types.numbers for name in request.classes)
    if named and any(name in types.floats for name in request.classes):  # columns of 0 and 1 are labels
        return ScoreColumns(request.classes, request.classes)
    if matched := match_columns([n for n in types.numbers if n.isdigit()], re.compile(r"(\d+)()")):
        return matched
    if len(types.ranked) == 1:
        ((name, fields),) = types.ranked.items()
        return ScoreColumns(fields, tuple(column[len(name) + 1 :] for column in fields))
    if len(types.float_lists) == 1:
        return ScoreColumns(types.float_lists)
    if name := find_usual(types.floats, (*request.usual_score_names, *_ONE_SCORE_NAMES, "confidence")):
        return ScoreColumns((_single(name, types.all, request, file),), is_flat=True)
    hint = _pattern(types.numbers)
    raise InputError(f"{file} has {abbreviate(types.all)}; which are the scores? Name them with --score-column{hint}")


def _pattern(names: Sequence[str]) -> str:
    """Return the pattern of most columns of numbers that differ in one number or in their end, as it is typed.

    Empty if there is none.

    >>> _pattern(["p1", "p2", "x"]), _pattern(["score[0]", "score[1]"]), _pattern(["my_cat", "my_dog"]), _pattern(["a"])
    (" 'p*'", " 'score[*]'", " 'my_*'", '')
    """
    numbered = Counter(re.sub(r"\d+(?=\D*$)", "*", name) for name in names if re.search(r"\d", name))
    ended = Counter(match[0] + "*" for name in names if (match := re.match(r".+?[_.\- ](?=.)", name)))
    most = [pattern for kind in (numbered, ended) for pattern, count in kind.most_common(1) if count > 1]
    return f" {shlex.quote(most[0])}" if most else ""


def _single(name: str, names: Sequence[str], request: ColumnRequest, file: Path) -> str:
    """Return the name of the only score in each row; it may be that of the positive one of two classes.

    Raises InputError if it is that of the predicted class, or an image may have several labels.
    """
    predicted = any(_PREDICTED_CLASS.fullmatch(other) for other in names if other != name)
    if request.label_sets is not None:
        raise InputError(
            f"{file} has one score per row, in {name!r}, and --task multi-label expects one for each label: leave the "
            "flag out for a label by itself, which is one of two classes, present and absent"
        )
    if predicted or _CONFIDENCE.fullmatch(name):
        raise only_highest(file, f"one number per row, in {name!r}")
    return name


def is_score_name(name: str, request: ColumnRequest) -> bool:
    """Return whether a column is named like one of several of scores, and like no statistic of them."""
    if request.score is not None:
        before, star, after = request.score.partition("*")
        return name.startswith(before) and name.endswith(after) if star else name in request.score.split(",")
    usual = "|".join((*_KIND_NAMES[request.kind], "scores?"))
    match = re.fullmatch(rf"(?:{usual})(?:[_.\- ](.+)|\d+)", name, re.IGNORECASE)
    return match is not None and not _STATISTICS.fullmatch(match[1] or "")


def _requested_columns(types: ColumnTypes, asked: str, request: ColumnRequest, file: Path) -> ScoreColumns:
    """Return the columns that --score-column names: one of lists or of numbers, `prob_*`, or `A,B,C`."""
    if asked not in types.all and "*" in asked:
        before, _, after = asked.partition("*")
        pattern = re.compile(f"{re.escape(before)}(.+){re.escape(after)}()")
        matched = match_columns(types.numbers, pattern, request.classes)
        if matched is None:
            raise InputError(
                f"{file} has no two number columns like {asked!r}; it has {abbreviate(types.all)}: see --score-column"
                f"{_pattern(types.numbers)}"
            )
        return matched
    if asked not in types.all and "," in asked:
        names = tuple(name.strip() for name in asked.split(","))
        for name in names:
            find_column(types.numbers, name, (), file, "--score-column")
        return ScoreColumns(names, names)
    find_column(types.all, asked, (), file, "--score-column")
    if asked in types.numbers and request.label_sets is None:
        return ScoreColumns((asked,), is_flat=True)
    if asked not in types.vectors:
        raise InputError(
            f"column {asked!r} of {file} does not have a list of numbers in each row; expected one, or a pattern such "
            f"as {asked}_* for one column per class"
        )
    return ScoreColumns((asked,))


def match_columns(names: Sequence[str], pattern: re.Pattern[str], classes: Sequence[str] = ()) -> ScoreColumns | None:
    r"""Return the two or more columns that match, named after the groups of the pattern.

    Numbered columns are in the order of their numbers, which are their names: prob_1, prob_2 and prob_5 are the classes
    1, 2 and 5. Beside numbered columns others are left out, and so are statistics such as prob_max, unless `classes`
    has that name. Names that differ in one number are in its order: prob_class_10 comes after prob_class_9.

    >>> match_columns(["p_5", "p_1", "label"], re.compile(r"p_(\d+)()"))
    ScoreColumns(columns=('p_1', 'p_5'), names=('1', '5'), left_out=(), is_flat=False)
    >>> match_columns(["p_dog", "p_cat", "p_max"], re.compile(r"p_(.+)()"))
    ScoreColumns(columns=('p_dog', 'p_cat'), names=('dog', 'cat'), left_out=('p_max',), is_flat=False)
    """
    every = {name: m[1] or m[2] for name in names if (m := pattern.fullmatch(name))}
    numbered = {name: end for name, end in every.items() if end.isdigit()}
    ends = {name: end for name, end in every.items() if end in classes or not _STATISTICS.fullmatch(end)}
    if len(numbered) > 1 and not any(end in classes for end in every.values() if not end.isdigit()):
        ends = numbered
    if len(ends) < 2:
        return None
    numbers = numbers_of(list(ends.values()))
    ordered = [name for _, name in sorted(zip(numbers, ends, strict=True))] if numbers else list(ends)
    left_out = tuple(name for name in every if name not in ends)
    return ScoreColumns(tuple(ordered), tuple(ends[name] for name in ordered), left_out)


def only_highest(file: Path, what: str) -> InputError:
    """Return the error for a file that has only the highest scores of each row."""
    return InputError(
        f"{file} holds only {what}; loss, calibration and curves need the scores of all classes: save all of them "
        "(timm: --topk 0; of two classes that of the positive one is enough: name both by --classes and its column by "
        "--score-column), or import the predicted class and its confidence alone with --scores confidence"
    )


def abbreviate(value: Any) -> str:
    """Return a number, or the first twelve names, for a message."""
    if isinstance(value, int):
        return f"{value:,}"
    text = ", ".join(name or "one array" for name in value[:12])
    return text + ("…" if len(value) > 12 else "") if text else "none"
