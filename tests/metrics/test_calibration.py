"""Calibration figures against torchmetrics, an optimiser and plain loops over rows."""

import importlib
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from predboard.metrics import calibration, score_histograms, temperature
from predboard.metrics.calibration import Calibration, conformal_sets
from predboard.metrics.reliability import equal_width_bin
from predboard.metrics.score_histograms import ScoreHistograms
from predboard.metrics.temperature import INVERSE_TEMPERATURES, SAMPLE_ROWS
from predboard.predictions.derive import to_log_probabilities
from predboard.predictions.sampling import Salt, jackknife_group, mix
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import merge
from tests import toy

SAVED = toy.SHARED / "cifar10_saved_predictions"
needs_saved = pytest.mark.skipif(
    not SAVED.is_dir(), reason="needs published predictions, which are not distributed with this"
)

Floats = NDArray[np.float64]


def named(classes: int) -> Run:
    return Run(classes=tuple(f"class{i}" for i in range(classes)), model="toy.py:build")


def softmax(logits: NDArray[Any]) -> Floats:
    e = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def noisy(rows: int, classes: int, seed: int = 0, scale: float = 2.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits of an over-confident model (its best temperature is about the scale), and labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, classes)) * 1.5
    p = softmax(logits)
    label = (p.cumsum(axis=1) > random.random((rows, 1))).argmax(axis=1)
    return (logits * scale).astype(np.float32), label.astype(np.int64)


def state_of(logits: NDArray[np.float32], label: NDArray[np.int64]) -> Calibration:
    run = named(logits.shape[1])
    return Calibration.measure(run, toy.predictions(run, logits, label))


def slow_ece(confidence: Floats, right: NDArray[Any]) -> float:
    total = 0.0
    for i in range(15):
        here = (confidence >= i / 15) & ((confidence < (i + 1) / 15) | (i == 14))
        total += abs(float(right[here].sum() - confidence[here].sum()))
    return total / len(right)


# Equal-width bins


@pytest.mark.parametrize("classes", [2, 10, 300])
def test_calibration_errors_are_those_of_torchmetrics(classes: int) -> None:
    logits, label = noisy(2000, classes)
    state, p = state_of(logits, label), torch.tensor(softmax(logits))
    truth = torch.tensor(label)
    assert state.ece == pytest.approx(float(multiclass_calibration_error(p, truth, classes, norm="l1")), abs=1e-6)
    assert state.mce == pytest.approx(float(multiclass_calibration_error(p, truth, classes, norm="max")), abs=1e-6)
    columns = p.T.contiguous()
    by_class = [binary_calibration_error(columns[c], torch.tensor(label == c).int(), n_bins=15) for c in range(classes)]
    assert state.ece_classwise == pytest.approx(float(np.mean(by_class)), abs=1e-7)


def test_a_probability_on_the_border_is_in_the_bin_above_and_one_is_in_the_last() -> None:
    p = np.array([0, 1 / 15, 0.0666, 0.2, 0.4, 1 - 1e-9, 1])
    assert equal_width_bin(p).tolist() == [0, 1, 0, 3, 6, 14, 14]
    logits = np.log(np.array([[0.4, 0.3, 0.3], [0.6, 0.2, 0.2]])).astype(np.float32)
    rows = state_of(logits, np.array([0, 1])).bins[0]
    assert rows[[6, 9]].tolist() == [1, 1]


@needs_saved
def test_published_calibration_error_of_resnet110() -> None:
    rows = pd.read_csv(SAVED / "nncal_probs_resnet110_c10_logits.csv")
    right, confidence = (rows.true_label == rows.pred_label).to_numpy(), rows.confidence.to_numpy(float)
    assert round(100 * calibration._ece_of(confidence, right)[0], 2) == 4.75
    assert calibration._ece_of(confidence, right)[0] == pytest.approx(slow_ece(confidence, right), abs=1e-8)


