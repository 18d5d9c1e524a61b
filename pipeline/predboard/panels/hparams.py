"""Makes the run a row of the table of runs: how it was made, and how good it is. It knows no rows of predictions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from predboard.metrics import registry
from predboard.panels import EVERY_TASK, RunInfo, describe_transform
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.state import summed
from predboard.summaries import HParams, Summary

SETTING_MAX_CHARACTERS = 60
"""Longer settings lose their middle: a column of the table is as wide as its longest cell."""


@dataclass(frozen=True)
class State:
    """How many rows there are."""

    rows: np.int64 = summed()


@dataclass(frozen=True)
class Panel:
    """A row in HParams, at the last step: model, data, transform, precision, and ten metrics."""

    columns: frozenset[str] = frozenset({"key"})
    without_scores: bool = True
    renders_last: bool = True
    tasks: frozenset[str] = EVERY_TASK

    def zero(self, run: Run) -> State:  # noqa: ARG002  the same for all runs
        """Return the state of no rows."""
        return State(np.int64(0))

    def measure(self, run: Run, batch: Predictions) -> State:  # noqa: ARG002  as above
        """Return the state of these rows alone."""
        return State(np.int64(len(batch)))

    def render(self, info: RunInfo, states: Mapping[int, State]) -> Iterator[tuple[int, Summary]]:
        """Yield one session, because a run is one row of the table."""
        run, step = info.run, max(states)
        facts = info.steps[step]
        settings: dict[str, str | float | bool] = {
            "model": run.model,
            **{f"model.{name}": _plain(value) for name, value in run.model_args.items()},
            "checkpoint": facts.checkpoint or "none",
            "data": "/".join(PurePosixPath(run.origin.replace("\\", "/")).parts[-2:]) or "unknown",
            "transform": describe_transform(run) or "none",
            "precision": run.precision,
            "scores": run.scores,
            "classes": len(run.classes),
            **({"positive": run.positive_class} if run.positive_class else {}),
            "images": int(states[step].rows),
            "step": step,
        }
        short = {name: value if not isinstance(value, str) else _short(value) for name, value in settings.items()}
        specs = registry.rows("overall", "calibration", task=run.task)
        if run.positive_class:
            specs = (*registry.rows("positive"), *specs)
        columns = {spec.tag: spec.column for spec in specs if spec.column}
        written = {tag: column for tag, column in columns.items() if info.has(tag)}
        yield step, HParams("hparams", info.name, short, written or columns)


def _plain(value: object) -> str | float | bool:
    return value if isinstance(value, str | float | int | bool) else str(value)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return (
        text
        if len(text) <= SETTING_MAX_CHARACTERS
        else f"{text[: SETTING_MAX_CHARACTERS // 2]}…{text[1 - SETTING_MAX_CHARACTERS // 2 :]}"
    )
