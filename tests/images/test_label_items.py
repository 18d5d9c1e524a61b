"""Labels of one item of a dataset, as authors of training code write them."""

from typing import Any

import numpy as np
import pytest

from predboard.config import EmptyCell
from predboard.errors import InputError
from predboard.images.datasets import DatasetSource, make_manifest
from predboard.images.label_items import read_item
from predboard.images.label_lists import LabelOptions
from predboard.images.manifest import SourceOptions

CLASSES = ("cat", "dog", "bee")


@pytest.mark.parametrize(
    ("value", "labels", "unknown"),
    [
        (np.array([1, 0, 1]), [0, 2], []),
        (np.array([1.0, 0.0, -1.0], np.float32), [0], [2]),
        (np.array([True, False, False]), [0], []),
        (np.zeros(3), [], []),
        ([0, 1, 1], [1, 2], []),  # as indices it would name 1 twice
        ([2, 0], [0, 2], []),
        ([1], [1], []),
        ([], [], []),
        (["bee", "cat"], [0, 2], []),
        ({"dog"}, [1], []),
        ("dog", [1], []),
        (np.array([2, 0]), [0, 2], []),
    ],
)
def test_labels_are_taken_as_they_are_written(value: Any, labels: list[int], unknown: list[int]) -> None:
    assert read_item(value, CLASSES) == (labels, unknown)


def test_a_tensor_is_one_value_for_each_class() -> None:
    torch = pytest.importorskip("torch")
    assert read_item(torch.tensor([0.0, 1.0, 0.0]), CLASSES) == ([1], [])
    assert read_item(torch.tensor([1, 0]), ("cat", "dog")) == ([0], [])
    assert read_item(torch.tensor([0, 1]), ("cat", "dog")) == ([1], [])


@pytest.mark.parametrize("value", [None, np.full(3, -1), np.full(3, np.nan)])
def test_nothing_at_all_is_no_label_and_no_empty_set(value: Any) -> None:
    assert read_item(value, CLASSES) is None


@pytest.mark.parametrize(("empty", "unknown"), [("absent", []), ("unknown", [1])])
def test_nan_means_what_the_user_says(empty: EmptyCell, unknown: list[int]) -> None:
    item = np.array([1, np.nan, 0])
    assert read_item(item, CLASSES, empty=empty) == ([0], unknown)
    with pytest.raises(ValueError, match="--empty absent or --empty unknown"):
        read_item(item, CLASSES)


@pytest.mark.parametrize(
    ("value", "classes", "words"),
    [
        ([0, 1], ("cat", "dog"), "could be indices, or 0 and 1"),
        (["dgo"], CLASSES, "'dgo' is none of the 3 classes"),
        (["dog"], (), "has no classes: see --classes"),
        ([3], CLASSES, "3 is none of the 3 classes"),
        ([0.2, 0.8, 0.1], CLASSES, "expected 1, 0 or −1"),
        (np.array([1, 0]), CLASSES, "could be indices"),
        ([1, 1], CLASSES, "expected 1, 0 or −1"),
        (np.eye(3), CLASSES, "shape"),
        ({"cat": 1}, CLASSES, "dict"),
        (2, CLASSES, "int"),
    ],
)
def test_what_could_be_meant_otherwise_is_refused(value: Any, classes: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_item(value, classes)


def test_targets_with_minus_1_for_every_label_that_does_not_apply_are_refused() -> None:
    class Data(list[Any]):
        targets = np.where(np.arange(60).reshape(20, 3) % 2, 1, -1)

    def labels(targets: Any, empty: EmptyCell | None = None) -> Any:
        Data.targets = targets
        return make_manifest(DatasetSource(Data(range(20)), "d.py:val"), SourceOptions(sets=LabelOptions(empty=empty)))

    signed = Data.targets
    with pytest.raises(InputError, match=r"d\.py:val has 1 and −1 for each class and no 0"):
        labels(signed)
    with_0 = signed.copy()
    with_0[3] = 0
    known_only = np.where(signed < 0, np.nan, 1.0)
    cases: tuple[tuple[Any, EmptyCell | None], ...] = ((with_0, None), (known_only, "unknown"))
    for targets, empty in cases:
        assert labels(targets, empty).label.unknown.size[0] == 2
