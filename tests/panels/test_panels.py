"""What each panel shows, by hand or by another way of computing it."""

from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from predboard import panels
from predboard.metrics import registry
from predboard.panels import RunInfo, StepInfo
from predboard.predictions.sampling import Salt, mix
from predboard.predictions.schema import Run, hash_refs
from predboard.predictions.table import Predictions
from predboard.summaries import (
    BandChart,
    File,
    Histogram,
    HParams,
    LineChart,
    Metrics,
    Picture,
    Projector,
    Scalar,
    Summary,
    Text,
    Tiles,
)
from tests import toy


def named(classes: int) -> Run:
    return Run(classes=tuple(f"class{i:04d}" for i in range(classes)), model="toy.py:build")


def drawn(panel: str, run: Run, **batches: Predictions) -> dict[tuple[str, int], Summary]:
    """Summaries by (tag, step) of batches that are named step0, step1, …"""
    loaded = panels.load(panel)
    states = {int(name.removeprefix("step")): toy.state_of(loaded, run, batch) for name, batch in batches.items()}
    facts = {step: StepInfo(len(batch), len(batch)) for step, batch in zip(states, batches.values(), strict=True)}
    found = {(s.tag, step): s for step, s in loaded.render(RunInfo("toy", run, facts), states)}
    for summary in found.values():
        if isinstance(summary, Picture):
            assert summary.pixels is not None  # drawn now, as long as a test has replaced what draws
    return found


def ids(summary: Summary) -> list[int]:
    assert isinstance(summary, Tiles)
    return list(summary.rows["id"].tolist())


def scalar(summary: Summary) -> float:
    assert isinstance(summary, Scalar)
    return summary.value


def counts(summary: Summary) -> list[int]:
    assert isinstance(summary, Histogram)
    return list(summary.counts.tolist())


def text(summary: Summary) -> str:
    assert isinstance(summary, Text)
    return summary.markdown


def mixed(run: Run, rows: int, seed: int = 0, ties: bool = False) -> Predictions:
    """Rows of which some have failed and some have no label."""
    logits, label = toy.table(run, rows, seed, ties)
    random = np.random.default_rng(seed)
    label[random.random(rows) < 0.1] = -1
    return toy.predictions(run, logits, label, failed=frozenset(np.flatnonzero(random.random(rows) < 0.1).tolist()))


def frame(batch: Predictions) -> Any:
    """The rows as a pandas frame, failed ones left out."""
    return pd.DataFrame(batch.batch.to_pandas()).dropna(subset=["predicted"])


# metrics


def test_top5_with_ties_is_the_expected_hit_of_a_random_order() -> None:
    true = 0
    rows = {  # logits of eight classes, the first of which is true: expected hit
        (0, 1, 1, 1, -1, -1, -1, -1): 1.0,  # three are higher: inside
        (0, 0, 0, 0, 0, 0, 0, 0): 5 / 8,  # five of eight places
        (0, 1, 1, 1, 1, 0, 0, -1): 1 / 3,  # four are higher, three share the fifth place
        (0, 1, 1, 1, 1, -1, -1, -1): 1.0,  # the fifth place alone
        (0, 1, 1, 1, 1, 1, -1, -1): 0.0,  # five are higher
        (0, 1, 1, 1, 1, 1, 1, 0): 0.0,  # six are, and there is a tie outside
        (0, 1, 1, 0, 0, 0, 0, 0): 3 / 6,  # places three to five for six
    }
    run = named(8)
    logits = np.array(list(rows), np.float32)
    found = drawn("metrics", run, step0=toy.predictions(run, logits, np.full(len(rows), true)))
    assert scalar(found["metrics/accuracy_top5", 0]) == pytest.approx(sum(rows.values()) / len(rows), abs=1e-6)


def test_top5_without_ties_is_whether_the_true_class_is_among_five() -> None:
    run = named(10)
    logits, label = toy.table(run, 200)
    among = [label[i] in np.argsort(-logits[i])[:5] for i in range(200)]
    assert 0 < sum(among) < 200
    found = drawn("metrics", run, step0=toy.predictions(run, logits, label))
    assert scalar(found["metrics/accuracy_top5", 0]) == pytest.approx(np.mean(among), abs=1e-6)


