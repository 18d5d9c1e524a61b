"""The run as one line of the table of runs: what it was made with, and how good it is. Knows no rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from predboard.metrics import registry
from predboard.metrics.counts import Counts, CountsPanel
from predboard.panels import RunInfo, describe_transform
from predboard.summaries import HParams, Summary

LONG = 60
"""Characters of a setting: the table is as wide as its longest."""


@dataclass(frozen=True)
class Panel(CountsPanel):
    """A line in HParams, at the last step: model, data, transform, precision; ten metrics."""

    renders_last: bool = True

    def render(self, info: RunInfo, states: Mapping[int, Counts]) -> Iterator[tuple[int, Summary]]:
        """One session: a run is one line of the table."""
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
            "images": int(states[step].rows),
            "step": step,
        }
        short = {name: value if not isinstance(value, str) else _short(value) for name, value in settings.items()}
        columns = {spec.tag: spec.column for spec in registry.rows("overall", "calibration") if spec.column}
        written = {tag: column for tag, column in columns.items() if info.has(tag)}
        yield step, HParams("hparams", info.name, short, written or columns)


def _plain(value: object) -> str | float | bool:
    return value if isinstance(value, str | float | int | bool) else str(value)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONG else f"{text[: LONG // 2]}…{text[1 - LONG // 2 :]}"
