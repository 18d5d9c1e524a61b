"""Define the flags of `predboard gate`. It knows nothing of how they work."""

from dataclasses import dataclass, field
from pathlib import Path

from predboard.config.amendments import GroupedAmendConfig
from predboard.config.checks import POSITIONAL, check_workers
from predboard.errors import InputError
from predboard.storage.paths import AnyPath


@dataclass(frozen=True)
class GateConfig(GroupedAmendConfig):
    """Test saved predictions against rules: exit code 0 if all pass, 1 if one fails, 3 if the evidence is too thin."""

    predictions: AnyPath | None = field(default=None, metadata=POSITIONAL)
    """Folder that `predboard infer` wrote."""

    rules: AnyPath | None = None
    """TOML file with a table [[rule]] for each rule; see docs/gates.md and --suggest."""

    baseline: AnyPath | None = None
    """Predictions to compare with, for rules with max_drop. May be the same folder, with --baseline-step."""

    step: int | None = None
    """Step to test. Default: the last."""

    baseline_step: int | None = None
    """Step of the baseline. Default: its last."""

    positive: str | None = None
    """Name of the positive one of two classes. Default: as the predictions record it, else the second."""

    thresholds: AnyPath | None = None
    """The thresholds.json of another run with several labels per image: a label is predicted from its threshold on,
    instead of from probability 1/2."""

    groups: AnyPath | None = None
    """CSV file of groups of the classes: class, level 1, level 2, …; its header names the levels (docs/groups.md)."""

    suggest: bool = False
    """Print a first file of rules, made from these predictions, and stop."""

    junit: Path | None = None
    """Also write JUnit XML to this file, with a test case for each rule."""

    markdown: Path | None = None
    """Also write Markdown to this file, for a pull request."""

    json: Path | None = None
    """Also write JSON to this file."""

    report: Path | None = None
    """File with scikit-learn's classification_report: its text, or its dictionary as JSON or CSV. The gate fails if it
    does not belong to these predictions."""

    allow_incomplete: bool = False
    """Test the rows that exist, although some are missing; otherwise missing rows fail the gate."""

    map_classes: bool = False
    """Match classes by name when the two runs list different classes, or in a different order; of several labels those
    count that both have."""

    slice: tuple[tuple[str, ...], ...] = ()
    """Edges at which a column of numbers is cut for rules on its slices: cloud=0,10,50,100; may be repeated. What rules
    cross needs no flag."""

    workers: int = 0
    """Processes that read, when there is enough to do. 0: one per processor, at most 16."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        check_workers("workers", self.workers)
        if self.suggest and self.rules is not None:
            raise InputError("--suggest and --rules exclude each other: one writes rules, the other tests them")
        for name in ("junit", "json", "markdown", "report"):
            if self.suggest and getattr(self, name) is not None:
                raise InputError(f"--suggest and --{name} exclude each other: a report needs rules that were tested")
        if self.report is not None and self.labels is not None:
            raise InputError("--report and --labels exclude each other: the report is of the labels as they were")
        if self.baseline is None and (self.baseline_step is not None or self.map_classes):
            flag = "--map-classes" if self.map_classes else "--baseline-step"
            raise InputError(f"{flag} needs --baseline: name the predictions to compare with")
