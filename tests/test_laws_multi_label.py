"""Every panel of images with several labels obeys the laws too; a new panel file is tested with no line here."""

import dataclasses
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from predboard import panels
from predboard.panels import HasMetrics, Panel, RunInfo, StepInfo, TwoPassPanel
from predboard.predictions.multi_label.derived_rows import derive_multi_label_rows
from predboard.predictions.multi_label.table import MultiLabelPredictions
from predboard.predictions.schema import ALL_MANIFEST_COLUMNS, MULTI_LABEL, Run, stored_columns
from predboard.state import merge
from predboard.summaries import Metrics, Scalar
from predboard.visualization import summary_json
from tests import label_sets, toy
from tests.test_laws import (
    again_in_random_order,
    charts_show_what_is_there,
    drawable,
    in_random_order,
    named,
    rendered,
    same,
)

pytestmark = pytest.mark.slow

RUNS = {n: label_sets.run_of(n) for n in (1, 12, 40)}


@pytest.fixture(params=panels.names(MULTI_LABEL))
def panel(request: pytest.FixtureRequest) -> Panel:
    return panels.load(request.param, MULTI_LABEL)


def some(
    run: Run, rows: int, seed: int, ties: bool = False, failed: bool = False, unknown: bool = False
) -> MultiLabelPredictions:
    """Rows in no particular order: some fail, some are not labelled or partly; logits from tiny to huge."""
    random, k = np.random.default_rng(seed), len(run.classes)
    logits, labels = label_sets.table(rows, k, seed, min(2.0, k / 3), ties)
    if not ties:
        logits *= (10 ** random.uniform(-2, 2, (rows, 1))).astype(np.float32)
    made = label_sets.rows(
        run,
        logits,
        labels,
        random.random(labels.shape) < 0.2 if unknown else None,
        random.random(rows) < 0.8 if unknown else None,
        frozenset(np.flatnonzero(random.random(rows) < 0.2).tolist()) if failed else frozenset(),
    )
    return MultiLabelPredictions(made.batch.take(random.permutation(rows)))


batches_of = st.builds(
    some,
    st.sampled_from(list(RUNS.values())),
    st.integers(0, 50),
    seed=st.integers(0, 2**32 - 1),
    ties=st.booleans(),
    failed=st.booleans(),
    unknown=st.booleans(),
)

fast = settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])


def run_of(batch: MultiLabelPredictions) -> Run:
    return RUNS[batch.column("logits").type.list_size]


@fast
@given(batch=batches_of, seed=st.integers(0, 2**32 - 1), pieces=st.integers(1, 6))
@example(batch=some(RUNS[12], 60, 1, ties=True, failed=True, unknown=True), seed=1, pieces=4)
@example(batch=some(RUNS[40], 60, 1, ties=True), seed=1, pieces=4)
def test_any_split_in_any_order_is_the_whole_and_zero_changes_nothing(
    panel: Panel, batch: MultiLabelPredictions, seed: int, pieces: int
) -> None:
    run = run_of(batch)
    whole, zero = panel.measure(run, batch), panel.zero(run)
    assert same(in_random_order(panel, run, batch, seed, pieces), whole)
    assert same(merge(zero, whole), whole)
    assert same(pickle.loads(pickle.dumps(whole)), whole)
    assert same(panel.measure(run, batch.take(np.zeros(len(batch), bool))), zero)


@fast
@given(batch=batches_of, seed=st.integers(0, 2**32 - 1), pieces=st.integers(1, 6))
@example(batch=some(RUNS[12], 60, 1, ties=True, failed=True, unknown=True), seed=1, pieces=4)
def test_the_second_look_obeys_the_laws_too(panel: Panel, batch: MultiLabelPredictions, seed: int, pieces: int) -> None:
    if not isinstance(panel, TwoPassPanel):
        return
    run = run_of(batch)
    first, rows = panel.measure(run, batch), derive_multi_label_rows(run, 0, batch)
    whole, zero = panel.measure_second(run, first, rows), panel.zero_second(run, first)
    assert same(again_in_random_order(panel, first, run, rows, seed, pieces), whole)
    assert same(merge(zero, whole), whole)
    assert same(panel.measure_second(run, first, rows.take(np.zeros(len(rows), bool))), zero)
    assert same(pickle.loads(pickle.dumps(whole)), whole)


def test_measure_reads_only_the_columns_that_the_panel_declares(panel: Panel) -> None:
    run = RUNS[12]
    batch = some(run, 50, 3, failed=True, unknown=True)
    names = stored_columns(run, panel.columns)
    few = MultiLabelPredictions(batch.batch.select([n for n in batch.batch.schema.names if n in names]))
    assert same(panel.measure(run, few), panel.measure(run, batch))


