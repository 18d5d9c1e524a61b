"""Refuses tables whose labels are not recognised, though columns could be labels. It knows no files and no pixels.

Lists of `infer` and files of `import` are refused in the same words.
"""

import re
from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa

from predboard.errors import InputError
from predboard.formatting import shared_start
from predboard.images.label_values import find_several

NO_COLUMN = "none"
"""Value of --label-column and --image-column for a file that has no such column."""

PREDICTED = re.compile("pred|output|name|error|loss|hat|argmax|guess|top", re.IGNORECASE)
"""In names that speak of labels and mean no true class."""
_SPEAKING = re.compile("label|target|truth|y_true", re.IGNORECASE)
_MOST_CLASSES = 100_000
"""A column with as many different values does not hold classes."""
_ABOUT_THE_IMAGE = re.compile(
    r"(.*[_\W])?(split|fold|set|subset|partition|train|test|val|id|ids|index|idx|no|nr|number|count|batch|part|version"
    r"|width|height|size|shape|channels|depth|area|bytes|mode|format|ext|suffix|rotation|orientation|x|y|z|w|h|xmin"
    r"|xmax|ymin|ymax|bbox|date|time|timestamp|year|month|day|hour|week|season|created|modified|lat|lon|latitude"
    r"|longitude|altitude|country|region|city|state|site|location|place|source|origin|dataset|url|uri|license|camera"
    r"|device|sensor|scanner|model|make|lens|exposure|iso|light|weather|user|author|owner|photographer|annotator"
    r"|patient|subject|person|session|sequence|video|frame|scene|group|age|sex|gender|caption|text|title|description"
    r"|comment|notes?|tags?|hash|md5|sha1|sha256|status|quality|brightness|contrast|weight|path|file|folder|dir|name"
    r"|filename|unnamed \d+)(\d*)",
    re.IGNORECASE,
)
"""Names of columns that describe an image or where it comes from."""


def refuse_unread(names: Sequence[str], fitting: Collection[str], file: object, hint: str = "") -> None:
    """Raise InputError if columns could be labels by their names, or because they are `fitting` by their values.

    Args:
        names: all columns but for those that have another meaning.
        fitting: those of them whose values could be labels.
        file: for the message.
        hint: what else the message says of them.
    """
    could_be = [name for name in names if (name in fitting or _SPEAKING.search(name)) and not PREDICTED.search(name)]
    if could_be:
        shown = ", ".join(could_be[:12]) + ("…" if len(could_be) > 12 else "")
        raise InputError(
            f"{file} has no column that is surely the labels, but {shown} could be{hint}: name it with "
            f"--label-column, or give --label-column {NO_COLUMN} if the rows have no labels"
        )


def refuse_unread_list(table: pa.Table, names: Sequence[str], classes: Sequence[str], file: object) -> None:
    """Raise InputError if columns of a list of images could be its labels, though none is named as labels are.

    Columns that are named after what they say of an image, as `width`, `split` and `date` are, do not count, unless
    their values are names of `--classes`.
    """
    fitting, bits = [], []
    plain = [name for name in names if not pa.types.is_nested(table.column(name).type)]
    for name in plain:
        if pa.types.is_temporal(table.column(name).type) or pa.types.is_decimal(table.column(name).type):
            continue
        distinct = table.column(name).unique().drop_null()
        if not 1 < len(distinct) < min(len(table), _MOST_CLASSES):
            continue
        values = distinct.to_pylist()
        whole = [int(v) for v in values if isinstance(v, bool | int) or (isinstance(v, float) and v.is_integer())]
        are_texts = all(isinstance(value, str) for value in values)
        are_names = are_texts and bool(set(values) & set(classes))
        may_be_index = len(whole) == len(values) and min(whole) in (0, 1) and max(whole) <= len(values)
        if are_names or (not _ABOUT_THE_IMAGE.fullmatch(name) and (may_be_index or (are_texts and not classes))):
            fitting.append(name)
        if sorted(whole) == [0, 1] == sorted(values):
            bits.append(name)
    ones = sum(np.asarray(table.column(name).cast(pa.int64())) for name in bits)
    hint = ""
    if len(bits) > 1 and bool(np.all(ones == 1)):
        fitting = [*dict.fromkeys((*fitting, *bits))]
        hint = " (one-hot columns are not read: make one column of them, with the name of the class)"
    refuse_unread(plain, fitting, file, hint)


def refuse_unread_sets(table: pa.Table, classes: Sequence[str], file: object, certain: Sequence[str] = ()) -> None:
    """Raise InputError if columns could be several labels of an image, though none is named as labels are.

    These are lists of names or of whole numbers, separated names, names of `--classes`, and two or more columns of 0, 1
    and −1 alone.

    Args:
        table: the columns that have no other meaning.
        classes: names of the classes; empty if they are not known.
        file: for the message.
        certain: other columns that could be the labels, which are not in the table.
    """
    fitting, bits = list(certain), []
    for name, column in zip(table.column_names, table.columns, strict=True):
        type_ = column.type
        if pa.types.is_nested(type_):
            value = getattr(type_, "value_type", pa.null())
            if not pa.types.is_floating(value) and not pa.types.is_nested(value):
                fitting.append(name)
        elif not _ABOUT_THE_IMAGE.fullmatch(name) and not PREDICTED.search(name):
            distinct = column.unique().drop_null().to_pylist()
            texts = {str(value) for value in distinct if value not in ("", None)}
            if texts and texts <= {"0", "1", "-1", "0.0", "1.0", "-1.0", "True", "False"}:
                bits.append(name)
            elif texts and (texts <= {*classes} or find_several(texts - {*classes}, classes or texts, bool(classes))):
                fitting.append(name)
    if len(bits) > 1:
        start = bits[0][: shared_start(bits)]
        fitting += [f"{start}*"] if start else bits
    speaking = [name for name in table.column_names if _SPEAKING.search(name) and not PREDICTED.search(name)]
    refuse_unread(list(dict.fromkeys([*fitting, *speaking])), fitting, file)
