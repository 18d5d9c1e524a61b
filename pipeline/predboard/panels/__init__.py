"""Panels: what they are, which there are, and in which order they are drawn. It knows no files and no TensorBoard.

One file in this folder is one panel of single-label runs, and the name of the file is the name of the panel; those of
multi-label runs are in the folder `multi_label`, and some serve both tasks. Each has a frozen dataclass `Panel`; the
first line of its docstring says what it shows. A panel sees rows and its own state, never another panel.
`tests/test_laws.py` finds every file and checks that its states obey the laws of `state`. Other packages add panels by
an entry point of the group `predboard.panels`; CONTRIBUTING shows both.
"""

import importlib
import importlib.metadata
import itertools
import pkgutil
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol, cast, runtime_checkable

from predboard.errors import InputError, first_line
from predboard.formatting import did_you_mean
from predboard.metrics.label_effect import LabelEffect
from predboard.metrics.metric_spec import Direction
from predboard.predictions.derived_rows import DerivedRows
from predboard.predictions.schema import FORMATS, SINGLE_LABEL, Run
from predboard.predictions.table import Predictions
from predboard.summaries import Metrics, Pixels, Summary

ENTRY_POINTS = "predboard.panels"
"""Group of the entry points by which other packages add panels: `name = "module:Panel"`."""


@dataclass(frozen=True)
class StepInfo:
    """Everything known about one step besides its rows."""

    rows: int
    manifest_rows: int
    """Rows that the step should have."""
    checkpoint: str = ""
    device: str = ""
    warnings: tuple[str, ...] = ()
    """Warnings of stage one, each "problem: what to do"."""
    sheet: Pixels | None = field(default=None, compare=False)
    """Some images as the model received them, drawn by stage one."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time that stage one spent, by activity, over all parts."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Other facts that stage one recorded about itself: batch size, versions of the software, …"""
    started: float = 0.0
    finished: float = 0.0
    """When inference of the first part began and of the last one ended, seconds since 1970; 0 if that is unknown."""
    new_labels: LabelEffect | None = None
    """Effect of corrected labels; None without any."""


@dataclass(frozen=True)
class WrittenTag:
    """A tag that a panel has written."""

    tag: str
    kind: type[Summary]
    description: str


@dataclass(frozen=True)
class RunInfo:
    """The run that a panel draws."""

    name: str
    run: Run
    """The run as its last step describes it."""
    steps: Mapping[int, StepInfo]
    """Facts about each step, by step, ascending."""
    written: tuple[WrittenTag, ...] = ()
    """Tags that the panels before wrote; empty except for a panel that `RendersLast`."""

    thresholds: str = ""
    """Origin of the thresholds that labels are predicted at; empty if that is probability 1/2."""

    def has(self, tag: str) -> bool:
        """Return whether a panel before has written the tag."""
        return any(written.tag == tag for written in self.written)


class Panel(Protocol):
    """The interface of the class `Panel` of every panel."""

    @property
    def columns(self) -> frozenset[str]:
        """Columns that `measure` reads; `MANIFEST_COLUMNS` stands for all that the manifest adds. No other is read."""
        ...

    def zero(self, run: Run) -> Any:
        """Return the state of no rows."""
        ...

    def measure(self, run: Run, batch: Predictions) -> Any:
        """Return the state of these rows alone."""
        ...

    def render(self, info: RunInfo, states: Mapping[int, Any]) -> Iterator[tuple[int, Summary]]:
        """Yield (step, summary) for whatever is worth showing, each tag with ascending steps."""
        ...


SCORE_COLUMNS = frozenset({"logits", "loss", "margin", "entropy"})
"""Columns that only the scores of all classes give."""


@runtime_checkable
class WorksWithoutScores(Protocol):
    """A panel that needs no `SCORE_COLUMNS`, although it reads them where they are: it draws what is possible."""

    @property
    def without_scores(self) -> bool:
        """Whether it does."""
        ...


EVERY_TASK = frozenset(FORMATS)


@runtime_checkable
class ServesTasks(Protocol):
    """A panel that draws runs of other tasks than single-label ones.

    It needs no more than what rows of all of them answer, such as `right`, `loss`, `confidence` and `margin`; its
    columns are named as in single-label runs. A panel in the folder of a task need not say it, and takes the place of
    one of the same name that serves the task.
    """

    @property
    def tasks(self) -> frozenset[str]:
        """The tasks whose runs it draws."""
        ...


