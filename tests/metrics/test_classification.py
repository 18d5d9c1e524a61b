"""Figures and intervals: against scikit-learn and torchmetrics, on real predictions, and coverage by simulation."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from predboard.metrics import bootstrap, registry
from predboard.metrics.bootstrap import ClassSums, bias_corrected_interval, bootstrap_margins, poisson_resamples
from predboard.metrics.counts import CountMetrics, Counts, Margins
from predboard.metrics.data_warnings import data_warnings
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.metric_state import MetricState
from predboard.metrics.values import class_columns, class_metrics, overall_metrics
from predboard.predictions.derive import to_log_probabilities
from predboard.predictions.schema import Run
from predboard.state import Counted
from tests import toy

CIFAR = toy.SHARED / "cifar10_saved_predictions"
EUROSAT = toy.SHARED / "eurosat_rgb" / "small_cnn"

Table = tuple[NDArray[np.float32], NDArray[np.int64]]

MARGINS = {spec.name: spec.margins for spec in registry.rows("overall") if spec.margins is not None}


def of_margins(hits: NDArray[Any], support: NDArray[Any], predictions: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    margins = Margins(*(n.astype(np.float64) for n in (hits, support, predictions)))
    return {name: function(margins) for name, function in MARGINS.items()}


def evidence(
    logits: NDArray[np.float32], label: NDArray[np.int64], failed: frozenset[int] = frozenset()
) -> MetricState:
    run = Run(classes=tuple(f"class{i}" for i in range(logits.shape[1])), model="toy.py:build")
    return MetricState.measure(run, toy.predictions(run, logits, label, failed=failed))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    p = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def wide_resnet() -> Table:
    """10,000 softmax outputs for CIFAR-10's test images."""
    if not CIFAR.is_dir():
        pytest.skip("needs saved predictions for CIFAR-10, which are not distributed with this")
    found = np.load(CIFAR / "netcal_wideresnet-16-4-cifar-10.npz")
    return to_log_probabilities(found["predictions"])[0], found["ground_truth"]


def small_cnn(epoch: int = 6) -> Table:
    """5,400 logits for EuroSAT's test images."""
    if not EUROSAT.is_dir():
        pytest.skip("needs the EuroSAT logits, which are not distributed with this")
    lines = (EUROSAT.parent / "splits" / "test.txt").read_text().splitlines()
    folders = [line.split()[0].partition("/")[0] for line in lines]
    label = np.unique(folders, return_inverse=True)[1].astype(np.int64)
    return np.load(EUROSAT / f"eurosat_cnn_epoch{epoch:02d}_testlogits.npy").astype(np.float32), label


REAL = {"CIFAR-10": wide_resnet, "EuroSAT": small_cnn}


@pytest.fixture(scope="module", params=REAL)
def real(request: pytest.FixtureRequest) -> Table:
    return REAL[request.param]()


def test_the_published_accuracies_come_out() -> None:
    assert overall_metrics(evidence(*wide_resnet()))["accuracy"].value == pytest.approx(0.9109, abs=1e-9)
    assert round(overall_metrics(evidence(*small_cnn()))["accuracy"].value, 4) == 0.8698


