"""Tables of thresholds against the rows themselves."""

import re

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from predboard.metrics.intervals import wilson_interval
from tests import toy
from tests.panels.test_curves import sized
from tests.panels.test_panels import drawn, named, text


def table(page: str, heading: str) -> list[list[str]]:
    """Cells of the lines of the first table whose head has these words."""
    lines = page.split("\n")
    (start,) = (i for i, line in enumerate(lines) if line.startswith("|") and heading in line)
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([c.strip() for c in line.strip("|").split("|")])
    return rows


def number(of: str) -> float:
    return float(of.replace(",", "").removesuffix(" %").strip("<>"))


def test_the_thresholds_keep_as_many_rows_as_they_say() -> None:
    run = named(4)
    batch, p, label = sized(run, 3000)
    page = text(drawn("calibration", run, step0=batch)["report/calibration", 0])
    confidence, right = p.max(axis=1), p.argmax(axis=1) == label
    shares, targets = table(page, "share to keep"), table(page, "accuracy to reach")
    assert [row[0] for row in shares] == ["100 %", "95 %", "90 %", "80 %", "50 %"]
    assert [row[0] for row in targets] == ["90 %", "95 %", "99 %", "99.9 %"]
    for row in (*shares, *targets):
        if row[1] == "–":
            continue
        kept = confidence >= float(row[1])
        said = number(re.findall(r"\((.+)\)", row[2])[0])
        assert abs(int(kept.sum()) - said) <= 1  # the threshold is printed in three digits
        hits = int(right[kept].sum())
        assert number(row[3]) == pytest.approx(100 * hits / kept.sum(), abs=0.1)
        lower, upper = (number(end) for end in row[4].split(" to "))
        assert (lower, upper) == pytest.approx([100 * end for end in wilson_interval(hits, int(kept.sum()))], abs=0.15)
        assert abs(int(row[5]) - (kept.sum() - hits)) <= 1
    for row in shares:
        assert 0 <= number(row[2].split(" (")[0]) - number(row[0]) < 1
    order = np.argsort(-confidence)
    accuracy = np.cumsum(right[order]) / np.arange(1, 3001)
    for row in targets:
        enough = np.flatnonzero(accuracy >= number(row[0]) / 100)
        most = enough.max() + 1 if len(enough) else 0
        said = 0.0 if row[1] == "–" else number(row[2].split(" (")[1].removesuffix(")"))
        assert said == pytest.approx(most, abs=60)  # at most a bin of rows less
        assert said <= most + 1


def test_the_best_threshold_of_a_class_has_the_f1_it_says() -> None:
    run = named(4)
    batch, p, label = sized(run, 3000)
    page = text(drawn("calibration", run, step0=batch)["report/calibration", 0])
    rows = table(page, "best F1")
    plain = f1_score(label, p.argmax(axis=1), average=None)
    assert [row[0] for row in rows] == [run.classes[c] for c in np.argsort(plain)]
    for row in rows:
        c = run.classes.index(row[0])
        assert int(row[1].replace(",", "")) == (label == c).sum()
        assert float(row[2]) == pytest.approx(average_precision_score(label == c, p[:, c]), abs=2e-3)
        assert float(row[3]) == pytest.approx(plain[c], abs=6e-5)
        taken = p[:, c] >= float(row[5])
        assert float(row[4]) == pytest.approx(f1_score(label == c, taken), abs=2e-3)
        best = max(f1_score(label == c, p[:, c] >= t) for t in np.quantile(p[:, c], np.linspace(0.02, 0.98, 97)))
        assert float(row[4]) > best - 5e-3
        assert number(row[6]) == pytest.approx(100 * (taken & (label == c)).sum() / taken.sum(), abs=0.3)
        assert number(row[7]) == pytest.approx(100 * (taken & (label == c)).sum() / (label == c).sum(), abs=0.3)


def test_the_true_thresholds_of_the_micro_curve_are_in_the_text() -> None:
    run = named(4)
    batch, p, label = sized(run, 3000)
    page = text(drawn("calibration", run, step0=batch)["report/calibration", 0])
    true = np.eye(4, dtype=bool)[label]
    rows = table(page, "probability at least")
    assert [round(number(row[0])) for row in rows] == [99, 95, 90, 80, 50]
    for row in rows:
        taken = p >= float(row[1])
        assert (taken & true).sum() == pytest.approx(number(row[3]), abs=2)
        assert (taken & ~true).sum() == pytest.approx(number(row[4]), abs=2)
        assert number(row[2]) == pytest.approx(100 * (taken & true).sum() / taken.sum(), abs=0.2)
        assert number(row[0]) == pytest.approx(100 * (taken & true).sum() / 3000, abs=0.2)


def test_an_accuracy_that_no_threshold_reaches_says_so() -> None:
    run, label = named(3), np.arange(30) % 3
    batch = toy.predictions(run, np.eye(3, dtype=np.float32)[(label + 1) % 3] * 5, label)
    rows = table(text(drawn("calibration", run, step0=batch)["report/calibration", 0]), "accuracy to reach")
    assert [row[2] for row in rows] == ["not reached"] * 4