@needs_saved
@pytest.mark.parametrize("name", ["netcal_lenet-5-cifar-10", "netcal_wideresnet-16-4-cifar-10"])
def test_real_softmax_outputs_against_loops(name: str) -> None:
    saved = np.load(SAVED / f"{name}.npz")
    p, label = saved["predictions"], saved["ground_truth"].reshape(-1).astype(np.int64)
    logits, _ = to_log_probabilities(p)
    state, p = state_of(logits, label), softmax(logits)
    right = p.argmax(axis=1) == label
    assert state.ece == pytest.approx(slow_ece(p.max(axis=1), right), abs=1e-6)
    expected = np.mean([slow_ece(p[:, c], label == c) for c in range(10)])
    assert state.ece_classwise == pytest.approx(expected, abs=1e-6)
    equal = state.ece_equal_mass
    assert float(equal.value) == pytest.approx(slow_equal_mass(p.max(axis=1), right), abs=1e-4)
    reliability, resolution, uncertainty = slow_split(p, label)
    assert state.brier_decomposition == pytest.approx((reliability, resolution, uncertainty), abs=1e-6)


def test_a_worked_example() -> None:
    # Two classes; confidence .75 twice, one right; .9 twice, both right.
    logits = np.log(np.array([[0.75, 0.25], [0.75, 0.25], [0.1, 0.9], [0.1, 0.9]])).astype(np.float32)
    state = state_of(logits, np.array([0, 1, 1, 1]))
    assert state.ece == pytest.approx((2 * 0.25 + 2 * 0.1) / 4, abs=1e-6)
    assert state.mce == pytest.approx(0.25, abs=1e-6)
    assert state.ece_classwise == pytest.approx(0.175, abs=1e-6)  # both classes see the same rows
    reliability = 2 * (2 * 0.25**2 + 2 * 0.1**2) / 4
    assert state.brier_decomposition == pytest.approx(
        (reliability, 2 * (2 * 0.25**2 + 2 * 0.25**2) / 4, 2 * 0.25 * 0.75), abs=1e-6
    )


def slow_split(p: Floats, label: NDArray[np.int64]) -> tuple[float, float, float]:
    """Murphy's three terms in 15 bins of each class's probability, summed over classes."""
    found = np.zeros(3)
    for c in range(p.shape[1]):
        true = label == c
        found[2] += true.mean() * (1 - true.mean())
        at = np.minimum((p[:, c] * 15).astype(int), 14)
        for b in np.unique(at):
            here = at == b
            found[0] += here.mean() * (p[here, c].mean() - true[here].mean()) ** 2
            found[1] += here.mean() * (true[here].mean() - true.mean()) ** 2
    return float(found[0]), float(found[1]), float(found[2])


def test_the_brier_split_is_that_of_loops_and_adds_up_where_bins_have_one_probability() -> None:
    logits, label = noisy(800, 5)
    assert state_of(logits, label).brier_decomposition == pytest.approx(slow_split(softmax(logits), label), abs=1e-6)
    few = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])[np.arange(300) % 2]).astype(np.float32)
    truth = np.random.default_rng(0).integers(0, 3, 300)
    reliability, resolution, uncertainty = state_of(few, truth).brier_decomposition
    brier = ((softmax(few) - np.eye(3)[truth]) ** 2).sum(axis=1).mean()
    assert reliability - resolution + uncertainty == pytest.approx(brier, abs=1e-6)


def test_what_chance_makes_of_a_calibrated_model() -> None:
    found = [state_of(*noisy(1000, 6, seed, scale=1.0)) for seed in range(20)]
    assert np.mean([s.ece for s in found]) == pytest.approx(np.mean([s.by_chance for s in found]), rel=0.1)


def test_the_interval_of_the_calibration_error_leaves_out_each_row() -> None:
    logits, label = noisy(400, 4)
    state, p = state_of(logits, label), softmax(logits)
    right, confidence = p.argmax(axis=1) == label, p.max(axis=1)
    without = np.array([slow_ece(np.delete(confidence, i), np.delete(right, i)) for i in range(400)])
    half = 1.959964 * math.sqrt(399 / 400 * ((without - without.mean()) ** 2).sum())
    assert state.ece_interval == pytest.approx((state.ece - half, state.ece + half), abs=0.01 * half)


