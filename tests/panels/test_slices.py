"""Accuracy and loss by kind of image, against pandas and SciPy."""

import csv
import dataclasses
import decimal
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from predboard import InputError, panels
from predboard.metrics import slices as slicing
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.slice_crosses import check_crosses
from predboard.panels import RunInfo, StepInfo, slices
from predboard.predictions.table import Predictions
from predboard.state import merge
from predboard.summaries import File, Metric, Metrics, Picture, Scalar, Summary, Text
from tests import toy

ROWS = 600


def batch(seed: int = 0, **further: Sequence[object]) -> Predictions:
    """Rows on whose manifest there are more columns; each tenth without label, each thirteenth failed."""
    logits, label = toy.table(toy.RUN, ROWS, seed)
    random = np.random.default_rng(seed)
    country = np.array(["NO", "SE", "FI"])[random.integers(0, 3, ROWS)]
    hard = country == "NO"
    logits[hard] = random.normal(size=(hard.sum(), 10))  # nothing is known there
    label[::10] = -1
    made = toy.predictions(toy.RUN, logits, label, failed=frozenset(range(0, ROWS, 13))).batch
    columns = {"country": country.tolist(), "cloud": random.random(ROWS).tolist(), **further}
    for name, values in columns.items():
        made = made.append_column(name, pa.array(values))
    return Predictions(made)


def drawn(rows: Predictions, *more: Predictions) -> dict[tuple[str, int], Summary]:
    panel = panels.load("slices")
    states = {step: panel.measure(toy.RUN, b) for step, b in enumerate((rows, *more))}
    subject = RunInfo("toy", toy.RUN, {step: StepInfo(ROWS, ROWS) for step in states})
    return {(s.tag, step): s for step, s in panel.render(subject, states)}


def table(found: dict[tuple[str, int], Summary], step: int = 0) -> pd.DataFrame:
    summary = found["slices.csv", step]
    assert isinstance(summary, File)
    return pd.read_csv(io.BytesIO(summary.content), dtype={"value": str})


def frame(rows: Predictions) -> pd.DataFrame:
    known: pd.DataFrame = rows.batch.to_pandas().dropna(subset=["predicted", "label"])
    known["right"] = known.predicted == known.label
    return known


def test_each_value_of_a_column_has_its_rows_accuracy_and_loss() -> None:
    rows = batch()
    found = table(drawn(rows)).query("column == 'country'").set_index("value").sort_index()
    expected = frame(rows).groupby("country").agg(n=("right", "size"), acc=("right", "mean"), nll=("loss", "mean"))
    assert found.index.tolist() == ["FI", "NO", "SE"]
    assert found.rows.tolist() == expected.n.tolist()
    np.testing.assert_allclose(found.accuracy, expected.acc, rtol=1e-5)
    np.testing.assert_allclose(found.nll, expected.nll, rtol=1e-5)


def test_effect_and_p_are_those_of_the_textbook() -> None:
    rows = batch()
    found = table(drawn(rows)).query("column == 'country'").set_index("value")
    known = frame(rows)
    for value in ("NO", "SE", "FI"):
        inside, outside = known.loss[known.country == value], known.loss[known.country != value]
        spread = np.sqrt((inside.var(ddof=0) + outside.var(ddof=0)) / 2)
        assert found.effect[value] == pytest.approx((inside.mean() - outside.mean()) / spread, rel=1e-4)
        error = np.sqrt(inside.var(ddof=0) / len(inside) + outside.var(ddof=0) / len(outside))
        assert found.p[value] == pytest.approx(stats.norm.sf((inside.mean() - outside.mean()) / error), rel=1e-3)


def test_false_discoveries_are_controlled_over_all_slices() -> None:
    found = table(drawn(batch()))
    adjusted = stats.false_discovery_control(found.p)
    assert found.worse.tolist() == (adjusted <= 0.05).astype(int).tolist()
    assert found.value[found.worse == 1].tolist()[0] == "NO"
    assert 1 <= found.worse.sum() < len(found)