@pytest.mark.parametrize(("classes", "there"), [(2, False), (5, False), (6, True)])
def test_top5_is_left_out_where_it_could_only_be_one(classes: int, there: bool) -> None:
    run = named(classes)
    found = drawn("metrics", run, step0=toy.predictions(run, *toy.table(run, 30)))
    assert (("metrics/accuracy_top5", 0) in found) == there


def test_the_curves_of_glance_and_metrics_agree_at_each_step() -> None:
    run = named(10)
    steps = {"step1": mixed(run, 80, 1), "step5": mixed(run, 80, 2)}
    curves, glance = drawn("metrics", run, **steps), drawn("glance", run, **steps)
    for name in ("accuracy", "f1_macro", "nll"):
        for step in (1, 5):
            assert scalar(curves[f"metrics/{name}", step]) == scalar(glance[f"1_glance/{name}", step])
    known = frame(steps["step5"]).dropna(subset=["label"])
    assert scalar(curves["metrics/accuracy", 5]) == pytest.approx((known.label == known.predicted).mean())
    assert scalar(curves["metrics/nll", 5]) == pytest.approx(known.loss.mean(), abs=1e-6)


# mistakes


@pytest.mark.parametrize("ties", [False, True])
def test_galleries_hold_the_rows_that_a_plain_sort_picks(ties: bool) -> None:
    run = named(10)
    batch = mixed(run, 300, ties=ties)
    if ties:  # some keys too are equal, so that the id decides
        key = np.asarray(batch.column("key")).copy() // 2**60
        place = batch.batch.schema.get_field_index("key")
        batch = Predictions(batch.batch.set_column(place, batch.batch.schema.field("key"), key))
    rows = frame(batch)
    known = rows.dropna(subset=["label"])
    right, wrong = known[known.predicted == known.label], known[known.predicted != known.label]
    rows["drawn"] = mix(rows.key.to_numpy(np.int64), Salt.RANDOM_EXAMPLES).astype(float)

    def first(of: Any, by: str, descending: bool) -> list[int]:
        order = of.sort_values([by, "key", "id"], ascending=[not descending, True, True])
        return list(order.id[:12].tolist())

    found = drawn("mistakes", run, step0=batch)
    assert ids(found["2_mistakes/confident", 0]) == first(wrong, "confidence", True)
    assert ids(found["examples/confident_right", 0]) == first(right, "confidence", True)
    assert ids(found["examples/highest_loss", 0]) == first(known, "loss", True)
    assert ids(found["examples/least_certain", 0]) == first(rows, "margin", False)
    assert ids(found["examples/random", 0]) == first(rows, "drawn", False)


def test_the_random_examples_are_the_same_at_every_step_and_an_inserted_image_moves_one_at_most() -> None:
    run = named(10)
    (a, label), (b, _) = toy.table(run, 200, 1), toy.table(run, 200, 2)
    found = drawn("mistakes", run, step1=toy.predictions(run, a, label), step2=toy.predictions(run, b, label))
    first = ids(found["examples/random", 1])
    assert first == ids(found["examples/random", 2])
    assert ids(found["2_mistakes/confident", 1]) != ids(found["2_mistakes/confident", 2])
    assert first != sorted(first)  # not simply the first rows
    for extra in range(200, 230):
        more = toy.predictions(run, np.concatenate([a, a[:1]]), np.append(label, 0))
        at = more.batch.schema.get_field_index("key")
        keys = np.asarray(more.column("key")).copy()
        keys[200] = hash_refs([f"{extra}.png"])[0]
        inserted = Predictions(more.batch.set_column(at, more.batch.schema.field("key"), keys))
        assert len(set(first) - set(ids(drawn("mistakes", run, step0=inserted)["examples/random", 0]))) <= 1


def test_a_gallery_without_rows_is_left_out() -> None:
    run = named(3)
    label = np.arange(30) % 3
    found = drawn("mistakes", run, step0=toy.predictions(run, np.eye(3, dtype=np.float32)[label] * 5, label))
    assert "2_mistakes/confident" not in {tag for tag, _ in found}
    assert len(ids(found["examples/confident_right", 0])) == 12