def test_other_names_of_the_same_images_change_no_interval_of_the_calibration_error() -> None:
    logits, label = noisy(400, 4)
    run = named(4)
    rows = toy.predictions(run, logits, label)
    renamed = toy.predictions(run, logits, label)
    keys = renamed.batch.set_column(renamed.batch.schema.get_field_index("key"), "key", rows.column("key")[::-1])
    assert Calibration.measure(run, Predictions(keys)).ece_interval == Calibration.measure(run, rows).ece_interval


# Equal mass


def slow_equal_mass(confidence: Floats, right: NDArray[Any], order: NDArray[np.int64] | None = None) -> float:
    order = np.argsort(confidence, kind="stable") if order is None else order
    parts = np.array_split(order, min(15, len(order)))
    return sum(abs(float(right[i].sum() - confidence[i].sum())) for i in parts) / len(right)


@given(st.integers(1, 400), st.integers(0, 2**32 - 1), st.sampled_from([0.3, 2, 8]), st.booleans())
def test_calibration_error_by_equal_mass_is_within_its_bound_of_that_of_sorted_rows(
    rows: int, seed: int, scale: float, ties: bool
) -> None:
    logits, label = noisy(rows, 3, seed, scale)
    if ties:
        logits = np.rint(logits).astype(np.float32)
    state, p = state_of(logits, label), softmax(logits)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == label
    found = state.ece_equal_mass
    rounded = confidence.astype(np.float32)
    for first in (right, ~right):  # ties are in any order
        exact = slow_equal_mass(confidence, right, np.lexsort((first, rounded)))
        assert abs(exact - float(found.value)) <= float(found.bound) + 1e-6


@pytest.mark.parametrize("ends", ["right ones lowest", "wrong ones lowest"])
def test_calibration_error_by_equal_mass_where_many_rows_share_a_bin(ends: str) -> None:
    # Log-odds within three bins of 1/1024, at their two ends; a cut of 15 falls into the middle of them.
    wide = 64 / calibration.EQUAL_MASS_BINS
    rows = 150
    at = np.arange(rows) % 3
    high = np.arange(rows) // 3 % 2 == 1
    u = 1 + wide * (at + np.where(high, 0.95, 0.05))  # the score; the log-odds are near it
    p = score_histograms.probability_of_score(u)
    logits = np.stack([np.log(p / (1 - p)), np.zeros(rows)], axis=1).astype(np.float32)
    right = high == (ends == "wrong ones lowest")
    state = state_of(logits, np.where(right, 0, 1))
    assert np.count_nonzero(state.fine[0]) == 3
    confidence = softmax(logits).max(axis=1)
    off = abs(slow_equal_mass(confidence, right) - float(state.ece_equal_mass.value))
    assert 0.1 < off <= float(state.ece_equal_mass.bound) + 1e-8


def test_calibration_error_by_equal_mass_of_many_rows() -> None:
    logits, label = noisy(20_000, 10)
    p = softmax(logits)
    found = state_of(logits, label).ece_equal_mass
    exact = slow_equal_mass(p.max(axis=1), p.argmax(axis=1) == label)
    assert float(found.value) == pytest.approx(exact, abs=1e-4)
    assert float(found.bound) < 2e-3


# Temperature