def test_the_worst_come_first_in_words_pictures_and_curves() -> None:
    found = drawn(batch(), batch(1))
    text = found["report/slices", 1]
    assert isinstance(text, Text)
    lines = [line for line in text.markdown.split("\n") if line.startswith("| ")]
    assert lines[1].startswith("| country=NO |")
    assert lines[1].endswith("| **yes** |")
    assert isinstance(found["slices/worst", 1], Picture)
    curve = [found["slices/country=NO", step] for step in (0, 1)]
    known = frame(batch())
    assert isinstance(curve[0], Scalar)
    assert curve[0].value == pytest.approx(known.right[known.country == "NO"].mean())
    tags = {tag for (tag, _), s in found.items() if not isinstance(s, Metrics)}
    assert tags == {"report/slices", "slices/worst", "slices.csv", "slices/country=NO"}


def figures(found: dict[tuple[str, int], Summary], step: int = 0) -> dict[str, Metric]:
    summary = found["slices", step]
    assert isinstance(summary, Metrics)
    return dict(summary.metrics)


def test_summary_json_has_every_slice_with_its_images_and_intervals() -> None:
    rows = batch()
    found = drawn(rows, batch(1))
    here, known = figures(found), frame(rows)
    inside = known[known.country == "NO"]
    assert here["slices/country=NO/images"].value == len(inside)
    accuracy, nll = here["slices/country=NO/accuracy"], here["slices/country=NO/nll"]
    hits = int((inside.predicted == inside.label).sum())
    assert (accuracy.value, accuracy.interval, accuracy.rows) == (
        hits / len(inside),
        wilson_interval(hits, len(inside)),
        len(inside),
    )
    assert nll.value == pytest.approx(inside.loss.mean(), rel=1e-6)
    half = 1.959964 * inside.loss.std(ddof=1) / np.sqrt(len(inside))
    assert nll.interval == pytest.approx((inside.loss.mean() - half, inside.loss.mean() + half), rel=1e-4)
    shown = {f"slices/{c}{v}" for c, v in ranges(table(found, 1))}
    assert shown <= {name.rpartition("/")[0] for name in figures(found, 1)}
    assert set(here) == set(figures(found, 1))  # cut where they are cut at the last step


def ranges(of: pd.DataFrame) -> list[tuple[str, str]]:
    """Columns of the table and values as names have them."""
    return [(c, f" {v}" if v[0] in "≤>" or " to " in v else f"={v}") for c, v in zip(of.column, of.value, strict=True)]


def test_a_value_that_all_images_have_is_a_figure_though_it_is_compared_with_nothing() -> None:
    found = drawn(batch(split=["test"] * ROWS, year=[2024] * ROWS))
    for name in ("split=test", "year=2024"):
        assert figures(found)[f"slices/{name}/images"].value == len(frame(batch()))
    assert not {"split", "year"} & set(table(found).column)


def test_summary_json_has_the_largest_of_many_slices_at_the_last_step_alone() -> None:
    site = [f"s{i % 120:03d}" for i in range(ROWS)]
    site[:30] = ["big"] * 30
    found = drawn(batch(site=site), batch(1, site=site))
    assert ("slices", 0) not in found
    sites = frame(batch(1, site=site)).site.nunique()  # of some every image is failed or without label
    assert sites > slices.ALL_STEPS_MAX_SLICES
    assert len({n for n in figures(found, 1) if n.startswith("slices/site=")}) == 3 * sites
    panel = slices.Panel(summarised=8)
    few = next(s for s in panel.metrics(RunInfo("toy", toy.RUN, {}), {0: panel.measure(toy.RUN, batch(site=site))}))
    sizes = [f.value for n, f in few[1].metrics.items() if n.endswith("/images")]
    assert len(sizes) == 8
    assert min(sizes) > 30
    every = slices.Panel(summarised=8).restricted_to({"slices/*/images"})
    (found_,) = every.metrics(RunInfo("toy", toy.RUN, {}), {0: every.measure(toy.RUN, batch(1, site=site))})
    assert set(found_[1].metrics) == set(figures(found, 1))


