"""Every panel obeys the laws of pipeline/state.py; a new panel file is tested with no line written here."""

import copy
import dataclasses
import hashlib
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from predboard import InputError, VisualizeConfig, panels
from predboard.evaluation.measure import DEFAULT_SETTINGS, MeasureSettings
from predboard.panels import HasMetrics, NeedsSetting, Panel, RunInfo, StepInfo, TwoPassPanel
from predboard.predictions.derived_rows import DerivedRows, derive_rows
from predboard.predictions.schema import ALL_MANIFEST_COLUMNS, COLUMNS, Run
from predboard.predictions.table import Predictions
from predboard.state import merge
from predboard.summaries import (
    BandChart,
    EncodedImages,
    File,
    Histogram,
    HParams,
    LineChart,
    Metric,
    Metrics,
    Picture,
    PrCurve,
    Projector,
    Scalar,
    Summary,
    Text,
    Tiles,
)
from predboard.visualization import events, summary_json
from predboard.visualization import visualize as stage_two
from tests import toy

RUNS = {n: Run(classes=tuple(f"class{i}" for i in range(n)), model="toy.py:build") for n in (1, 2, 10, 1000)}


@pytest.fixture(params=panels.names())
def panel(request: pytest.FixtureRequest) -> Panel:
    return panels.load(request.param)


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, types included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Picture):
        return a.tag == b.tag and a.description == b.description and same(a.pixels, b.pixels)
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray | np.generic):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return bool(a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes())
    return bool(a == b)


def some(
    run: Run, rows: int, seed: int, ties: bool = False, failed: bool = False, unlabelled: bool = False
) -> Predictions:
    """Rows of a run, in no particular order; one in five failed, one in five without a label.

    Without ties, losses go from 1e-12 to 1e3, so that even float64 sums of them depend on the order.
    """
    logits, label = toy.table(run, rows, seed, ties)
    random = np.random.default_rng(seed)
    if not ties:
        logits *= (10 ** random.uniform(-1, 2, (rows, 1))).astype(np.float32)
    if unlabelled:
        label[random.random(rows) < 0.2] = -1
    broken = frozenset(np.flatnonzero(random.random(rows) < 0.2).tolist()) if failed else frozenset()
    made = toy.predictions(run, logits, label, failed=broken)
    return Predictions(made.batch.take(random.permutation(rows)))


batches_of = st.builds(
    some,
    st.sampled_from(list(RUNS.values())),
    st.integers(0, 60),
    seed=st.integers(0, 2**32 - 1),
    ties=st.booleans(),
    failed=st.booleans(),
    unlabelled=st.booleans(),
)


def run_of(batch: Predictions) -> Run:
    return RUNS[batch.column("logits").type.list_size]


def in_random_order(panel: Panel, run: Run, batch: Predictions, seed: int, pieces: int) -> Any:
    """The rows dealt out at random, measured apart, and merged two by two at random, with a zero among them."""
    random = np.random.default_rng(seed)
    dealt = random.integers(0, pieces, len(batch))
    states = [panel.measure(run, batch.take(dealt == i)) for i in range(pieces)] + [panel.zero(run)]
    while len(states) > 1:
        a, b = (states.pop(random.integers(len(states))) for _ in range(2))
        states.append(merge(a, b))
    return states[0]


def splits_do_not_show(panel: Panel, batch: Predictions, seed: int, pieces: int) -> None:
    run = run_of(batch)
    assert same(in_random_order(panel, run, batch, seed, pieces), panel.measure(run, batch))


fast = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fast
@given(batch=batches_of)
def test_zero_is_identity_on_both_sides(panel: Panel, batch: Predictions) -> None:
    run = run_of(batch)
    zero, measured = panel.zero(run), panel.measure(run, batch)
    assert same(merge(zero, measured), measured)
    assert same(merge(measured, zero), measured)


def test_no_rows_measure_as_zero(panel: Panel) -> None:
    for run in RUNS.values():
        assert same(panel.measure(run, some(run, 0, 0)), panel.zero(run))


