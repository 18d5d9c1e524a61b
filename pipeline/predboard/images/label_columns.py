"""Refuses tables whose labels are not recognised, though columns could be labels. It knows no files and no pixels.

Lists of `infer` and files of `import` are refused in the same words.
"""

import re
from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa

from predboard.errors import InputError

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