def test_names_of_slices_are_on_one_line_and_no_two_alike() -> None:
    place = ["x/y" if i % 2 else "x\n z" for i in range(ROWS)]
    found = figures(drawn(batch(0, a=[f"b={i % 2}" for i in range(ROWS)], place=place, **{"a=b": ["0", "1"] * 300})))
    assert {"slices/place=x/y/accuracy", "slices/place=x z/accuracy"} <= set(found)
    assert {"slices/a=b=0/images", "slices/a=b=0 (2)/images"} <= set(found)


def test_numbers_are_cut_into_quarters_of_about_one_size() -> None:
    rows = batch()
    found = table(drawn(rows)).query("column == 'cloud'")
    known = frame(rows)
    assert len(found) == 4
    assert found.rows.sum() == len(known)
    assert found.rows.between(0.22 * len(known), 0.28 * len(known)).all()
    lowest = found[found.value.str.startswith("≤")].iloc[0]
    edge = float(lowest.value.removeprefix("≤ "))
    assert abs((known.cloud <= edge).sum() - lowest.rows) <= 5  # the edge is printed with three digits
    assert known.cloud.quantile(0.25) == pytest.approx(edge, rel=0.01)


def test_few_numbers_are_values_and_many_texts_are_an_identifier() -> None:
    rows = batch(
        month=[1 + i % 12 for i in range(ROWS)],
        name=[f"image {i}" for i in range(ROWS)],
        flag=[i % 2 == 0 for i in range(ROWS)],
        constant=["x"] * ROWS,
        some=["a" if i % 3 else None for i in range(ROWS)],
    )
    found = drawn(rows)
    by_column = table(found).groupby("column").value.apply(list)
    assert sorted(by_column["month"], key=int) == [str(m) for m in range(1, 13)]
    assert sorted(by_column["flag"]) == ["false", "true"]
    assert "name" not in by_column.index  # 540 values of one row each: none has enough rows
    assert not {"constant", "some"} & set(by_column.index)


def test_a_column_with_too_many_texts_is_left_out_and_named() -> None:
    many = 1200
    logits, label = toy.table(toy.RUN, many)
    made = toy.predictions(toy.RUN, logits, label).batch.append_column("name", pa.array([f"i{i}" for i in range(many)]))
    text = drawn(Predictions(made))["report/slices", 0]
    assert isinstance(text, Text)
    assert "Not shown, because there are too many different values: name." in text.markdown


def test_numbers_that_are_close_together_are_told_apart() -> None:
    year = [1990 + i % 30 for i in range(ROWS)]  # with 8 binary digits these would be four
    day = [20240100 + i % 3 for i in range(ROWS)]
    northing = [6_543_210.25 + 131 * (i % 500) / 7 for i in range(ROWS)]
    found = table(drawn(batch(year=year, day=day, northing=northing)))
    of_year = found.query("column == 'year'").set_index("value").rows
    known = frame(batch(year=year))
    edges = [int(v) for v in known.year.quantile([0.25, 0.5, 0.75], interpolation="lower")]
    assert list(of_year.index).index(f"≤ {edges[0]}") >= 0
    assert of_year[f"≤ {edges[0]}"] == (known.year <= edges[0]).sum()
    assert of_year[f"{edges[0]} to {edges[1]}"] == known.year.between(edges[0] + 1, edges[1]).sum()
    assert of_year[f"> {edges[2]}"] == (known.year > edges[2]).sum()
    assert sorted(found.query("column == 'day'").value) == ["20240100", "20240101", "20240102"]
    of_north = found.query("column == 'northing'")
    assert of_north.rows.between(0.2 * len(known), 0.3 * len(known)).all()
    assert len(set(of_north.value)) == 4


def test_more_numbers_than_are_kept_are_rounded_and_quarters_stay_quarters() -> None:
    many = 40_000
    logits, label = toy.table(toy.RUN, many)
    height = np.random.default_rng(0).normal(size=many)
    made = toy.predictions(toy.RUN, logits, label).batch.append_column("height_above", pa.array(height))
    found = table(drawn(Predictions(made))).query("column == 'height_above'")
    assert found.rows.sum() == many
    assert found.rows.between(0.24 * many, 0.26 * many).all()
    lowest = found[found.value.str.startswith("≤")].iloc[0]
    assert float(lowest.value.removeprefix("≤ ")) == pytest.approx(np.quantile(height, 0.25), rel=0.01)