@fast
@given(batch=batches_of, seed=st.integers(0, 2**32 - 1), pieces=st.integers(1, 6))
@example(batch=some(RUNS[10], 60, 1, ties=True, failed=True, unlabelled=True), seed=1, pieces=4)
@example(batch=some(RUNS[1000], 60, 1, ties=True), seed=1, pieces=4)
def test_any_split_in_any_order_and_grouping_is_the_whole(
    panel: Panel, batch: Predictions, seed: int, pieces: int
) -> None:
    splits_do_not_show(panel, batch, seed, pieces)


@fast
@given(batch=batches_of, other=st.integers(0, 2**32 - 1))
def test_merge_leaves_its_arguments_as_they_are(panel: Panel, batch: Predictions, other: int) -> None:
    run = run_of(batch)
    a, b = panel.measure(run, batch), panel.measure(run, some(run, 20, other, ties=True))
    before = copy.deepcopy((a, b))
    merge(a, b)
    assert same(before[0], a)
    assert same(before[1], b)


@fast
@given(batch=batches_of)
def test_states_and_panels_can_be_sent_to_another_process(panel: Panel, batch: Predictions) -> None:
    run = run_of(batch)
    for state in (panel.zero(run), panel.measure(run, batch)):
        assert same(pickle.loads(pickle.dumps(state)), state)
    assert pickle.loads(pickle.dumps(panel)) == panel


def declared_columns_are_enough(panel: Panel, batch: Predictions) -> None:
    assert panel.columns <= {*COLUMNS, ALL_MANIFEST_COLUMNS}
    run = run_of(batch)
    few = Predictions(batch.batch.select(sorted(panel.columns & set(batch.batch.schema.names))))
    assert same(panel.measure(run, few), panel.measure(run, batch))


def again_in_random_order(panel: TwoPassPanel, first: Any, run: Run, rows: DerivedRows, seed: int, pieces: int) -> Any:
    random = np.random.default_rng(seed)
    dealt = random.integers(0, pieces, len(rows))
    states = [panel.measure_second(run, first, rows.take(dealt == i)) for i in range(pieces)]
    states.append(panel.zero_second(run, first))
    while len(states) > 1:
        a, b = (states.pop(random.integers(len(states))) for _ in range(2))
        states.append(merge(a, b))
    return states[0]


@fast
@given(batch=batches_of, seed=st.integers(0, 2**32 - 1), pieces=st.integers(1, 6))
@example(batch=some(RUNS[10], 60, 1, ties=True, failed=True, unlabelled=True), seed=1, pieces=4)
def test_the_second_look_obeys_the_laws_too(panel: Panel, batch: Predictions, seed: int, pieces: int) -> None:
    if not isinstance(panel, TwoPassPanel):
        return
    run = run_of(batch)
    first, rows = panel.measure(run, batch), derive_rows(run, 0, batch)
    whole, zero = panel.measure_second(run, first, rows), panel.zero_second(run, first)
    assert same(again_in_random_order(panel, first, run, rows, seed, pieces), whole)
    assert same(merge(zero, whole), whole)
    assert same(merge(whole, zero), whole)
    assert same(panel.measure_second(run, first, rows.take(np.zeros(len(rows), bool))), zero)
    assert same(pickle.loads(pickle.dumps(whole)), whole)


@fast
@given(batch=batches_of)
def test_measure_reads_only_the_columns_that_the_panel_declares(panel: Panel, batch: Predictions) -> None:
    declared_columns_are_enough(panel, batch)