def situations(run: Run) -> Iterator[tuple[str, MultiLabelPredictions]]:
    """Name and rows of what can befall a panel."""
    k = len(run.classes)
    labels = np.random.default_rng(0).random((40, k)) < 0.4
    right, none = np.where(labels, 9.0, -9.0), np.zeros((40, k), bool)
    nobody = np.zeros(40, bool)
    yield "no rows", label_sets.rows(run, right[:0], labels[:0])
    yield "one row", label_sets.rows(run, right[:1], labels[:1])
    yield "all right", label_sets.rows(run, right, labels)
    yield "all wrong", label_sets.rows(run, -right, labels)
    yield "all failed", label_sets.rows(run, right, labels, failed=frozenset(range(40)))
    yield "no labels", label_sets.rows(run, right, labels, labelled=nobody)
    yield "every label unknown", label_sets.rows(run, right, labels, unknown=~none)
    yield "empty sets", label_sets.rows(run, right, none)
    yield "empty sets, nothing predicted", label_sets.rows(run, -np.abs(right), none)
    yield "all labels of all images", label_sets.rows(run, right, ~none)
    yield "everything predicted", label_sets.rows(run, np.abs(right), labels)
    yield "constant logits", label_sets.rows(run, right * 0, labels)
    yield "absurd logits", label_sets.rows(run, right * 1e37, np.roll(labels, 1, axis=0))


@pytest.mark.parametrize("classes", RUNS)
def test_whatever_the_rows_are_what_is_drawn_can_be_encoded(panel: Panel, classes: int) -> None:
    run = RUNS[classes]
    for name, batch in situations(run):
        with np.errstate(over="ignore"):
            found = rendered(panel, run, {0: toy.state_of(panel, run, batch)})
        charts_show_what_is_there(found)
        for (tag, _), summary in found.items():
            try:
                drawable(summary)
            except Exception as error:
                raise AssertionError(f"{tag} with {name}: {error}") from error


def test_steps_with_and_without_rows_are_drawn_together_and_twice_the_same(panel: Panel) -> None:
    run = RUNS[12]
    full = toy.state_of(panel, run, some(run, 50, 0, failed=True, unknown=True))
    none = toy.state_of(panel, run, some(run, 0, 0))
    for states in ({1: none, 2: full}, {1: full, 2: none}, {1: full, 2: full, 3: full}):
        found = rendered(panel, run, states)
        for summary in found.values():
            drawable(summary)
        assert same(rendered(panel, run, states), found)


def test_figures_come_without_drawing_and_alone_under_the_names_that_are_announced(panel: Panel) -> None:
    if not isinstance(panel, HasMetrics):
        return
    run = RUNS[12]
    states = {
        step: toy.state_of(panel, run, some(run, rows, step, ties=True, failed=True))
        for step, rows in ((1, 80), (2, 0), (3, 90))
    }
    subject = RunInfo("toy", run, {step: StepInfo(40, 40) for step in states})
    found = list(panel.metrics(subject, states))
    drawn = [(step, s) for (_, step), s in rendered(panel, run, states).items() if isinstance(s, Metrics)]
    assert same([(step, s.metrics) for step, s in found], [(step, s.metrics) for step, s in drawn])
    assert {named(name) for _, summary in found for name in summary.metrics} == set(panel.metric_directions)
    for name in panel.metric_directions:
        alone = panel.restricted_to({name})
        batch = some(run, 80, 1, ties=True, failed=True)
        columns = stored_columns(run, alone.columns | {"key", "id"})
        few = MultiLabelPredictions(batch.batch.select([n for n in batch.batch.schema.names if n in columns]))
        rows = batch if isinstance(alone, TwoPassPanel) or ALL_MANIFEST_COLUMNS in alone.columns else few
        given_alone = dict(alone.metrics(subject, {1: toy.state_of(alone, run, rows)}))[1].metrics
        assert given_alone == {n: m for n, m in found[0][1].metrics.items() if n in given_alone}
        assert any(named(n) == name for n in given_alone)


def test_every_scalar_is_announced_and_no_two_panels_write_the_same_tag() -> None:
    run = RUNS[12]
    chosen = panels.choose((), MULTI_LABEL).values()
    announced = set().union(*(panel.metric_directions for panel in chosen if isinstance(panel, HasMetrics)))
    batch = some(run, 80, 0, unknown=True)
    every: list[tuple[int, Any]] = []
    for panel in chosen:
        every += [(step, s) for (_, step), s in rendered(panel, run, {0: toy.state_of(panel, run, batch)}).items()]
    tags = [s.tag for _, s in every]
    assert len(tags) == len(set(tags))
    numbers = [(n, s) for n, s in every if isinstance(s, Scalar | Metrics)]
    summary = summary_json.decode_summary(summary_json.encode_summary("toy", run, 0.0, numbers))
    assert summary is not None
    assert {named(name) for name in summary["steps"]["0"]} <= announced
    assert len(summary["steps"]["0"]) > 80
    assert all(dataclasses.is_dataclass(panel) and panel.__doc__ for panel in chosen)