def test_columns_of_any_type_are_slices_or_passed_over() -> None:
    base = {"hash": pa.array([2**60 + i % 2 * 2**40 for i in range(ROWS)])}  # beyond what float64 holds exactly
    base["count"] = pa.array([2**64 - 1 - i % 2 * 2**40 for i in range(ROWS)], pa.uint64())
    base["price"] = pa.array([decimal.Decimal(i % 2) / 4 for i in range(ROWS)], pa.decimal128(9, 2))
    base["code"] = pa.array([i % 2 for i in range(ROWS)]).dictionary_encode()
    base["large"] = pa.array(["ab"[i % 2] for i in range(ROWS)], pa.large_string()).dictionary_encode()
    base["taken"] = pa.array([i % 2 * 86_400 for i in range(ROWS)], pa.timestamp("s", "Nowhere/Town"))
    passed = {"none": pa.nulls(ROWS), "list": pa.array([[i] for i in range(ROWS)])}
    passed |= {"struct": pa.array([{"a": i} for i in range(ROWS)]), "blob": pa.array([b"\xff"] * ROWS)}
    made = batch().batch
    for name, values in (base | passed).items():
        made = made.append_column(name, values)
    by_column = table(drawn(Predictions(made))).groupby("column").value.apply(sorted)
    assert {name: by_column[name] for name in base} == {
        "hash": ["1.152921504606847e+18", "1.1529226041184748e+18"],
        "count": ["1.8446742974197924e+19", "1.8446744073709552e+19"],
        "price": ["0", "0.25"],
        "code": ["0", "1"],
        "large": ["a", "b"],
        "taken": ["1970-01-01 00:00:00Z", "1970-01-02 00:00:00Z"],
    }
    assert not set(passed) & set(by_column.index)


def test_slices_of_one_name_have_curves_of_their_own() -> None:
    further = {"a": [f"b={i % 2}" for i in range(ROWS)], "a=b": [f"{i % 2 ^ (i > 300)}" for i in range(ROWS)]}
    rows = batch(0, **further)
    panel = slices.Panel()
    state = panel.measure(toy.RUN, rows)
    found = slicing.list_slices(state)
    same = [s for s in found if s.name == "a=b=0"]
    assert [s.column for s in same] == ["a", "a=b"]
    tags = slices._tags(same)
    assert [s.column for s in tags.values()] == ["a", "a=b"]


def test_quarters_of_a_frequent_number_are_fewer() -> None:
    value = [0.0] * 400 + [float(i) for i in range(200)]
    found = table(drawn(batch(value=value))).query("column == 'value'")
    assert 1 < len(found) < 4
    assert found.rows.sum() == len(frame(batch()))


def test_sums_are_the_same_whatever_the_split() -> None:
    panel = slices.Panel()
    rows = batch(name=[f"image {i % 300}" for i in range(ROWS)])
    whole = panel.measure(toy.RUN, rows)
    random = np.random.default_rng(0).integers(0, 5, ROWS)
    merged = panel.zero(toy.RUN)
    for i in range(5):
        merged = merge(panel.measure(toy.RUN, rows.take(random == i)), merged)
    for name, groups in whole.texts.states.items():
        assert merged.texts.states[name].value.tolist() == groups.value.tolist()
        np.testing.assert_array_equal(merged.texts.states[name].sums, groups.sums)
    np.testing.assert_array_equal(merged.rounded.states["cloud"].sums, whole.rounded.states["cloud"].sums)


def test_the_csv_quotes_what_must_be_quoted() -> None:
    rows = batch(place=['a, "b"\nc' if i % 2 else "d" for i in range(ROWS)])
    summary = drawn(rows)["slices.csv", 0]
    assert isinstance(summary, File)
    values = [
        line["value"] for line in csv.DictReader(io.StringIO(summary.content.decode())) if line["column"] == "place"
    ]
    assert sorted(values) == ['a, "b"\nc', "d"]


