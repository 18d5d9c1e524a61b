"""Reads and checks what --slice names: columns to cross, and edges of numbers. It knows no rows and no metric."""

import itertools
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from predboard.errors import InputError
from predboard.formatting import did_you_mean

CROSS = " & "
"""Stands between the parts of a crossed slice's name: country=NO & season=winter."""

Crosses = tuple[tuple[str, ...], ...]
"""What --slice names: columns that are crossed, two or more, or a number's column with its edges: cloud=0, 10, 50."""

Edges = Mapping[str, tuple[float, ...]]
"""Edges by column, ascending, two or more."""


def split_crosses(crosses: Crosses) -> tuple[Crosses, Edges]:
    """Return columns to cross, and edges by column.

    >>> split_crosses((("country", "cloud"), ("cloud=0", "10", "50")))
    ((('country', 'cloud'),), {'cloud': (0.0, 10.0, 50.0)})
    """
    edges = {}
    for cross in crosses:
        name, equals, first = cross[0].partition("=") if cross else ("", "", "")
        if equals:
            edges[name] = tuple(map(float, (first, *cross[1:])))
    return tuple(cross for cross in crosses if "=" not in cross[0]), edges


def check_crosses(
    crosses: Crosses,
    columns: Collection[str],
    numeric: Collection[str],
    texts: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Raise InputError for columns to cross that there are not, and edges that are none.

    Args:
        crosses: what --slice names.
        columns: of the manifest.
        numeric: columns that hold numbers, those of the images included, or texts that are all digits.
        texts: a text that is not of digits, by the column that has it.
    """
    cut: dict[str, tuple[str, ...]] = {}
    for cross in crosses:
        flag = f"--slice {','.join(cross)}"
        if "=" in cross[0]:
            _check_edges(flag, cross, numeric, texts)
            name = cross[0].partition("=")[0]
            if cut.setdefault(name, cross) != cross:
                raise InputError(f"{flag}: {name!r} is cut already by --slice {','.join(cut[name])}; leave one in")
            continue
        if len(set(cross)) < 2:
            raise InputError(
                f"{flag} names one column, which has slices anyway; expected two or more, such as A,B, or edges of "
                f"numbers: {cross[0]}=0,10,50"
            )
        for name in cross:
            if name not in columns:
                listed = ", ".join(columns) or "none"
                raise InputError(f"{flag}: no column {name!r}{did_you_mean(name, columns)}; there are {listed}")


def _check_edges(flag: str, cross: tuple[str, ...], numeric: Collection[str], texts: Mapping[str, str]) -> None:
    name = cross[0].partition("=")[0]
    try:
        edges = split_crosses((cross,))[1][name]
    except ValueError:
        raise InputError(f"{flag}: expected numbers behind {name}=, joined by commas, such as {name}=0,10,50") from None
    if len(edges) < 2 or not all(low < high for low, high in itertools.pairwise(edges)):  # nan is below nothing
        raise InputError(f"{flag}: expected two or more edges, each above the one before")
    if name in texts:
        raise InputError(f"{flag}: column {name!r} holds texts, such as {texts[name]!r}; edges cut numbers and digits")
    if name not in numeric:
        listed = ", ".join(numeric) or "none"
        raise InputError(f"{flag}: no column of numbers {name!r}{did_you_mean(name, numeric)}; there are {listed}")


def crosses_in(metrics: Iterable[str]) -> Crosses:
    """Return the columns that are crossed in names of metrics.

    >>> crosses_in(["slices/country=NO & season=*/accuracy", "slices/country=NO/nll", "slices/firm=A & B/nll"])
    (('country', 'season'),)
    """
    parts = [metric.removeprefix("slices/").split(CROSS) for metric in metrics if metric.startswith("slices/")]
    crossed = [part for part in parts if len(part) > 1 and all("=" in one for one in part)]
    return tuple(dict.fromkeys(tuple(one.partition("=")[0] for one in part) for part in crossed))
