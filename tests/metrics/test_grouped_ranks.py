"""Intervals of slices, AURC, AUROC and average precision by group, against scikit-learn, SciPy and a bootstrap."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import average_precision_score, roc_auc_score

from predboard import panels
from predboard.metrics.grouped import grouped_interval
from predboard.metrics.intervals import grouped_half_width, grouped_method, grouped_p, student_p
from predboard.metrics.metric_state import MetricState
from predboard.metrics.slices import Slice, list_slices, slice_accuracy, slice_nll
from predboard.metrics.values import class_columns, overall_metrics, slice_metrics
from predboard.panels import slices
from predboard.predictions.sampling import jackknife_group
from predboard.predictions.schema import SINGLE_LABEL, Run, hash_refs
from predboard.predictions.table import Predictions
from predboard.state import merge
from tests import toy

RUN = Run(classes=("cat", "dog", "eel"), model="toy.py:build")
Numbers = NDArray[Any]


class Patients:
    """Rows of patients who have one to eight alike images, at two sites."""

    def __init__(self, patients: int) -> None:
        random = np.random.default_rng(5)
        self.patient = np.repeat(np.arange(patients), random.integers(1, 9, patients))
        rows = len(self.patient)
        self.label = random.integers(0, 3, patients)[self.patient]
        other = random.random(rows) < 0.3
        self.label[other] = random.integers(0, 3, other.sum())
        logits = random.normal(size=(rows, 3)) + 0.8 * random.normal(size=(patients, 3))[self.patient]
        logits[np.arange(rows), self.label] += 1.3 + 0.9 * random.normal(size=patients)[self.patient]
        self.logits = logits.astype(np.float32)
        self.site = np.where(np.arange(rows) * 7919 % 3 == 0, "B", "A")
        self.p = softmax(self.logits.astype(np.float64), axis=1)
        self.right = (self.p.argmax(axis=1) == self.label).astype(float)
        self.loss = -np.log(self.p[np.arange(rows), self.label])

    def figures(self, at: Numbers) -> dict[str, float]:
        """What scikit-learn and plain loops say of some rows."""
        b = at[self.site[at] == "B"]
        wrong = 1 - self.right[at][np.argsort(-self.p[at].max(axis=1), kind="stable")]
        return {
            "accuracy": self.right[b].mean(),
            "nll": self.loss[b].mean(),
            "aurc": (np.cumsum(wrong) / np.arange(1, len(at) + 1)).mean(),
            "average_precision": average_precision_score(self.label[at] == 1, self.p[at, 1]),
            "auroc": roc_auc_score(self.label[at] == 1, self.p[at, 1]),
        }

    def names(self, naming: int) -> list[str]:
        return [f"{naming}-{patient}" for patient in self.patient]

    def rows(self, naming: int) -> Predictions:
        made = toy.predictions(RUN, self.logits, self.label).batch.append_column("site", pa.array(self.site.tolist()))
        return Predictions(made.append_column("group:patient", pa.array(hash_refs(self.names(naming)), pa.int64())))


def site_b(state: slices.State) -> Slice:
    return next(s for s in list_slices(state) if s.name == "site=B")


def ends(rows: Predictions) -> dict[str, tuple[float, float, float]]:
    """Value and ends of each metric."""
    state, panel = MetricState.measure(RUN, rows), panels.load("slices")
    s = site_b(panel.measure(RUN, rows))
    whole = {"accuracy": slice_accuracy(s), "nll": slice_nll(s), "aurc": overall_metrics(state)["aurc"]}
    found = {name: (m.value, *(m.interval or (np.nan, np.nan))) for name, m in whole.items()}
    columns = class_columns(state)
    for name in ("average_precision", "auroc"):
        c = columns[name]
        found[name] = float(c.value[1]), float(c.lower[1]), float(c.upper[1])
    return found


def test_slices_and_rankings_leave_out_whole_groups() -> None:
    of = Patients(120)
    rows = of.rows(0)
    group, every = jackknife_group(hash_refs(of.names(0))), np.arange(len(of.label))
    without = [of.figures(every[group != g]) for g in sorted(set(group.tolist()))]
    for name, (value, lower, upper) in ends(rows).items():
        half = float(grouped_half_width(np.array([figures[name] for figures in without])))
        assert value == pytest.approx(of.figures(every)[name], abs=2e-3)
        assert (upper - lower) / 2 == pytest.approx(half, rel=0.03 if name in ("aurc", "average_precision") else 1e-2)
    state = MetricState.measure(RUN, rows)
    assert class_columns(state)["auroc"].method.startswith(grouped_method("patient"))
    assert overall_metrics(state)["aurc"].method.startswith(grouped_method("patient"))
    one_patient = MetricState.measure(RUN, Predictions(rows.batch.set_column(
        rows.batch.schema.get_field_index("group:patient"), "group:patient", pa.array([7] * len(rows), pa.int64())
    )))  # fmt: skip
    assert overall_metrics(one_patient)["aurc"].interval is None
    assert np.isnan(class_columns(one_patient)["auroc"].lower).all()


def test_a_slice_is_worse_by_a_test_that_leaves_out_groups() -> None:
    of, panel = Patients(120), panels.load("slices")
    rows = of.rows(0)
    halves = [panel.measure(RUN, rows.take(np.arange(len(rows)) % 2 == side)) for side in (0, 1)]
    state = merge(*halves)
    (compared,) = (c for c in slices.compare(list_slices(state)) if c.slice.name == "site=B")
    group, b = jackknife_group(hash_refs(of.names(0))), of.site == "B"

    def gap(at: Numbers) -> float:
        return float(of.loss[at & b].mean() - of.loss[at & ~b].mean())

    without = np.array([gap(group != g) for g in sorted(set(group.tolist()))])
    error = np.sqrt((len(without) - 1) / len(without) * ((without - without.mean()) ** 2).sum())
    assert compared.p == pytest.approx(stats.t.sf(gap(group >= 0) / error, len(without) - 1), rel=1e-3)
    metrics = slice_metrics(site_b(state), "patient", SINGLE_LABEL)
    assert {metrics[name].method for name in ("accuracy", "nll")} == {grouped_method("patient")}
    assert metrics["images"].method == ""


def test_a_slice_of_one_group_or_of_rows_that_are_all_right_has_no_interval() -> None:
    every = np.zeros((21, 4), np.int64)
    every[[0, 4]] = 30, 20, 2**20, 2**19
    assert slice_accuracy(Slice("a", "=1", every)).interval is None
    every[[1, 2, 3, 4]] = 10, 10, 0, 0
    every[0] = every[1:].sum(axis=0)
    assert slice_accuracy(Slice("a", "=1", every)).interval is None
    assert grouped_p(0.1, np.array([0.1])) == grouped_p(0.1, np.array([0.1, 0.1])) == 1.0
    assert grouped_interval(0.5, np.array([0.4, 0.6])) == (0.0, 1.0)


def test_a_class_of_few_groups_has_the_quantile_of_their_number() -> None:
    """The only groups with images of a class tell as much as they are: with two of twenty t has one degree."""
    of = Patients(120)
    group = jackknife_group(hash_refs(of.names(0)))
    some = np.isin(group, sorted(set(group.tolist()))[:3])
    of.label[(of.label == 1) & ~some] = 2
    columns = class_columns(MetricState.measure(RUN, of.rows(0)))
    for name, hit in (("recall", of.p.argmax(axis=1) == 1), ("auroc", None)):
        without = []
        for g in sorted(set(group.tolist())):
            at = group != g
            recall = hit is not None and hit[at & (of.label == 1)].mean()
            without.append(roc_auc_score(of.label[at] == 1, of.p[at, 1]) if hit is None else recall)
        spread = ((np.array(without) - np.mean(without)) ** 2).sum()
        half = stats.t.ppf(0.975, 2) * np.sqrt(2 / 3 * spread)
        ends = (columns[name].lower[1], columns[name].upper[1])
        value = columns[name].value[1]
        assert ends == pytest.approx((max(value - half, 0), min(value + half, 1)), abs=5e-3)


def test_student_is_that_of_scipy() -> None:
    for freedom in range(1, 20):
        for t in (-3.0, -0.5, 0.0, 0.7, 2.0, 9.0):
            assert student_p(t, freedom) == pytest.approx(stats.t.sf(t, freedom), abs=1e-14)


def test_intervals_are_those_of_a_bootstrap_over_groups() -> None:
    """Over several namings of the patients; one alone scatters by a sixth, and Student's t is 7 % above the normal."""
    of, random = Patients(300), np.random.default_rng(1)
    rows_of: list[Numbers] = [np.flatnonzero(of.patient == i) for i in range(300)]
    draw: Callable[[], Numbers] = lambda: np.concatenate([rows_of[i] for i in random.integers(0, 300, 300)])  # noqa: E731
    drawn = [of.figures(draw()) for _ in range(150)]
    namings = [ends(of.rows(naming)) for naming in range(12)]
    for name in drawn[0]:
        half = np.mean([(upper - lower) / 2 for _, lower, upper in (found[name] for found in namings)])
        ratio = half / stats.t.ppf(0.975, 19) / np.std([figures[name] for figures in drawn])
        assert 0.85 < ratio < 1.15, (name, ratio)