@runtime_checkable
class TwoPassPanel(Protocol):
    """A panel that needs the rows a second time, once the state of all of them is known, as confident learning does.

    In the second pass the rows have no logits; they are as `rows.parquet` stores them, failed ones included. `render`
    then gets a `TwoPass` for each step. The second states obey the same laws as the first.
    """

    def zero_second(self, run: Run, first: Any) -> Any:
        """Return the second state of no rows."""
        ...

    def measure_second(self, run: Run, first: Any, rows: DerivedRows) -> Any:
        """Return the second state of these rows alone, given the first state of all rows."""
        ...


@dataclass(frozen=True)
class TwoPass:
    """Both states of a `TwoPassPanel`."""

    first: Any
    second: Any


@runtime_checkable
class HasMetrics(Panel, Protocol):
    """A panel with numbers for `summary.json`, which `predboard gate` reads without drawing anything."""

    @property
    def metric_directions(self) -> Mapping[str, Direction]:
        """Every name that `metrics` may give, with `*` for a class or a slice, and which of two values is better."""
        ...

    def metrics(self, info: RunInfo, states: Mapping[int, Any]) -> Iterator[tuple[int, Metrics]]:
        """Yield (step, metrics) for each step that has them; `render` yields the same."""
        ...

    def restricted_to(self, wanted: Collection[str]) -> "HasMetrics":
        """Return a panel for these names of `metric_directions` alone, which draws nothing and may read less.

        It has all classes and slices, where `metrics` otherwise has those that are worth keeping.
        """
        ...


