"""Metrics of several labels: against scikit-learn on generated and real data, and by hand where it has none."""

import csv
import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from predboard.metrics.multi_label.label_state import LabelCountState, LabelState
from predboard.metrics.multi_label.label_values import all_label_metrics, label_columns
from predboard.metrics.values import count_images
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.sampling import jackknife_group
from predboard.predictions.schema import MULTI_LABEL, Run
from predboard.summaries import Metric
from tests import label_sets

Mask = NDArray[np.bool_]

HALF: dict[str, tuple[Any, dict[str, Any]]] = {  # of what is predicted at 1/2, equal to the sixth digit
    **{f"{name}_{average}": (function, {"average": average, "zero_division": 0})
       for name, function in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score))
       for average in ("macro", "micro")},
    "f1_weighted": (sk.f1_score, {"average": "weighted", "zero_division": 0}),
    "exact": (sk.accuracy_score, {}),
    "hamming": (sk.hamming_loss, {}),
    "jaccard": (sk.jaccard_score, {"average": "samples", "zero_division": 1}),
    "f1_images": (sk.f1_score, {"average": "samples", "zero_division": 1}),
}  # fmt: skip


def bound_of(metric: Metric) -> float:
    assert metric.bound is not None
    return metric.bound


def measured(run: Run, rows: MultiLabelPredictions) -> tuple[LabelState, dict[str, Metric]]:
    state = LabelState.measure(run, rows)
    return state, all_label_metrics(state)


def generated() -> dict[str, tuple[NDArray[np.float32], Mask]]:
    absent = label_sets.table(500, 5, 4, 1.5)
    absent[1][:, 2], absent[1][:, 3] = False, True  # a label nobody has, one that all have
    absent[0][:, 4] = -9  # one that is never predicted
    return {
        "few labels": label_sets.table(2000, 10, 1),
        "ties": label_sets.table(1000, 7, 2, ties=True),
        "many labels": label_sets.table(400, 300, 3, 4.0),
        "many labels an image": label_sets.table(60, 150, 5, 100.0),
        "a label nobody has, and one all have": absent,
        "one label": label_sets.table(300, 1, 6, 0.5),
    }


@pytest.mark.parametrize("name", generated())
def test_metrics_are_those_of_scikit_learn(name: str) -> None:
    logits, labels = generated()[name]
    run = label_sets.run_of(labels.shape[1])
    state, found = measured(run, label_sets.rows(run, logits, labels))
    predicted, p = logits > 0, 1 / (1 + np.exp(-logits.astype(np.float64)))
    present = np.asarray((labels | predicted).any(axis=0))
    for metric, (function, options) in HALF.items():
        some = present if metric.endswith("macro") else np.ones_like(present)
        a, b = labels[:, some], predicted[:, some]
        if a.shape[1] == 1 and options.get("average") in ("macro", "micro", "weighted"):
            a, b, options = a[:, 0], b[:, 0], {"zero_division": 0}
        if options.get("average") == "samples":
            both = (labels & predicted).sum(axis=1)
            union, sizes = (labels | predicted).sum(axis=1), labels.sum(axis=1) + predicted.sum(axis=1)
            expected = np.where(sizes > 0, *((both / np.maximum(union, 1), 1) if metric == "jaccard"
                                             else (2 * both / np.maximum(sizes, 1), 1))).mean()  # fmt: skip
            if a.shape[1] > 1:
                assert expected == pytest.approx(function(a, b, **options), abs=1e-12)
        else:
            expected = function(a, b, **options)
        assert found[metric].value == pytest.approx(expected, abs=1e-6), metric
    assert found["bce"].value == pytest.approx(-np.where(labels, np.log(p), np.log1p(-p)).mean(), abs=2e-6)
    assert found["brier"].value == pytest.approx(((p - labels) ** 2).mean(), abs=1e-6)
    ranking(found, logits, labels)
    ranked(state, found, logits, labels)


def ranking(found: dict[str, Metric], logits: NDArray[np.float32], labels: Mask) -> None:
    """The ranking of each image's labels."""
    if labels.shape[1] == 1:
        assert "lrap" not in found
        assert found["coverage"].value == pytest.approx(labels.mean(), abs=1e-6)
        return
    some = labels.any(axis=1) & ~labels.all(axis=1)
    assert found["coverage"].value == pytest.approx(sk.coverage_error(labels, logits), abs=1e-6)
    y, z = labels[some], logits[some]
    assert found["lrap"].value == pytest.approx(sk.label_ranking_average_precision_score(y, z), abs=1e-6)
    assert found["ranking_loss"].value == pytest.approx(sk.label_ranking_loss(y, z), abs=1e-6)
    highest = z == z.max(axis=1, keepdims=True)
    assert found["one_error"].value == pytest.approx(1 - ((highest & y).sum(1) / highest.sum(1)).mean(), abs=1e-6)
    assert found["lrap"].rows == some.sum()


