"""Several labels of an image in the columns of a table: what is read, what is refused, and what is said."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from predboard.errors import InputError
from predboard.images.label_lists import LabelOptions, read_label_sets
from predboard.images.label_masks import MultiLabelReading, choose_label_columns, read_mask

CLASSES = ("cat", "dog", "bee")


def read(columns: dict[str, Any], classes: tuple[str, ...] = (), **options: Any) -> MultiLabelReading:
    table, asked = pa.table(columns), LabelOptions(**options)
    names, usual = table.column_names, ("labels", "label")
    chosen = choose_label_columns(names, asked.column, asked.none, classes, usual, "x.csv")
    assert chosen is not None
    return read_label_sets(table, chosen, asked, classes, "x.csv")


def sets(reading: MultiLabelReading) -> list[list[str] | None]:
    """Names of each row's labels, None where it has no label; classes without names are numbers."""
    names = reading.classes or tuple(map(str, range(99)))
    lists, labelled = reading.labels.to_arrow()[0].to_pylist(), reading.labels.labelled.tolist()
    assert [row is not None for row in lists] == labelled
    return [None if row is None else [names[i] for i in row] for row in lists]


def unknown(reading: MultiLabelReading) -> list[list[int]]:
    return [row or [] for row in reading.labels.to_arrow()[1].to_pylist()]


# --- one column of text ---


@pytest.mark.parametrize("cells", [["0", "1", "-1"], [0, 1, -1], [0.0, 1.0, -1.0], [[0], [1], [-1]]])
def test_marks_of_the_only_class_are_no_indices(cells: list[Any]) -> None:
    """As indices a column of zeros would give every image the label."""
    assert sets(read({"labels": cells}, ("cat",))) == [[], ["cat"], None]
    assert sets(read({"labels": cells[:1]}, ("cat",))) == [[]]
    assert sets(read({"labels": ["0", "0|0"]}, ("cat",), separator="|")) == [["cat"], ["cat"]]
    assert sets(read({"labels": cells}, ("0",))) == [[], ["0"], None]


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["dog|cat", "bee", "cat"], "|"),
        (["dog ; cat;", ";bee", "cat"], ";"),
        (["dog cat", "bee", " cat "], " "),
        (["dog\tcat", "bee", "cat"], " "),
        (["dog, cat", "bee", "cat"], ", "),
        (["1|0", "2", "0"], "|"),
        (["1|0", "2.0", "0"], "|"),
        ([b"dog|cat", b"bee", b"cat"], "|"),
    ],
)
def test_a_separator_splits_names_and_indices(cells: list[Any], separator: str) -> None:
    reading = read({"labels": cells}, CLASSES, separator=separator)
    assert sets(reading) == [["cat", "dog"], ["bee"], ["cat"]]
    assert reading.words.startswith("separated by ")
    assert reading.words.endswith("4 labels in 3 images")


def test_text_stays_text() -> None:
    assert sets(read({"labels": ["007|08", "7"]}, separator="|")) == [["007", "08"], ["7"]]
    assert sets(read({"labels": ["1|10", "9"]}, ("10", "9", "1"), separator="|")) == [["10", "1"], ["9"]]
    assert sets(read({"labels": ["5|1"]}, ("class_1", "class_5"), separator="|")) == [["class_1", "class_5"]]


def test_without_class_names_they_are_sorted_with_a_word() -> None:
    reading = read({"labels": ["dog|cat", "bee"]}, separator="|")
    assert reading.classes == ("bee", "cat", "dog")
    assert reading.is_sorted
    assert not read({"labels": ["dog|cat", "bee"]}, CLASSES, separator="|").is_sorted


@pytest.mark.parametrize(
    ("cells", "classes", "mark"),
    [
        (["dog|cat", "bee"], CLASSES, "'|'"),
        (["dog,cat", "bee"], CLASSES, "','"),
        (["dog cat", "bee"], CLASSES, "' '"),
        (["0 2", "1"], CLASSES, "' '"),
        (["dog|cat", "dog|bee", "cat"], (), "'|'"),
        (["clear primary road", "clear primary", "clear road"], (), "' '"),
        (["dog|cat", "bee"], (), "'|'"),
        (["dog,cat", "cat"], (), "','"),
    ],
)
def test_a_column_that_looks_separated_is_refused_with_the_flag(
    cells: list[str], classes: tuple[str, ...], mark: str
) -> None:
    with pytest.raises(InputError, match="seems to have several labels in a row") as refused:
        read({"labels": cells}, classes)
    assert f"--label-separator {mark} splits them" in str(refused.value)


