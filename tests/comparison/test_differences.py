"""What differs between two steps, against pandas, statsmodels and calculations by hand."""

import itertools
import math
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from predboard import ImportConfig, import_predictions
from predboard.comparison import join
from predboard.comparison.class_mapping import ClassMapping, match_classes
from predboard.comparison.differences import Comparison
from predboard.comparison.flips import IDENTICAL_METHOD, Flips, worst_first
from predboard.comparison.join import JoinedRows, join_rows
from predboard.comparison.paired_counts import NEW_COLUMNS, OLD_COLUMNS, PairedCounts, count_pairs, merge_counts
from predboard.comparison.resampling import bootstrap_differences
from predboard.metrics import calibration, registry
from predboard.metrics.bootstrap import poisson_resamples
from predboard.metrics.counts import Margins
from predboard.metrics.intervals import T95, mcnemar_p, newcombe_interval
from predboard.metrics.metric_state import MetricState
from predboard.metrics.values import class_columns, class_metrics, overall_metrics
from predboard.predictions.sampling import jackknife_group
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import merge
from predboard.storage.runs import RunReader, Step, open_run
from tests import toy
from tests.test_laws import same

Z = 1.959963984540054


def by_hand(a: int, b: int, c: int, d: int) -> tuple[float, float]:
    """Newcombe's method 10 of a right both times, b now only, c before only, d never; Wilson's by statsmodels."""
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    n = a + b + c + d
    p1, p2 = (a + b) / n, (a + c) / n
    l1, u1 = proportion.proportion_confint(a + b, n, method="wilson")
    l2, u2 = proportion.proportion_confint(a + c, n, method="wilson")
    product: float = a * d - b * c
    if product > 0:
        product = max(product - n / 2, 0)
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    phi = product / math.sqrt(margins) if margins else 0.0
    x, y = p1 - l1, u2 - p2
    lower = p1 - p2 - math.sqrt(x * x - 2 * phi * x * y + y * y)
    x, y = u1 - p1, p2 - l2
    return lower, p1 - p2 + math.sqrt(x * x - 2 * phi * x * y + y * y)


def interval(a: int, b: int, c: int, d: int) -> tuple[float, float]:
    lower, upper = newcombe_interval(*(np.array(x) for x in (a, a + b, a + c, a + b + c + d)))
    return float(lower), float(upper)


@pytest.mark.parametrize(
    ("table", "published"),
    [
        ((20, 12, 2, 16), (0.0562, 0.3292)),  # Newcombe 1998, table II
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((14, 5, 0, 22), (0.0115, 0.2265)),  # Altman et al. 2000, table 6.2
    ],
)
def test_newcombe_is_what_was_published(table: tuple[int, int, int, int], published: tuple[float, float]) -> None:
    assert interval(*table) == pytest.approx(published, abs=5e-5)


@settings(max_examples=100)
@given(st.tuples(*[st.integers(0, 400)] * 4).filter(any))
def test_newcombe_and_mcnemar_by_other_means(table: tuple[int, int, int, int]) -> None:
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    assert interval(*table) == pytest.approx(by_hand(*table), abs=1e-12)
    a, b, c, d = table
    expected = contingency.mcnemar([[a, b], [c, d]], exact=True).pvalue
    assert mcnemar_p(b, c) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_many_pairs() -> None:
    stats = pytest.importorskip("scipy.stats")
    for gained, lost in ((500_000, 498_000), (30_000, 29_000), (900, 10)):
        expected = stats.binomtest(lost, gained + lost).pvalue
        assert mcnemar_p(gained, lost) == pytest.approx(expected, rel=1e-8)
        assert mcnemar_p(lost, gained) == mcnemar_p(gained, lost)


def test_no_rows_say_nothing() -> None:
    lower, upper = newcombe_interval(*(np.zeros(1, np.int64) for _ in range(4)))
    assert (lower.tolist(), upper.tolist()) == ([-1], [1])
    nothing = Comparison(PairedCounts.zero(), ("a", "b"))
    assert nothing.differences == {}
    assert nothing.rates == {}
    assert nothing.by_class == nothing.by_slice == []