def crossed(rows: Predictions, *crosses: tuple[str, ...]) -> dict[tuple[str, int], Summary]:
    panel = slices.Panel(crosses=crosses)
    return {
        (s.tag, step): s
        for step, s in panel.render(
            RunInfo("toy", toy.RUN, {0: StepInfo(ROWS, ROWS)}), {0: panel.measure(toy.RUN, rows)}
        )
    }


def test_crossed_slices_are_those_of_pandas_in_the_csv_and_the_summary() -> None:
    random = np.random.default_rng(5)
    season = [None if x == 3 else ("winter", "a & b", "")[x] for x in random.integers(0, 4, ROWS).tolist()]
    rows = batch(season=season, hour=random.integers(0, 2, ROWS).tolist())
    found = crossed(rows, ("country", "season"), ("season", "hour", "country"))
    known = frame(rows)
    for columns in (["country", "season"], ["season", "hour", "country"]):
        expected = known.groupby(columns).agg(n=("right", "size"), acc=("right", "mean"))
        names = [" & ".join(f"{c}={v}" for c, v in zip(columns, key, strict=True)) for key in expected.index]
        listed = table(found).query("column == @name", local_dict={"name": " & ".join(columns)}).set_index("value")
        big = expected.n >= 20
        assert sorted(listed.index) == sorted(n for n, b in zip(names, big, strict=True) if b)
        for name, n, accuracy in zip(names, expected.n, expected.acc, strict=True):
            assert figures(found)[f"slices/{name}/images"].value == n
            assert figures(found)[f"slices/{name}/accuracy"].value == pytest.approx(accuracy)
    with_all = known.dropna(subset=["season"])
    inside = (with_all.country == "NO") & (with_all.season == "winter")
    difference = with_all.loss[inside].mean() - with_all.loss[~inside].mean()
    spread = np.sqrt((with_all.loss[inside].var(ddof=0) + with_all.loss[~inside].var(ddof=0)) / 2)
    effect = table(found).set_index("value").effect["country=NO & season=winter"]
    assert effect == pytest.approx(difference / spread, rel=1e-4)


def test_sums_of_crossed_slices_are_the_same_whatever_the_split() -> None:
    rows = batch(season=[("winter", "summer")[i % 2] for i in range(ROWS)])
    panel = slices.Panel(crosses=(("country", "season"), ("cloud", "country"), ("country", "nothing")))
    whole = panel.measure(toy.RUN, rows)
    parts = [panel.measure(toy.RUN, rows.take(np.arange(ROWS) % 3 == i)) for i in range(3)]
    merged = merge(parts[2], merge(parts[0], parts[1]))
    groups = [state.crossed.states["country & season"] for state in (whole, merged)]
    assert groups[0].value.tolist() == groups[1].value.tolist()
    assert (groups[0].sums == groups[1].sums).all()
    assert set(whole.crossed.states) == {"country & season", "cloud & country"}


def test_columns_of_the_user_come_first_in_the_picture_flagged_or_not() -> None:
    state = slices.Panel().measure(toy.RUN, batch())
    compared = slices.compare(slicing.list_slices(state))
    shown = slices.worth_showing(compared, 100)
    columns = [c.slice.column for c in shown]
    assert shown[0].slice.name == "country=NO"
    assert sorted(columns[:7]) == ["cloud"] * 4 + ["country"] * 3
    assert [c.worse for c in shown[:7]] == [True] + [False] * 6
    assert not set(columns[7:]) & {"cloud", "country"}
    assert all(c.worse for c in shown[7:])
    calm = [dataclasses.replace(c, worse=False) for c in compared]
    assert len(slices.worth_showing(calm, 100)) == len(compared)
    assert {c.slice.column for c in slices.worth_showing(calm, 7)} == {"cloud", "country"}
    others = [c for c in shown if c.slice.column not in ("cloud", "country")]
    assert others
    few = slices.worth_showing(compared, 4)  # less than the user's own seven
    reserved = min(len(others), 2)
    assert few == shown[: 4 - reserved] + others[:reserved]
    worse = [dataclasses.replace(c, worse=True) for c in compared]
    assert {c.slice.column for c in slices.worth_showing(worse, 7)} == {"cloud", "country"}
    assert len(slices.worth_showing(worse, 9)) == 9