def test_a_separator_inside_a_name_is_split_only_where_that_is_asked() -> None:
    cells = ["Beaches, dunes, sands", "Sea and ocean"]
    assert read({"labels": cells}).classes == ("Beaches, dunes, sands", "Sea and ocean")
    assert sets(read({"labels": cells}, ("Sea and ocean", "Beaches, dunes, sands"))) == [[cells[0]], [cells[1]]]
    assert read({"labels": ["|".join(cells)]}, separator="|").classes == tuple(cells)
    assert read({"labels": cells}, separator=",").classes == ("Beaches", "Sea and ocean", "dunes", "sands")
    with pytest.raises(InputError, match="'Beaches, dunes, sands' has the separator in its name"):
        read({"labels": cells}, ("Beaches, dunes, sands", "Sea and ocean"), separator=",")


def test_another_separator_than_the_one_that_is_given_is_refused() -> None:
    with pytest.raises(InputError, match=r"but --label-separator is ';': --label-separator '\|' splits"):
        read({"labels": ["dog|cat", "dog|bee", "cat"]}, separator=";")


@pytest.mark.parametrize("blank", ["", None, " ", "nan"])
def test_empty_cells_must_be_explained(blank: str | None) -> None:
    columns = {"labels": ["cat|dog", blank, blank]}
    with pytest.raises(InputError, match=r"2 empty rows of 3, .* give --empty absent or --empty unknown"):
        read(columns, separator="|")
    absent, missing = (read(columns, separator="|", empty=empty) for empty in ("absent", "unknown"))
    assert sets(absent) == [["cat", "dog"], [], []]
    assert absent.words.endswith("2 empty rows as absent, 2 labels in 3 images, 2 of them with none")
    assert sets(missing) == [["cat", "dog"], None, None]
    assert missing.words.endswith("2 empty rows as unknown, 2 labels in 1 image, 2 images unlabelled")


def test_a_name_that_is_no_class_is_refused_with_its_count_and_what_may_be_meant() -> None:
    columns = {"labels": ["cat|dgo", "dgo", "No Finding", "cat|ant"]}
    with pytest.raises(InputError) as refused:
        read(columns, CLASSES, separator="|")
    message = str(refused.value)
    assert "4 labels that are no class: 'dgo' (2), 'No Finding' (1), 'ant' (1); expected cat, dog, bee" in message
    assert "'dgo': did you mean dog?" in message
    assert "--none 'No Finding' says that it means no label" in message


def test_a_name_that_differs_in_case_or_spaces_alone_is_the_class_and_noted() -> None:
    reading = read({"labels": ["Cat|dog", "BEE"]}, CLASSES, separator="|")
    assert sets(reading) == [["cat", "dog"], ["bee"]]
    assert reading.notes == ("labels are read as the class that is spelled alike: BEE as bee, Cat as cat",)
    with pytest.raises(InputError, match=r"2 labels that are no class: 'Cat' \(1\), 'cat' \(1\)"):
        read({"labels": ["Cat|dog", "cat"]}, ("CAT", "dog"), separator="|")


def test_none_is_the_empty_set_and_not_lost() -> None:
    columns = {"labels": ["cat|dog", "No Finding", "No Finding|cat"]}
    reading = read(columns, CLASSES, separator="|", none="No Finding")
    assert sets(reading) == [["cat", "dog"], [], ["cat"]]
    assert "'No Finding' as no label (2 images)" in reading.reading
    assert reading.notes == ("1 row of column 'labels' of x.csv has 'No Finding' beside other labels, which are kept",)
    assert read(columns, separator="|", none="No Finding").classes == ("cat", "dog")
    (note,) = read(columns, separator="|", none="No finding").notes
    assert "no row of column 'labels' of x.csv has 'No finding'" in note
    assert "did you mean No Finding?" in note
    with pytest.raises(InputError, match="which is one of the classes"):
        read(columns, ("cat", "dog", "No Finding"), separator="|", none="No Finding")


