"""Define the flags of `predboard rows`. It knows nothing of how they work."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from predboard.config.checks import POSITIONAL, check_minimum
from predboard.config.fields import Config
from predboard.errors import InputError
from predboard.storage.paths import AnyPath

ChangeKind = Literal["fixed", "broken", "changed", "changed_wrong", "both_wrong", "same", "labels_differ", "only"]


@dataclass(frozen=True, kw_only=True)
class QueryConfig(Config):
    """Which images: those for which all of these are true."""

    true: tuple[str, ...] = ()
    """True classes, by name or number, separated by commas; -1 is none."""

    predicted: tuple[str, ...] = ()
    """Predicted classes, likewise; -1 is none: a failed image or, where images have several labels, an empty set."""

    missed: tuple[str, ...] = ()
    """True classes that were not predicted, likewise; -1 is none, where images have several labels."""

    wrongly_predicted: tuple[str, ...] = ()
    """Predicted classes that are not true, likewise."""

    right: bool = False
    """Only images whose prediction is right."""

    wrong: bool = False
    """Only images whose prediction is wrong."""

    state: Literal["labelled", "unlabelled", "failed"] | None = None
    """labelled: with label and prediction; unlabelled: with a prediction alone; failed: without one."""

    confidence: str | None = None
    """Range LOW..HIGH of the probability of the predicted class, such as .9.. or ..0.5; both ends belong to it."""

    loss: str | None = None
    """Range of the negative log-likelihood of the label, nats."""

    margin: str | None = None
    """Range of the probability of the predicted class minus that of the runner-up."""

    entropy: str | None = None
    """Range of the entropy of the probabilities, nats."""

    where: tuple[str, ...] = ()
    """Values of further columns, separated by commas: country=NO, or year=2001..2003 for numbers; country= is none."""

    text: str = ""
    """Part of the images' names, in upper or lower case."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        if self.right and self.wrong:
            raise InputError("--right and --wrong exclude each other: leave one out, or use --state labelled for both")


@dataclass(frozen=True)
class RowsConfig(QueryConfig):
    """List the images of a run that a query asks for, as the tab Predictions selects them."""

    logs: AnyPath | None = field(default=None, metadata=POSITIONAL)
    """Folder of the run's logs, logs/NAME, which `predboard visualize` wrote."""

    step: int | None = None
    """Step of the run. Default: its last."""

    tag: tuple[str, ...] = ()
    """Tags of which an image has at least one; ! stands for no tag at all."""

    suspects: bool = False
    """Only images whose labels are suspected to be wrong."""

    other: str | None = None
    """Another step to compare with, RUN@STEP; RUN is in the same folder of logs."""

    kind: ChangeKind | None = None
    """How images changed since --other, as `predboard compare` counts them; only: images that --other does not have."""

    was: tuple[str, ...] = ()
    """Classes that --other predicted, by name or number, separated by commas; -1 is none."""

    lost: tuple[str, ...] = ()
    """True labels that --other predicted and this step misses, likewise, where images have several labels."""

    gained: tuple[str, ...] = ()
    """True labels that --other missed and this step predicts, likewise."""

    dropped: tuple[str, ...] = ()
    """Labels that --other predicted wrongly and this step does not, likewise."""

    added: tuple[str, ...] = ()
    """Labels that this step predicts wrongly and --other did not, likewise."""

    sort: str | None = None
    """Column by which images are sorted, the highest value first; id is the order of the data. Default: as in the tab,
    loss, the worst first; without labels the least confident first, with --suspects the likeliest first."""

    ascending: bool = False
    """Sort the lowest value first."""

    limit: int | None = None
    """Most images. Default: all."""

    format: Literal["csv", "json", "parquet", "paths"] = "csv"
    """Format of the list, which goes to standard output."""

    copy_to: Path | None = None
    """New folder for copies of the images themselves, numbered in their order, with the list beside them."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        check_minimum("limit", self.limit, 1)
        for name in ("kind", "was", "lost", "gained", "dropped", "added"):
            if getattr(self, name) and self.other is None:
                raise InputError(f"--{name} needs --other RUN@STEP, the step to compare with")
