"""The run's line in the table of runs."""

import dataclasses
from pathlib import Path

from tensorboard.plugins.hparams import plugin_data_pb2

from predboard import VisualizeConfig, panels, visualize
from predboard.metrics import registry
from predboard.panels import RunInfo, StepInfo, WrittenTag
from predboard.predictions.schema import Run
from predboard.summaries import HParams, Scalar
from predboard.visualization import events
from tests import toy

METRICS = {spec.tag: spec.column for spec in registry.rows("overall", "calibration") if spec.column}


def line(run: Run, *written: str, checkpoint: str = "") -> HParams:
    panel = panels.load("hparams")
    state = panel.measure(run, toy.predictions(run, *toy.table(run, 20)))
    facts = {step: StepInfo(20, 20, checkpoint) for step in (1, 7)}
    subject = RunInfo("toy", run, facts, tuple(WrittenTag(tag, Scalar, "") for tag in written))
    [(step, found)] = list(panel.render(subject, {1: state, 7: state}))
    assert step == 7
    assert isinstance(found, HParams)
    return found


def test_the_line_says_what_the_run_was_made_with() -> None:
    run = dataclasses.replace(
        toy.RUN,
        model_args={"depth": 20, "wide": True, "lr": 0.1, "kind": "a", "sizes": [1, 2], "none": None},
        transform={"resize": 32, "crop": None, "mean": [0.5]},
        root="/data/photos/test",
    )
    found = line(run, "metrics/accuracy", "metrics/nll", "metrics/kappa", checkpoint="epoch7.pt")
    assert found.name == "toy"
    assert found.settings == {
        "model": "toy.py:build",
        "model.depth": 20,
        "model.wide": True,
        "model.lr": 0.1,
        "model.kind": "a",
        "model.sizes": "[1, 2]",
        "model.none": "None",
        "checkpoint": "epoch7.pt",
        "data": "photos/test",
        "transform": "resize 32, mean [0.5]",
        "precision": "fp32",
        "scores": "logits",
        "classes": 10,
        "images": 20,
        "step": 7,
    }
    assert found.metrics == {"metrics/accuracy": "accuracy", "metrics/nll": "NLL"}
    assert len(events.encode_session(found, 1.7e9)) == 3


def test_what_is_not_known_and_what_is_long_has_a_word() -> None:
    found = line(dataclasses.replace(toy.RUN, model="x" * 200 + "end"))
    assert (found.settings["checkpoint"], found.settings["data"], found.settings["transform"]) == (
        "none",
        "unknown",
        "none",
    )
    model = found.settings["model"]
    assert isinstance(model, str)
    assert len(model) == 60
    assert model.endswith("xend")
    assert found.metrics == METRICS


def test_the_table_has_columns_for_scalars_that_were_written(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 40)
    toy.write_run(tmp_path / "run", logits, label)
    (done,) = visualize(VisualizeConfig((tmp_path / "run",), logdir=tmp_path / "logs", panels=("hparams", "metrics")))
    values = toy.read_values(done.event_file)
    content = values["_hparams_/experiment", 0].metadata.plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    named = {info.name.tag for info in experiment.metric_infos}
    assert named == set(METRICS) - {"calibration/ece"}
    assert {(tag, 0) for tag in named} <= set(values)