def test_a_class_that_may_mean_nothing_is_noted_only_where_it_is_always_alone() -> None:
    (note,) = read({"labels": ["cat|dog", "normal"]}, separator="|").notes
    assert "--none 'normal' says that it means no label" in note
    assert not read({"labels": ["cat|dog", "normal|cat"]}, separator="|").notes


def test_a_label_that_a_cell_has_twice_counts_once_and_is_noted() -> None:
    reading = read({"labels": ["cat|cat|dog", "dog| dog"]}, separator="|")
    assert sets(reading) == [["cat", "dog"], ["dog"]]
    assert reading.notes == ("column 'labels' of x.csv has 2 labels twice in a row; each counts once",)


@pytest.mark.parametrize(("index", "words"), [(3, "expected 0 to 2"), (-1, "leave unknown labels out of a list")])
def test_an_index_beyond_the_classes_is_refused_with_its_row(index: int, words: str) -> None:
    with pytest.raises(InputError, match=f"has label {index} in row 1; .*{words}"):
        read({"labels": [[0, 1], [2, index]]}, CLASSES)


# --- lists ---

NAMES = [["dog", "cat"], ["bee"], []]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(NAMES),
        pa.array(NAMES, pa.large_list(pa.string())),
        pa.array(NAMES, pa.list_view(pa.string())),
        pa.array(NAMES, pa.large_list_view(pa.large_string())),
        pa.array(NAMES, pa.list_(pa.string_view())),
        pa.array(NAMES, pa.list_(pa.binary())),
        pa.array(NAMES, pa.list_(pa.dictionary(pa.int8(), pa.string()))),
        pa.array([[1, 0], [2], []]),
        pa.array([[1, 0], [2], []], pa.list_(pa.uint8())),
        pa.array([[1.0, 0.0], [2.0], []]),
        pa.array(["['dog', 'cat']", '["bee"]', "[]"]),
        pa.array(["[1 0]", "[2]", "[]"]),
        pa.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]]).take(pa.array([0, 1, 2])),
    ],
)
def test_lists_of_every_type_are_the_same(column: pa.Array) -> None:
    reading = read({"labels": column}, CLASSES)
    expected = [["dog"], ["bee"], []] if column[0].as_py() == [0, 1, 0] else [["cat", "dog"], ["bee"], []]
    assert sets(reading) == expected


def test_a_list_of_fixed_length_may_have_names_or_bits() -> None:
    assert sets(read({"labels": pa.array([["cat", "bee"]], pa.list_(pa.string(), 2))}, CLASSES)) == [["cat", "bee"]]
    bits = pa.array([[1, 0, 1], [0, 0, -1], None, [-1, -1, -1]], pa.list_(pa.int8(), 3))
    reading = read({"labels": bits}, CLASSES)
    assert sets(reading) == [["cat", "bee"], [], None, None]
    assert unknown(reading) == [[], [2], [], []]
    with_nan = pa.array([[1.0, float("nan"), 0.0], [0.0, 1.0, 1.0]])
    assert unknown(read({"labels": with_nan}, CLASSES, empty="unknown")) == [[1], []]
    booleans = pa.array([[True, False, True], [False] * 3], pa.list_(pa.bool_(), 3))
    assert sets(read({"labels": booleans}, CLASSES)) == [["cat", "bee"], []]


@pytest.mark.parametrize("as_text", [False, True])
def test_lists_with_a_value_for_each_class_are_that_also_where_classes_are_called_0_and_1(as_text: bool) -> None:
    rows = [[0, 1, 0], [1, 1, 1], [0, 0, 0]]
    reading = read({"labels": list(map(str, rows)) if as_text else rows}, ("0", "1", "2"))
    assert sets(reading) == [["1"], ["0", "1", "2"], []]
    assert sets(read({"labels": [[0, 1], [1], [0]]}, ("0", "1", "2"))) == [["0", "1"], ["1"], ["0"]]
    with pytest.raises(InputError, match="could be indices, or 0 and 1 for each class"):
        read({"labels": [[0, 1], [1, 0]]}, ("0", "1"))


def test_an_empty_list_has_no_label_and_null_is_unlabelled() -> None:
    column = pa.array([["cat"], [], None])
    reading = read({"labels": column})
    assert sets(reading) == [["cat"], [], None]
    assert "1 row without a list as unlabelled" in reading.words
    assert sets(read({"labels": column}, empty="absent")) == [["cat"], [], []]


