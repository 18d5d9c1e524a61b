"""What of a run is drawn can be chosen, and every error can be reached."""

import csv
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predboard import InputError, VisualizeConfig, visualize
from predboard.panels.confusion import parse_pairs
from predboard.panels.pages.confusion import EVERY
from predboard.predictions.schema import Run
from predboard.visualization.visualize import VisualizeResult
from tests import toy

NAMES = ("river", "road", "lake")
RUN = Run(classes=NAMES, model="toy.py:build")
LABEL = np.array([0, 0, 0, 0, 1, 1, 2, 2, -1])
LOGITS = np.array(
    [
        [5, 0, 0],  # right
        [0, 3, 0],  # river as road
        [1, 2, 0],  # river as road, less sure
        [2, 0, 4],  # river as lake
        [0, 4, 0],  # right
        [3, 1, 2],  # road as river, and lake is likelier than road, too
        [0, 0, 2],  # right
        [0, 0, 2],  # right
        [9, 0, 0],  # without a label
    ],
    np.float32,
)


def write(folder: Path, *steps: int) -> Path:
    root = str(toy.sources(folder / "images", len(LABEL)))
    for step in steps:
        toy.write_run(folder / "run", LOGITS, LABEL, dataclasses.replace(RUN, root=root, step=step))
    return folder / "run"


def choose(*given: Any, **more: Any) -> VisualizeConfig:
    """A configuration from what a program has: a path for a tuple of paths, for example."""
    return VisualizeConfig(*given, **more)


def tags(written: VisualizeResult) -> dict[tuple[str, int], int]:
    """Number of pictures by tag and step."""
    values = toy.read_values(written.event_file)
    pictures = {at: v for at, v in values.items() if v.metadata.plugin_data.plugin_name == "images"}
    return {at: len(v.tensor.string_val) - 2 for at, v in pictures.items()}


def test_errors_csv_has_every_error_the_most_confident_first(tmp_path: Path) -> None:
    written = visualize(VisualizeConfig((write(tmp_path, 1, 2),), tmp_path / "logs"))[0]
    with (tmp_path / "logs" / "run" / "errors.csv").open() as file:
        header, *lines = csv.reader(file)
    assert header == ["path", "true", "predicted", "confidence", "loss", "rank", "suspected", "row"]
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    # By confidence: rows 1 (e³/(e³+2) = .909), 3 (e⁴/(e⁴+e²+1) = .867), 2 (.665) and 5 (.665).
    assert [line[-1] for line in lines[:2]] == ["1", "3"]
    assert {line[-1] for line in lines[2:]} == {"2", "5"}
    for line in lines:
        row = int(line[-1])
        label = LABEL[row]
        assert line[1:3] == [NAMES[label], NAMES[p[row].argmax()]]
        assert float(line[3]) == pytest.approx(p[row].max(), rel=1e-5)
        assert float(line[4]) == pytest.approx(-np.log(p[row, label]), rel=1e-5)
        assert int(line[5]) == 1 + (p[row] > p[row, label]).sum()
        mean = [p[label == c, c].mean() for c in range(3) for label in [LABEL]]
        above = [c for c in range(3) if p[row, c] >= mean[c]]
        best = max(above, key=lambda c: p[row, c], default=-1)
        assert line[6] == (NAMES[best] if best not in (-1, label) else "")
    assert any(line[6] for line in lines)
    assert written.steps == (1, 2)


@pytest.mark.parametrize(
    ("pairs", "drawn"),
    [
        ((), {"river as road": 2, "river as lake": 1, "road as river": 1}),
        (("road>river",), {"road as river": 1}),
        (("river>*",), {"river as road": 2, "river as lake": 1}),
        (("*>river", " river > lake "), {"road as river": 1, "river as lake": 1}),
    ],
)
def test_the_galleries_of_pairs_are_those_that_were_asked_for(
    pairs: tuple[str, ...], drawn: dict[str, int], tmp_path: Path
) -> None:
    config = VisualizeConfig((write(tmp_path, 0),), tmp_path / "logs", panels=("confusion",), pairs=pairs)
    shown = tags(visualize(config)[0])
    assert {tag[10:]: n for (tag, _), n in shown.items() if " as " in tag} == drawn


def test_a_pair_without_an_image_is_a_warning_and_one_without_a_class_an_error(tmp_path: Path) -> None:
    lines: list[str] = []
    run = write(tmp_path, 0)
    visualize(choose(run, tmp_path / "logs", panels="confusion", pairs="lake>road"), lines.append)
    assert "warning: run: no image of lake was predicted as road at step 0" in lines
    for text, message in (("laek>road", "'laek' is no class; did you mean lake"), ("lake", "expected true>predicted")):
        with pytest.raises(InputError, match=message):
            visualize(choose(run, tmp_path / "logs", pairs=text))
    assert parse_pairs(["a>b>c>d"], ["a>b", "c>d"]) == ((0, 1),)
    assert parse_pairs(["*>*"], NAMES) == ((EVERY, EVERY),)


def test_steps_and_the_size_of_galleries_are_chosen(tmp_path: Path) -> None:
    run = write(tmp_path, 1, 2, 3)
    config = choose(run, tmp_path / "logs", steps=3, per_gallery=1)
    written = visualize(config)[0]
    assert written.steps == (3,)
    shown = tags(written)
    assert {step for _, step in shown} == {3}
    assert max(shown.values()) == 1
    assert visualize(config)[0].unchanged
    assert not visualize(dataclasses.replace(config, per_gallery=2))[0].unchanged
    with pytest.raises(InputError, match=re.escape("has no step 7; it has 1, 2, 3")):
        visualize(dataclasses.replace(config, steps=(7,)))