def aurc(logits: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Mean error rate of the most confident rows, over how many are kept; by the log-odds, which still differ at 1."""
    z = np.sort(logits.astype(np.float64), axis=1)
    odds = z[:, -1] - np.log(np.exp(z[:, :-1] - z[:, -2:-1]).sum(axis=1)) - z[:, -2]
    wrong = ~right[np.argsort(-odds, kind="stable")]
    return float((np.cumsum(wrong) / np.arange(1, len(wrong) + 1)).mean())


def exact(logits: NDArray[np.float32], label: NDArray[np.int64]) -> dict[str, float]:
    """Every figure by scikit-learn and torchmetrics, or by its definition where they have none."""
    k, p, predicted = logits.shape[1], softmax(logits), logits.argmax(axis=1)
    hot = np.eye(k)[label]
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        label, predicted, average="macro", zero_division=0
    )
    weighted = metrics.f1_score(label, predicted, average="weighted")
    return {
        "accuracy": float(metrics.accuracy_score(label, predicted)),
        "accuracy_top2": float(metrics.top_k_accuracy_score(label, logits, k=2, labels=range(k))),
        "accuracy_top5": float(metrics.top_k_accuracy_score(label, logits, k=5, labels=range(k))),
        "balanced_accuracy": float(metrics.balanced_accuracy_score(label, predicted)),
        "precision_macro": float(precision),
        "recall_macro": float(recall),
        "f1_macro": float(f1),
        "f1_weighted": float(weighted),
        "mcc": float(metrics.matthews_corrcoef(label, predicted)),
        "nll": float(metrics.log_loss(label, p, labels=range(k))),
        "brier": float(((p - hot) ** 2).sum(axis=1).mean()),
        "auroc_macro": float(metrics.roc_auc_score(label, p, multi_class="ovr", labels=range(k))),
        "average_precision_macro": float(metrics.average_precision_score(hot, p, average="macro")),
        "aurc": aurc(logits, predicted == label),
    }


APPROXIMATE = ("auroc_macro", "average_precision_macro", "aurc")
"""From histograms: each says how far the exact value may be away."""


def test_every_figure_is_what_others_compute_on_real_predictions(real: Table) -> None:
    found, expected = overall_metrics(evidence(*real)), exact(*real)
    assert list(found) == list(expected) == [spec.name for spec in registry.rows("overall")]
    for name, figure in found.items():
        assert figure.interval is not None
        assert figure.interval[0] < figure.value < figure.interval[1] or figure.value == figure.interval[1] == 1
        if name in APPROXIMATE:
            assert figure.bound is not None
            assert figure.bound < 5e-4
            assert abs(figure.value - expected[name]) <= figure.bound + 1e-7  # ours are of float32 probabilities
            assert figure.value == pytest.approx(expected[name], abs=5e-6)
        else:
            assert figure.bound is None
            assert figure.value == pytest.approx(expected[name], abs=1e-6)


def test_torchmetrics_says_the_same(real: Table) -> None:
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    logits, label = torch.from_numpy(real[0]), torch.from_numpy(real[1])
    found = overall_metrics(evidence(*real))
    for name, function, more in (
        ("f1_macro", torchmetrics.multiclass_f1_score, {"average": "macro"}),
        ("precision_macro", torchmetrics.multiclass_precision, {"average": "macro"}),
        ("balanced_accuracy", torchmetrics.multiclass_accuracy, {"average": "macro"}),
        ("mcc", torchmetrics.multiclass_matthews_corrcoef, {}),
        ("accuracy_top2", torchmetrics.multiclass_accuracy, {"average": "micro", "top_k": 2}),
    ):
        theirs = float(function(logits, label, num_classes=10, **more))
        assert found[name].value == pytest.approx(theirs, abs=1e-6), name


def test_the_figures_of_each_class_are_what_scikit_learn_says(real: Table) -> None:
    logits, label = real
    state = evidence(logits, label)
    of, p, predicted = class_columns(state), softmax(logits), logits.argmax(axis=1)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(label, predicted)
    assert of["precision"].value == pytest.approx(precision, abs=1e-12)
    assert of["recall"].value == pytest.approx(recall, abs=1e-12)
    assert of["f1"].value == pytest.approx(f1, abs=1e-12)
    hot = np.eye(10)[label]
    for name, theirs in (("auroc", metrics.roc_auc_score), ("average_precision", metrics.average_precision_score)):
        values = np.array([theirs(hot[:, c], p[:, c]) for c in range(10)])
        assert of[name].value == pytest.approx(values, abs=5e-5)
        assert (np.abs(of[name].value - values) <= of[name].bound + 1e-7).all()
    for c in range(10):
        lower, upper = wilson_interval(int(((label == c) & (predicted == c)).sum()), int((label == c).sum()))
        assert class_metrics([c], class_columns(state))[0]["recall"].interval == pytest.approx((lower, upper))
    for column in of.values():
        assert ((column.lower < column.value) & (column.value < column.upper)).all()


def test_intervals_are_as_wide_as_those_from_drawing_rows(real: Table) -> None:
    logits, label = real
    found, random = overall_metrics(evidence(logits, label)), np.random.default_rng(0)
    predicted, p = logits.argmax(axis=1), softmax(logits)
    loss = -np.log(p[np.arange(len(p)), label])
    brier = ((p - np.eye(10)[label]) ** 2).sum(axis=1)
    drawn: dict[str, list[float]] = {}
    for _ in range(400):
        rows = random.integers(0, len(label), len(label))
        matrix = np.bincount(label[rows] * 10 + predicted[rows], minlength=100).reshape(10, 10)
        hits, support, predictions = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
        total, n = hits.sum(), len(rows)
        chance = (support * predictions).sum()
        for name, value in (
            ("accuracy", total / n),
            ("balanced_accuracy", (hits / support).mean()),
            ("precision_macro", (hits / predictions).mean()),
            ("f1_macro", (2 * hits / (support + predictions)).mean()),
            ("mcc", (total * n - chance) / np.sqrt((n**2 - (predictions**2).sum()) * (n**2 - (support**2).sum()))),
            ("nll", loss[rows].mean()),
            ("brier", brier[rows].mean()),
        ):
            drawn.setdefault(name, []).append(float(value))
    for name, values in drawn.items():
        interval = found[name].interval
        assert interval is not None
        width = 2 * 1.96 * np.std(values)
        assert interval[1] - interval[0] == pytest.approx(width, rel=0.12), name
        assert np.mean(interval) == pytest.approx(found[name].value, abs=0.1 * float(width))


def test_what_asks_for_the_order_of_rows_has_an_interval_as_from_drawing_them(real: Table) -> None:
    logits, label = real[0][::5], real[1][::5]
    found, p, hot, random = (
        overall_metrics(evidence(logits, label)),
        softmax(logits),
        np.eye(10)[label],
        np.random.default_rng(0),
    )
    right = logits.argmax(axis=1) == label
    drawn: dict[str, list[float]] = {name: [] for name in APPROXIMATE}
    for _ in range(60):
        rows = random.integers(0, len(label), len(label))
        drawn["auroc_macro"].append(metrics.roc_auc_score(hot[rows], p[rows], average="macro"))
        drawn["average_precision_macro"].append(metrics.average_precision_score(hot[rows], p[rows], average="macro"))
        drawn["aurc"].append(aurc(logits[rows], right[rows]))
    for name, values in drawn.items():
        interval = found[name].interval
        assert interval is not None
        # 20 groups tell a spread to within a third (chi-squared with 19 degrees of freedom), 60 draws to a fifth.
        assert 0.6 < (interval[1] - interval[0]) / (2 * 2.09 * np.std(values)) < 1.6, name


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(1, 8), rows=st.integers(1, 40), present=st.integers(1, 8))
def test_few_rows_and_absent_classes_give_what_scikit_learn_says_or_nothing(
    seed: int, classes: int, rows: int, present: int
) -> None:
    random = np.random.default_rng(seed)
    label = random.integers(0, min(present, classes), rows)
    logits = random.normal(size=(rows, classes)).astype(np.float32) * 3
    found, predicted = overall_metrics(evidence(logits, label)), logits.argmax(axis=1)
    for figure in found.values():
        assert np.isfinite(figure.value)
        assert figure.interval is None or figure.interval[0] <= figure.value <= figure.interval[1]
    assert ("mcc" in found) == (len(set(label)) > 1 and len(set(predicted)) > 1)
    if "mcc" in found:
        assert found["mcc"].value == pytest.approx(metrics.matthews_corrcoef(label, predicted), abs=1e-9)
    assert ("accuracy_top2" in found) == (classes > 2)
    assert ("accuracy_top5" in found) == (classes > 5)
    assert ("auroc_macro" in found) == (len(set(label)) > 1)
    assert (found["nll"].interval is None) == (rows == 1)


def matrix_of(counts: NDArray[np.int64]) -> CountMetrics:
    """Scores of a confusion matrix; row: true class, column: predicted class."""
    cells = np.flatnonzero(counts)
    none = np.int64(0)
    kept = Counted(cells, counts.ravel()[cells])
    return Counts(kept, np.int64(len(counts)), counts.sum(), none, none, none, none, none).metrics


def test_intervals_hold_the_true_value_as_often_as_they_say_also_of_rare_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """100 classes of 20 images on average, where the plain percentiles of macro F1 hold it 78 times of 100."""
    monkeypatch.setattr(bootstrap, "MAX_POISSON_NUMBERS", 1)  # 250 for each cell, which is quicker
    random, classes, times = np.random.default_rng(0), 100, 80
    held: dict[str, int] = dict.fromkeys(("f1_macro", "precision_macro", "balanced_accuracy", "mcc"), 0)
    plain = 0
    for _ in range(times):
        recall = np.clip(random.normal(0.7, 0.12, classes), 0.2, 0.99)
        joint = np.array([random.dirichlet(np.full(classes, 0.3)) for _ in range(classes)]) * (1 - recall)[:, None]
        joint[np.arange(classes), np.arange(classes)] += recall
        joint *= random.dirichlet(np.full(classes, 8.0))[:, None]
        truth = of_margins(np.diag(joint) * 1e9, joint.sum(axis=1) * 1e9, joint.sum(axis=0) * 1e9)
        scores = matrix_of(random.multinomial(2000, joint.ravel()).reshape(classes, classes))
        draws = bootstrap_margins(scores, MARGINS)
        for name in held:
            interval = bias_corrected_interval(float(MARGINS[name](scores.margins)), draws[name])
            assert interval is not None
            held[name] += int(interval[0] <= truth[name] <= interval[1])
        lower, upper = np.quantile(draws["f1_macro"], [0.025, 0.975])
        plain += int(lower <= truth["f1_macro"] <= upper)
    assert plain < 0.85 * times  # the bias is there
    for name, count in held.items():
        assert count >= 0.87 * times, (name, count)  # of 95 in 100, three standard deviations less


def test_drawing_anew_depends_on_the_counts_alone_also_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = matrix_of(np.random.default_rng(0).integers(0, 9, (12, 12)))
    whole = bootstrap_margins(scores, MARGINS)
    monkeypatch.setattr(bootstrap, "BOOTSTRAP_BLOCK_BYTES", 7 * 144)
    first, second = bootstrap_margins(scores, MARGINS), bootstrap_margins(scores, MARGINS)
    assert {name: len(values) for name, values in first.items()} == dict.fromkeys(whole, 1000)
    assert first["mcc"].mean() == pytest.approx(float(whole["mcc"].mean()), abs=4 * float(whole["mcc"].std()) / 22)
    assert {name: values.tolist() for name, values in first.items()} == {n: v.tolist() for n, v in second.items()}
    other = bootstrap_margins(matrix_of(np.random.default_rng(1).integers(0, 9, (12, 12))), MARGINS)
    assert first["mcc"].tolist() != other["mcc"].tolist()
    assert len(first["mcc"]) == 1000


def test_drawing_cells_anew_is_drawing_rows_anew() -> None:
    counts = np.array([[30, 5, 0], [2, 9, 4], [1, 0, 3]])
    draws = bootstrap_margins(matrix_of(counts), MARGINS)
    random, rows = np.random.default_rng(1), np.repeat(np.arange(9), counts.ravel())
    again: dict[str, list[float]] = {}
    for _ in range(1000):
        matrix = np.bincount(rows, random.poisson(1, len(rows)), minlength=9).reshape(3, 3)
        for name, value in of_margins(np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)).items():
            again.setdefault(name, []).append(float(value))
    for name, values in again.items():
        error = float(np.std(values)) * (2 / 1000) ** 0.5
        assert np.mean(values) == pytest.approx(float(draws[name].mean()), abs=4 * error), name
        assert np.std(values) == pytest.approx(draws[name].std(), rel=0.13), name


def test_the_correction_by_hand() -> None:
    draws = np.arange(1, 1001) / 1000
    # 97.5 % of the draws lie below the value, z = 1.96: the ends are those of Phi(2 · 1.96 ∓ 1.96).
    lower, upper = bias_corrected_interval(0.9755, draws) or (0, 0)
    assert lower == pytest.approx(0.975, abs=1e-3)
    assert upper == pytest.approx(1, abs=1e-3)
    assert bias_corrected_interval(0.5005, draws) == pytest.approx(
        (0.026, 0.975), abs=1e-3
    )  # without bias: the plain percentiles
    assert bias_corrected_interval(1.0, np.full(10, np.nan)) is None
    assert bias_corrected_interval(1.0, np.ones(10)) == (1, 1)


def test_a_loss_that_no_sum_holds_leaves_no_nll() -> None:
    logits = np.zeros((4000, 3), np.float32)
    logits[::2, 0] = 3e38
    state = evidence(logits, np.ones(4000, np.int64))
    assert "nll" not in overall_metrics(state)
    assert (
        data_warnings(state.metrics, ("a", "b", "c"), 4000, 4000)[0]
        == "2,000 images have a loss above 65,536 nats: there is no NLL"
    )


def test_the_interval_of_the_mean_loss_is_that_of_its_standard_error() -> None:
    few = np.log(np.array([[0.25, 0.75]] * 3 + [[0.5, 0.5]], np.float32))
    ordinary = overall_metrics(evidence(few, np.array([0, 0, 0, 1])))
    losses = np.array([np.log(4)] * 3 + [np.log(2)])
    half = 1.96 * losses.std(ddof=1) / 2
    assert ordinary["nll"].interval == pytest.approx((losses.mean() - half, losses.mean() + half), abs=1e-4)


@pytest.mark.parametrize("loss", [300, 60_000])
def test_large_losses_widen_the_interval(loss: int) -> None:
    logits = np.zeros((100, 2), np.float32)
    logits[:, 1] = loss
    nll = overall_metrics(evidence(logits, np.arange(100) % 2))["nll"]
    assert nll.value == loss / 2
    half = 1.959964 * np.array([0, loss] * 50).std(ddof=1) / 10
    assert nll.interval == pytest.approx((max(loss / 2 - half, 0), loss / 2 + half), rel=1e-6)


def test_f1_of_a_class_has_the_interval_of_its_jaccard_index() -> None:
    state = evidence(np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 0, 2]], np.array([0, 0, 0, 0, 1, 2]))
    f1 = class_metrics([0], class_columns(state))[0]["f1"]
    assert f1.value == pytest.approx(2 * 3 / (4 + 4))
    lower, upper = wilson_interval(3, 5)  # three hits among the five rows that are of class 0 or predicted as it
    assert f1.interval == pytest.approx((2 * lower / (1 + lower), 2 * upper / (1 + upper)))
    assert set(class_metrics([1], class_columns(state))[0]) == {
        "precision",
        "recall",
        "f1",
        "average_precision",
        "auroc",
    }


def test_a_class_without_images_has_no_recall_and_one_that_is_never_predicted_no_precision() -> None:
    state = evidence(np.eye(4, dtype=np.float32)[[0, 0, 2]], np.array([0, 1, 0]))
    assert set(class_metrics([3], class_columns(state))[0]) == set()
    assert set(class_metrics([2], class_columns(state))[0]) == {"precision", "f1"}
    assert set(class_metrics([1], class_columns(state))[0]) == {"recall", "f1", "average_precision", "auroc"}
    for column in class_columns(state).values():
        assert np.isnan([column.lower, column.upper])[:, np.isnan(column.value)].all()


def test_a_count_of_one_becomes_poisson_of_one() -> None:
    drawn = bootstrap._poisson_one(np.arange(2**16, dtype=np.uint16))
    assert drawn.mean() == pytest.approx(1, abs=1e-4)
    assert drawn.var() == pytest.approx(1, abs=1e-3)
    for k in range(8):
        assert (drawn == k).mean() == pytest.approx(np.exp(-1) / math.factorial(k), abs=2e-5)


@pytest.mark.parametrize("most", [99, 100, 49_999, 50_000, 10**6])
def test_each_count_becomes_poisson_of_it_and_sums_of_them_have_room(most: int) -> None:
    count = np.array([1, 2, 3, 7, 8, 12, most])
    (n,) = poisson_resamples(count, b"", 1, most)
    assert n.shape == (7, 1000)
    for drawn, k in zip(n, count, strict=True):
        assert drawn.mean() == pytest.approx(k, abs=4 * (k / 1000) ** 0.5)
        assert drawn.var() == pytest.approx(k, rel=4 * ((2 + 1 / k) / 1000) ** 0.5)
    assert np.abs(np.corrcoef(n) - np.eye(7)).max() < 4 / 1000**0.5


def test_sums_by_class_are_those_of_a_loop() -> None:
    random = np.random.default_rng(0)
    of, n = random.integers(-1, 9, 50), random.integers(0, 250, (50, 6)).astype(np.uint16)
    of[of == 4] = 5
    expected = [n[of == c].sum(axis=0) for c in range(9)]
    assert ClassSums(of, 9)(n).tolist() == np.array(expected).tolist()
