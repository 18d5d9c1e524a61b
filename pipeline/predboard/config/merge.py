"""Define the flags of `predboard merge`. It knows nothing of how they work."""

from dataclasses import dataclass, field

from predboard.config.checks import POSITIONAL
from predboard.config.fields import Config
from predboard.storage.paths import AnyPath


@dataclass(frozen=True)
class MergeConfig(Config):
    """Put runs of one model over different images together: another month, another camera, jobs that share nothing."""

    predictions: tuple[AnyPath, ...] = field(default=(), metadata=POSITIONAL)
    """Folders that `predboard infer` wrote, with the same steps, or one step of each as FOLDER@STEP. The rows of the
    first come first, then those of the second, and so on, numbered anew."""

    out: AnyPath | None = None
    """Folder for the new predictions."""

    rekey: bool = False
    """Name images by their paths from the folder that all runs have in common, where files in different folders have
    the same names. Otherwise they keep the keys by which other runs know them."""

    overwrite: bool = False
    """Replace steps in --out that were made of other predictions."""