def side_by_side(
    classes: int, rows: int, seed: int, ties: bool = False, failed: bool = False, unlabelled: bool = False
) -> JoinedRows:
    """Two models over the same rows; a tenth of the labels and half of the pictures differ."""
    run = Run(classes=tuple(f"class{i}" for i in range(classes)), model="toy.py:build")
    random = np.random.default_rng(seed)
    label = toy.table(run, rows, seed)[1]
    if unlabelled:
        label[random.random(rows) < 0.2] = -1
    others = np.where(random.random(rows) < 0.1, random.integers(-1, classes, rows), label)
    sides = []
    for i, labels in enumerate((label, others)):
        logits = toy.table(run, rows, seed + i, ties)[0]
        broken = frozenset(np.flatnonzero(random.random(rows) < 0.2).tolist()) if failed else frozenset()
        batch = toy.predictions(run, logits, labels, failed=broken).batch
        at = batch.schema.get_field_index("digest")
        sides.append(batch.set_column(at, batch.schema.field(at), pa.array(random.integers(1, 3, rows), pa.int64())))
    country = pa.array([["NO", "SE", None][i] for i in random.integers(0, 3, rows)], pa.string())
    old, new = Predictions(sides[0]), Predictions(sides[1].append_column("country", country))
    none = np.zeros(rows, bool)
    return JoinedRows(old, new, old.take(none), new.take(none))


