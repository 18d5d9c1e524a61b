"""Define the flags of `predboard take`. It knows nothing of how they work."""

from dataclasses import dataclass, field

from predboard.config.amendments import AmendConfig
from predboard.config.checks import POSITIONAL, check_minimum
from predboard.config.rows import QueryConfig
from predboard.storage.paths import AnyPath


@dataclass(frozen=True)
class TakeConfig(QueryConfig, AmendConfig):
    """Make a smaller run of the images of a run that a query asks for, with their scores."""

    predictions: AnyPath | None = field(default=None, metadata=POSITIONAL)
    """Folder that `predboard infer` wrote, or FOLDER@STEP for one step. The query is of the last step; the other steps
    get the same images."""

    out: AnyPath | None = None
    """Folder for the new predictions."""

    limit: int | None = None
    """Most images, chosen evenly by the hash of their keys. Default: all that the query asks for."""

    overwrite: bool = False
    """Replace steps in --out that were made of other predictions, or by another query."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        check_minimum("limit", self.limit, 1)
