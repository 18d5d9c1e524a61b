"""Suspected label errors against cleanlab and the paper's definition; equal pictures with different labels."""

import csv
import dataclasses
import io

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from predboard import panels
from predboard.panels import RunInfo, StepInfo, TwoPass, label_issues
from predboard.predictions.derived_rows import derive_rows
from predboard.predictions.table import Predictions
from predboard.state import merge
from predboard.summaries import File, Scalar, Summary, Text, Tiles
from tests import toy

SAVED = toy.SHARED / "cifar10_saved_predictions"


def both(panel: label_issues.Panel, rows: Predictions) -> TwoPass:
    state = toy.state_of(panel, toy.RUN, rows)
    assert isinstance(state, TwoPass)
    return state


def drawn(state: TwoPass, rows: int = 1) -> dict[str, Summary]:
    subject = RunInfo("toy", toy.RUN, {0: StepInfo(rows, rows)})
    return {s.tag: s for _, s in panels.load("label_issues").render(subject, {0: state})}


def by_definition(label: NDArray[np.int64], p: NDArray[np.float64]) -> NDArray[np.int64]:
    """Northcutt et al. 2021, equations 1 and 2, over all classes: the class that stands out on each row, or -1.

    Of several the predicted class counts, as in the authors' cleanlab.
    """
    low = np.array([p[label == c, c].mean() if (label == c).any() else np.inf for c in range(p.shape[1])])
    above = p >= low - 1e-6
    one = np.where(above.sum(axis=1) > 1, p.argmax(axis=1), above.argmax(axis=1))
    return np.where(above.any(axis=1), one, -1)


