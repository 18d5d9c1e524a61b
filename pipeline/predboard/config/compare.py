"""Define the flags of `predboard compare`. It knows nothing of how they work."""

from dataclasses import dataclass, field
from pathlib import Path

from predboard.config.amendments import GroupedAmendConfig
from predboard.config.checks import POSITIONAL, check_workers
from predboard.storage.paths import AnyPath


@dataclass(frozen=True)
class CompareConfig(GroupedAmendConfig):
    """Compare runs image by image: what was fixed, what was broken, and whether the difference is more than chance."""

    predictions: tuple[AnyPath, ...] = field(default=(), metadata=POSITIONAL)
    """Folders that `predboard infer` wrote, the old one first. With more than two, every pair is compared (with more
    than 12, each with the first and with the most accurate); with one, its steps."""

    logdir: AnyPath = Path("logs")
    """Folder for TensorBoard; the comparison gets a subfolder `NEW vs OLD`."""

    step_old: int | None = None
    """Step of the old run. Default: its last; within one run, its first."""

    step_new: int | None = None
    """Step of the new run. Default: its last."""

    slice: tuple[tuple[str, ...], ...] = ()
    """Columns whose values are crossed, such as country,season, or the edges at which a column of numbers is cut:
    cloud=0,10,50,100. May be repeated, also for both: country,cloud."""

    groups: AnyPath | None = None
    """CSV file of groups of the classes: class, level 1, level 2, …; its header names the levels (docs/groups.md)."""

    map_classes: bool = False
    """Match classes by name when the two runs list different classes, or in a different order; of several labels those
    count that both have."""

    positive: str | None = None
    """Name of the positive one of two classes. Default: as the predictions record it, else the second."""

    thresholds: AnyPath | None = None
    """The thresholds.json of another run with several labels an image: a label is predicted from its threshold on,
    instead of from probability 1/2. It goes for both runs."""

    image_root: AnyPath | None = None
    """Current folder of the source images, if they were moved after inference."""

    images_anywhere: bool = False
    """Also open source images that lie elsewhere than below --image-root, or else the folder of inference. Only for
    predictions that you trust: their paths may lead to any file of yours, and to object storage."""

    workers: int = 0
    """Threads that draw. 0: one per processor, at most 16."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        check_workers("workers", self.workers)
