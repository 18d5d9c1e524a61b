"""Checks that a step has the columns that --slice names, and numbers where it gives edges. It knows no metric."""

from predboard.metrics.slice_crosses import Crosses, check_crosses, split_crosses
from predboard.storage.parts import read_batches
from predboard.storage.runs import Step, list_manifest_columns, list_numeric_columns


def check_sliced_columns(crosses: Crosses, step: Step) -> None:
    """Raise InputError for columns to cross that a step lacks, and for edges of what holds neither numbers nor digits.

    Ids and hours such as 06 are texts everywhere else; a column whose edges are given is meant as numbers.
    """
    columns, numeric = list_manifest_columns(step), list_numeric_columns(step)
    wanted = {name for name in _edged(crosses) if name in columns and name not in numeric}
    other = {name: _text_beside_digits(step, name) for name in sorted(wanted)}
    digits = [name for name, text in other.items() if text is None]
    check_crosses(crosses, columns, [*numeric, *digits], {name: text for name, text in other.items() if text})


def _edged(crosses: Crosses) -> list[str]:
    """Return the columns with edges; none where the edges are no numbers, which `check_crosses` says."""
    try:
        return list(split_crosses(crosses)[1])
    except ValueError:
        return []


def _text_beside_digits(step: Step, name: str) -> str | None:
    """Return the first value of a column that is not of digits; None if all of them are, or are missing."""
    for part in step.parts:
        for rows in read_batches(part, {name}):
            if (encoded := rows.texts(name)) is None:
                return "a list"
            if text := next((text for text in encoded[0] if text and not text.isdecimal()), None):
                return text
    return None
