"""Labels of a column: names stay as they are written, numbers are names where all are, and every type is read."""

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from predboard import InputError
from predboard.images.label_values import parse_labels, respell

NUMBERED = ("1", "2", "5")


def chunked(values: Any, type_: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, type_)])


@pytest.mark.parametrize(
    ("values", "type_", "classes", "expected"),
    [
        (["cat", "", None, " dog "], None, (), ["cat", -1, -1, "dog"]),
        (["1e3", "00012"], None, ("00012", "1e3"), ["1e3", "00012"]),
        (["1", "10", "-1"], None, (), [1, 10, -1]),
        (["1", "2"], None, NUMBERED, ["1", "2"]),
        ([1, 5, None], pa.int64(), NUMBERED, ["1", "5", -1]),
        ([0, 1, 2], pa.int8(), NUMBERED, [0, 1, 2]),
        ([2**40, 1], pa.uint64(), (), [2**40, 1]),
        ([1.0, float("nan"), None], pa.float32(), (), [1, -1, -1]),
        (["1.0", "NaN", "2."], None, (), [1, -1, 2]),
        ([Decimal("1.00"), Decimal("0")], None, (), [1, 0]),
        ([True, False], pa.bool_(), (), [1, 0]),
        (["no", "yes", ""], None, (), [0, 1, -1]),
        (["no", "yes"], None, ("yes", "no"), ["no", "yes"]),
        ([b"cat", b"dog"], pa.binary(), (), ["cat", "dog"]),
        (["-1", "+1", "1"], None, (), [0, 1, 1]),
        ([1.0, -1.0, None], pa.float64(), ("cat", "dog"), [1, 0, -1]),
        ([-1, 1, 0], None, ("cat", "dog"), [-1, 1, 0]),
        ([-1, 1], None, ("a", "b", "c"), [-1, 1]),
        ([1, 5, -1], None, NUMBERED, ["1", "5", -1]),
        (["1.0", "05"], None, NUMBERED, ["1", "5"]),
        ([1, 10, 2], None, ("c[10]", "c[1]", "c[2]"), ["c[1]", "c[10]", "c[2]"]),
        ([0, 1], None, ("c1", "c2"), [0, 1]),
        ([0, 1], None, ("c0", "c1"), [0, 1]),
        (["cat", "dog"], pa.dictionary(pa.int8(), pa.string()), (), ["cat", "dog"]),
        (["cat", "dog"], pa.string_view(), (), ["cat", "dog"]),
        (["cat", "dog"], pa.large_string(), (), ["cat", "dog"]),
    ],
)
def test_labels_of_every_type(values: Any, type_: Any, classes: tuple[str, ...], expected: list[Any]) -> None:
    assert parse_labels(chunked(values, type_), classes, "y").values == expected


@pytest.mark.parametrize(
    ("values", "type_", "classes", "expected"),
    [
        (["007", "010"], None, (), ["007", "010"]),
        (["007", "010"], None, tuple("abcdefghijkl"), [7, 10]),
        (["cat", "nan", "<NA>"], None, (), ["cat", -1, -1]),
        (["cat", "none"], None, (), ["cat", "none"]),
        ([[2], [], None, [0]], None, (), [2, -1, -1, 0]),
        ([["cat"], ["dog"]], None, (), ["cat", "dog"]),
        ([[0, 0, 1], [1, 0, 0]], pa.list_(pa.int8()), NUMBERED, [2, 0]),
        ([[0.0, 1.0], None], pa.list_(pa.float32(), 2), (), [1, -1]),
        ([[False, True], [True, False]], pa.large_list(pa.bool_()), (), [1, 0]),
        ([[0, 1], None, [1, 0]], pa.list_view(pa.int8()), (), [1, -1, 0]),
        (["[0 1 0]", "[1 0 0]"], None, (), [1, 0]),
        (["['cat']", "['dog']"], None, (), ["cat", "dog"]),
        (["9" * 400, "1"], None, (), ["9" * 400, "1"]),
        ([1.0, 0.0], pa.float16(), (), [1, 0]),
        ([b"cat"], pa.binary_view(), (), ["cat"]),
        ([0, 1], pa.dictionary(pa.int8(), pa.int64()), ("cat", "dog"), [0, 1]),
    ],
)
def test_padded_numbers_lists_and_missing_ones(
    values: Any, type_: Any, classes: tuple[str, ...], expected: list[Any]
) -> None:
    assert parse_labels(chunked(values, type_), classes, "y").values == expected