@runtime_checkable
class RendersLast(Protocol):
    """A panel that describes what the others wrote (`RunInfo.written`), as a report does, and renders after them."""

    @property
    def renders_last(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class NeedsHalf(Protocol):
    """A panel whose figures are of labels predicted at probability 1/2, and of no other thresholds."""

    @property
    def needs_half(self) -> bool:
        """Whether they are."""
        ...


@runtime_checkable
class HasNotes(Panel, Protocol):
    """A panel that may have to say on the terminal that it cannot show what was asked for."""

    def notes(self, info: RunInfo, states: Mapping[int, Any]) -> Iterator[str]:
        """Yield a line for each."""
        ...


@runtime_checkable
class LastStepOnly(Protocol):
    """A panel that draws the last step alone: rows of other steps are not measured, and their states are zero."""

    @property
    def last_step_only(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class NeedsSetting(Protocol):
    """A panel that has nothing to draw without one of its settings, and is left out then."""

    @property
    def is_set(self) -> bool:
        """Whether the setting is given."""
        ...


def names(task: str = SINGLE_LABEL) -> tuple[str, ...]:
    """Return the names of all panels that draw runs of a task, in the order in which they are drawn.

    Our own come first, sorted, then those of other packages, sorted: installing a package moves no other panel.

    Raises:
        InputError: if two panels have one name, or if another package's panel cannot be imported or is no panel.
    """
    return tuple(choose((), task))


def load(name: str, task: str = SINGLE_LABEL) -> Panel:
    """Return the panel of a name that draws runs of a task.

    Raises:
        InputError: as `choose` does.
    """
    return choose((name,), task)[name]


def choose(wanted: tuple[str, ...], task: str = SINGLE_LABEL) -> dict[str, Panel]:
    """Return the wanted panels by name, or all that draw runs of a task, always in the order of `names`.

    Raises:
        InputError: if there is none of a wanted name, or if another package's panel cannot be imported or is no panel.
    """
    own, others = _own_modules(task), _entry_points()
    available = (*own, *sorted(others))
    chosen = {
        name: _load_entry_point(others[name]) if name in others else _load_own(own[name])
        for name in available
        if not wanted or name in wanted
    }
    chosen = {name: _for_task(panel, task) for name, panel in chosen.items() if name in own or task in _tasks(panel)}
    for name in wanted:
        if name not in chosen:
            exists = name in others or any(name in _folder(other) for other in FORMATS)
            what = f"the panel {name!r} does not draw {task} runs" if exists else f"no panel {name!r}"
            raise InputError(f"{what}; choose from: {', '.join(available)}{did_you_mean(name, available)}")
    return chosen


def _for_task(panel: Panel, task: str) -> Panel:
    """Tell a panel of several tasks which one it is for, if it has a field for that."""
    has_field = any(field.name == "task" for field in fields(cast(Any, panel)))
    return cast(Panel, replace(cast(Any, panel), task=task)) if has_field else panel


def refuse_unknown(wanted: tuple[str, ...]) -> None:
    """Raise InputError for a name that no panel of any task has."""
    if not wanted:
        return
    available = dict.fromkeys((*itertools.chain(*map(_folder, FORMATS)), *sorted(_entry_points())))
    for name in wanted:
        if name not in available:
            raise InputError(f"no panel {name!r}; choose from: {', '.join(available)}{did_you_mean(name, available)}")


def configure(chosen: Mapping[str, Panel], **settings: Any) -> dict[str, Panel]:
    """Return the panels with those of the settings that are fields of theirs; None leaves a panel's own value.

    A panel that needs a setting which is not given is left out.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    own = {name: {field.name for field in fields(cast(Any, panel))} for name, panel in chosen.items()}
    set_up = {
        name: cast(Panel, replace(cast(Any, panel), **{k: v for k, v in given.items() if k in own[name]}))
        for name, panel in chosen.items()
    }
    return {name: panel for name, panel in set_up.items() if not isinstance(panel, NeedsSetting) or panel.is_set}


def without_scores(chosen: Mapping[str, Panel]) -> dict[str, Panel]:
    """Return the panels that can be drawn of a run with no more than predicted classes and their confidence."""
    return {
        name: panel
        for name, panel in chosen.items()
        if (isinstance(panel, WorksWithoutScores) and panel.without_scores) or not panel.columns & SCORE_COLUMNS
    }


def without_half(chosen: Mapping[str, Panel]) -> dict[str, Panel]:
    """Return the panels that can be drawn where labels are predicted at other thresholds than 1/2."""
    return {n: panel for n, panel in chosen.items() if not (isinstance(panel, NeedsHalf) and panel.needs_half)}


def title(panel: Panel) -> str:
    """Return what a panel shows on one line: the first line of its class's docstring."""
    return (type(panel).__doc__ or "").strip().partition("\n")[0].strip()


def render_rounds(chosen: Mapping[str, Panel]) -> list[dict[str, Panel]]:
    """Return the panels that describe no other, then each of those that describe the others, one at a time."""
    last = [name for name, panel in chosen.items() if isinstance(panel, RendersLast) and panel.renders_last]
    return [{n: p for n, p in chosen.items() if n not in last}, *({name: chosen[name]} for name in last)]


def describe_transform(run: Run) -> str:
    """Return what was done to an image before the model received it, on one line; empty if that is nothing."""
    return ", ".join(f"{k} {v}" for k, v in run.transform.items() if v not in (None, [], ""))


def _folder(task: str) -> dict[str, str]:
    """Return the modules of the panels in the folder of a task, by name."""
    folder = "" if task == SINGLE_LABEL else f".{task.replace('-', '_')}"
    path = importlib.import_module(__name__ + folder).__path__
    files = sorted(module.name for module in pkgutil.iter_modules(path) if not module.ispkg)
    return {name: f"{__name__}{folder}.{name}" for name in files}


def _own_modules(task: str) -> dict[str, str]:
    """Return the modules of our own panels that draw runs of a task, by name: its folder's, and others."""
    modules = _folder(task)
    if task != SINGLE_LABEL:
        more = {name: module for name, module in _folder(SINGLE_LABEL).items() if task in _tasks(_load_own(module))}
        modules = dict(sorted({**more, **modules}.items()))
    return modules


def _tasks(panel: Panel) -> frozenset[str]:
    """Return the tasks whose runs a panel draws that is in no folder of a task."""
    return panel.tasks if isinstance(panel, ServesTasks) else frozenset({SINGLE_LABEL})


def _load_own(module: str) -> Panel:
    return cast(Panel, importlib.import_module(module).Panel())


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    """Return the panels that other packages add, by name."""
    own = {name for task in FORMATS for name in _folder(task)}
    by_name: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", entry.name):
            raise InputError(
                f"the package {_package(entry)} calls a panel {entry.name!r}, but a panel's name has lower-case "
                "letters, digits and _ only; update or uninstall the package"
            )
        other = "predboard" if entry.name in own else None
        if entry.name in by_name and _package(by_name[entry.name]) != _package(entry):
            other = f"the package {_package(by_name[entry.name])}"
        if other:
            raise InputError(
                f"two panels are called {entry.name!r}: one of {other}, one of the package {_package(entry)}; "
                "uninstall one of them"
            )
        by_name[entry.name] = entry
    return by_name


def _load_entry_point(entry: importlib.metadata.EntryPoint) -> Panel:
    source = f"the panel {entry.name!r} of the package {_package(entry)} ({entry.value})"
    try:
        panel = entry.load()()
    except Exception as error:  # another package's code may fail in any way
        raise InputError(f"{source} cannot be loaded: {first_line(error)}; update or uninstall the package") from error
    lacking = [name for name in ("columns", "zero", "measure", "render") if not hasattr(panel, name)]
    if lacking or not is_dataclass(panel):
        fault = f"it lacks {lacking[0]!r}" if lacking else "it is no dataclass"
        raise InputError(f"{source} is no panel: {fault}; update or uninstall the package")
    return cast(Panel, panel)


def _package(entry: importlib.metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.value