def test_a_tile_has_the_three_highest_classes_of_which_equal_ones_come_in_order() -> None:
    run = named(4)
    logits = np.log(np.array([[0.1, 0.4, 0.1, 0.4]], np.float32))
    tiles = drawn("mistakes", run, step0=toy.predictions(run, logits, np.array([0])))["2_mistakes/confident", 0]
    assert isinstance(tiles, Tiles)
    assert tiles.rows["top_class"].tolist() == [[1, 3, 0]]
    assert tiles.rows["top_probability"][0] == pytest.approx([0.4, 0.4, 0.1])
    assert tiles.rows["image"].tolist() == ["000000.png"]


# predictions and probabilities


@pytest.mark.parametrize("panel", ["predictions", "probabilities"])
def test_of_many_classes_the_twenty_with_most_errors_are_shown(panel: str) -> None:
    run = named(50)
    label = np.repeat(np.arange(50), 4)
    said = label.copy()
    bad = [3, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 0, 1, 2, 4, 5, 6, 8, 49]
    for true in bad:
        said[label == true] = 20  # which by that has more errors than any: twenty-one classes have some
    logits = np.eye(50, dtype=np.float32)[said] * 5
    found = drawn(panel, run, step0=toy.predictions(run, logits, label))
    shown = {tag.partition("/")[2] for tag, _ in found} & set(run.classes)
    assert shown == {run.classes[c] for c in [*sorted(bad)[:19], 20]}  # of equal classes the first


# glance and report


def test_the_report_card_says_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def report_card(card: Any) -> NDArray[np.uint8]:
        seen.append(card)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("predboard.drawing.report_card.draw_report_card", report_card)
    run = Run(classes=("cat", "dog", "eel"), model="toy.py:build")
    label = np.array([0, 0, 0, 0, 1, 1, 2, -1, 2])
    said = np.array([0, 0, 0, 1, 1, 0, 2, 2, 2])
    batch = toy.predictions(run, np.eye(3, dtype=np.float32)[said] * 3, label, failed=frozenset({8}))
    drawn("glance", run, step7=batch)
    (card,) = seen
    assert card.title == "toy  ·  step 7"
    assert card.accuracy == pytest.approx((5 / 7, 0.3589, 0.9178), abs=1e-4)  # of the seven that count
    assert dict(card.facts)["images"] == "9"
    assert dict(card.facts)["failed"] == dict(card.facts)["unlabelled"] == "1"
    assert dict(card.facts)["macro F1"] == f"{(0.75 + 0.5 + 1) / 3:.3f}"
    assert card.worst == [("dog", 0.5, "1 of 2"), ("cat", 0.75, "3 of 4")]
    assert card.pairs == [("dog", "cat", "1"), ("cat", "dog", "1")]  # half of the dogs before a quarter of the cats
    assert card.warnings[0] == "1 of 9 images failed and is in no metric"


def test_what_stage_one_warned_of_is_on_the_card_and_with_its_remedy_in_the_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def report_card(card: Any) -> Any:
        seen.append(card)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("predboard.drawing.report_card.draw_report_card", report_card)
    run = named(10)
    warned = StepInfo(80, 80, warnings=("red and blue are swapped: turn\nthem", "the logits are probabilities: stop"))
    for name in ("glance", "report"):
        panel = panels.load(name)
        state = panel.measure(run, mixed(run, 80))
        found = {s.tag: s for _, s in panel.render(RunInfo("toy", run, {3: warned}), {3: state})}
        if name == "glance":
            assert cast("Picture", found["1_glance/report_card"]).pixels.shape == (1, 1, 3)
    assert seen[0].warnings[:2] == ["red and blue are swapped", "the logits are probabilities"]
    lines = text(found["report/summary"]).split("\n")
    assert "- **Warning:** red and blue are swapped: turn them" in lines
    assert "- **Warning:** the logits are probabilities: stop" in lines


# all of them


UNTAGGED = (Metrics, File, LineChart, BandChart, HParams, Projector)
"""What has no card of its own in TensorBoard's main tabs."""


def tags(run: Run, batch: Predictions) -> list[str]:
    """Of what TensorBoard shows."""
    found = [(tag, s) for name in panels.names() for (tag, _), s in drawn(name, run, step0=batch).items()]
    return [tag for tag, summary in found if not isinstance(summary, UNTAGGED)]


