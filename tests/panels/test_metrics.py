"""The metrics panel, and summary.json."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from predboard import VisualizeConfig, visualize
from predboard.metrics import registry
from predboard.metrics.metric_state import MetricState
from predboard.metrics.values import overall_metrics
from predboard.predictions.schema import Run
from predboard.summaries import BandChart, Metric, Metrics, Scalar
from predboard.visualization.summary_json import decode_summary, encode_summary
from tests import toy
from tests.panels.test_panels import drawn, mixed, named, scalar

HEADLINES = [spec.name for spec in registry.rows("overall") if spec.band]


def test_each_figure_is_a_scalar_and_the_headlines_have_bands() -> None:
    run = named(10)
    batches = {"step1": mixed(run, 200, 1), "step5": mixed(run, 200, 2)}
    found = drawn("metrics", run, **batches)
    for step in (1, 5):
        overall = overall_metrics(MetricState.measure(run, batches[f"step{step}"]))
        assert list(overall) == [spec.name for spec in registry.rows("overall")]
        for name, figure in overall.items():
            assert scalar(found[f"metrics/{name}", step]) == figure.value
        for name in HEADLINES:
            ends = tuple(scalar(found[f"intervals/{name}/{end}", step]) for end in ("lower", "upper"))
            assert ends == overall[name].interval
    bands = [s for (_, step), s in found.items() if isinstance(s, BandChart)]
    assert [band.value for band in bands] == [f"metrics/{name}" for name in HEADLINES]
    assert all(band.lower.removesuffix("lower") == band.upper.removesuffix("upper") for band in bands)


def test_rows_are_counted_also_where_there_is_no_figure() -> None:
    run = named(3)
    logits, label = toy.table(run, 20)
    label[:5] = -1
    batch = toy.predictions(run, logits, label, failed=frozenset({4, 7}))
    (found,) = (s for s in drawn("metrics", run, step0=batch).values() if isinstance(s, Metrics))
    counts = {name: f.value for name, f in found.metrics.items() if name.startswith("images")}
    assert counts == {
        "images": 20,
        "images/missing": 0,
        "images/failed": 2,
        "images/unlabelled": 5,
        "images/counted": 14,
    }
    none = toy.predictions(run, logits, np.full(20, -1))
    (alone,) = drawn("metrics", run, step0=none).values()
    assert isinstance(alone, Metrics)
    assert set(alone.metrics) == set(counts)


def written(tmp_path: Path, run: Run = toy.RUN, **more: Any) -> dict[str, Any]:
    for step in (2, 10):
        logits, label = toy.table(run, 60, step)
        label[::9] = -1
        toy.write_run(tmp_path / "run", logits, label, dataclasses.replace(run, step=step), failed=frozenset({3}))
    (done,) = visualize(VisualizeConfig((tmp_path / "run",), logdir=tmp_path / "logs", **more))
    content = (done.folder / "summary.json").read_bytes()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(content, parse_constant=refuse) == decode_summary(content)
    found = decode_summary(content)
    assert found is not None
    return found


def test_summary_json_has_every_scalar_of_every_step_and_says_what_it_means(tmp_path: Path) -> None:
    found = written(tmp_path)
    assert found["run"] == "run"
    assert found["model"] == toy.RUN.model
    assert found["finished"] == 1.7e9 + 60
    assert list(found["steps"]) == ["2", "10"]
    for step, figures in found["steps"].items():
        logits, label = toy.table(toy.RUN, 60, int(step))
        label[::9] = -1
        overall = overall_metrics(
            MetricState.measure(toy.RUN, toy.predictions(toy.RUN, logits, label, failed=frozenset({3})))
        )
        for name, figure in overall.items():
            assert figures[name]["value"] == pytest.approx(figure.value, rel=1e-8)
            assert (figures[name]["lower"], figures[name]["upper"]) == pytest.approx(figure.interval, rel=1e-8)
            assert found["definitions"][name] == {"definition": figure.definition, "interval": figure.method}
            assert ("bound" in figures[name]) == (name in ("auroc_macro", "average_precision_macro", "aurc"))
        assert figures["images/failed"] == {"value": 1}
        assert not any(name.startswith(("metrics/", "1_glance/", "intervals/")) for name in figures)
        assert not next(iter(figures)).startswith("classes/")
        assert list(figures)[-1].startswith("classes/")
        assert figures["accuracy"]["rows"] == figures["images/counted"]["value"]
        brightest = figures["slices/brightness=0.875/accuracy"]
        assert brightest["rows"] == figures["slices/brightness=0.875/images"]["value"] == 7  # of 60, each eighth
        assert brightest["lower"] < brightest["value"] < brightest["upper"]
    names = {name for figures in found["steps"].values() for name in figures}
    assert {name for name in names if not name.startswith(("classes/", "slices/"))} <= set(found["definitions"])
    assert "slices/*/accuracy" in found["definitions"]


def test_of_chosen_panels_summary_json_has_what_they_wrote(tmp_path: Path) -> None:
    found = written(tmp_path, panels=("glance",))
    assert set(found["steps"]["10"]) == {"accuracy", "f1_macro", "nll"}


def test_figures_count_more_than_scalars_of_their_name_whatever_comes_first() -> None:
    full = Metrics("metrics", {"accuracy": Metric(0.5, (0.4, 0.6), "share", "Wilson", 1e-9)})
    plain = (
        Scalar("metrics/accuracy", 0.5, "short"),
        Scalar("1_glance/accuracy", 0.5),
        Scalar("calibration/ece", 0.1, "gap"),
    )
    for order in ((full, *plain), (*plain, full)):
        found = decode_summary(encode_summary("r", toy.RUN, 1.7e9, [(3, s) for s in order]))
        assert found is not None
        assert found["steps"]["3"]["accuracy"] == {"value": 0.5, "lower": 0.4, "upper": 0.6, "bound": 1e-9}
        assert found["steps"]["3"]["calibration/ece"] == {"value": 0.1}
        assert found["definitions"]["accuracy"] == {"definition": "share", "interval": "Wilson"}


def test_names_with_quotes_slashes_and_line_breaks_come_back_as_they_are() -> None:
    name = 'classes/a"b/c\n\\d/é/recall'
    content = encode_summary("r\u2028", toy.RUN, 1.7e9, [(0, Metrics("x", {name: Metric(1 / 3, definition="d")}))])
    found = decode_summary(content)
    assert found is not None
    assert found["steps"] == {"0": {name: {"value": 0.333333333}}}
    assert list(found["definitions"]) == ["classes/*/recall"]


def test_a_figure_that_is_no_number_is_refused() -> None:
    for wrong in (Metric(float("nan")), Metric(0.5, (float("nan"), 1.0)), Metric(float("inf"))):
        with pytest.raises(ValueError, match="not JSON compliant"):
            encode_summary("r", toy.RUN, 1.7e9, [(0, Metrics("x", {"a": wrong}))])


@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(-2, 2) | st.integers())
@example(123456789.0)
@example(1234567890.0)
@example(1e-4)
@example(0.1 + 0.2)
@example(1.0)
@example(-0.0)
def test_a_number_is_written_as_json_writes_what_is_left_of_it_after_nine_digits(value: float) -> None:
    written = encode_summary("r", toy.RUN, 1.7e9, [(0, Metrics("x", {"a": Metric(value)}))]).decode()
    expected = value if isinstance(value, int) else float(f"{value:.9g}")
    assert f'   "a": {{"value": {json.dumps(expected)}}}\n' in written


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"predboard_summary": 99, "steps": {}}', b"\xff", b"null"])
def test_what_is_no_summary_is_none(content: bytes) -> None:
    assert decode_summary(content) is None
    assert decode_summary(encode_summary("r", toy.RUN, 1.7e9, [])) is not None