@pytest.mark.parametrize(
    ("column", "classes", "words"),
    [
        ([[1, 0], [0, 1]], ("cat", "dog"), "could be indices, or 0 and 1 for each class"),
        ([[1, 0, 1], []], CLASSES, "lists of 0 and 1 with 0 to 3 values; expected 3 values"),
        ([[1, 0, 1], [0, 0, 1]], ("cat", "dog"), "with 3 values; expected 2 values"),
        ([["cat", None]], CLASSES, "1 label null in lists, the first in row 0"),
        ([[0.5, 0.1]], CLASSES, "label 0.5; expected names of classes or whole numbers"),
        ([[["cat"]]], CLASSES, "expected lists of names, of indices"),
        ([{"cat": 1}], CLASSES, "expected lists of names, of indices"),
    ],
)
def test_lists_that_could_be_meant_otherwise_are_refused(
    column: list[Any], classes: tuple[str, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read({"labels": column}, classes)


# --- a column for each label ---


@pytest.mark.parametrize(
    ("cat", "dog"),
    [
        ([1, 0, -1, 0], [1, 0, 1, 0]),
        ([1.0, 0.0, -1.0, 0.0], ["1.0", "0", "1", "0."]),
        (["yes", "no", "-1", "FALSE"], [True, False, True, False]),
        (pa.array([1, 0, -1, 0], pa.int8()).dictionary_encode(), pa.array(["1", "0", "1", "0"], pa.string_view())),
        (pa.array([1, 0, -1, 0]).cast(pa.decimal128(25, 2)), [b"1", b"0", b"1", b"0"]),
    ],
)
def test_columns_have_1_0_or_minus_1(cat: Any, dog: Any) -> None:
    reading = read({"label_cat": cat, "x": [5, 5, 5, 5], "label_dog": dog}, column="label_*")
    assert reading.classes == ("cat", "dog")
    assert sets(reading) == [["cat", "dog"], [], ["dog"], []]
    assert unknown(reading) == [[], [], [0], []]


def test_columns_are_found_by_pattern_by_list_and_by_the_classes_in_any_order() -> None:
    columns = {"y dog": [1, 0], "y cat": [0, 1], "cat": [0, 1], "dog": [1, 0], "label_cat": [0, 1], "label_dog": [1, 0]}
    two = ("cat", "dog")
    for classes, asked in (((), "y *"), ((), "dog,cat"), (two, None), (two, "y *"), (two, "label_*")):
        assert sets(read(columns, classes, column=asked)) == [["dog"], ["cat"]]
    assert sets(read({"cat": [0, 1], "x": [1, 1]}, ("cat",))) == [[], ["cat"]]
    del columns["cat"]
    assert read(columns, two).reading.startswith("2 columns of 0 and 1 (label_cat, label_dog)")
    numbered = read({"label_10": [1], "label_9": [0]}, column="label_*")
    assert (numbered.classes, sets(numbered)) == (("9", "10"), [["10"]])


def test_an_empty_cell_must_be_explained_and_a_row_without_any_value_is_unlabelled() -> None:
    columns = {"label_cat": [1, 0, None, None], "label_dog": [1, None, 0, None]}
    with pytest.raises(InputError, match=r"x.csv has 2 empty cells of 8, .* --empty absent or --empty unknown"):
        read(columns, column="label_*")
    reading = read(columns, column="label_*", empty="unknown")
    assert sets(reading) == [["cat", "dog"], [], [], None]
    assert unknown(reading) == [[], [1], [0], []]
    reading = read(columns, column="label_*", empty="absent")
    assert sets(reading) == [["cat", "dog"], [], [], []]
    assert "1 row without any value as no label" in reading.words
    reading = read({"label_cat": [1, None], "label_dog": [0, None]}, column="label_*")
    assert sets(reading) == [["cat"], None]
    assert "1 row without any value as unlabelled" in reading.words


def test_a_column_may_say_that_no_label_applies() -> None:
    columns = {"cat": [None, 1, None], "dog": [None, 0, 1], "No Finding": [1, 0, 1]}
    for classes, asked in ((("cat", "dog"), None), ((), "cat,dog,No Finding"), ((), "cat,dog")):
        reading = read(columns, classes, column=asked, none="No Finding", empty="unknown")
        assert sets(reading) == [[], ["cat"], ["dog"]]
        assert unknown(reading) == [[], [], []]
    assert reading.notes == ("1 row of x.csv has 'No Finding' beside other labels, which are kept",)


@pytest.mark.parametrize("form", ["columns", "lists", "array"])
def test_minus_1_for_every_label_that_does_not_apply_is_refused(form: str) -> None:
    """As unknown labels they would count for nothing, and no predicted label would be wrong."""
    mask = np.where(np.arange(40).reshape(20, 2) % 3 == 0, 1, -1)

    def read_marks(rows: Any) -> MultiLabelReading:
        if form == "array":
            return read_mask(rows, "unknown", (), "a")
        if form == "lists":
            return read({"labels": rows.tolist()}, empty="unknown")
        return read({"label_cat": rows[:, 0], "label_dog": rows[:, 1]}, column="label_*", empty="unknown")

    with pytest.raises(InputError, match=r"1 and −1 for each class and no 0, .* --empty unknown if no label is known"):
        read_marks(mask)
    assert unknown(read_marks(mask[:19]))[0] == [1]
    with_0 = mask.copy()
    with_0[0, 0] = 0
    only_known = np.where(mask < 0, np.nan, 1.0)
    if form != "columns":
        assert unknown(read_marks(with_0))[:2] == [[1], [0]]
    assert unknown(read_marks(only_known)) == [[i for i in (0, 1) if row[i] < 0 and max(row) > 0] for row in mask]


@pytest.mark.parametrize(
    ("columns", "classes", "options", "words"),
    [
        ({"label_cat": [1, 2]}, (), {"column": "label_*"}, "column 'label_cat' of x.csv has '2'"),
        ({"label_cat": [1, 0.5]}, (), {"column": "label_*"}, "degrees of a label are not read"),
        ({"label_cat": ["1", "u"]}, (), {"column": "label_*"}, "has 'u'; expected 1, 0, −1"),
        (
            {"label_cat": [1], "label_dgo": [0]},
            CLASSES[:2],
            {"column": "label_*"},
            r"no class \(dgo\).*mean dog\?: name",
        ),
        (
            {"label_cat": [1], "label_no": [0]},
            CLASSES[:1],
            {"column": "label_*"},
            r"no class \(no\); .* --none 'no' if",
        ),
        ({"label_cat": [1], "label_dog": [0]}, CLASSES, {"column": "label_*"}, r"for 1 class \(bee\)"),
        ({"label_cat": [1], "x": [0]}, (), {"column": "labels_*"}, r"no column like 'labels_\*'"),
        ({"label_cat": [1], "x": [0]}, (), {"column": "label_cta"}, "no column 'label_cta'; .*mean label_cat"),
        ({"label_cat": [1]}, (), {"column": "label_*", "none": "nothing"}, "no column of labels for --none 'nothing'"),
        ({"label_cat": [1]}, (), {"column": "label_*", "separator": "|"}, "--label-separator does not apply"),
        ({"labels": [["cat"]]}, (), {"separator": "|"}, "has lists, which --label-separator does not apply to"),
        ({"cat": [1], "dog": [0]}, CLASSES[:2], {"column": "cat"}, "named like one of the 2 classes"),
    ],
)
def test_columns_that_do_not_fit_are_refused(
    columns: dict[str, Any], classes: tuple[str, ...], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read(columns, classes, **options)


# --- arrays ---


def test_an_array_has_1_0_or_minus_1_and_nan_is_an_empty_cell() -> None:
    array = np.array([[1, 0, -1], [0, 0, 0], [np.nan, 1, 0], [np.nan] * 3])
    with pytest.raises(InputError, match=r"'label' of a.npz has 1 empty cell of 12"):
        read_mask(array, None, CLASSES, "'label' of a.npz")
    reading = read_mask(array, "unknown", CLASSES, "'label' of a.npz")
    assert sets(reading) == [["cat"], [], ["dog"], None]
    assert unknown(reading) == [[2], [], [0], []]
    assert sets(read_mask(array[:3], "absent", CLASSES, "a"))[2] == ["dog"]
    assert sets(read_mask(array[:2] == 1, None, (), "a")) == [["0"], []]
    with pytest.raises(InputError, match="3 values in each row and there are 2 classes"):
        read_mask(array, None, CLASSES[:2], "a")
    with pytest.raises(InputError, match=r"a, column 1, has '0.5'"):
        read_mask(np.array([[0, 0.5]]), None, (), "a")
