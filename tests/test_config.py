"""Configurations take what Python programs have, and say in one line what they cannot take."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predboard.config import (
    BoardConfig,
    CompareConfig,
    GateConfig,
    ImportConfig,
    InferConfig,
    PreprocessingConfig,
    VisualizeConfig,
)
from predboard.errors import InputError
from predboard.storage.remote import RemotePath

NET = {"data": "photos", "model": "net.py:build"}


@pytest.mark.parametrize(
    ("config", "given", "expected"),
    [
        (InferConfig, {**NET, "checkpoint": "x.pt"}, {"checkpoint": (Path("x.pt"),)}),
        (InferConfig, {**NET, "checkpoint": ["a.pt", Path("b.pt")]}, {"checkpoint": (Path("a.pt"), Path("b.pt"))}),
        (InferConfig, {**NET, "checkpoint": None, "step": None, "model_args": None}, {"checkpoint": (), "step": ()}),
        (InferConfig, {"data": Path("photos"), "model": Path("net.pt2")}, {"data": "photos", "model": "net.pt2"}),
        (InferConfig, {**NET, "step": np.int64(3)}, {"step": (3,)}),
        (InferConfig, {**NET, "mean": 0.5, "std": np.array([0.2, 0.3, 0.4])}, {"mean": (0.5,), "std": (0.2, 0.3, 0.4)}),
        (InferConfig, {**NET, "resize": [256, 256], "crop": "none"}, {"resize": (256, 256), "crop": "none"}),
        (InferConfig, {**NET, "classes": "names.txt", "out": "p"}, {"classes": Path("names.txt"), "out": Path("p")}),
        (InferConfig, {**NET, "timeout": 5, "strict": np.True_}, {"timeout": 5.0, "strict": True}),
        (InferConfig, {**NET, "workers": None, "part": [1, 8]}, {"workers": 0, "part": (1, 8)}),
        (ImportConfig, {"scores": "logits", "files": "x.npz"}, {"files": (Path("x.npz"),)}),
        (ImportConfig, {"scores": "logits", "files": ["x.npz"], "labels": "y.csv"}, {"labels": Path("y.csv")}),
        (VisualizeConfig, {"predictions": Path("p")}, {"predictions": (Path("p"),)}),
        (VisualizeConfig, {"predictions": "s3://b/p"}, {"predictions": (RemotePath.parse("s3://b/p"),)}),
        (VisualizeConfig, {"panels": "glance, curves", "logdir": None}, {"panels": ("glance", "curves")}),
        (VisualizeConfig, {"panels": ["glance"], "log_every": "all"}, {"panels": ("glance",), "log_every": "all"}),
        (CompareConfig, {"predictions": ["a", Path("b")]}, {"predictions": (Path("a"), Path("b"))}),
        (GateConfig, {"predictions": "p", "junit": "g.xml", "step": np.int32(2)}, {"junit": Path("g.xml"), "step": 2}),
        (BoardConfig, {"logdir": "l"}, {"logdir": Path("l")}),
    ],
)
def test_natural_types_are_taken(config: type, given: dict[str, Any], expected: dict[str, Any]) -> None:
    built = config(**given)
    assert {name: getattr(built, name) for name in expected} == expected
    for name, value in expected.items():
        assert type(getattr(built, name)) is type(value)


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (InferConfig, {**NET, "batch_size": "64"}, "--batch-size is '64'; expected a whole number"),
        (InferConfig, {**NET, "batch_size": 6.5}, "--batch-size is 6.5; expected a whole number"),
        (InferConfig, {**NET, "workers": True}, "--workers is True; expected a whole number"),
        (InferConfig, {**NET, "timeout": "long"}, "--timeout is 'long'; expected a number"),
        (InferConfig, {**NET, "mean": ["a"]}, "--mean is .*; expected a list of number"),
        (InferConfig, {**NET, "precision": "fp61"}, "--precision is 'fp61'; expected fp32, bf16 or fp16; did you mean"),
        (InferConfig, {**NET, "strict": "yes"}, "--strict is 'yes'; expected True or False"),
        (
            InferConfig,
            {**NET, "resize": (1, 2, 3)},
            r"--resize is \(1, 2, 3\); expected a whole number, none or 2 whole numbers",
        ),
        (InferConfig, {"data": None, "model": "net.py:build"}, "--data is None; expected text"),
        (InferConfig, {"data": "photos", "model": object()}, "--model is <object .*; expected text"),
        (InferConfig, {**NET, "model_args": "depth=18"}, "--model-args is 'depth=18'; expected a mapping"),
        (InferConfig, {**NET, "checkpoint": "s3://b/x.pt"}, "--checkpoint is s3://b/x.pt; expected a path on this"),
        (InferConfig, {**NET, "checkpoint": {"a": 1}}, "--checkpoint is .*; expected a list of path"),
        (InferConfig, {**NET, "out": Path("s3:/b")}, "pass it as text"),
        (VisualizeConfig, {"predictions": [3]}, "--predictions is .*; expected a list of"),
        (VisualizeConfig, {"log_every": "some"}, "--log-every is 'some'; expected a whole number or all"),
        (PreprocessingConfig, {"crop": np.zeros((2, 2))}, "--crop is array.*; expected a whole number or none"),
    ],
)
def test_what_cannot_be_meant_is_one_line(config: type, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        config(**given)
    assert "\n" not in str(raised.value)
