"""Every filter selects what one line of pandas selects on rows.parquet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from predboard import InputError
from predboard.predictions.table import Predictions
from predboard.tab import selection
from predboard.tab.columns import RowsFile
from predboard.tab.pairs import pair_steps
from predboard.tab.query import join_values, read_query, split_values
from predboard.tab.selection import QueryInputs
from tests.tab import logs

Pandas = Callable[[pd.DataFrame], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return logs.write_logs(tmp_path_factory.mktemp("logs") / "net")


@pytest.fixture(scope="module")
def rows(folder: Path) -> RowsFile:
    return logs.opened(folder)


@pytest.fixture(scope="module")
def data(folder: Path) -> pd.DataFrame:
    return logs.frame(folder, 3)


def labelled(d: pd.DataFrame) -> Any:
    return (d.label >= 0) & (d.predicted >= 0)


FILTERS: list[tuple[dict[str, str], Pandas]] = [
    ({"true": "1"}, lambda d: d.label == 1),
    ({"true": "0,2"}, lambda d: d.label.isin([0, 2])),
    ({"true": "-1"}, lambda d: d.label == -1),
    ({"true": "-1,1"}, lambda d: d.label.isin([-1, 1])),
    ({"pred": "2"}, lambda d: d.predicted == 2),
    ({"pred": "-1"}, lambda d: d.predicted == -1),
    ({"right": "1"}, lambda d: labelled(d) & (d.label == d.predicted)),
    ({"right": "0"}, lambda d: labelled(d) & (d.label != d.predicted)),
    ({"state": "failed"}, lambda d: d.predicted == -1),
    ({"state": "unlabelled"}, lambda d: (d.label == -1) & (d.predicted >= 0)),
    ({"state": "labelled"}, labelled),
    ({"confidence": ".5.."}, lambda d: d.confidence >= np.float32(0.5)),
    ({"loss": "..0.7"}, lambda d: d.loss <= np.float32(0.7)),
    ({"margin": ".1...4"}, lambda d: d.margin.between(np.float32(0.1), np.float32(0.4))),
    ({"entropy": "1e-1..1"}, lambda d: d.entropy.between(np.float32(0.1), 1)),
    ({"n.year": "2001..2002"}, lambda d: d.year.between(2001, 2002)),
    ({"n.rank": "2.."}, lambda d: d["rank"] >= 2),
    ({"n.brightness": "0.125..0.5"}, lambda d: d.brightness.between(0.125, 0.5)),
    ({"s.site": r"b\|c"}, lambda d: d.site == "b|c"),
    ({"s.site": r"A|\\|nowhere"}, lambda d: d.site.isin(["A", "\\"])),
    ({"s.site": r"\N|<i>"}, lambda d: d.site.isna() | (d.site == "<i>")),
    ({"q": "PHOTO 01"}, lambda d: d.image.str.lower().str.contains("photo 01", regex=False)),
    ({"q": ".png"}, lambda d: d.image.str.contains(".png", regex=False)),
]


@pytest.mark.parametrize(("given", "expected"), FILTERS, ids=[str(f[0]) for f in FILTERS])
def test_a_filter_selects_what_pandas_does(
    rows: RowsFile, data: pd.DataFrame, given: dict[str, str], expected: Pandas
) -> None:
    mask = selection.select(read_query(logs.parameters(**given)), rows.last)
    assert mask is not None
    assert np.flatnonzero(mask).tolist() == data.index[expected(data)].tolist()


@settings(max_examples=25)
@given(chosen=st.sets(st.integers(0, len(FILTERS) - 1), max_size=4), step=st.sampled_from(logs.STEPS))
def test_filters_together_select_what_all_of_them_do(folder: Path, chosen: set[int], step: int) -> None:
    query: dict[str, str] = {}
    data, expected = logs.frame(folder, step), np.ones(60, bool)
    for number in chosen:
        given, mask = FILTERS[number]
        if not given.keys() & query.keys():
            query |= given
            expected &= np.asarray(mask(data), bool)
    rows = logs.opened(folder)
    selected = selection.select(read_query(logs.parameters(**query)), rows.steps[step])
    assert selection.chosen_rows(selected, 60).tolist() == np.flatnonzero(expected).tolist()


@settings(max_examples=25)
@given(
    sort=st.sampled_from(["loss", "confidence", "year", "brightness", "image", "site", "rank"]),
    descending=st.booleans(),
    offset=st.integers(0, 70),
    limit=st.integers(1, 70),
)
def test_a_page_is_that_of_a_stable_sort(folder: Path, sort: str, descending: bool, offset: int, limit: int) -> None:
    data = logs.frame(folder, 3)
    data["loss"] = data.loss.round(1)
    rows = logs.opened(folder)
    keys = selection.sort_keys(rows.last, sort)
    if sort == "loss":
        assert keys is not None
        keys = keys.round(1)
    total, page = selection.page(None, keys, 60, descending, offset, limit)
    expected = data.sort_values(sort, ascending=not descending, kind="stable", na_position="last").index
    assert total == 60
    assert page.tolist() == expected[offset : offset + limit].tolist()


def test_a_page_far_from_the_end_has_its_equals_in_their_order() -> None:
    keys = np.repeat(np.arange(10.0), 100)[::-1].copy()
    keys[500] = np.nan
    pages = [selection.page(None, keys, 1000, False, at, 7)[1] for at in range(0, 210, 7)]
    expected = pd.Series(keys).sort_values(kind="stable").index
    assert np.concatenate(pages).tolist() == expected[:210].tolist()


@pytest.mark.parametrize("descending", [False, True])
def test_many_numbers_are_sorted_as_pandas_does(descending: bool) -> None:
    random = np.random.default_rng(5)
    odd = np.array([0, -0.0, np.nan, np.inf, -np.inf, 1, -1, 1e-45, -1e-45, 3.4e38], np.float32)
    usual = random.normal(size=20_000).astype(np.float32)
    keys = np.where(random.random(20_000) < 0.3, random.choice(odd, 20_000), usual.round(2))
    order = selection.order_rows(keys, descending)
    expected = pd.Series(keys).sort_values(ascending=not descending, kind="stable", na_position="last").index
    assert order.tolist() == expected.tolist()


def test_the_matrix_is_that_of_scikit_learn(rows: RowsFile, data: pd.DataFrame) -> None:
    mask = selection.select(read_query(logs.parameters(confidence=".4..")), rows.last)
    true, predicted, images = selection.confusion(rows.last, mask)
    matrix = np.zeros((3, 3), int)
    matrix[true, predicted] = images
    chosen = data[labelled(data) & (data.confidence >= np.float32(0.4))]
    assert matrix.tolist() == confusion_matrix(chosen.label, chosen.predicted, labels=[0, 1, 2]).tolist()
    assert (images > 0).all()


def test_a_histogram_counts_each_row_once_by_its_verdict(rows: RowsFile, data: pd.DataFrame) -> None:
    mask = selection.select(read_query(logs.parameters(**{"s.site": "A"})), rows.last)
    counts = selection.histogram(rows.last, mask, "confidence", 10)
    chosen = data[(data.site == "A") & labelled(data)]
    for verdict, is_right in ((counts.right, True), (counts.wrong, False)):
        values = chosen.confidence[(chosen.label == chosen.predicted) == is_right]
        assert verdict.tolist() == np.histogram(values, 10, (0, 1))[0].tolist()
    everything = counts.right + counts.wrong + counts.unlabelled + counts.rest
    assert everything.tolist() == np.histogram(data.confidence.dropna(), 10, (0, 1))[0].tolist()


def test_the_values_of_a_category_are_counted_by_verdict(rows: RowsFile, data: pd.DataFrame) -> None:
    mask = selection.select(read_query(logs.parameters(confidence=".5..")), rows.last)
    counts, values = selection.value_counts(rows.last, mask, "site")
    assert values == ["<i>", "A", "\\", "b|c", None]
    chosen = data[data.confidence >= np.float32(0.5)]
    right = chosen[labelled(chosen) & (chosen.label == chosen.predicted)].site.value_counts(dropna=False)
    assert counts.right.tolist() == [int(right.get(value, 0)) for value in values]
    total = counts.right + counts.wrong + counts.unlabelled + counts.rest
    assert total.tolist() == [12] * 5


def test_the_curve_gives_accuracy_and_coverage_at_each_threshold(rows: RowsFile, data: pd.DataFrame) -> None:
    known = data[labelled(data)]
    curve = selection.threshold_curve(rows.last, None)
    accepted = known[known.confidence >= np.float32(0.6)]
    assert curve.rows == len(known)
    assert curve.all[600:].sum() == len(accepted)
    assert curve.right[600:].sum() == (accepted.label == accepted.predicted).sum()
    of_class = selection.threshold_curve(rows.last, None, 1)
    assert of_class.all.sum() == (known.predicted == 1).sum()
    assert of_class.right.sum() == ((known.predicted == 1) & (known.label == 1)).sum()
    assert of_class.rows == (known.label == 1).sum()


def test_kinds_of_change_are_those_of_pandas(folder: Path, rows: RowsFile) -> None:
    old, new = logs.frame(folder, 1), logs.frame(folder, 3)
    pair = pair_steps(rows.steps[3], rows.steps[1])
    both = (old.predicted >= 0) & (new.predicted >= 0)
    known = both & (new.label >= 0)
    was, is_ = old.predicted == old.label, new.predicted == new.label
    expected = {
        "fixed": known & ~was & is_,
        "broken": known & was & ~is_,
        "changed": both & (old.predicted != new.predicted),
        "changed_wrong": known & ~was & ~is_ & (old.predicted != new.predicted),
        "both_wrong": known & ~is_ & (old.predicted == new.predicted),
        "same": both & (old.predicted == new.predicted),
        "labels_differ": both & False,
        "only": both & False,
    }
    for kind, mask in expected.items():
        query = read_query(logs.parameters(other="net@1", kind=kind))
        selected = selection.select(query, rows.steps[3], QueryInputs(pair=pair))
        assert np.asarray(selected).tolist() == mask.tolist(), kind
    was_two = selection.select(read_query(logs.parameters(other="net@1", was=2)), rows.steps[3], QueryInputs(pair=pair))
    assert np.asarray(was_two).tolist() == (old.predicted == 2).tolist()
    matrix = selection.change_matrix(pair, None)
    assert matrix[2].sum() == both.sum()


def test_a_lasso_takes_what_is_inside_by_the_even_odd_rule() -> None:
    x, y = np.meshgrid(np.arange(10), np.arange(10))
    points = np.stack([x.ravel(), y.ravel()]).astype(np.int16)
    square = selection.is_inside(points, np.array([[1.5, 1.5], [4.5, 1.5], [4.5, 4.5], [1.5, 4.5]]))
    assert points[:, square].T.tolist() == [[a, b] for b in (2, 3, 4) for a in (2, 3, 4)]
    bow = selection.is_inside(points, np.array([[0, 0], [9, 9], [9, 0], [0, 9]]) + 0.25)
    assert bow.sum() < selection.is_inside(points, np.array([[0, 0], [9, 0], [9, 9], [0, 9]]) + 0.25).sum()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"true": "x"}, "true is 'x'; expected numbers of classes"),
        ({"true": "3"}, "there is no class 3: expected 0 to 2"),
        ({"pred": "1,"}, "pred is '1,'"),
        ({"right": "yes"}, "right is 'yes'; expected 0 or 1"),
        ({"state": "odd"}, "expected failed or unlabelled or labelled"),
        ({"confidence": "0.5"}, "expected LOW..HIGH"),
        ({"loss": "nan.."}, "the range of loss is 'nan..'"),
        ({"loss": "1..1e9999"}, "the range of loss"),
        ({"n.site": "1.."}, "the column 'site' is a category: expected a number"),
        ({"s.year": "2000"}, "the column 'year' is a number: expected a category"),
        ({"n.key": "1.."}, "there is no column 'key'"),
        ({"n.secret": "1.."}, "there is no column 'secret'"),
        ({"q": "a" * 501}, "501 characters"),
        ({"kind": "fixed"}, "kind needs other=RUN@STEP"),
        ({"other": "net", "kind": "fixed"}, "other is 'net'; expected RUN@STEP"),
        ({"other": "net@1", "kind": "odd"}, "kind is 'odd'"),
        ({"lasso": "1,2,3,4"}, "3 to 500 corners"),
        ({"lasso": "1,2,3,4,5,inf"}, "3 to 500 corners"),
        ({"lasso": "1,2,3,4,5,6"}, "there is no map of this step"),
        ({"suspect": "1"}, "no list of suspected labels"),
    ],
)
def test_a_query_that_is_not_understood_is_refused_by_one_sentence(
    rows: RowsFile, given: dict[str, str], why: str
) -> None:
    with pytest.raises(InputError) as refused:
        selection.select(read_query(logs.parameters(**given)), rows.last)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@settings(max_examples=30)
@given(st.lists(st.none() | st.text(max_size=5), min_size=1, max_size=4))
def test_values_survive_a_parameter(values: list[str | None]) -> None:
    assert split_values(join_values(values)) == tuple(values)


def test_times_with_a_zone_are_the_texts_that_slices_have(tmp_path: Path) -> None:
    """A slice is drawn and written by such a text, and the tab is asked for it."""
    folder = logs.write_logs(tmp_path / "net")
    table = pq.read_table(folder / "rows.parquet")
    seconds = (1_600_000_000 + 3600 * (i % 2) for i in range(len(table)))
    times = pa.array([1000 * second for second in seconds], pa.timestamp("ms", "Europe/Oslo"))
    pq.write_table(table.append_column("taken", times), folder / "rows.parquet", row_group_size=60)  # a step each
    rows = logs.opened(folder).steps[3]
    (batch,) = pa.table({"taken": times.slice(60)}).to_batches()
    known = Predictions(batch).texts("taken")
    assert known is not None
    texts, index = known
    assert texts == ["2020-09-13 12:26:40.000Z", "2020-09-13 13:26:40.000Z"]
    assert rows.texts("taken").take(np.arange(60)) == [texts[i] for i in index]
    codes, values = rows.category("taken")
    assert [values[code] for code in codes] == [texts[i] for i in index]