joined_rows = st.builds(
    side_by_side,
    st.sampled_from([1, 2, 10, 1000]),
    st.integers(0, 60),
    st.integers(0, 2**31),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
quick = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def classes_in(rows: JoinedRows) -> int:
    return int(rows.old.column("logits").type.list_size)


def part_of(rows: JoinedRows, keep: NDArray[np.bool_]) -> JoinedRows:
    return JoinedRows(rows.old.take(keep), rows.new.take(keep), rows.only_old, rows.only_new)


@quick
@given(joined_rows, st.integers(0, 2**31), st.integers(1, 6))
def test_the_laws_hold(rows: JoinedRows, seed: int, pieces: int) -> None:
    k, random = classes_in(rows), np.random.default_rng(seed)
    dealt = random.integers(0, pieces, len(rows.new))
    whole = PairedCounts.measure(k, rows)
    states = [PairedCounts.measure(k, part_of(rows, dealt == i)) for i in range(pieces)] + [PairedCounts.zero()]
    while len(states) > 1:
        a, b = (states.pop(random.integers(len(states))) for _ in range(2))
        states.append(merge(a, b))
    assert same(states[0], whole)
    assert same(merge(whole, PairedCounts.zero()), whole)
    if not len(rows.new):
        assert same(whole, PairedCounts.zero())


def frame(rows: JoinedRows) -> pd.DataFrame:
    wanted = ["id", "key", "label", "predicted", "confidence", "loss", "digest"]
    old, new = rows.old.batch.select(wanted).to_pandas(), rows.new.batch.select([*wanted, "country"]).to_pandas()
    found: pd.DataFrame = old.merge(new, on="key", suffixes=("_old", "_new"))
    return found


@quick
@given(joined_rows)
def test_counts_are_those_of_a_plain_join(rows: JoinedRows) -> None:
    state, f = PairedCounts.measure(classes_in(rows), rows), frame(rows)
    scored = f.predicted_old.notna() & f.predicted_new.notna()
    equal = (f.label_old == f.label_new) | (f.label_old.isna() & f.label_new.isna())
    assert state.both == len(f)
    assert state.failed_old == f.predicted_old.isna().sum()
    assert state.failed_new == f.predicted_new.isna().sum()
    assert state.labels_differ == (~equal).sum()
    assert state.unlabelled == (f.label_old.isna() & f.label_new.isna()).sum()
    assert state.pictures_differ == (f.digest_old != f.digest_new).sum()
    assert state.scored == scored.sum()
    assert state.agreed == (f.predicted_old == f.predicted_new)[scored].sum()
    counted = f[scored & equal & f.label_new.notna()]
    found = Comparison(state, tuple(f"class{i}" for i in range(classes_in(rows))))
    was, is_ = counted.predicted_old == counted.label_new, counted.predicted_new == counted.label_new
    assert found.rows == len(counted)
    assert found.fixed_broken == ((is_ & ~was).sum(), (was & ~is_).sum())
    if len(counted):
        nll = found.differences["nll"]
        assert nll.old == pytest.approx(np.minimum(counted.loss_old, 2**16).mean(), abs=2e-6, rel=1e-6)
        assert nll.difference == pytest.approx(nll.new - nll.old, abs=1e-6, rel=1e-9)
    for flips in found.by_slice:
        column, _, value = flips.name.partition("=")
        if column == "country":
            here = counted.country == value
            assert (flips.rows, flips.fixed, flips.broken) == (
                here.sum(),
                (is_ & ~was & here).sum(),
                (was & ~is_ & here).sum(),
            )


@quick
@given(joined_rows)
def test_figures_are_finite_and_inside_their_intervals(rows: JoinedRows) -> None:
    found = Comparison(PairedCounts.measure(classes_in(rows), rows), tuple(f"c{i}" for i in range(classes_in(rows))))
    for name, d in found.differences.items():
        assert np.isfinite([d.old, d.new, d.difference]).all(), name
        assert d.difference == pytest.approx(d.new - d.old, abs=1e-6, rel=1e-6), name
        assert d.rows > 0
        if d.interval is not None:
            assert d.interval[0] - 1e-12 <= d.difference <= d.interval[1] + 1e-12, name
            assert d.method
    for name, rate in found.rates.items():
        assert 0 <= rate.value <= 1, name


def test_each_side_has_the_figures_that_it_has_alone() -> None:
    rows = side_by_side(10, 800, 3)
    at = (rows.old.label == rows.new.label).tolist()
    rows = part_of(rows, np.array(at))
    found = Comparison(PairedCounts.measure(10, rows), tuple(f"class{i}" for i in range(10))).differences
    for side, batch in (("old", rows.old), ("new", rows.new)):
        evidence = MetricState.measure(toy.RUN, batch)
        errors = calibration.Calibration.measure(toy.RUN, batch)
        assert getattr(found["calibration/ece"], side) == pytest.approx(errors.ece, abs=1e-12)
        for name, figure in overall_metrics(evidence).items():
            if name in found:
                assert getattr(found[name], side) == pytest.approx(figure.value, abs=1e-12), name
        for c in range(10):
            for name, figure in class_metrics([c], class_columns(evidence))[0].items():
                if f"classes/class{c}/{name}" in found:
                    of_class = found[f"classes/class{c}/{name}"]
                    assert getattr(of_class, side) == pytest.approx(figure.value, abs=1e-12), name
    assert {
        "accuracy",
        "balanced_accuracy",
        "precision_macro",
        "recall_macro",
        "f1_macro",
        "f1_weighted",
        "mcc",
    } <= set(found)
    assert {"nll", "calibration/ece", "classes/class3/f1", "slices/country=NO/accuracy"} <= set(found)


def test_each_draw_has_the_figures_of_its_cells() -> None:
    rows = side_by_side(10, 400, 5)
    found = Comparison(PairedCounts.measure(10, part_of(rows, rows.old.label % 7 > 0)), tuple("abcdefghij"))
    *joint, count = found.joint
    draws = np.concatenate(list(poisson_resamples(count, found.state.cells.value.tobytes(), 8, 400)), axis=1)
    assert len(np.unique(joint[0])) == 8
    functions = {spec.name: spec.margins for spec in registry.rows("overall") if spec.margins is not None}
    seed = found.state.cells.value.tobytes()
    draws_of = bootstrap_differences(found.joint, found.old, found.new, seed, functions)
    for i in range(0, draws.shape[1], 100):
        before, now = (np.zeros((10, 10)) for _ in range(2))
        for label, old, new, n in zip(*joint, draws[:, i].tolist(), strict=True):
            before[label, old] += n
            now[label, new] += n
        expected = [Margins(np.diag(m), m.sum(axis=1), m.sum(axis=0)) for m in (before, now)]
        for name, of_draws in draws_of.items():
            assert of_draws[i] == pytest.approx(
                float(functions[name](expected[1]) - functions[name](expected[0])), abs=1e-12
            ), name


def test_intervals_are_as_wide_as_those_from_drawing_rows() -> None:
    rows = side_by_side(4, 3000, 5)
    rows = part_of(rows, rows.old.label == rows.new.label)
    found = Comparison(PairedCounts.measure(4, rows), ("a", "b", "c", "d")).differences
    label, old, new = rows.new.label, rows.old.predicted, rows.new.predicted
    random, drawn = np.random.default_rng(0), dict[str, list[float]]()

    def figures(y: Any, p: Any, confidence: Any, loss: Any) -> dict[str, float]:
        matrix = np.bincount(y * 4 + p, minlength=16).reshape(4, 4)
        hits, support, predictions = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
        bins = np.minimum((confidence * 15).astype(int), 14)
        gaps = np.bincount(bins, (p == y) - confidence, 15)
        return {
            "accuracy": float((p == y).mean()),
            "f1_macro": float((2 * hits / (support + predictions)).mean()),
            "nll": float(loss.mean()),
            "calibration/ece": float(np.abs(gaps).sum() / len(y)),
            "classes/b/recall": float(hits[1] / support[1]),
            "classes/b/precision": float(hits[1] / predictions[1]),
            "classes/b/f1": float(2 * hits[1] / (support[1] + predictions[1])),
        }

    for _ in range(500):
        at = random.integers(0, len(label), len(label))
        was, now = (
            figures(label[at], p[at], batch.confidence[at].astype(float), batch.loss[at])
            for p, batch in ((old, rows.old), (new, rows.new))
        )
        for name in was:
            drawn.setdefault(name, []).append(now[name] - was[name])
    for name, values in drawn.items():
        ends = found[name].interval
        assert ends is not None
        assert ends[1] - ends[0] == pytest.approx(2 * Z * np.std(values), rel=0.12), name


def test_the_interval_of_a_classs_f1_is_what_one_works_out_by_hand() -> None:
    """Of class a: 10 hits of 20 rows that are a or predicted so, in both steps, so F1 is 2/3 and the difference 0.

    Wilson's interval of 10/20 is 0.2992980 to 0.7007020, as F1 (2 J / (1 + J)) 0.4607073 to 0.8240150: 0.2059594 below
    2/3 and 0.1573484 above. A row of either step is off its mean by 1/2, up if it is a hit and down if not, so the rows
    that are among the 20 of both give 1/4 each: 6 hit twice, 2 missed twice and 3 of b that both take for a, less the 8
    that are hit once; 3/4 of a spread of 20 / 4 are a correlation of 0.15.
    The ends are then at √(0.2059594² − 2 · 0.15 · 0.2059594 · 0.1573484 + 0.1573484²).
    """
    cells = {
        (0, 0, 0): 6, (0, 1, 0): 4, (0, 0, 1): 4, (0, 1, 1): 2,
        (1, 0, 0): 3, (1, 0, 1): 1, (1, 1, 0): 1, (1, 1, 1): 5,
    }  # fmt: skip  # label, old, new: a and b
    label, old, new = np.repeat(np.array(list(cells)), list(cells.values()), axis=0).T
    run, hot = Run(("a", "b"), "m"), np.eye(2, dtype=np.float32)
    before, after = (toy.predictions(run, hot[predicted], label) for predicted in (old, new))
    none = np.zeros(len(label), bool)
    rows = JoinedRows(before, after, before.take(none), after.take(none))
    found = Comparison(PairedCounts.measure(2, rows), run.classes)
    f1 = found.differences["classes/a/f1"]
    assert [f1.old, f1.new, f1.rows] == pytest.approx([2 / 3, 2 / 3, 20])
    assert f1.interval == pytest.approx((-0.2396989, 0.2396989), abs=1e-6)


def test_a_step_against_itself_differs_in_nothing(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 700)
    label[::50] = -1
    toy.write_run(tmp_path / "run", logits, label, shard_size=200, failed=frozenset({3, 4}))
    (step,) = open_run(tmp_path / "run")
    found = Comparison(count_pairs(step, step, ClassMapping(step.run.classes)), step.run.classes)
    assert len(found.differences) > 40
    for name, d in found.differences.items():
        assert (d.difference, d.interval, d.method) == (0, (0, 0), IDENTICAL_METHOD), name
        assert d.old == d.new
    assert found.fixed_broken == (0, 0)
    assert found.p == 1
    assert found.rates["churn"].value == found.rates["negative_flip_rate"].value == 0
    assert all((f.fixed, f.broken, f.interval) == (0, 0, (0, 0)) for f in (*found.by_class, *found.by_slice))


def test_two_models_that_happen_to_agree_are_not_the_same() -> None:
    rows = side_by_side(3, 200, 1)
    run = Run(("a", "b", "c"), "m")
    logits, label = toy.table(run, 200)
    a, b = (toy.predictions(run, logits * s, label) for s in (np.float32(1), np.float32(2)))
    found = Comparison(PairedCounts.measure(3, JoinedRows(a, b, rows.only_old, rows.only_new)), run.classes)
    assert found.fixed_broken == (0, 0)
    assert not found.state.identical
    accuracy = found.differences["accuracy"]
    assert accuracy.difference == 0
    assert accuracy.interval is not None
    assert accuracy.interval[0] < 0 < accuracy.interval[1]


def test_all_paths_give_the_same_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, label = toy.table(toy.RUN, 3000)
    for name, seed in (("a", 0), ("b", 1)):
        noise = np.random.default_rng(seed).normal(size=logits.shape).astype(np.float32)
        toy.write_run(tmp_path / name, logits + noise, label, shard_size=700, failed=frozenset({seed, 900}))
    (old,), (new,) = (open_run(tmp_path / n) for n in "ab")

    def state(zipped: bool) -> PairedCounts:
        rows = join_rows(old, new, ClassMapping(new.run.classes), (OLD_COLUMNS, NEW_COLUMNS), zipped=zipped)
        return merge_counts(PairedCounts.measure(10, j) for j in rows)

    side_by_side, sorted_ = state(True), state(False)
    assert same(side_by_side, sorted_)
    monkeypatch.setattr(join, "PORTION_ROWS", 256)
    assert same(state(False), sorted_)
    assert same(state(True), sorted_)


def test_quarters_can_be_cut_where_those_of_all_rows_are() -> None:
    rows = side_by_side(10, 900, 2)
    rows = part_of(rows, rows.old.label == rows.new.label)
    whole, part = (PairedCounts.measure(10, part_of(rows, np.arange(len(rows.new)) < n)) for n in (10_000, 100))
    ours = {f.name for f in Comparison(part, tuple("abcdefghij"), whole.kinds).by_slice}
    theirs = {f.name for f in Comparison(whole, tuple("abcdefghij")).by_slice}
    assert ours <= theirs


def test_the_worst_classes_come_first() -> None:
    label = np.repeat(np.arange(3), 100)
    hot = np.eye(3, dtype=np.float32) * 4
    before, now = label.copy(), label.copy()
    before[:10] = 1  # class 0: ten are fixed
    now[100:103], now[200:240] = 0, 0  # three of class 1 are broken, forty of class 2
    run = Run(("a", "b", "c"), "m")
    old, new = (toy.predictions(run, hot[p], label) for p in (before, now))
    none = old.take(np.zeros(300, bool))
    found = Comparison(PairedCounts.measure(3, JoinedRows(old, new, none, none)), run.classes)
    assert [(f.name, f.fixed, f.broken, f.net) for f in found.by_class] == [
        ("c", 0, 40, -40),
        ("b", 0, 3, -3),
        ("a", 10, 0, 10),
    ]
    assert found.by_class[0].interval == pytest.approx(by_hand(60, 0, 40, 0))
    assert found.by_class[0].share == -0.4
    assert found.differences["classes/c/recall"].interval == found.by_class[0].interval


def test_the_worst_are_those_that_lost_most_for_sure() -> None:
    few, many = (Flips(n, r, 0, b, interval(r - b, 0, b, 0)) for n, r, b in (("few", 20, 12), ("many", 9000, 20)))
    one = Flips("one", 1, 0, 1, interval(0, 0, 1, 0))
    assert [f.name for f in worst_first([one, many, few])] == ["few", "many", "one"]


EUROSAT = toy.SHARED / "eurosat_rgb"
CIFAR = toy.SHARED / "cifar10_resnet"


def real(folder: Path) -> None:
    if not folder.is_dir():
        pytest.skip(f"needs the real predictions in {folder}")


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory: pytest.TempPathFactory) -> tuple[Step, ...]:
    """Five steps of a real training, from the logits that its checkpoints gave."""
    real(EUROSAT)
    out = tmp_path_factory.mktemp("eurosat") / "run"
    files = tuple(sorted((EUROSAT / "small_cnn").glob("*_testlogits.npy")))
    images = str(EUROSAT / "splits/test.txt")
    import_predictions(ImportConfig("logits", files, images=images, labels_from_folders=True, pictures=False, out=out))
    return open_run(out)


