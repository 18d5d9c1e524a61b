"""What the calibration panel draws and says."""

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from predboard.drawing.plots import ReliabilityBin
from predboard.metrics import registry
from predboard.metrics.calibration import Calibration, conformal_sets
from predboard.metrics.intervals import wilson_interval
from predboard.metrics.metric_state import MetricState
from predboard.metrics.score_histograms import ScoreHistograms
from predboard.metrics.values import overall_metrics
from predboard.panels.calibration import card_facts
from predboard.panels.pages.calibration import _temperature
from predboard.summaries import Metrics
from tests import toy
from tests.metrics.test_calibration import named, noisy, softmax
from tests.panels.test_panels import drawn, scalar, text

SCALARS = ("ece", "ece_equal_mass", "ece_classwise", "mce")


def test_every_figure_is_in_the_summary_and_the_four_errors_are_scalars() -> None:
    run = named(5)
    steps = {f"step{s}": toy.predictions(run, *noisy(900, 5, s)) for s in (1, 4)}
    found = drawn("calibration", run, **steps)
    for step in (1, 4):
        state = Calibration.measure(run, steps[f"step{step}"])
        sets = conformal_sets(ScoreHistograms.measure(run, steps[f"step{step}"]))
        tempered, equal = state.tempered, state.ece_equal_mass
        assert tempered is not None
        assert sets is not None
        expected = {
            "ece": state.ece,
            "ece_equal_mass": float(equal.value),
            "ece_classwise": state.ece_classwise,
            "mce": state.mce,
            "brier_reliability": state.brier_decomposition[0],
            "brier_resolution": state.brier_decomposition[1],
            "brier_uncertainty": state.brier_decomposition[2],
            "temperature": tempered.temperature,
            "nll_before": tempered.nll[0],
            "nll_after": tempered.nll[1],
            "ece_before": tempered.ece[0],
            "ece_after": tempered.ece[1],
            "conformal_coverage": sets.coverage,
            "conformal_size": sets.size,
        }
        assert set(expected) == {spec.short for spec in registry.rows("calibration")}
        summary = found["calibration", step]
        assert isinstance(summary, Metrics)
        assert summary.metrics["calibration/ece"].interval == state.ece_interval
        assert summary.metrics["calibration/ece_equal_mass"].bound == float(equal.bound)
        for name, value in expected.items():
            if name in SCALARS:
                assert scalar(found[f"calibration/{name}", step]) == value
            assert summary.metrics[f"calibration/{name}"].value == value
    assert ("report/calibration", 4) in found
    assert ("report/calibration", 1) not in found


def page(scale: float, rows: int = 4000) -> str:
    run = named(5)
    return text(
        drawn("calibration", run, step0=toy.predictions(run, *noisy(rows, 5, scale=scale)))["report/calibration", 0]
    )


def test_the_page_says_in_words_what_is_the_matter() -> None:
    sure, unsure, fits = page(3), page(0.5), page(1)
    assert "**The model is over-confident**" in sure
    assert "**The model is under-confident**" in unsure
    assert "**The model is neither over- nor under-confident**" in fits
    assert float(re.findall(r"Dividing all logits by ([\d.]+) would reduce", sure)[0]) == pytest.approx(3, rel=0.1)
    assert float(re.findall(r"Dividing all logits by ([\d.]+) would reduce", unsure)[0]) == pytest.approx(0.5, rel=0.1)
    assert re.search(r"Dividing all logits by [\d.]+ would change the loss by less than 1 %", fits)
    for said in (sure, unsure, fits):
        coverage, size = re.findall(r"contain the true class for ([\d.]+) % of .* mean size ([\d.]+)\.", said)[0]
        assert float(coverage) == pytest.approx(90, abs=3)
        assert 1 < float(size) < 5


def test_the_parts_of_the_brier_score_add_up_on_the_page() -> None:
    run = named(5)
    logits, label = noisy(900, 5)
    said = text(drawn("calibration", run, step0=toy.predictions(run, logits, label))["report/calibration", 0])
    line = next(line for line in said.split("\n") if line.startswith("**Brier"))
    brier, uncertainty, resolution, reliability, rest = map(float, re.findall(r"\d\.\d{4}", line))
    rest *= -1 if "− " in line[line.index("reliability:") :] else 1
    assert brier == pytest.approx(((softmax(logits) - np.eye(5)[label]) ** 2).sum(axis=1).mean(), abs=1e-4)
    assert uncertainty - resolution + reliability + rest == pytest.approx(brier, abs=3e-4)


