"""The panel of two classes."""

import csv
import io
import json

import numpy as np
import pytest

from predboard.metrics import registry
from predboard.metrics.metric_state import MetricState
from predboard.metrics.two_classes import CRITERIA, operating_points
from predboard.metrics.values import positive_metrics
from predboard.summaries import BandChart, File, Metrics, Picture
from tests import toy
from tests.metrics.test_threshold_tables import table
from tests.metrics.test_two_classes import RUN, imbalanced, scored
from tests.panels.test_panels import drawn, named, scalar, text


def test_the_figures_are_scalars_with_intervals() -> None:
    batches = {f"step{step}": scored(*imbalanced(400, step)) for step in (1, 5)}
    shown = drawn("two_classes", RUN, **batches)
    for step in (1, 5):
        metrics = positive_metrics(MetricState.measure(RUN, batches[f"step{step}"]), 1)
        written = shown["positive", step]
        assert isinstance(written, Metrics)
        assert written.metrics == metrics
        assert list(metrics) == [spec.name for spec in registry.rows("positive")]
        for name, metric in metrics.items():
            assert scalar(shown[name, step]) == metric.value
            ends = tuple(scalar(shown[f"intervals/{name}/{end}", step]) for end in ("lower", "upper"))
            assert ends == metric.interval
        assert isinstance(shown["positive/thresholds", step], Picture)
    assert [s.value for s in shown.values() if isinstance(s, BandChart)] == list(metrics)


def test_the_page_and_the_files_have_every_criterion() -> None:
    batch = scored(*imbalanced(1500))
    shown = drawn("two_classes", RUN, step3=batch)
    points = operating_points(MetricState.measure(RUN, batch).histograms, 1)
    page = text(shown["report/two_classes", 3])
    assert "### The positive class is dog" in page
    rows = table(page, "probability at least")
    assert [row[0] for row in rows] == [criterion.name for criterion in CRITERIA]
    as_json, as_csv = shown["operating_points.json", 3], shown["operating_points.csv", 3]
    assert isinstance(as_json, File)
    assert isinstance(as_csv, File)
    record = json.loads(as_json.content)
    assert (record["positive"], record["step"]) == ("dog", 3)
    lines = list(csv.DictReader(io.StringIO(as_csv.content.decode())))
    for line, written, (criterion, point) in zip(lines, record["points"], points.items(), strict=True):
        assert line["criterion"] == written["criterion"] == criterion.name
        assert point is not None
        assert float(line["threshold"]) == written["threshold"] == point.threshold
        assert int(line["tested_hits"]) == written["tested"]["hits"] == point.tested.hits
        low, high = point.tested.intervals["recall"]
        assert [written["tested"][f"recall_{end}"] for end in ("lower", "upper")] == pytest.approx([low, high])


def test_what_is_not_reached_is_said() -> None:
    z, label = imbalanced(400)
    shown = drawn("two_classes", RUN, step0=scored(np.sign(z), label))
    rows = {row[0]: row for row in table(text(shown["report/two_classes", 0]), "probability at least")}
    assert rows["precision ≥ 0.99"][1:3] == ["–", rows["precision ≥ 0.99"][2]]
    assert rows["precision ≥ 0.99"][2].startswith("not reached (highest: 0.")
    record = shown["operating_points.json", 0]
    assert isinstance(record, File)
    (point,) = (p for p in json.loads(record.content)["points"] if p["criterion"] == "precision ≥ 0.99")
    assert (point["threshold"], point["tested"]) == (None, None)


@pytest.mark.parametrize("classes", [1, 3])
def test_nothing_is_drawn_of_other_numbers_of_classes(classes: int) -> None:
    run = named(classes)
    assert drawn("two_classes", run, step0=toy.predictions(run, *toy.table(run, 30))) == {}


def test_rows_of_one_class_have_the_figures_that_are_defined() -> None:
    z, label = imbalanced(60)
    shown = drawn("two_classes", RUN, step0=scored(z, np.ones_like(label)))
    written = shown["positive", 0]
    assert isinstance(written, Metrics)
    assert set(written.metrics) == {f"positive/{n}" for n in ("precision", "recall", "f1", "average_precision")}
    assert "each needs both classes" in text(shown["report/two_classes", 0])
    assert ("operating_points.json", 0) not in shown
    assert drawn("two_classes", RUN, step0=scored(z, np.full_like(label, -1))) == {}