@pytest.fixture(scope="module")
def resnets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Step, ...]:
    """ResNet-20 and ResNet-32 on 1,000 images of CIFAR-10."""
    real(CIFAR)
    folder = tmp_path_factory.mktemp("cifar")
    with zipfile.ZipFile(CIFAR / "cifar10_test1000_png.zip") as archive:
        (folder / "list.csv").write_bytes(archive.read("labels.csv"))
    found: list[Step] = []
    for depth in (20, 32):
        file = CIFAR / f"reference/resnet{depth}_png1000_logits.npy"
        out = folder / f"resnet{depth}"
        config = ImportConfig("logits", (file,), images=str(folder / "list.csv"), pictures=False, out=out)
        import_predictions(config)
        found += open_run(out)
    return tuple(found)


def read(step: Step) -> pd.DataFrame:
    columns = ["key", "label", "predicted", "confidence", "loss"]
    found: pd.DataFrame = RunReader([step], None, columns).to_pandas()
    return found


def is_a_plain_join(old: Step, new: Step) -> Comparison:
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    found = Comparison(count_pairs(old, new, match_classes(old.run, new.run, ("old", "new"))), new.run.classes)
    f = read(old).merge(read(new), on="key", suffixes=("", "_new"))
    was, is_ = f.predicted == f.label, f.predicted_new == f.label
    a, b, c, d = ((was & is_).sum(), (~was & is_).sum(), (was & ~is_).sum(), (~was & ~is_).sum())
    assert found.rows == len(f)
    assert found.fixed_broken == (b, c)
    assert found.rates["churn"].value == (f.predicted != f.predicted_new).mean()
    assert found.rates["agreement"].value == pytest.approx((f.predicted == f.predicted_new).mean())
    assert found.rates["negative_flip_rate"].value == c / len(f)
    test = contingency.mcnemar([[a, b], [c, d]], exact=True)
    assert found.p == pytest.approx(test.pvalue, rel=1e-8, abs=1e-300)
    accuracy = found.differences["accuracy"]
    assert (accuracy.old, accuracy.new) == (was.mean(), is_.mean())
    assert accuracy.difference == (b - c) / len(f)
    assert accuracy.interval == pytest.approx(by_hand(a, b, c, d), abs=1e-12)
    loss = f.loss_new.astype(float) - f.loss
    half = Z * loss.std() / math.sqrt(len(f))
    nll = found.differences["nll"]
    assert nll.difference == pytest.approx(loss.mean(), abs=1e-6)
    assert nll.interval == pytest.approx((loss.mean() - half, loss.mean() + half), abs=1e-5)
    for flips in found.by_class:
        here = f.label == new.run.classes.index(flips.name)
        cells = [(x & here).sum() for x in (was & is_, ~was & is_, was & ~is_, ~was & ~is_)]
        assert (flips.fixed, flips.broken) == (cells[1], cells[2])
        assert flips.interval == pytest.approx(by_hand(*cells), abs=1e-12)
    return found


