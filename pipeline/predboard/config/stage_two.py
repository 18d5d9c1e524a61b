"""Define the configurations of the commands that read saved predictions. It knows nothing of how they work."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from predboard.config.checks import POSITIONAL, Engine, check_local, check_minimum, check_ray_only, read_paths
from predboard.errors import InputError
from predboard.storage.paths import AnyPath


@dataclass(frozen=True)
class VisualizeConfig:
    """Write the TensorBoard summaries of saved predictions, without the model."""

    predictions: tuple[AnyPath, ...] = field(default=(), metadata=POSITIONAL)
    """Folders that `predboard infer` wrote, one for each run."""

    logdir: AnyPath = Path("logs")
    """Folder for TensorBoard; each run gets a subfolder with its name."""

    panels: tuple[str, ...] = ()
    """Names of panels, separated by commas. Default: all. See --list."""

    list: bool = False
    """List the panels and stop."""

    image_root: AnyPath | None = None
    """Where the source images are now, if they were moved after inference."""

    log_every: int | Literal["all"] | None = None
    """Also show every N-th image, as a loop over the data would log it; or all images, up to an event file of
    100 MiB."""

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
        read_paths(self, "predictions", "logdir", "image_root")
        check_minimum("workers", self.workers, 0)
        check_ray_only(self, "ray_address")
        check_minimum("log-every", self.log_every if isinstance(self.log_every, int) else None, 1)


@dataclass(frozen=True)
class CompareConfig:
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

    map_classes: bool = False
    """Match classes by name when the two runs list different classes, or in a different order."""

    image_root: AnyPath | None = None
    """Where the source images are now, if they were moved after inference."""

    workers: int = 0
    """Threads that draw. 0: one per processor, at most 16."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        read_paths(self, "predictions", "logdir", "image_root")
        check_minimum("workers", self.workers, 0)


@dataclass(frozen=True)
class GateConfig:
    """Test saved predictions against rules: exit code 0 if all pass, 1 if one fails, 3 if the evidence is too thin."""

    predictions: AnyPath | None = field(default=None, metadata=POSITIONAL)
    """Folder that `predboard infer` wrote."""

    rules: Path | None = None
    """TOML file with a table [[rule]] for each rule; see docs/gates.md and --suggest."""

    baseline: AnyPath | None = None
    """Predictions to compare with, for rules with max_drop. May be the same folder, with --baseline-step."""

    step: int | None = None
    """Step to test. Default: the last."""

    baseline_step: int | None = None
    """Step of the baseline. Default: its last."""

    suggest: bool = False
    """Print a first file of rules, made from these predictions, and stop."""

    junit: Path | None = None
    """Also write JUnit XML to this file, with a test case for each rule."""

    markdown: Path | None = None
    """Also write Markdown to this file, for a pull request."""

    json: Path | None = None
    """Also write JSON to this file."""

    allow_incomplete: bool = False
    """Test the rows that exist, although some are missing; otherwise missing rows fail the gate."""

    map_classes: bool = False
    """Match classes by name when the two runs list different classes, or in a different order."""

    workers: int = 0
    """Processes that read, when there is enough to do. 0: one per processor, at most 16."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        read_paths(self, "predictions", "baseline")
        check_local(self, "rules", "junit", "json", "markdown")
        check_minimum("workers", self.workers, 0)
        if self.suggest and self.rules is not None:
            raise InputError("--suggest and --rules exclude each other: one writes rules, the other tests them")
        for name in ("junit", "json", "markdown"):
            if self.suggest and getattr(self, name) is not None:
                raise InputError(f"--suggest and --{name} exclude each other: a report needs rules that were tested")
        if self.baseline is None and (self.baseline_step is not None or self.map_classes):
            flag = "--map-classes" if self.map_classes else "--baseline-step"
            raise InputError(f"{flag} needs --baseline: name the predictions to compare with")


@dataclass(frozen=True)
class BoardConfig:
    """Open TensorBoard with limits that show everything `predboard visualize` wrote."""

    logdir: AnyPath = Path("logs")
    """Folder that `predboard visualize` wrote."""

    port: int = 6006
    """Port on this machine."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        read_paths(self, "logdir")
        if not 1 <= self.port <= 65535:
            raise InputError(f"--port is {self.port}; expected 1 to 65535")


@dataclass(frozen=True)
class MetricsConfig:
    """List all metrics with their definitions."""

    markdown: bool = False
    """Print docs/metrics.md, with formulas, intervals and sources."""


@dataclass(frozen=True)
class InspectConfig:
    """Describe a folder of predictions, and check that it is complete."""

    predictions: AnyPath | None = field(default=None, metadata=POSITIONAL)
    """Folder that `predboard infer` wrote."""

    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        read_paths(self, "predictions")