def test_the_table_and_the_diagram_have_the_same_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def reliability(*given: Any) -> NDArray[np.uint8]:
        seen.append(given)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("predboard.drawing.plots.draw_reliability", reliability)
    run = named(5)
    logits, label = noisy(2000, 5)
    said = text(drawn("calibration", run, step0=toy.predictions(run, logits, label))["report/calibration", 0])
    p = softmax(logits)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == label
    ((bins, facts, verdict),) = seen
    assert verdict == "over-confident"
    assert dict(facts)["accuracy"] == f"{100 * right.mean():.1f} %"
    assert dict(facts)["confidence"] == f"{100 * confidence.mean():.1f} %"
    at = np.minimum((confidence * 15).astype(int), 14)
    assert [round(15 * b.left) for b in bins] == np.unique(at).tolist()
    lines = [line for line in said.split("\n") if re.match(r"\| 0\.\d\d to", line)]
    for b, i, line in zip(bins, np.unique(at), lines, strict=True):
        here = at == i
        n, hits = int(here.sum()), int(right[here].sum())
        mean = confidence[here].mean()
        expected = ReliabilityBin(i / 15, (i + 1) / 15, mean, hits / n, *wilson_interval(hits, n), n)
        for name in ("left", "right", "confidence", "accuracy", "lower", "upper", "rows"):
            assert getattr(b, name) == pytest.approx(getattr(expected, name), abs=1e-6)
        assert f"| {n:,} |" in line
        assert line.endswith(f"{100 * (mean - hits / n):+.1f} |")


def test_what_is_not_defined_is_left_out_and_said() -> None:
    run, label = named(3), np.arange(12) % 3
    right = drawn("calibration", run, step0=toy.predictions(run, np.eye(3, dtype=np.float32)[label] * 3, label))
    summary = right["calibration", 0]
    assert isinstance(summary, Metrics)
    there = {tag.removeprefix("calibration/") for tag in summary.metrics}
    assert not {name for name in there if name.startswith(("temperature", "nll", "ece_before", "ece_after"))}
    assert {"ece", "mce"} <= there
    said = text(right["report/calibration", 0])
    assert "No temperature could be fitted between 1/16 and 16" in said
    assert "Prediction sets need at least nine labelled images" in said or "contain the true class" in said
    one = drawn(
        "calibration", named(1), step0=toy.predictions(named(1), np.zeros((3, 1), np.float32), np.zeros(3, int))
    )
    assert list(one) == [("report/calibration", 0)]
    unknown = toy.predictions(run, np.eye(3, dtype=np.float32)[label], np.full(12, -1))
    assert drawn("calibration", run, step0=unknown) == {}


def test_the_brier_score_is_that_of_the_metrics() -> None:
    run = named(5)
    batch = toy.predictions(run, *noisy(900, 5))
    said = text(drawn("calibration", run, step0=batch)["report/calibration", 0])
    assert f"**Brier score {overall_metrics(MetricState.measure(run, batch))['brier'].value:.4f}**" in said


def test_a_temperature_that_makes_the_calibration_error_worse_is_no_cure() -> None:
    states = [Calibration.measure(named(3), toy.predictions(named(3), *noisy(300, 3, s, scale=1.0))) for s in range(9)]
    helped = [s for s in states if s.tempered is not None and s.tempered.ece[1] < s.tempered.ece[0]]
    harmed = [s for s in states if s.tempered is not None and s.tempered.ece[1] >= s.tempered.ece[0]]
    assert helped
    assert harmed
    for state in harmed:
        assert not {"temperature", "ECE with it"} & dict(card_facts(state)).keys()
        assert "So no temperature is a cure here." in _temperature(state, state.tempered)
    best = next(s for s in helped if s.tempered is not None and s.tempered.nll[1] < s.tempered.nll[0])
    assert {"temperature", "ECE with it"} <= dict(card_facts(best)).keys()
    assert "cure" not in _temperature(best, best.tempered)
