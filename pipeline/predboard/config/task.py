"""Define the flags that say what a model predicts for an image. It knows nothing of labels, scores or files."""

from dataclasses import dataclass

from predboard.config.checks import EmptyCell, LabelTask
from predboard.config.fields import Config, flag_name
from predboard.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Config):
    """Task: whether an image has one label or several."""

    task: LabelTask = "single-label"
    """single-label: one class for each image. multi-label: any number of classes, or none, each with a sigmoid of its
    own; it is never guessed."""

    label_separator: str | None = None
    """With --task multi-label, what stands between the labels in one column, such as '|'. Lists need none."""

    empty: EmptyCell | None = None
    """With --task multi-label, what an empty cell means: absent, the label does not apply; unknown, that is not known
    and in no figure."""

    none: str = ""
    """With --task multi-label, the name among the labels that says that none applies, such as 'No Finding'."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        if self.label_separator == "":
            raise InputError("--label-separator is empty; expected what stands between the labels, such as '|' or ' '")
        for name in ("label_separator", "empty", "none"):
            if getattr(self, name) and self.task != "multi-label":
                raise InputError(f"--{flag_name(name)} is for several labels of an image: add --task multi-label")
