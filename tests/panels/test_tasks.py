"""Panels by task: which draw what, and that a run of several labels is drawn from end to end."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest

from predboard import InputError, VisualizeConfig, open_predictions, panels, visualize
from predboard.metrics import registry
from predboard.panels import RunInfo, StepInfo
from predboard.predictions.schema import MULTI_LABEL, Run
from predboard.predictions.tile_labels import name_labels
from predboard.storage.runs import open_run
from predboard.summaries import Projector, Tiles
from tests import toy
from tests.panels.test_entry_points import PANEL, install, site

__all__ = ["site"]  # a fixture

RUN = dataclasses.replace(toy.MULTI_LABEL_RUN, classes=("cloud", "river", "road", "forest", "field"))


def test_the_folder_of_a_panel_is_its_task_unless_it_says_more() -> None:
    single, multi = panels.choose(()), panels.choose((), MULTI_LABEL)
    assert set(single) & set(multi) >= {"hparams", "slices", "embeddings", "predictions"}
    assert list(multi) == sorted(multi)
    assert {type(panel).__module__.split(".")[2] for name, panel in single.items()} == set(single)
    for name, panel in multi.items():
        shared = isinstance(panel, panels.ServesTasks)
        assert type(panel).__module__ == f"predboard.panels.{'' if shared else 'multi_label.'}{name}"
    with pytest.raises(InputError, match=r"the panel 'calibrated' does not draw|no panel 'calibrated'; choose from"):
        panels.load("calibrated", MULTI_LABEL)
    (only_single, *_) = set(single) - set(multi) or {""}
    if only_single:
        with pytest.raises(InputError, match=f"the panel '{only_single}' does not draw multi-label runs; choose from"):
            panels.load(only_single, MULTI_LABEL)
    panels.refuse_unknown((*single, *multi))
    with pytest.raises(InputError, match="no panel 'glanc'; choose from"):
        panels.refuse_unknown(("glanc",))


def test_panels_of_other_packages_draw_single_label_runs_unless_they_say_more(site: Path) -> None:
    install(site, "one", "aardvark", PANEL.replace("TAG", "aardvark"))
    both = PANEL.replace("TAG", "both").replace(
        "class Panel:", "class Panel:\n    tasks: frozenset = frozenset({'single-label', 'multi-label'})"
    )
    install(site, "two", "both", both)
    assert {"aardvark", "both"} <= set(panels.names())
    assert "both" in panels.names(MULTI_LABEL)
    assert "aardvark" not in panels.names(MULTI_LABEL)
    with pytest.raises(InputError, match="the panel 'aardvark' does not draw multi-label runs"):
        panels.choose(("aardvark",), MULTI_LABEL)


def test_a_label_has_a_gallery_of_images_that_have_it() -> None:
    logits, known = toy.multi_label_table(RUN, 400, 1)
    rows = toy.predictions(RUN, logits, known, failed=frozenset({3}))
    panel = panels.load("predictions", MULTI_LABEL)
    info = RunInfo("run", RUN, {0: StepInfo(400, 400)})
    galleries = {s.tag: s for _, s in panel.render(info, {0: toy.state_of(panel, RUN, rows)})}
    assert set(galleries) == {f"predictions/{name}" for name in RUN.classes}
    for label, name in enumerate(RUN.classes):
        tiles = galleries[f"predictions/{name}"]
        assert isinstance(tiles, Tiles)
        ids = tiles.rows["id"]
        assert len(ids) == len(set(ids.tolist())) == 6
        assert known.labels.mask(5)[ids, label].all()
        assert known.labelled[ids].all()


def test_points_and_sheets_name_sets() -> None:
    logits = np.array([[1, 1, -1, -1, -1], [1, 1, 1, 1, -1], [-1, -1, -1, -1, -1]], np.float32)
    true = np.array([[True, True, False, False, False], [True] * 5, [False] * 5])
    known = toy.multi_labels(true, labelled=np.array([True, True, False]))
    rows = toy.predictions(RUN, logits, known)
    assert name_labels(rows.tile_rows(np.arange(3)), RUN.classes) == (
        ["cloud, river", "cloud, river, road +2", None],
        ["cloud, river", "cloud, river, road +1", "none"],
    )
    panel = panels.load("embeddings", MULTI_LABEL)
    info = RunInfo("run", RUN, {0: StepInfo(3, 3)})
    ((_, points),) = panel.render(info, {0: toy.state_of(panel, RUN, rows)})
    assert isinstance(points, Projector)
    verdicts = dict(zip(points.metadata["row"], points.metadata["verdict"], strict=True))
    assert verdicts == {"0": "right", "1": "wrong", "2": "no label"}


def test_a_multi_label_run_is_drawn_with_its_rows_errors_and_pages(tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, thumbnails=8, root=str(tmp_path))
    logits, known = toy.multi_label_table(run, 120, 2)
    toy.write_run(tmp_path / "run", logits, known, run, shard_size=50, failed=frozenset({7}))
    chosen = ("hparams", "slices", "embeddings", "predictions")
    config = VisualizeConfig(predictions=(tmp_path / "run",), logdir=tmp_path / "logs", panels=chosen, log_every=10)
    (result,) = visualize(config)
    tags = {tag for tag, _ in toy.read_values(result.event_file)}
    assert {"predictions/cloud", "predictions_every_10/page_0001"} <= tags
    summary = json.loads((tmp_path / "logs/run/summary.json").read_text())
    assert summary["steps"]["0"]
    of_slices = {d["definition"] for name, d in summary["definitions"].items() if name.startswith("slices/")}
    assert of_slices == {spec.definition for spec in registry.rows("slices", task=MULTI_LABEL)}
    (step,) = open_run(tmp_path / "run")
    right = dict(zip(range(120), toy.predictions(run, logits, known, failed=frozenset({7})).right, strict=True))
    lines = list(csv.DictReader(io.StringIO((tmp_path / "logs/run/errors.csv").read_text())))
    assert [int(line["row"]) for line in lines] != []
    assert {int(line["row"]) for line in lines} == {
        row for row in range(120) if known.labelled[row] and row != 7 and not right[row]
    }
    names = np.array(run.classes)
    for line in lines:
        row = int(line["row"])
        assert line["true"] == "|".join(names[known.labels.mask(5)[row]])
        assert line["predicted"] == "|".join(names[logits[row] > 0])
        assert line["rank"] == line["suspected"] == ""
    assert step.run.task == MULTI_LABEL


def test_runs_of_two_tasks_are_not_mixed(tmp_path: Path) -> None:
    logits, known = toy.multi_label_table(RUN, 20, 2)
    toy.write_run(tmp_path / "run", logits, known, dataclasses.replace(RUN, step=2))
    one = Run(RUN.classes, RUN.model, step=1)
    toy.write_run(tmp_path / "run", logits, np.zeros(20, np.int64), one)
    with pytest.raises(InputError, match="mixes tasks: step 2 is multi-label, step 1 single-label"):
        open_run(tmp_path / "run")


def test_rows_of_several_labels_are_read_as_lists(tmp_path: Path) -> None:
    logits, known = toy.multi_label_table(RUN, 30, 2)
    toy.write_run(tmp_path / "run", logits, known, RUN)
    frame = open_predictions(tmp_path / "run").to_pandas()
    for row in range(30):
        given = frame["labels"][row]
        assert given is None or list(given) == np.flatnonzero(known.labels.mask(5)[row]).tolist()
        assert list(frame["predicted_labels"][row]) == np.flatnonzero(logits[row] > 0).tolist()