def test_the_ten_pairs_of_five_steps_of_eurosat(eurosat: tuple[Step, ...]) -> None:
    assert [s.step for s in eurosat] == [1, 3, 6, 9, 12]
    for old, new in itertools.combinations(eurosat, 2):
        is_a_plain_join(old, new)
    first, last = eurosat[0], eurosat[-1]
    found = is_a_plain_join(first, last).differences
    assert (round(found["accuracy"].old, 4), round(found["accuracy"].new, 4)) == (0.6663, 0.9524)
    assert (round(found["nll"].old, 4), round(found["nll"].new, 4)) == (0.9387, 0.1409)


def test_the_resnets_of_cifar(resnets: tuple[Step, ...]) -> None:
    found = is_a_plain_join(*resnets)
    assert found.rows == 1000
    assert (found.differences["accuracy"].old, found.differences["accuracy"].new) == (0.915, 0.928)
    ends = found.differences["accuracy"].interval
    assert ends is not None
    assert ends[0] < 0 < ends[1]  # 1,000 images cannot tell them apart


def test_an_inserted_image_moves_no_figure(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 400)
    other = np.random.default_rng(9).normal(size=logits.shape).astype(np.float32) + logits
    toy.write_run(tmp_path / "old", logits, label)
    toy.write_run(tmp_path / "new", other, label)
    toy.write_run(tmp_path / "more", np.vstack([other, -other[:1]]), np.append(label, 3))
    (old,), (new,), (more,) = (open_run(tmp_path / n) for n in ("old", "new", "more"))
    before, after = (count_pairs(old, step, ClassMapping(toy.RUN.classes)) for step in (new, more))
    assert after.only_new == 1
    assert before.only_new == 0
    assert same(replace(after, only_new=np.int64(0)), before)


