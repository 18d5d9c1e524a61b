"""Define the flags of `predboard visualize`. It knows nothing of how they work."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from predboard.config.amendments import GroupedAmendConfig
from predboard.config.checks import POSITIONAL, Engine, check_minimum, check_ray_only, check_workers
from predboard.errors import InputError
from predboard.storage.paths import AnyPath


@dataclass(frozen=True)
class VisualizeConfig(GroupedAmendConfig):
    """Write the TensorBoard summaries of saved predictions, without the model."""

    predictions: tuple[AnyPath, ...] = field(default=(), metadata=POSITIONAL)
    """Folders that `predboard infer` wrote, one for each run."""

    logdir: AnyPath = Path("logs")
    """Folder for TensorBoard; each run gets a subfolder with its name."""

    panels: tuple[str, ...] = ()
    """Names of panels, separated by commas. Default: all. See --list."""

    list: bool = False
    """List the panels and stop."""

    steps: tuple[int, ...] = ()
    """Draw these steps alone. Default: all."""

    per_gallery: int | None = None
    """Images in a gallery. Default: 12 in most."""

    pairs: tuple[str, ...] = ()
    """Confused pairs whose images are shown, such as 'River>Highway,Forest>*': true class, then predicted class, and *
    for every class. Default: the six most frequent."""

    slice: tuple[tuple[str, ...], ...] = ()
    """Columns whose values are crossed, such as country,season, or the edges at which a column of numbers is cut:
    cloud=0,10,50,100. May be repeated, also for both: country,cloud."""

    positive: str | None = None
    """Name of the positive one of two classes. Default: as the predictions record it, else the second."""

    thresholds: AnyPath | None = None
    """The thresholds.json of another run with several labels per image: a label is predicted from its threshold on,
    instead of from probability 1/2."""

    groups: AnyPath | None = None
    """CSV file of groups of the classes: class, level 1, level 2, …; its header names the levels (docs/groups.md)."""

    image_root: AnyPath | None = None
    """Current folder of the source images, if they were moved after inference."""

    images_anywhere: bool = False
    """Also open source images that lie elsewhere than below --image-root, or else the folder of inference. Only for
    predictions that you trust: their paths may lead to any file of yours, and to object storage."""

    log_every: int | Literal["all"] | None = None
    """Also show every N-th image, or all, as contact sheets of 64; up to an event file of 100 MiB, as many of each
    class as fit."""

    thumbnails: Literal["auto", "always", "never"] = "auto"
    """Store a small picture of every image for the tab Predictions. auto: of up to 50,000 images on this machine, whose
    files have up to 2,000 megapixels together."""

    map: str = "auto"
    """Place of the images on the map of the tab Predictions: principal components of the embeddings, or of the logits
    (auto: when reading takes no more than a few seconds; always; never), or two columns of your own, such as
    umap_x,umap_y."""

    cache: Literal["auto", "always", "never"] = "auto"
    """Keep the measurements of each part beside the logs, so that the next run reads only new parts. auto: when reading
    takes more than a few seconds."""

    engine: Engine = "local"
    """ray: read on a Ray cluster, whose machines see the predictions under the same path (docs/scale.md)."""

    ray_address: str | None = None
    """Address of the cluster, or auto. Default: RAY_ADDRESS, else a cluster that runs on this machine, else a new one
    for this command."""

    workers: int = 0
    """Processes that read, when there is enough to do, and threads that draw. 0: one per processor, at most 16."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        check_workers("workers", self.workers)
        check_minimum("per-gallery", self.per_gallery, 1)
        check_ray_only(self, "ray_address")
        if self.map not in ("auto", "always", "never") and not re.fullmatch("[^,]+,[^,]+", self.map):
            raise InputError(f"--map is {self.map!r}; expected auto, always, never, or the names of two columns: X,Y")
        check_minimum("log-every", self.log_every if isinstance(self.log_every, int) else None, 1)