@pytest.mark.parametrize(
    ("values", "classes", "reading", "note"),
    [
        ([1, 2], NUMBERED, "class names, not indices", "labels of y are read as class names; they would also fit as"),
        ([0, 1], NUMBERED, "indices from 0", "labels of y are read as indices from 0, because not all of them are cl"),
        (["yes", "no"], (), "1 for yes and 0 for no", ""),
        (["yes", "no"], ("cat", "dog"), "1 for yes and 0 for no", "labels of y are read as 1 for yes and 0 for no"),
        ([1, 5], NUMBERED, "class names, not indices", ""),
        ([0, 1], ("0", "1"), "", ""),
        ([0, 1], ("cat", "dog"), "indices from 0", ""),
        (["cat"], (), "", ""),
        ([[0, 1]], (), "one-hot lists", ""),
        ([-1, 1], ("cat", "dog"), "1 for 1 and 0 for -1", "labels of y are read as 1 for 1 and 0 for -1"),
        ([-1, 1], (), "1 for 1 and 0 for -1", ""),
        ([-1, 0, 1], (), "indices from 0, negative ones as unknown", "1 of 3 labels of y are -1 and count as unknown"),
        ([-1, 0, 1, 1, 1], (), "indices from 0, negative ones as unknown", ""),
        ([-1, 0, 2, 2, 2], ("a", "b", "c"), "indices from 0, negative ones as unknown", "1 of 5 labels of y are -1"),
        ([1, 2], ("c1", "c2", "c5"), "the numbers of the classes, 1 for c1", "labels of y are read as class names; th"),
        ([5, 1], ("c5", "c1"), "the numbers of the classes, 1 for c1", ""),
    ],
)
def test_the_reading_of_numbers_is_told_and_a_doubt_is_noted(
    values: Any, classes: tuple[str, ...], reading: str, note: str
) -> None:
    parsed = parse_labels(chunked(values), classes, "y")
    assert parsed.reading == reading
    assert parsed.note.startswith(note) and bool(parsed.note) == bool(note)


@pytest.mark.parametrize("values", [[0.5], ["0.5", "1"], [Decimal("0.5")]])
def test_what_is_neither_a_name_nor_a_whole_number_is_refused(values: Any) -> None:
    with pytest.raises(InputError, match=r"y has label 0\.5; expected names of classes or whole numbers"):
        parse_labels(chunked(values), (), "y")


def test_objects_are_no_labels() -> None:
    values = chunked([None, {}], pa.struct([]))
    with pytest.raises(InputError, match=r"y has \{\}; expected one label in each row"):
        parse_labels(values, (), "y")


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["cat,dog", "cat"], ("cat", "dog")),
        (["cat|dog", "cat"], ("cat", "dog")),
        (["cat; dog", "cat"], ("cat", "dog")),
        (["cat dog", "cat"], ("cat", "dog")),
        (["cat, dog", "cat", "dog"], ()),
        (["a|b", "b|c", "a|c"], ()),
        (["0,2", "1"], ()),
        (["0 2", "1"], ("cat", "dog", "owl")),
        ([["cat", "dog"], ["cat"]], ()),
        ([[1, 1, 0], [0, 1, 0]], ()),
        ([[1, 0], [0, 1, 0]], ()),
        (["['cat', 'dog']", "['cat']"], ("cat", "dog")),
    ],
)
def test_several_names_for_one_image_are_refused(values: Any, classes: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"y has several labels for an image .*--task multi-label takes all"):
        parse_labels(chunked(values), classes, "y")


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["maillot", "maillot, tank suit"], ("maillot", "maillot, tank suit")),
        (["tench, Tinca tinca", "goldfish, Carassius auratus"], ()),
        (["sea lion", "lion", "sea"], ()),
        (["Paris, France", "Lyon, France"], ()),
    ],
)
def test_names_with_commas_and_spaces_are_names(values: Any, classes: tuple[str, ...]) -> None:
    assert parse_labels(chunked(values), classes, "y").values == values


def test_an_index_beyond_int32_is_no_other_one() -> None:
    assert parse_labels(chunked([1, 2**32 + 1, -5]), (), "y").index(()).tolist() == [1, 2**31 - 1, -1]


@pytest.mark.parametrize("classes", [(), ("a|b", "b", "c")])
def test_a_class_may_have_a_mark_and_another_class_in_its_name(classes: tuple[str, ...]) -> None:
    assert parse_labels(chunked(["a|b", "b", "c", "a|b"]), classes, "y").values == ["a|b", "b", "c", "a|b"]


def test_labels_that_count_from_minus_one_are_refused() -> None:
    """Read as indices, every image would have the label of the class before its own, and the first class none."""
    column = pa.chunked_array([[-1, 0, 1, 1, 0, 0]])
    with pytest.raises(InputError, match="labels of y are −1 to 1, of 3 classes: do they count from −1"):
        parse_labels(column, ("a", "b", "c"), "y")
    assert parse_labels(column, ("a", "b", "c", "d"), "y").values == [-1, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("labels", "classes", "read"),
    [
        (["red ant", "bee"], ["red_ant", "bee"], ["red_ant", "bee"]),
        (["Red-Ant", "bee"], ["red ant", "bee"], ["red ant", "bee"]),
        (["red ant", "red_ant"], ["red_ant", "bee"], ["red ant", "red_ant"]),  # two labels, one class
        (["red ant"], ["red_ant", "red-ant"], ["red ant"]),  # one label, two classes
        (["a", "A"], ["A"], ["a", "A"]),
        (["a", -1], ["A", "b"], ["A", -1]),
    ],
)
def test_a_name_that_is_spelled_otherwise_is_its_class_where_no_other_is(
    labels: list[int | str], classes: list[str], read: list[int | str]
) -> None:
    values, note = respell(labels, classes)
    assert values == read
    assert bool(note) == (values != labels)