def ranked(state: LabelState, found: dict[str, Metric], logits: NDArray[np.float32], labels: Mask) -> None:
    """The ranking of the images by each label, within the bound that the histograms prove."""
    some = labels.any(axis=0) & ~labels.all(axis=0)
    y, z = labels[:, some].astype(int), logits[:, some]
    tied = any(len(np.unique(column)) < len(column) for column in z.T)
    columns = label_columns(state)
    for short, function in (("auroc", sk.roc_auc_score), ("average_precision", sk.average_precision_score)):
        macro, micro = found[f"{short}_macro"], found[f"{short}_micro"]
        each = np.array([function(y[:, c], z[:, c]) for c in range(y.shape[1])])
        of_label = columns[short]
        bound = of_label.bound[some]
        if short == "auroc" or not tied:  # equal logits are one threshold to scikit-learn, and evenly mixed here
            assert (np.abs(of_label.value[some] - each) <= bound + 1e-12).all()
            assert abs(macro.value - each.mean()) <= bound_of(macro) + 1e-12
            assert abs(micro.value - function(labels.ravel().astype(int), logits.ravel())) <= bound_of(micro) + 1e-12
        assert np.isnan(columns["auroc"].value[~some]).all()


def by_hand() -> tuple[Run, MultiLabelPredictions]:
    """Five images of three labels: right, both wrong, empty and right, partly unknown, unlabelled."""
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 1, 1]], bool)
    predicted = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1]], bool)
    unknown = np.zeros((5, 3), bool)
    unknown[3, 0] = True  # label 0 is predicted there, which is neither right nor wrong
    labelled = np.array([True, True, True, True, False])
    run = label_sets.run_of(3)
    logits = np.where(predicted, 1.0, -1.0) + np.array([0.2, 0.1, 0.0])
    return run, label_sets.rows(run, logits, labels, unknown, labelled)