def test_columns_to_cross_are_checked_before_anything_is_read() -> None:
    columns, numeric = ["country", "season", "cloud"], ["cloud", "brightness"]
    check_crosses((("country", "season"), ("cloud=0", "10"), ("brightness=-1", "1e-3")), columns, numeric)
    for cross, said in (
        (("country", "saeson"), r"--slice country,saeson: no column 'saeson'.*did you mean"),
        (("country",), "names one column, which has slices anyway.*or edges of numbers: country=0,10,50"),
        (("cloud=0", "ten"), "expected numbers behind cloud=, joined by commas"),
        (("cloud=10", "10"), "expected two or more edges, each above the one before"),
        (("cloud=10",), "expected two or more edges"),
        (("cloud=0", "nan"), "expected two or more edges"),
        (("cluod=0", "1"), "no column of numbers 'cluod'; did you mean cloud"),
        (("season=0", "1"), "no column of numbers 'season'; there are cloud, brightness"),
    ):
        with pytest.raises(InputError, match=said):
            check_crosses((cross,), columns, numeric)
    with pytest.raises(
        InputError, match="--slice cloud=0,20: 'cloud' is cut already by --slice cloud=0,10; leave one in"
    ):
        check_crosses((("cloud=0", "10"), ("cloud=0", "20")), columns, numeric)


def test_numbers_are_cut_at_the_edges_that_the_user_gives() -> None:
    """Against numpy.histogram: the lower edge belongs to a range, the upper one only to the last."""
    cloud = [[0.0, 9.99, 10.0, 50.0, 100.0, 100.5, -0.5, None, np.nan, 99.0][i // 10 % 10] for i in range(ROWS)]
    rows = batch(cloud=cloud, country=[("NO", "SE")[i % 3 == 0] for i in range(ROWS)])
    panel = slices.Panel(crosses=(("cloud=0", "10", "50", "100"), ("country", "cloud")))
    state = merge(panel.zero(toy.RUN), panel.measure(toy.RUN, rows))
    labelled = rows.labelled
    known = frame(labelled)
    edges = [0, 10, 50, 100]
    expected = dict(
        zip(("0 to 10", "10 to 50", "50 to 100"), np.histogram(known.cloud.dropna(), edges)[0], strict=True)
    )
    expected |= {"< 0": (known.cloud < 0).sum(), "> 100": (known.cloud > 100).sum()}
    every = slicing.list_slices(state, alone=True)
    assert {s.value: s.rows for s in every if s.column == "cloud"} == expected
    crossed = {s.name: s for s in every if s.crossed}
    some = known.query("country == 'NO' and 10 <= cloud < 50")
    assert crossed["country=NO & cloud 10 to 50"].rows == len(some) > 0
    assert crossed["country=NO & cloud 10 to 50"].sums[1] == (some.label == some.predicted).sum()
    (_, metrics), *_ = panel.metrics(RunInfo("toy", toy.RUN, {0: StepInfo(ROWS, ROWS)}), {0: state})
    assert metrics.metrics["slices/cloud 10 to 50/images"].value == expected["10 to 50"]


def test_a_cross_of_too_many_values_is_left_out_and_named() -> None:
    places = [batch(place=[f"{k} {i}" for i in range(ROWS)], day=["d0"] * ROWS) for k in range(3)]
    panel = slices.Panel(crosses=(("place", "day"),))
    one, two, three = (panel.measure(toy.RUN, rows) for rows in places)
    assert len(one.crossed.states["place & day"].value) == len(frame(places[0]))
    assert "place & day" in slicing.skipped_columns(merge(one, merge(two, three)))
    whole = Predictions(pa.concat_batches([rows.batch for rows in places]))
    assert "place & day" in slicing.skipped_columns(panel.measure(toy.RUN, whole))