def test_the_positive_class_of_two_has_the_differences_of_its_class(tmp_path: Path) -> None:
    run = Run(("cat", "dog"), "m")
    for name, seed in (("old", 1), ("new", 2)):
        toy.write_run(tmp_path / name, *toy.table(run, 300, seed), run)
    old, new = (open_run(tmp_path / name)[0] for name in ("old", "new"))
    counts = count_pairs(old, new, ClassMapping(run.classes))
    for positive, other in (("dog", "cat"), ("cat", "dog")):
        of_class = Comparison(counts, run.classes, positive=positive).differences
        for name in ("precision", "recall", "f1"):
            this, that = of_class[f"positive/{name}"], of_class[f"classes/{positive}/{name}"]
            assert replace(this, definition="") == replace(that, definition="")
        specificity, recall = of_class["positive/specificity"], of_class[f"classes/{other}/recall"]
        assert replace(specificity, definition=recall.definition) == recall
        assert list(of_class)[:4] == [f"positive/{n}" for n in ("precision", "recall", "specificity", "f1")]
    assert not any(name.startswith("positive/") for name in Comparison(counts, run.classes).differences)


def test_how_two_classes_are_ranked_is_compared_over_the_same_images(tmp_path: Path) -> None:
    """Against scikit-learn, and the jackknife of the difference by a loop over its groups."""
    run, random = Run(("cat", "dog"), "m"), np.random.default_rng(0)
    label = (random.random(600) < 0.2).astype(np.int64)
    z = random.normal(2 * label, 1.5)
    scores = {"old": z + random.normal(scale=0.8, size=600), "new": z}
    for name, score in scores.items():
        toy.write_run(tmp_path / name, np.stack([np.zeros(600), score], axis=1).astype(np.float32), label, run)
    old, new = (open_run(tmp_path / name)[0] for name in scores)
    counts = count_pairs(old, new, ClassMapping(run.classes))
    group = jackknife_group(toy.predictions(run, np.zeros((600, 2), np.float32), label).key)
    for positive, sign in (("dog", 1), ("cat", -1)):
        of_class = Comparison(counts, run.classes, positive=positive).differences
        is_positive = label == run.classes.index(positive)
        for name, metric in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
            found = of_class[f"positive/{name}"]
            exact = [metric(is_positive, sign * score) for score in scores.values()]
            assert [found.old, found.new] == pytest.approx(exact, abs=2e-3)
            without = []
            for g in range(20):
                left = group != g
                values = [metric(is_positive[left], sign * score[left]) for score in scores.values()]
                without.append(values[1] - values[0])
            half = T95 * np.sqrt(19 / 20 * ((np.array(without) - np.mean(without)) ** 2).sum())
            assert found.interval is not None
            low, high = found.interval
            assert (high - low) / 2 == pytest.approx(half, rel=0.06)
            assert low <= found.difference <= high
    twice = [*join_rows(old, new, ClassMapping(run.classes), (OLD_COLUMNS | {"logits"}, NEW_COLUMNS | {"logits"}))]
    pieces = [
        PairedCounts.measure(2, part_of(rows, np.arange(len(rows.new)) % 3 == k), (), (run, run))
        for rows in twice
        for k in (2, 0, 1)
    ]
    assert same(merge_counts(pieces).scores, counts.scores)


def test_scores_of_other_classes_are_not_compared(tmp_path: Path) -> None:
    for name, classes in (("old", ("cat", "dog")), ("new", ("dog", "cat")), ("many", ("a", "b", "c"))):
        run = Run(classes, "m")
        logits, label = toy.table(run, 60)
        toy.write_run(tmp_path / name, logits, 1 - label if name == "new" else label, run)
    old, new, many = (open_run(tmp_path / name)[0] for name in ("old", "new", "many"))
    mapping = match_classes(old.run, new.run, ("old", "new"), by_name=True)
    found = Comparison(count_pairs(old, new, mapping), mapping.names, positive="dog").differences
    assert "positive/recall" in found
    assert "positive/auroc" not in found
    assert not len(count_pairs(many, many, ClassMapping(many.run.classes)).scores.count)
