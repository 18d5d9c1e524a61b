"""Define the flags by which labels and columns change as predictions are read. It knows nothing of how they work."""

from dataclasses import dataclass

from predboard.config.fields import Config
from predboard.errors import InputError
from predboard.storage.paths import AnyPath


@dataclass(frozen=True, kw_only=True)
class AmendConfig(Config):
    """Labels and columns from other files: the predictions stay as they are, and nothing is inferred again."""

    labels: AnyPath | None = None
    """Corrected labels: CSV, JSON or Parquet with a key or path and a label in each row, or what the tab Predictions
    exports, or its predboard_tags.jsonl. Images that it does not name keep their labels."""

    labels_column: str | None = None
    """Column of --labels with the labels. Default: relabel_to, label, class, …"""

    labels_separator: str | None = None
    """With several labels for an image, what stands between them in one column of --labels. Lists need none."""

    labels_none: str = ""
    """With several labels for an image, the name in --labels that says that none applies, such as 'No Finding'."""

    columns: AnyPath | None = None
    """Further columns, such as country or patient: CSV, JSON or Parquet with a key or path in each row."""

    columns_by: str | None = None
    """Column that --columns and the predictions share, instead of key or path: patient, for example."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        of_labels = ("labels_column", "labels_separator", "labels_none")
        for name, needed in (*((name, "labels") for name in of_labels), ("columns_by", "columns")):
            if getattr(self, name) and getattr(self, needed) is None:
                raise InputError(f"--{name.replace('_', '-')} needs --{needed} FILE, whose column it names")


@dataclass(frozen=True, kw_only=True)
class GroupedAmendConfig(AmendConfig):
    """Rows that belong together: what intervals leave out as a whole."""

    group_column: str | None = None
    """Column whose equal values make images belong together, such as patient or scene: intervals then leave out whole
    groups, and say so; those that cannot take images as independent, and say that."""
