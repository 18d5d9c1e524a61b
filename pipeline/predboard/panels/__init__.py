"""One file here is one panel, and the file's name is the panel's name. Knows no files, TensorBoard or other panels.

Every file has a frozen dataclass `Panel`, whose docstring says what it shows. A panel sees rows and its own state, and
`tests/test_laws.py` finds it and holds it to the laws of `state`. CONTRIBUTING walks through adding one.
"""

import importlib
import pkgutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast, runtime_checkable

from predboard.errors import InputError
from predboard.predictions.derived_rows import DerivedRows
from predboard.predictions.schema import Run
from predboard.predictions.table import Predictions
from predboard.summaries import Metrics, Pixels, Summary

Direction = Literal["more", "less", "neither"]
"""Which of two values of a figure is the better one."""


@dataclass(frozen=True)
class StepInfo:
    """What is known of one step besides its rows."""

    rows: int
    manifest_rows: int
    """Rows that there should be."""
    checkpoint: str = ""
    device: str = ""
    warnings: tuple[str, ...] = ()
    """What stage one warned of before the long run, each "what is the matter: what to do"."""
    sheet: Pixels | None = field(default=None, compare=False)
    """Some pictures as the model got them, drawn by stage one."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Where stage one's time went, over all parts."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What else stage one noted of itself: batch size, versions of the software, …"""
    started: float = 0.0
    finished: float = 0.0
    """When inference of the first part began and of the last one ended, seconds since 1970; 0 if that is not known."""


@dataclass(frozen=True)
class WrittenTag:
    """What is written under one tag."""

    tag: str
    kind: type[Summary]
    description: str


@dataclass(frozen=True)
class RunInfo:
    """The run that a panel renders."""

    name: str
    run: Run
    """Of the last step."""
    facts: Mapping[int, StepInfo]
    """By step, ascending."""
    written: tuple[WrittenTag, ...] = ()
    """What the panels before wrote; nothing but for a panel that `RendersLast`."""

    def has(self, tag: str) -> bool:
        """Whether something was written under that tag."""
        return any(shown.tag == tag for shown in self.written)


class Panel(Protocol):
    """What a panel file must have."""

    @property
    def columns(self) -> frozenset[str]:
        """Columns that `measure` reads, `predictions.FURTHER` for all that the manifest brought; no other is read."""
        ...

    def zero(self, run: Run) -> Any:
        """The state of no rows."""
        ...

    def measure(self, run: Run, batch: Predictions) -> Any:
        """The state of these rows alone."""
        ...

    def render(self, subject: RunInfo, states: Mapping[int, Any]) -> Iterator[tuple[int, Summary]]:
        """(step, summary) for whatever is worth drawing, each tag with ascending steps."""
        ...


@runtime_checkable
class TwoPassPanel(Protocol):
    """A panel that needs the rows once more when the state of all of them is known, as confident learning does.

    The rows come without logits, as `rows.parquet` has them (`predictions.rows_schema`), with failed ones. `render`
    then gets `TwoPass` for each step. The second states obey the same laws.
    """

    def zero_second(self, run: Run, first: Any) -> Any:
        """The second state of no rows."""
        ...

    def measure_second(self, run: Run, first: Any, rows: DerivedRows) -> Any:
        """The second state of these rows alone, given the first state of all rows."""
        ...


@runtime_checkable
class HasMetrics(Panel, Protocol):
    """A panel with numbers for `summary.json`, which `predboard gate` asks for without drawing anything."""

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Every name that `figures` may give, `*` for a class or a slice, and which of two values is better."""
        ...

    def metrics(self, subject: RunInfo, states: Mapping[int, Any]) -> Iterator[tuple[int, Metrics]]:
        """(step, figures) of each step that has them; `render` yields the same."""
        ...

    def restricted_to(self, wanted: Collection[str]) -> "HasMetrics":
        """A panel that is asked for figures of these names alone, of `figured`, and for no drawing: it may read less.

        For a class or a slice it has all of them, where `figures` has those that are worth keeping.
        """
        ...


@runtime_checkable
class RendersLast(Protocol):
    """A panel that speaks of what the others wrote (`Subject.written`), as a report does, and so renders after them."""

    @property
    def last(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class LastStepOnly(Protocol):
    """A panel that draws the last step alone: rows of the others are not measured, and their states are zero."""

    @property
    def last_step_only(self) -> bool:
        """Whether it does."""
        ...


@dataclass(frozen=True)
class TwoPass:
    """Both states of a panel that looks again."""

    first: Any
    again: Any


def names() -> tuple[str, ...]:
    """All panels, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> Panel:
    """The panel of that name. Raises InputError if there is none."""
    if name not in names():
        raise InputError(f"no panel {name!r}; there are: {', '.join(names())}")
    return cast(Panel, importlib.import_module(f"{__name__}.{name}").Panel())


def choose(wanted: tuple[str, ...]) -> dict[str, Panel]:
    """The wanted panels by name, all if none is named, in the order of their names."""
    return {name: load(name) for name in sorted(wanted or names())}


def render_rounds(chosen: Mapping[str, Panel]) -> list[dict[str, Panel]]:
    """The panels that render side by side, and then those that speak of the others, each for itself."""
    last = [name for name, panel in chosen.items() if isinstance(panel, RendersLast) and panel.last]
    return [{n: p for n, p in chosen.items() if n not in last}, *({name: chosen[name]} for name in last)]


def describe_transform(run: Run) -> str:
    """What was done to a picture before the model saw it, on one line; empty if that is nothing."""
    return ", ".join(f"{k} {v}" for k, v in run.transform.items() if v not in (None, [], ""))