def test_metrics_by_hand_with_an_empty_set_an_unknown_label_and_an_unlabelled_image() -> None:
    run, rows = by_hand()
    state, found = measured(run, rows)
    m = state.metrics
    assert m.hits.tolist() == [1, 2, 0]
    assert m.predictions.tolist() == [1, 3, 0]
    assert m.support.tolist() == [2, 2, 0]
    assert m.known.tolist() == [3, 4, 4]
    images = {name: metric.value for name, metric in count_images(state.counts, 7, MULTI_LABEL).items()}
    assert images == {
        "images": 5, "images/missing": 2, "images/failed": 0, "images/unlabelled": 1, "images/partly_labelled": 1,
        "images/counted": 4,
    }  # fmt: skip
    value = {name: metric.value for name, metric in found.items()}
    assert value["exact"] == 3 / 4
    assert value["jaccard"] == pytest.approx((1 + 0 + 1 + 1) / 4, abs=1e-6)
    assert value["hamming"] == pytest.approx(2 / 11)
    assert value["f1_micro"] == pytest.approx(2 * 3 / (4 + 4))
    assert value["f1_macro"] == pytest.approx((2 / 3 + 4 / 5) / 2)  # the third label has no image and is not predicted
    assert value["nothing/exact"] == 1 / 4
    assert value["nothing/hamming"] == pytest.approx(4 / 11)
    assert value["labels_per_image"] == 1
    assert value["predicted_per_image"] == 1
    # ranked: of image 1 the true label 0 is below label 1 (and above label 2), of image 3 the only known pair is right
    assert value["lrap"] == pytest.approx((1 + 1 / 2 + 1) / 3, abs=1e-6)
    assert value["ranking_loss"] == pytest.approx((0 + 1 / 2 + 0) / 3, abs=1e-6)
    assert value["one_error"] == pytest.approx(1 / 3, abs=1e-6)
    assert value["coverage"] == pytest.approx((2 + 2 + 0 + 1) / 4, abs=1e-6)
    # 11 decisions: the loss of one is ln(1 + exp(-z)) where it is right, z being 1 or -1 + (.2, .1, 0)
    right = [1.2, 1.1, 1.0, 1.0, 0.8, 0.9, 1.0, 1.1, 1.0]
    wrong = [-0.8, 1.1]  # label 0 missed, label 1 wrongly predicted
    losses = [*np.log1p(np.exp(-np.array(right))), np.log1p(np.exp(0.8)), np.log1p(np.exp(1.1))]
    assert len(right) + len(wrong) == 11
    assert value["bce"] == pytest.approx(np.sum(losses) / 11, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_what_the_model_thinks_of_unknown_labels_changes_no_figure(seed: int) -> None:
    random = np.random.default_rng(seed)
    run = label_sets.run_of(6)
    logits, labels = label_sets.table(80, 6, seed)
    unknown = random.random(labels.shape) < 0.3
    unknown[:5] = True  # of these nothing is known
    a = label_sets.rows(run, logits, labels, unknown)
    other = np.where(unknown, random.normal(scale=9, size=labels.shape), logits)
    b = label_sets.rows(run, other, labels, unknown)
    (one, first), (two, second) = measured(run, a), measured(run, b)
    assert first == second
    assert first["exact"].rows == 75
    for x, y in zip(dataclasses.astuple(one.histograms), dataclasses.astuple(two.histograms), strict=True):
        assert np.array_equal(x, y)
    known = ~unknown
    for c in range(6):
        y, s = labels[known[:, c], c], logits[known[:, c], c] > 0
        assert label_columns(one)["f1"].value[c] == pytest.approx(sk.f1_score(y, s))
        assert label_columns(one)["auroc"].value[c] == pytest.approx(
            sk.roc_auc_score(y, logits[known[:, c], c]), abs=0.01
        )
    assert first["f1_micro"].value == pytest.approx(sk.f1_score(labels[known], logits[known] > 0))
    assert first["hamming"].value == pytest.approx((labels != (logits > 0))[known].mean())


def test_intervals_leave_out_the_images_of_a_group_with_all_their_labels() -> None:
    run = label_sets.run_of(8)
    logits, labels = label_sets.table(600, 8, 7)
    rows = label_sets.rows(run, logits, labels)
    group, predicted = jackknife_group(rows.key), logits > 0
    _, found = measured(run, rows)

    def half(function: Any) -> float:
        without = np.array([function(group != g) for g in range(20)])
        return float(2.093024054408263 * np.sqrt(19 / 20 * ((without - without.mean()) ** 2).sum()))

    for name, average in (("f1_macro", "macro"), ("f1_micro", "micro")):
        expected = half(lambda keep, a=average: sk.f1_score(labels[keep], predicted[keep], average=a, zero_division=0))
        lower, upper = found[name].interval or (0, 0)
        assert (upper - lower) / 2 == pytest.approx(expected, rel=1e-6)
    lower, upper = found["lrap"].interval or (0, 0)
    some = labels.any(axis=1)
    expected = half(lambda keep: sk.label_ranking_average_precision_score(labels[keep & some], logits[keep & some]))
    assert (upper - lower) / 2 == pytest.approx(expected, rel=1e-3)
    lower, upper = found["average_precision_macro"].interval or (0, 0)
    expected = half(lambda keep: sk.average_precision_score(labels[keep], logits[keep], average="macro"))
    assert (upper - lower) / 2 == pytest.approx(
        np.hypot(expected, bound_of(found["average_precision_macro"])), rel=0.05
    )


@pytest.mark.parametrize("rows", [0, 1])
def test_no_row_and_one_row_have_what_is_defined_and_no_interval_but_of_a_share(rows: int) -> None:
    run = label_sets.run_of(3)
    _, found = measured(run, label_sets.rows(run, np.ones((rows, 3)), np.array([[True, False, True]])[:rows]))
    if not rows:
        assert found == {}
        return
    assert found["exact"].value == 0
    assert found["f1_micro"].value == pytest.approx(4 / 5)
    assert [name for name, metric in found.items() if metric.interval] == ["exact"]
    assert "average_precision_macro" not in found  # no label has both kinds


def test_what_is_always_right_has_no_interval_of_no_width() -> None:
    run = label_sets.run_of(4)
    labels = np.random.default_rng(0).random((90, 4)) < 0.4
    _, found = measured(run, label_sets.rows(run, np.where(labels, 3.0, -3.0), labels))
    assert found["f1_micro"].value == 1
    assert found["f1_micro"].interval is None
    lower, upper = found["exact"].interval or (0, 0)
    assert lower == pytest.approx(0.959, abs=0.001)
    assert upper == 1


def test_without_logits_the_same_but_what_ranks() -> None:
    run = label_sets.run_of(5)
    rows = label_sets.rows(run, *label_sets.table(200, 5, 8))
    _, found = measured(run, rows)
    light = all_label_metrics(LabelCountState.measure(run, rows))
    assert {name: found[name] for name in light} == light
    assert {"f1_macro", "exact", "bce", "hamming", "nothing/exact"} <= set(light)
    assert not {"lrap", "average_precision_macro", "brier"} & set(light)


CHEXNET = {
    "average_precision_macro": 0.259346, "average_precision_micro": 0.341882,
    "auroc_macro": 0.838267, "auroc_micro": 0.881370,
    "f1_macro": 0.172472, "f1_micro": 0.251743, "f1_weighted": 0.226861,
    "precision_micro": 0.522368, "recall_micro": 0.165831, "precision_macro": 0.399761, "recall_macro": 0.125440,
    "exact": 0.527526, "jaccard": 0.558149, "f1_images": 0.569772, "hamming": 0.051939,
    "lrap": 0.674763, "ranking_loss": 0.127948, "coverage": 1.699015, "bce": 0.149668, "brier": 0.041224,
    "nothing/exact": 0.531494, "nothing/hamming": 0.052687,
}  # fmt: skip


@pytest.mark.skipif(not label_sets.CHEXNET.is_file(), reason="needs the real predictions of CheXNet")
def test_metrics_of_chexnet_are_those_of_scikit_learn_and_its_published_areas() -> None:
    run, logits, labels, images = label_sets.chexnet()
    state, found = measured(run, label_sets.rows(run, logits, labels, image=images))
    for name, expected in CHEXNET.items():
        assert abs(found[name].value - expected) <= 1e-6 + (found[name].bound or 0), name
        assert (found[name].bound or 0) < 0.0015
    n = len(labels)
    rankable = found["lrap"].rows or 0
    perfect = n - rankable  # images without a label, which scikit-learn counts as perfect
    assert (found["lrap"].value * rankable + perfect) / n == pytest.approx(0.847624, abs=1e-6)
    assert found["ranking_loss"].value * rankable / n == pytest.approx(0.059944, abs=1e-6)
    with (label_sets.CHEXNET.parent / "published_aucs.csv").open(encoding="utf-8") as file:
        published = {row["label"]: float(row["auc"]) for row in csv.DictReader(file)}
    assert tuple(published) == run.classes
    auroc = label_columns(state)["auroc"]
    assert (np.abs(auroc.value - list(published.values())) <= auroc.bound).all()
    assert np.abs(auroc.value - list(published.values())).max() < 1e-4
    half = {name: (found[name].interval[1] - found[name].interval[0]) / 2 for name in ("f1_macro", "f1_micro")}  # type: ignore[index]
    assert half["f1_macro"] == pytest.approx(0.0058, abs=0.0001)
    assert half["f1_micro"] == pytest.approx(0.0072, abs=0.0001)


def test_intervals_by_a_column_of_groups_are_wider_where_images_repeat_and_say_so() -> None:
    """Four copies of each image under one patient know no more than one: the interval is as wide as without copies."""
    run = label_sets.run_of(6)
    logits, labels = label_sets.table(400, 6, 11)
    once = label_sets.rows(run, logits, labels)
    copies = np.repeat(np.arange(400), 4)
    four = label_sets.rows(run, logits[copies], labels[copies])
    patient = pa.array(np.repeat(once.key, 4), pa.int64())
    grouped = MultiLabelPredictions(four.batch.append_column("group:patient", patient))
    (_, alone), (_, repeated), (state, together) = (measured(run, rows) for rows in (once, four, grouped))

    def width(metric: Metric) -> float:
        lower, upper = metric.interval or (0, 0)
        return upper - lower

    for name in ("f1_micro", "f1_macro", "hamming", "jaccard", "lrap"):
        assert together[name].value == pytest.approx(repeated[name].value)
        assert width(together[name]) == pytest.approx(width(alone[name]), rel=1e-3)  # the same groups
        assert width(repeated[name]) < 0.8 * width(together[name])
        assert "one patient" in together[name].method
    assert width(together["exact"]) > 1.4 * width(repeated["exact"])
    assert "jackknife" in together["exact"].method
    columns = label_columns(state)
    assert "jackknife" in columns["recall"].method
    assert "one patient" in columns["auroc"].method
