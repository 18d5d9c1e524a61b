"""Take columns of structs apart into columns of their fields. It knows nothing of files and of what the fields mean.

`scores: {cat: .9, dog: .1}` becomes `scores.cat` and `scores.dog`, and so does a list of labels and scores, as a
pipeline of transformers gives it: `scores: [{label: cat, score: .9}, {label: dog, score: .1}]`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from predboard.errors import InputError

_LABEL_NAMES = ("label", "class", "class_name", "classname", "category", "name")
_SCORE_NAMES = ("score", "prob", "probability", "confidence", "p")
"""Names of the two fields of each item of a list of label and score, in lower case."""


@dataclass(frozen=True, eq=False)
class NestedColumn:
    """A column of structs, or of lists of label and score."""

    name: str
    fields: Mapping[str, pa.DataType]
    """Types by the names of the columns that it becomes, `scores.cat` for example."""
    ranked: bool
    """Whether it has lists of label and score."""

    def take_apart(self, column: pa.ChunkedArray, wanted: Sequence[str]) -> dict[str, pa.ChunkedArray]:
        """Return the wanted fields of a column, by name.

        Raises InputError if a list does not have every label once.
        """
        if not self.ranked:
            return {name: pc.struct_field(column, name[len(self.name) + 1 :]) for name in wanted}
        lists = column.combine_chunks()
        present = np.asarray(lists.is_valid())
        labels = _label_texts(lists.flatten())
        place = {name[len(self.name) + 1 :]: i for i, name in enumerate(self.fields)}
        index = np.array([place.get(label, -1) for label in labels], np.int64)
        if (
            len(index) != present.sum() * len(place)
            or (np.sort(index.reshape(-1, len(place))) != range(len(place))).any()
        ):
            raise InputError(
                f"{self.name!r} does not list every class once in each row ({', '.join(list(place)[:12])} in the "
                "first); expected the scores of all classes (transformers: top_k=None)"
            )
        scores = np.full((len(lists), len(place)), np.nan)
        _, score = cast(tuple[str, str], ranked_names(field.name for field in lists.type.value_type))
        flat = np.asarray(lists.flatten().field(score).cast(pa.float64()))
        scores[np.repeat(np.flatnonzero(present), len(place)), index] = flat
        of_name = dict(zip(self.fields, scores.T, strict=True))
        return {name: pa.chunked_array([pa.array(of_name[name])]) for name in wanted}


def _label_texts(items: pa.StructArray) -> list[str]:
    label, _ = cast(tuple[str, str], ranked_names(field.name for field in items.type))
    return [str(label) for label in items.field(label).to_pylist()]


def nest(name: str, type_: pa.DataType, sample: pa.ChunkedArray | None) -> NestedColumn | None:
    """Return how a column is taken apart; None if it is not.

    Args:
        name: of the column.
        type_: its type.
        sample: its first rows, of a list of label and score.
    """
    if pa.types.is_struct(type_) and type_.num_fields:
        fields = [type_.field(i) for i in range(type_.num_fields)]
        return NestedColumn(name, {f"{name}.{field.name}": field.type for field in fields}, ranked=False)
    if not is_ranked(type_) or sample is None or not len(first := sample.drop_null()):
        return None
    labels = dict.fromkeys(_label_texts(first.combine_chunks()[:1].flatten()))
    return NestedColumn(name, {f"{name}.{label}": pa.float64() for label in labels}, ranked=True)


def is_ranked(type_: pa.DataType) -> bool:
    """Return whether a type is lists of label and score."""
    if not (pa.types.is_list(type_) or pa.types.is_large_list(type_)) or not pa.types.is_struct(type_.value_type):
        return False
    return ranked_names(type_.value_type.field(i).name for i in range(type_.value_type.num_fields)) is not None


def ranked_names(names: Iterable[str]) -> tuple[str, str] | None:
    """Return which of two names is the label and which the score; None if they are others.

    >>> ranked_names(["score", "label"]), ranked_names(["class", "prob"]), ranked_names(["x", "y"])
    (('label', 'score'), ('class', 'prob'), None)
    """
    given = list(names)
    label, score = (next((n for n in given if n.lower() in usual), "") for usual in (_LABEL_NAMES, _SCORE_NAMES))
    return (label, score) if label and score and len(given) == 2 else None