def situations(run: Run) -> Iterator[tuple[str, Predictions]]:
    """Name and rows of what can befall a panel."""
    classes = len(run.classes)
    label = np.arange(40) % classes
    right = np.eye(classes, dtype=np.float32)[label] * 9
    none = np.full(40, -1)
    yield "no rows", toy.predictions(run, right[:0], label[:0])
    yield "one row", toy.predictions(run, right[:1], label[:1])
    yield "all right", toy.predictions(run, right, label)
    yield "all wrong", toy.predictions(run, np.roll(right, 1, axis=1), label)
    yield "all failed", toy.predictions(run, right, label, failed=frozenset(range(40)))
    yield "no labels", toy.predictions(run, right, none)
    yield "no labels and all failed", toy.predictions(run, right, none, failed=frozenset(range(40)))
    yield "absurd logits", toy.predictions(run, right * np.float32(1e37) - np.float32(1e38), np.roll(label, 1))
    yield "one class only", toy.predictions(run, right, np.zeros(40, np.int64))


def rendered(panel: Panel, run: Run, states: Mapping[int, Any]) -> dict[tuple[str, int], Summary]:
    """By tag and step. Fails if a tag has a step twice, or not in ascending order."""
    found: dict[tuple[str, int], Summary] = {}
    last: dict[str, int] = {}
    subject = RunInfo("toy", run, {step: StepInfo(40, 40) for step in states})
    for step, summary in panel.render(subject, states):
        assert step in states
        assert step > last.get(summary.tag, -1), f"{summary.tag} goes from step {last[summary.tag]} to {step}"
        found[summary.tag, step], last[summary.tag] = summary, step
    return found


def drawable(summary: Summary) -> None:
    """Fails if a summary cannot be encoded, or would show nothing or nonsense."""
    match summary:
        case Tiles(rows=rows):
            assert len({len(column) for column in rows.values()}) == 1
            assert len(rows["id"]) > 0
            assert np.isfinite(rows["top_probability"]).all()
            assert np.isfinite(rows["confidence"]).all()
            assert np.isfinite(rows["loss"][rows["right"] >= 0]).all()
            return
        case Scalar(value=value):
            assert np.isfinite(np.float32(value))
        case Histogram(edges=edges, counts=counts):
            assert len(edges) == len(counts) + 1
            assert counts.sum() > 0
        case Picture():
            pixels = summary.pixels
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
        case Text(markdown=markdown):
            assert markdown
            assert "nan" not in markdown
        case PrCurve():
            counts = np.stack([summary.tp, summary.fp, summary.tn, summary.fn])
            assert np.isfinite(counts).all()
            assert counts.min() >= 0
            assert np.ptp(counts.sum(axis=0)) == 0, "the rows differ from point to point"
        case LineChart(patterns=patterns):
            assert patterns
            assert all(re.compile(pattern) for pattern in patterns)
            assert "/" in summary.tag
            events.encode_layout([summary]).SerializeToString()
            return
        case BandChart():
            events.encode_layout([summary]).SerializeToString()
            return
        case HParams():
            assert summary.metrics
            assert [value.SerializeToString() for value in events.encode_session(summary, 1.7e9)]
            return
        case Metrics(metrics=metrics):
            for figure in metrics.values():
                assert np.isfinite([figure.value, *(figure.interval or ()), figure.bound or 0]).all()
                assert figure.definition
                if figure.interval is not None:
                    assert figure.interval[0] <= figure.value <= figure.interval[1]
                    assert figure.method
            return
        case File(content=content):
            assert content
            assert summary.tag == Path(summary.tag).as_posix().strip("/")
            assert b"nan" not in content.lower() or summary.tag.endswith(".parquet")
            return
        case Projector(vectors=vectors, metadata=metadata, rows=rows):
            assert np.isfinite(vectors).all()
            assert {len(vectors)} == {*map(len, metadata.values()), *map(len, rows.values())}
            assert events.encode_projector(summary, b"jpeg", 16)
            return
        case EncodedImages():
            raise AssertionError("a panel asks for Tiles and does not read pictures")
    events.encode(summary).SerializeToString()


def charts_show_what_is_there(found: Mapping[tuple[str, int], Summary]) -> None:
    """Fails if a chart or a line of HParams names scalars that nobody wrote."""
    scalars = {tag for (tag, _), s in found.items() if isinstance(s, Scalar)}
    for summary in found.values():
        if isinstance(summary, BandChart):
            assert {summary.value, summary.lower, summary.upper} <= scalars
        elif isinstance(summary, LineChart):
            assert all(any(re.match(pattern, tag) for tag in scalars) for pattern in summary.patterns)


