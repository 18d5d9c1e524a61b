"""Converts between Arrow arrays and NumPy arrays without pandas. It knows nothing of predictions.

Arrow's own conversions (`pyarrow.array`, `Array.to_numpy`) import pandas where it is installed, which takes 0.5 s.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def as_numpy(array: pa.Array, null: float | None = None) -> NDArray[Any]:
    """Return the numbers of an Arrow array, [rows], with nulls replaced by `null`; a view where possible."""
    if array.null_count:
        array = array.fill_null(as_arrow(np.array([null]), array.type)[0])
    dtype = np.dtype(array.type.to_pandas_dtype())
    if not len(array):
        return np.zeros(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def as_matrix(array: pa.Array) -> NDArray[Any]:
    """Return an Arrow array of fixed-size lists, none of them null, as [rows, length]."""
    return as_numpy(array.flatten()).reshape(len(array), array.type.list_size)


def as_booleans(values: NDArray[np.bool_]) -> pa.BooleanArray:
    """Return an Arrow array of [rows] truth values."""
    bits = pa.py_buffer(np.packbits(values, bitorder="little").tobytes())
    return pa.BooleanArray.from_buffers(pa.bool_(), len(values), [None, bits])


def as_arrow(values: NDArray[Any], type_: pa.DataType, ok: NDArray[np.bool_] | None = None) -> pa.Array:
    """Return an Arrow array of [rows] numbers, null where `ok` is false."""
    numbers = np.ascontiguousarray(values, type_.to_pandas_dtype())
    valid = None if ok is None or ok.all() else as_booleans(ok).buffers()[1]
    return pa.Array.from_buffers(type_, len(numbers), [valid, pa.py_buffer(numbers)])


def arrow_bytes(texts: Sequence[bytes]) -> pa.LargeBinaryArray:
    """Return an Arrow array of encoded texts."""
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
    return pa.Array.from_buffers(pa.large_binary(), len(texts), buffers)


def from_values(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    """Return values of Python as an Arrow array [rows] of a type, None as null, as `pyarrow.array` does.

    Raises UnicodeEncodeError for a text with lone surrogates.

    >>> from_values(["a", None, "ö"], pa.string()).to_pylist(), from_values([7, None], pa.int32()).to_pylist()
    (['a', None, 'ö'], [7, None])
    """
    ok = np.array([value is not None for value in values], bool)
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        numbers = np.array([0 if value is None else value for value in values], type_.to_pandas_dtype())
        return as_arrow(numbers, type_, ok)
    if not (pa.types.is_string(type_) or pa.types.is_binary(type_)):
        return pa.array(values, type_)
    encoded = [b"" if value is None else value.encode() if isinstance(value, str) else value for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    if ends[-1] > np.iinfo(np.int32).max:  # beyond the offsets of this type: Arrow says so, or splits the array
        return pa.array(values, type_)
    valid = None if ok.all() else as_booleans(ok).buffers()[1]
    buffers = [valid, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(type_, len(encoded), buffers)


def as_texts(column: pa.Array | pa.ChunkedArray) -> Any:
    """Return values as text; times with a zone are those of UTC, because not every machine knows all zones."""
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        column = column.cast(pa.timestamp(column.type.unit, "UTC"))
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def without_views(table: pa.Table) -> pa.Table:
    """Return the table with views of text, bytes and lists as plain ones, which is what Arrow's functions take."""
    if all(viewed_type(type_) == type_ for type_ in table.schema.types):
        return table
    columns = {
        name: pa.chunked_array([_without_views(chunk) for chunk in column.chunks], viewed_type(column.type))
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pa.table(list(columns.values()), names=table.column_names) if columns else table


def viewed_type(type_: pa.DataType) -> pa.DataType:
    """Return the plain type of a view; another type as it is."""
    if pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_binary_view(type_):
        return pa.binary()
    if pa.types.is_list_view(type_) or pa.types.is_large_list_view(type_):
        return pa.large_list(viewed_type(type_.value_type))
    return type_


def _without_views(array: pa.Array) -> pa.Array:
    plain = viewed_type(array.type)
    if plain == array.type:
        return array
    if not pa.types.is_large_list(plain):
        return array.cast(plain)
    # Arrow 26 casts a view of lists to a list whose offsets lack the last one.
    ends = np.cumsum([0, *(len(row) if row.is_valid else 0 for row in array)], dtype=np.int64)
    values = _without_views(array.flatten())
    nulls = array.is_null() if array.null_count else None
    return pa.LargeListArray.from_arrays(pa.array(ends), values, mask=nulls)


def scatter(values: NDArray[Any], ok: NDArray[np.bool_], type_: pa.DataType) -> pa.Array:
    """Return an array of len(ok) rows with `values` in the rows where `ok` is true, and null in the others.

    >>> scatter(np.array([7, 8]), np.array([True, False, True]), pa.int32()).to_pylist()
    [7, None, 8]
    """
    if isinstance(type_, pa.FixedSizeListType):
        dtype = type_.value_type.to_pandas_dtype()
        if ok.all():
            full = np.array(values, dtype).reshape(len(ok), type_.list_size)  # a copy: the caller may use its own again
        else:
            full = np.zeros((len(ok), type_.list_size), dtype)
            full[ok] = values
        flat = as_arrow(full.reshape(-1), type_.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=type_, mask=as_booleans(~ok))
    full = np.zeros(len(ok), values.dtype)
    full[ok] = values
    return as_arrow(full, type_, ok)