SIX = tuple("abcdef")
CURVES = ("precision", "recall", "f1", "average_precision")
TAGS = {  # of six classes and one step, by panel; a panel's own test says what is in them
    "classes": [
        "report/classes",
        *(f"classes/{figure}/{name}" for figure in CURVES for name in SIX),
    ],
    "calibration": [
        *(f"calibration/{name}" for name in ("ece", "ece_equal_mass", "ece_classwise", "mce", "reliability")),
        "report/calibration",
    ],
    "confusion": [
        *(f"confusion/{name}" for name in ("0_matrix", "0_overview", "pairs")),
        *(f"confusion/{a} as {b}" for a, b in zip("ceafba", "dadcfb", strict=True)),  # of thirty pairs
    ],
    "embeddings": [],
    "curves": [
        *(f"curves/pr/{name}" for name in ("micro", "macro", *SIX)),
        *("curves/roc", "curves/risk_coverage"),
    ],
    "glance": ["1_glance/report_card", *(f"1_glance/{name}" for name in ("accuracy", "f1_macro", "nll"))],
    "groups": [],  # without a file of groups
    "hparams": [],
    "metrics": [f"metrics/{name}" for name in (spec.name for spec in registry.rows("overall"))]
    + [
        f"intervals/{name}/{end}"
        for name in (spec.name for spec in registry.rows("overall") if spec.band)
        for end in ("lower", "upper")
    ],
    "mistakes": [
        "2_mistakes/confident",
        *(f"examples/{name}" for name in ("highest_loss", "least_certain", "random", "confident_right")),
    ],
    "predictions": [f"predictions/{name}" for name in SIX],
    "probabilities": [
        *(f"probabilities/{name}" for name in SIX),
        *(
            f"probabilities/{measure}{kind}"
            for measure in ("confidence", "margin", "entropy", "loss")
            for kind in ("", "_right", "_wrong")
        ),
    ],
    "label_issues": [
        "examples/suspected_label_errors",
        "label_issues/estimated_share",
        "label_issues/same_picture",
        "label_issues/suspected",
        "report/label_issues",
    ],
    "slices": ["report/slices", "slices/worst"],
    "two_classes": [],  # which six are not
    "report": ["report/summary", "report/run"],
}


@pytest.mark.parametrize("name", panels.names())
def test_the_tags_are_these(name: str) -> None:
    run = Run(classes=SIX, model="toy.py:build")
    found = drawn(name, run, step0=mixed(run, 200))
    shown = [tag for (tag, _), s in found.items() if not isinstance(s, UNTAGGED)]
    assert sorted(shown) == sorted(TAGS[name])


def test_without_labels_nothing_is_said_that_needs_them() -> None:
    run = named(6)
    logits, label = toy.table(run, 30)
    assert sorted(tags(run, toy.predictions(run, logits, np.full_like(label, -1)))) == [
        "1_glance/report_card",
        "examples/least_certain",
        "examples/random",
        *(f"probabilities/{measure}" for measure in ("confidence", "entropy", "margin")),
        "report/run",
        "report/summary",
    ]


def test_panels_render_together_and_those_that_speak_of_others_after_them_one_by_one() -> None:
    together, *after = panels.render_rounds(panels.choose(()))
    assert [list(group) for group in after] == [["hparams"], ["report"]]
    assert sorted([*together, "hparams", "report"]) == [*panels.names()]
    assert [list(group) for group in panels.render_rounds(panels.choose(("report", "glance")))] == [
        ["glance"],
        ["report"],
    ]


@pytest.mark.parametrize(("classes", "limit"), [(10, 150), (1000, 300)])
def test_there_are_not_more_tags_than_tensorboard_shows_well(classes: int, limit: int) -> None:
    run = named(classes)
    found = tags(run, mixed(run, 1500))
    assert len(found) <= limit
    assert len(found) == len(set(found))


def test_exactly_two_groups_are_numbered_because_tensorboard_opens_the_first_two() -> None:
    groups = {tag.partition("/")[0] for tag in tags(named(10), mixed(named(10), 200))}
    assert sorted(group for group in groups if group[0].isdigit()) == ["1_glance", "2_mistakes"]