@pytest.mark.parametrize("classes", RUNS)
def test_whatever_the_rows_are_what_is_drawn_can_be_encoded(panel: Panel, classes: int) -> None:
    run = RUNS[classes]
    for name, batch in situations(run):
        with np.errstate(over="ignore"):
            state = toy.state_of(panel, run, batch)
        found = rendered(panel, run, {0: state})
        charts_show_what_is_there(found)
        for (tag, _), summary in found.items():
            try:
                drawable(summary)
            except Exception as error:
                raise AssertionError(f"{tag} with {name}: {error}") from error


def test_steps_with_and_without_rows_are_drawn_together(panel: Panel) -> None:
    run = RUNS[10]
    full = toy.state_of(panel, run, some(run, 50, 0, failed=True, unlabelled=True))
    none = toy.state_of(panel, run, some(run, 0, 0))
    for states in ({1: none, 2: full}, {1: full, 2: none}, {1: full, 2: full, 3: full}):
        for summary in rendered(panel, run, states).values():
            drawable(summary)


def test_every_panel_says_what_it_shows_and_keeps_to_tags_that_tensorboard_groups(panel: Panel) -> None:
    assert panel.__doc__
    if isinstance(panel, NeedsSetting):  # its own test gives it one
        return
    of_runs = (rendered(panel, run, {3: toy.state_of(panel, run, some(run, 50, 0))}) for run in (RUNS[10], RUNS[2]))
    found = next(filter(None, of_runs))  # of two classes alone, for one panel
    assert found
    shown = [tag for (tag, _), s in found.items() if not isinstance(s, File | HParams | Metrics | Projector)]
    assert all("/" in tag and tag == tag.strip() for tag in shown)


@pytest.mark.parametrize("classes", RUNS)
def test_figures_come_without_drawing_under_the_names_that_are_announced(panel: Panel, classes: int) -> None:
    if not isinstance(panel, HasMetrics) or isinstance(panel, NeedsSetting):
        return
    run = RUNS[classes]
    states = {
        step: toy.state_of(panel, run, some(run, rows, step, failed=True)) for step, rows in ((1, 40), (2, 0), (3, 50))
    }
    subject = RunInfo("toy", run, {step: StepInfo(40, 40) for step in states})
    found = list(panel.metrics(subject, states))
    drawn = [(step, s) for (_, step), s in rendered(panel, run, states).items() if isinstance(s, Metrics)]
    assert same([(step, s.metrics) for step, s in found], [(step, s.metrics) for step, s in drawn])
    of_two_classes = "positive/recall" in panel.metric_directions
    assert found or classes == 1 or (of_two_classes and classes != 2)
    for _, summary in found:
        assert {named(name) for name in summary.metrics} <= set(panel.metric_directions)


@pytest.mark.parametrize("classes", [2, 10])
def test_a_panel_asked_for_some_figures_gives_the_same_as_when_asked_for_all(panel: Panel, classes: int) -> None:
    if not isinstance(panel, HasMetrics):
        return
    run = RUNS[classes]
    batch = some(run, 60, 1, failed=True, unlabelled=True)
    subject = RunInfo("toy", run, {0: StepInfo(60, 60)})

    def given(of: HasMetrics) -> dict[str, Metric]:
        here = Predictions(batch.batch.select([n for n in batch.batch.schema.names if n in of.columns | {"key", "id"}]))
        rows = batch if isinstance(of, TwoPassPanel) or ALL_MANIFEST_COLUMNS in of.columns else here
        return {n: f for _, s in of.metrics(subject, {0: toy.state_of(of, run, rows)}) for n, f in s.metrics.items()}

    every = given(panel)
    for name in panel.metric_directions:
        alone = given(panel.restricted_to({name}))
        wanted = {n for n in every if named(n) == name}
        assert {n: alone[n] for n in wanted} == {n: every[n] for n in wanted}
        assert {n for n in alone if named(n) == name} == wanted