def noisy(rows: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A good model, and labels of which one in ten is wrong."""
    random = np.random.default_rng(seed)
    true = random.integers(0, 10, rows)
    logits = random.normal(size=(rows, 10)).astype(np.float32)
    logits[np.arange(rows), true] += random.choice([2.0, 6.0], rows).astype(np.float32)
    wrong = random.random(rows) < 0.1
    return logits, np.where(wrong, random.integers(0, 10, rows), true)


def test_suspects_are_those_of_the_definition() -> None:
    logits, label = noisy(800)
    p = softmax(logits.astype(np.float64), axis=1)
    batch = toy.predictions(toy.RUN, logits, label)
    state = both(label_issues.Panel(), batch)
    out = by_definition(label, p)
    suspects = np.flatnonzero((out >= 0) & (out != label) & (p.argmax(axis=1) != label))
    assert len(suspects) > 30
    others = p.copy()
    others[np.arange(len(p)), label] = -1
    order = suspects[np.argsort((p[np.arange(len(p)), label] - others.max(axis=1))[suspects], kind="stable")]
    assert state.second.suspects.rows["id"].tolist() == order.tolist()
    assert state.second.suspects.rows["suspected"].tolist() == out[order].tolist()
    assert int(state.second.suspected) == len(suspects)


@pytest.mark.skipif(not SAVED.exists(), reason="the saved CIFAR-10 predictions are not here")
def test_suspects_on_cross_validated_predictions_are_cleanlabs() -> None:
    from cleanlab.count import compute_confident_joint, estimate_joint
    from cleanlab.filter import find_label_issues

    p = np.load(SAVED / "labelerrors_pyx_float64.npy")
    label = np.load(SAVED / "labels_test10000_official_order.npy").astype(np.int64)
    run = dataclasses.replace(toy.RUN, scores="log_probabilities")
    batch = toy.predictions(run, np.log(np.maximum(p, 1e-37)).astype(np.float32), label)
    state = both(label_issues.Panel(), batch)
    theirs = find_label_issues(
        label, p, filter_by="confident_learning", return_indices_ranked_by="normalized_margin", n_jobs=1
    )
    ours = state.second.suspects.rows["id"]
    assert len(ours) > 100
    assert set(ours.tolist()) == set(theirs.tolist())
    assert ours[:50].tolist() == theirs[:50].tolist()
    joint = np.zeros((10, 10), int)
    joint.reshape(-1)[state.second.joint.value] = state.second.joint.count
    np.testing.assert_array_equal(joint, compute_confident_joint(label, p, calibrate=False))
    share, off = label_issues.estimated_share(state.first.rows, state.second.joint, 10, state.second.undecided)
    assert off == 0
    theirs_share = 1 - np.trace(estimate_joint(label, p, confident_joint=joint))
    assert share == pytest.approx(theirs_share, abs=1e-4)  # theirs rounds to whole labels


@pytest.mark.parametrize(("classes", "rows", "skill"), [(10, 600, 0.3), (60, 900, 1.5), (300, 1500, 2.0)])
def test_with_many_classes_and_a_poor_model_the_count_is_cleanlabs_within_its_bound(
    classes: int, rows: int, skill: float
) -> None:
    from cleanlab.filter import find_label_issues

    random = np.random.default_rng(classes)
    label = np.arange(rows) % classes
    logits = random.normal(0, 1.2, (rows, classes)).astype(np.float32)
    logits[np.arange(rows), np.where(random.random(rows) < 0.1, random.integers(0, classes, rows), label)] += skill
    run = dataclasses.replace(toy.RUN, classes=tuple(f"class{i}" for i in range(classes)))
    state = toy.state_of(label_issues.Panel(), run, toy.predictions(run, logits, label))
    p = softmax(logits.astype(np.float64), axis=1)
    theirs = int(find_label_issues(label, p, filter_by="confident_learning", n_jobs=1).sum())
    metrics = label_issues._metrics(state)
    suspected, share = metrics["label_issues/suspected"], metrics["label_issues/estimated_share"]
    assert suspected.bound is not None
    assert share.bound is not None
    assert suspected.value <= theirs <= suspected.value + suspected.bound
    assert suspected.bound <= 0.02 * rows
    out = by_definition(label, p)
    of_class, right = (np.bincount(label[which], minlength=classes) for which in (out >= 0, out == label))
    exact = float(np.mean(np.where(of_class > 0, 1 - right / np.maximum(of_class, 1), 0)))
    assert abs(share.value - exact) <= share.bound + 1e-9


def test_a_model_at_chance_has_no_gallery_of_doubted_labels() -> None:
    random = np.random.default_rng(0)
    logits, label = random.normal(size=(300, 10)).astype(np.float32), random.integers(0, 10, 300)
    by_tag = drawn(both(label_issues.Panel(), toy.predictions(toy.RUN, logits, label)))
    assert "examples/suspected_label_errors" not in by_tag
    page = by_tag["report/label_issues"]
    assert isinstance(page, Text)
    assert page.markdown.startswith("**The model is not clearly better than always predicting one class")


def test_a_class_that_nobody_has_stands_out_nowhere() -> None:
    logits, label = noisy(300)
    label[label == 3] = 4
    state = both(label_issues.Panel(), toy.predictions(toy.RUN, logits, label))
    assert 3 not in state.second.joint.value % 10
    assert drawn(state)["report/label_issues"]


def test_numbers_page_and_file_say_the_same() -> None:
    logits, label = noisy(500)
    batch = toy.predictions(toy.RUN, logits, label)
    state = both(label_issues.Panel(), batch)
    found = drawn(state)
    count, gallery, page, file = (
        found[tag]
        for tag in (
            "label_issues/suspected",
            "examples/suspected_label_errors",
            "report/label_issues",
            "suspects.csv",
        )
    )
    assert isinstance(count, Scalar)
    assert isinstance(gallery, Tiles)
    assert isinstance(page, Text)
    assert isinstance(file, File)
    lines = list(csv.DictReader(io.StringIO(file.content.decode())))
    assert len(lines) == count.value
    assert [int(line["row"]) for line in lines[: len(gallery.rows["id"])]] == gallery.rows["id"].tolist()
    assert f"**{int(count.value)} of 500 labels are suspected to be wrong.**" in page.markdown
    assert all(line["label"] != line["suspected"] for line in lines)
    first = lines[0]
    assert float(first["probability_of_label"]) < float(first["confidence"])
    assert f"| {first['row']} | {first['image']} | {first['label']} | {first['suspected']} |" in page.markdown


def with_digests(label: list[int], digest: list[int | None]) -> Predictions:
    logits = np.eye(10, dtype=np.float32)[label] * 5
    batch = toy.predictions(toy.RUN, logits, np.array(label)).batch
    at = batch.schema.get_field_index("digest")
    return Predictions(batch.set_column(at, batch.schema.field(at), pa.array(digest, pa.int64())))


def test_equal_pictures_with_other_labels_are_found_and_stand_together() -> None:
    label = [1, 2, 3, 1, 5, 5, 7, 8]
    digest = [11, 22, 33, 22, 44, 44, None, None]
    found = drawn(both(label_issues.Panel(), with_digests(label, digest)))
    gallery, page = found["label_issues/same_picture"], found["report/label_issues"]
    assert isinstance(gallery, Tiles)
    assert isinstance(page, Text)
    assert sorted(gallery.rows["id"].tolist()) == [1, 3]
    assert "2 images occur more than once, byte for byte, in 4 rows. 1 of them has different labels:" in page.markdown


def test_where_no_picture_is_there_twice_the_page_says_so() -> None:
    found = drawn(both(label_issues.Panel(), with_digests([1, 2, 3], [1, 2, 3])))
    assert "label_issues/same_picture" not in found
    page = found["report/label_issues"]
    assert isinstance(page, Text)
    assert "No image occurs more than once." in page.markdown


def test_equal_pictures_in_different_parts_are_found() -> None:
    panel = label_issues.Panel()
    a, b = with_digests([1, 2], [77, 1]), with_digests([3, 4], [77, 2])
    first = merge(panel.measure(toy.RUN, a), panel.measure(toy.RUN, b))
    rows = [derive_rows(toy.RUN, 0, batch) for batch in (a, b)]
    again = merge(*(panel.measure_second(toy.RUN, first, batch) for batch in rows))
    assert again.alike.rows["digest"].tolist() == [77, 77]
    assert len(label_issues.clashes(again.alike.rows)) == 2


def test_hardly_any_row_is_looked_at_in_vain() -> None:
    panel = label_issues.Panel()
    digest = np.random.default_rng(0).integers(-(2**62), 2**62, 3000).tolist()
    batch = with_digests([i % 10 for i in range(3000)], digest)
    first = panel.measure(toy.RUN, batch)
    assert int(panel.measure_second(toy.RUN, first, derive_rows(toy.RUN, 0, batch)).possible) <= 3


def test_pictures_that_are_there_twice_are_noticed_however_they_are_split() -> None:
    random = np.random.default_rng(0)
    digest = random.integers(-(2**63), 2**63, 3000)
    digest[1500:2000] = digest[:500]
    part = random.integers(0, 4, 3000)
    whole = label_issues.DuplicateFilter.measure(digest)
    merged = label_issues.DuplicateFilter.measure(digest[part == 0])
    for i in (3, 1, 2):
        merged = label_issues.DuplicateFilter.measure(digest[part == i]).merge(merged)
    np.testing.assert_array_equal(merged.once, whole.once)
    np.testing.assert_array_equal(merged.twice, whole.twice)
    there = np.isin(np.arange(3000), [*range(500), *range(1500, 2000)])
    assert whole.maybe_twice(digest)[there].all()
    assert whole.maybe_twice(digest)[~there].sum() <= 1  # of 2,000, each by chance with 1 in 2 million
    assert not label_issues.DuplicateFilter.measure(digest[:1500]).maybe_twice(digest[:1500]).any()
