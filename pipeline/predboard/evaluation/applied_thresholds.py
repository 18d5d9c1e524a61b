"""Reads the thresholds of labels that another run was given, to apply them to a run. It knows no panel and no rows."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predboard.errors import InputError, first_line
from predboard.formatting import did_you_mean, unique_names
from predboard.near_paths import did_you_mean_path
from predboard.predictions.schema import MULTI_LABEL, Run
from predboard.storage.paths import AnyPath

FORMAT = 1
"""Version of `thresholds.json` that is read."""


@dataclass(frozen=True)
class AppliedThresholds:
    """The content of `thresholds.json`."""

    file: AnyPath
    run: str
    step: int
    fingerprint: str
    """Of the run and step where they were found."""
    log_odds: dict[str, float]
    """By label."""

    def of_run(self, run: Run) -> NDArray[np.float64]:
        """Return the logit from which each label of a run is predicted, [classes].

        Raises InputError if the run has no sets of labels, or other labels than the file.
        """
        if run.task != MULTI_LABEL:
            raise InputError(
                f"--thresholds {self.file} is of images with several labels, and {run.model} is {run.task}"
            )
        names = unique_names(run.classes)
        for name in names:
            if name not in self.log_odds:
                near = did_you_mean(name, self.log_odds)
                raise InputError(f"{self.file} has no threshold of the label {name!r} of {run.model}{near}")
        if unknown := [name for name in self.log_odds if name not in names]:
            raise InputError(f"{self.file} has a threshold of {unknown[0]!r}, which is no label of {run.model}")
        return np.array([self.log_odds[name] for name in names])

    def sentence(self, run: Run) -> str:
        """Say where the thresholds come from, and whether their images are those of the run itself."""
        where = f"labels are predicted at the thresholds of {self.file.name}, found on {self.run} at step {self.step}"
        if self.fingerprint == run.fingerprint:
            return (
                f"{where}: on half of these same images, so the figures of all of them are too good; its report has "
                "those of the other half"
            )
        return where


def read_label_thresholds(file: AnyPath) -> AppliedThresholds:
    """Read a file that the panel `thresholds` wrote. Raises InputError if it is none."""
    expected = "expected the thresholds.json that `predboard visualize` wrote beside an event file"
    try:
        record = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        near = "" if file.exists() else did_you_mean_path(file, Path.is_file)
        raise InputError(f"--thresholds {file} cannot be read ({first_line(error)}): {expected}{near}") from error
    if not isinstance(record, dict) or not isinstance(record.get("labels"), dict):
        raise InputError(f"--thresholds {file} has no labels: {expected}")
    if record.get("predboard_thresholds") != FORMAT:
        raise InputError(f"--thresholds {file} has format {record.get('predboard_thresholds')}: {expected}")
    try:
        log_odds = {name: _log_odds(name, of_label) for name, of_label in record["labels"].items()}
        run, step = str(record["run"]), int(record["step"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"--thresholds {file} is incomplete ({first_line(error)}): {expected}") from error
    return AppliedThresholds(file, run, step, str(record.get("fingerprint", "")), log_odds)


def _log_odds(name: str, of_label: dict[str, Any]) -> float:
    value = of_label["log_odds"]
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        raise ValueError(f"the threshold of {name} is not a number")
    return float(value)