def named(name: str) -> str:
    """What `figured` calls a figure."""
    kind = name.partition("/")[0]
    return f"{kind}/*/{name.rpartition('/')[2]}" if kind in ("classes", "slices") else name


def test_every_scalar_that_summary_json_has_is_announced_by_a_panel() -> None:
    chosen = panels.choose(()).values()
    announced = set().union(*(panel.metric_directions for panel in chosen if isinstance(panel, HasMetrics)))
    run = RUNS[10]
    written = [(0, s) for p in chosen for s in rendered(p, run, {0: toy.state_of(p, run, some(run, 60, 0))}).values()]
    content = summary_json.encode_summary(
        "toy", run, 0.0, [(n, s) for n, s in written if isinstance(s, Scalar | Metrics)]
    )
    summary = summary_json.decode_summary(content)
    assert summary is not None
    assert len(summary["steps"]["0"]) > 80
    assert {named(name) for name in summary["steps"]["0"]} <= announced


def test_no_two_panels_write_the_same_tag() -> None:
    run = RUNS[10]
    batch = some(run, 60, 0, unlabelled=True)
    tags = [
        tag
        for panel in panels.choose(()).values()
        for tag, _ in rendered(panel, run, {0: toy.state_of(panel, run, batch)})
    ]
    assert len(tags) == len(set(tags))


def test_rendering_twice_gives_the_same(panel: Panel) -> None:
    run = RUNS[10]
    states = {1: toy.state_of(panel, run, some(run, 50, 0)), 2: toy.state_of(panel, run, some(run, 50, 1))}
    assert same(rendered(panel, run, states), rendered(panel, run, states))


def test_an_unknown_panel_is_named_with_those_there_are() -> None:
    with pytest.raises(InputError, match=f"no panel 'nonsense'; choose from: {', '.join(panels.names())}"):
        panels.choose(("nonsense",))


def test_panels_are_chosen_by_name_in_one_order() -> None:
    first, *_, last = panels.names()
    assert list(panels.choose((last, first, last))) == [first, last]
    assert list(panels.choose(())) == list(panels.names()) == sorted(panels.names())


# The checks above must catch a panel that breaks the laws.


@dataclasses.dataclass(frozen=True)
class FloatTotal:
    value: float

    def merge(self, other: "FloatTotal") -> "FloatTotal":
        return FloatTotal(self.value + other.value)


@dataclasses.dataclass(frozen=True)
class FirstIds:
    ids: tuple[int, ...]

    def merge(self, other: "FirstIds") -> "FirstIds":
        return FirstIds((self.ids + other.ids)[:5])


@dataclasses.dataclass(frozen=True)
class Holds:
    """A panel's state with one field that merges itself."""

    field: Any


@dataclasses.dataclass(frozen=True)
class Breaks:
    """A toy panel."""

    of: Callable[[Predictions], Any]
    nothing: Any
    columns: frozenset[str] = frozenset({"id", "label", "predicted", "loss"})

    def zero(self, run: Run) -> Holds:  # noqa: ARG002
        return Holds(self.nothing)

    def measure(self, run: Run, batch: Predictions) -> Holds:  # noqa: ARG002
        return Holds(self.of(batch))

    def render(self, subject: RunInfo, states: Mapping[int, Any]) -> Iterator[tuple[int, Summary]]:
        del subject, states
        return iter(())


LAWFUL = Breaks(lambda _: FirstIds(()), FirstIds(()))
LAWLESS = {
    "a sum of floats": Breaks(
        lambda batch: FloatTotal(float(batch.labelled.loss.astype(np.float64).sum())), FloatTotal(0.0)
    ),
    "the first five to arrive": Breaks(lambda batch: FirstIds(tuple(batch.id[:5].tolist())), FirstIds(())),
}