def exact_temperature(logits: NDArray[np.float32], label: NDArray[np.int64]) -> float:
    """By SciPy, in float64."""
    optimize = importlib.import_module("scipy.optimize")
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    true = z[np.arange(len(z)), label]

    def nll(u: float) -> float:
        beta = math.exp(-u)
        return float((np.log(np.exp(beta * z).sum(axis=1)) - beta * true).mean())

    return math.exp(optimize.minimize_scalar(nll, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x)


def halves(logits: NDArray[np.float32], label: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(jackknife_group(toy.predictions(named(logits.shape[1]), logits, label).key) % 2)


@pytest.mark.parametrize(("classes", "scale"), [(2, 0.4), (10, 1), (10, 2.3), (10, 7), (300, 1.4)])
def test_the_temperature_is_that_of_an_optimiser_on_one_half_and_the_rest_is_said_of_the_other(
    classes: int, scale: float
) -> None:
    logits, label = noisy(1500, classes, scale=scale)
    fold = halves(logits, label)
    found = state_of(logits, label).tempered
    assert found is not None
    exact = exact_temperature(logits[fold == 0], label[fold == 0])
    assert found.temperature == pytest.approx(exact, rel=1e-4)
    assert (found.fitted, found.tried) == (int((fold == 0).sum()), int((fold == 1).sum()))
    for i, t in enumerate((1.0, found.temperature)):
        p, y = softmax(logits[fold == 1] / t), label[fold == 1]
        assert found.nll[i] == pytest.approx(-np.log(p[np.arange(len(y)), y]).mean(), abs=1e-5)
        error = (2 / len(y), found.ece_error)[i]
        assert found.ece[i] == pytest.approx(slow_ece(p.max(axis=1), p.argmax(axis=1) == y), abs=error)


@needs_saved
@pytest.mark.parametrize("name", ["netcal_lenet-5-cifar-10", "netcal_wideresnet-16-4-cifar-10"])
def test_temperatures_of_real_models(name: str) -> None:
    saved = np.load(SAVED / f"{name}.npz")
    logits, _ = to_log_probabilities(saved["predictions"])
    label = saved["ground_truth"].reshape(-1).astype(np.int64)
    run = named(10)
    rows = Predictions(toy.predictions(run, logits, label).batch, manifest_rows=len(label))
    found = Calibration.measure(run, rows).tempered
    assert found is not None
    chosen = rows.sample_mask(SAMPLE_ROWS, Salt.CALIBRATION)
    assert abs(int(chosen.sum()) - SAMPLE_ROWS) < 300
    # The state keeps no more rows than SAMPLE: those of lowest hash.
    hash_ = mix(rows.key, Salt.CALIBRATION).view(np.uint64)
    chosen &= hash_ <= np.sort(hash_[chosen])[: SAMPLE_ROWS + 1][-1 if chosen.sum() <= SAMPLE_ROWS else -2]
    fold = jackknife_group(rows.key) % 2
    assert found.fitted + found.tried == chosen.sum()
    assert found.temperature == pytest.approx(
        exact_temperature(logits[chosen & (fold == 0)], label[chosen & (fold == 0)]), rel=1e-4
    )
    p, y = softmax(logits / found.temperature)[chosen & (fold == 1)], label[chosen & (fold == 1)]
    assert found.nll[1] == pytest.approx(-np.log(p[np.arange(len(y)), y]).mean(), abs=1e-5)
    assert found.nll[1] < found.nll[0]
    assert found.ece[1] < found.ece[0] / 3


def test_an_image_on_the_edge_of_a_bin_is_part_of_the_error() -> None:
    confidence, right = np.array([1 / 3 - 1e-4, 0.5, 0.9]), np.array([True, False, True])
    value, off = calibration._ece_of(confidence, right, 4e-4)
    other, _ = calibration._ece_of(confidence + np.array([2e-4, 0, 0]), right)
    assert off == pytest.approx(2 * (2 / 3 + 1e-4) / 3)
    assert abs(value - other) <= off
    assert calibration._ece_of(confidence - 4e-4, right, 4e-4)[1] == 0


@given(st.lists(st.floats(0, 60), min_size=1, max_size=5))
def test_what_a_temperature_does_to_a_row_against_float64(gaps: list[float]) -> None:
    logits = -np.array([[0.0, *gaps]], np.float32)
    found = temperature._curves(logits, np.zeros(1, np.int64))[0]
    g = -logits[0].astype(np.float64)
    for i, beta in enumerate(INVERSE_TEMPERATURES):
        e = np.exp(-beta * g)
        p = e / e.sum()
        mean = (p * g).sum()
        expected = (np.log1p(e[1:].sum()), -mean, (p * g**2).sum() - mean**2)
        assert found[0, i] == pytest.approx(expected[0], rel=6e-6, abs=1e-37)
        assert found[1, i] == pytest.approx(expected[1], rel=6e-6, abs=1e-35)
        assert found[2, i] == pytest.approx(expected[2], rel=2e-5, abs=1e-6 * mean**2 + 1e-33)


def test_all_right_or_all_the_same_have_no_best_temperature() -> None:
    label = np.arange(200) % 4
    sure = np.eye(4, dtype=np.float32)[label] * 3
    assert state_of(sure, label).tempered is None  # the smaller the better
    assert state_of(-sure, label).tempered is None  # all wrong: the greater the better
    assert state_of(np.zeros((200, 4), np.float32), label).tempered is None
    assert state_of(sure[:1], label[:1]).tempered is None  # one half is empty


def test_a_model_of_the_right_temperature_keeps_it() -> None:
    logits, label = noisy(8000, 5, scale=1.0)
    found = state_of(logits, label).tempered
    assert found is not None
    assert found.temperature == pytest.approx(1, abs=0.05)


def test_of_a_long_manifest_a_bounded_sample_is_kept_whatever_the_parts() -> None:
    logits, label = noisy(20_000, 3)
    run = named(3)
    rows = Predictions(toy.predictions(run, logits, label).batch, manifest_rows=20_000)
    whole = Calibration.measure(run, rows)
    kept = len(whole.sample.rows["id"])
    assert 7800 < kept <= SAMPLE_ROWS
    parts = [rows.take(np.arange(20_000) % 3 == i) for i in (2, 0, 1)]
    merged = Calibration.zero(run)
    for part in parts:
        merged = merge(merged, Calibration.measure(run, part))
    assert merged.tempered == whole.tempered
    assert (merged.sample.rows["id"] == whole.sample.rows["id"]).all()


# Conformal sets


@pytest.mark.parametrize("classes", [3, 10])
def test_conformal_sets_against_rows(classes: int) -> None:
    logits, label = noisy(4000, classes)
    run = named(classes)
    found = conformal_sets(ScoreHistograms.measure(run, toy.predictions(run, logits, label)))
    assert found is not None
    p, fold = softmax(logits), halves(logits, label)
    given_ = p[np.arange(4000), label]
    n = int((fold == 0).sum())
    level = math.ceil((n + 1) * 0.9) / n
    exact = 1 - float(np.quantile(1 - given_[fold == 0], level, method="inverted_cdf"))
    assert found.threshold <= exact
    assert found.threshold == pytest.approx(exact, rel=0.02)  # a bin
    held = given_[fold == 1] >= found.threshold
    assert found.coverage == pytest.approx(held.mean(), abs=1e-3)
    assert found.size == pytest.approx((p[fold == 1] >= found.threshold).sum(axis=1).mean(), rel=1e-3)
    strict = (given_[fold == 1] >= exact).mean()
    assert strict - 1e-9 <= found.coverage + 1e-3
    assert found.coverage - found.spare <= strict + 1e-3
    assert (found.fitted, found.tried) == (n, 4000 - n)
    assert found.coverage == pytest.approx(0.9, abs=0.03)


def test_conformal_sets_of_few_rows() -> None:
    run = named(3)
    logits, label = noisy(60, 3)
    fold = halves(logits, label)
    batch = toy.predictions(run, logits, label)
    for few, there in ((8, False), (9, True), (20, True)):  # of (n + 1) / 10 rows the lowest
        keep = fold == 1
        keep[np.flatnonzero(fold == 0)[:few]] = True
        found = conformal_sets(ScoreHistograms.measure(run, batch.take(keep)))
        assert (found is not None) == there
    assert conformal_sets(ScoreHistograms.measure(run, batch.take(fold == 0))) is None
    keep = fold == 1
    keep[np.flatnonzero(fold == 0)[:9]] = True
    found = conformal_sets(ScoreHistograms.measure(run, batch.take(keep)))
    assert found is not None
    lowest = softmax(logits)[np.arange(60), label][np.flatnonzero(fold == 0)[:9]].min()
    assert found.threshold == pytest.approx(lowest, rel=0.02)
    assert found.threshold <= lowest