@pytest.mark.parametrize("lawless", LAWLESS)
def test_a_panel_that_depends_on_the_order_is_caught(lawless: str) -> None:
    def check(panel: Panel) -> None:
        for seed in range(20):
            splits_do_not_show(panel, some(RUNS[10], 50, seed), seed, pieces=4)

    check(LAWFUL)
    with pytest.raises(AssertionError):
        check(LAWLESS[lawless])


def test_a_panel_that_reads_more_than_it_declares_is_caught() -> None:
    greedy = Breaks(lambda batch: FloatTotal(float(batch.scored.margin.sum())), FloatTotal(0.0))
    with pytest.raises(KeyError, match="margin"):
        declared_columns_are_enough(greedy, some(RUNS[2], 9, 0))


def test_what_cannot_be_drawn_is_caught() -> None:
    for summary in (
        Scalar("a/b", float("nan")),
        Histogram("a/b", np.linspace(0, 1, 3), np.zeros(2, np.int64)),
        Text("a/b", "| nan |"),
        Picture("a/b", lambda: np.zeros((2, 2, 3))),  # type: ignore[arg-type, return-value]  # floats
    ):
        with pytest.raises(AssertionError):
            drawable(summary)


# The whole of stage two.


def bytes_of(predictions: Path, logdir: Path, workers: int = 1, settings: MeasureSettings = DEFAULT_SETTINGS) -> bytes:
    config = VisualizeConfig(predictions=(predictions,), logdir=logdir, workers=workers)
    (written,) = stage_two.visualize(config, settings=settings)
    return written.event_file.read_bytes()


@pytest.mark.slow
def test_event_bytes_depend_on_no_parts_row_groups_threads_or_processes(tmp_path: Path) -> None:
    processes = MeasureSettings(task_min_rows=1, parallel_min_logits=0)  # although there is little to do
    rows = 96
    logits, label = toy.table(toy.RUN, rows, ties=True)
    label[::7] = -1
    root = toy.sources(tmp_path / "images", rows)
    run = dataclasses.replace(toy.RUN, root=str(root))
    failed = frozenset({5, 50, 95})
    digests, derived = {}, []
    for parts, group, workers in ((1, 96, 1), (1, 7, 4), (3, 5, 4), (8, 1, 1)):
        folder = tmp_path / f"{parts}-{group}-{workers}"
        toy.write_run(folder / "run", logits, label, run, shard_size=rows // parts, group=group, failed=failed)
        assert len(list((folder / "run").glob("*/part-*.parquet"))) == parts
        written = bytes_of(folder / "run", folder / "logs", workers, processes)
        digests[parts, group, workers] = hashlib.sha256(written).hexdigest()
        derived.append(pq.read_table(folder / "logs" / "run" / "rows.parquet"))
    assert len(set(digests.values())) == 1, digests
    assert all(table.equals(derived[0], check_metadata=True) for table in derived)


@pytest.mark.parametrize("name", [name for name, _ in situations(RUNS[10]) if name != "no rows"])
def test_stage_two_draws_whatever_the_rows_are(name: str, tmp_path: Path) -> None:
    run = RUNS[10]
    batch = dict(situations(run))[name]
    failed = frozenset(np.flatnonzero(batch.predicted < 0).tolist())
    logits = np.zeros((len(batch), 10), np.float32)
    logits[batch.predicted >= 0] = batch.scored.logits
    toy.write_run(tmp_path / "run", logits, batch.label, run, failed=failed)
    bytes_of(tmp_path / "run", tmp_path / "logs")
    (file,) = (tmp_path / "logs" / "run").glob("*tfevents*")
    values = toy.read_values(file)
    assert ("1_glance/report_card", 0) in values
    assert ("report/summary", 0) in values
    scored, known = (batch.predicted >= 0).any(), ((batch.predicted >= 0) & (batch.label >= 0)).any()
    assert (("metrics/accuracy", 0) in values) == known
    assert (("examples/random", 0) in values) == scored
