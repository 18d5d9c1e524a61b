"""Define the flags of `predboard infer`, in groups. It knows nothing of how they work."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from predboard.config.checks import (
    Channels,
    Engine,
    Exif,
    Interpolation,
    Precision,
    ScoreKind,
    SideLength,
    check_minimum,
    check_ray_only,
    check_read_gb,
    check_step_for_each,
    check_steps,
    check_update,
    check_workers,
    is_plain,
)
from predboard.config.fields import Config
from predboard.config.task import TaskConfig
from predboard.errors import InputError
from predboard.storage.paths import MAX_READ_GB, AnyPath

MAX_TIMEOUT_SECONDS = 1_000_000
"""Operating systems limit how long a call may wait."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Data: which images, and what their labels are."""

    data: str = field(kw_only=False)
    """Images: a folder with one subfolder per class, or a flat folder; a list (.csv, .tsv, .jsonl, .parquet); Parquet
    that contains the images; .tar parts (WebDataset, {000..012}); a .zip of class folders; an IDX file; or
    FILE.py:DATASET, a torch Dataset or a function that returns one."""

    limit: int | None = None
    """Use only N images, spread evenly over the data by the hash of their keys."""

    classes: AnyPath | None = None
    """File with the class names in the order of the model's outputs, one per line. Images whose label is not in the
    list are treated as unlabelled; with --task multi-label such labels are refused."""

    image_column: str | None = None
    """Column with the image paths, or with the images themselves in Parquet; or the key in a dataset's items.
    Default: image, path, …"""

    label_column: str | None = None
    """Column or key with the labels, as class names or indices. none if they have none. Default: label, class, target,
    category, …"""

    key_column: str | None = None
    """Column with a stable image ID, used to match images across runs. Default: the image's path."""

    image_root: AnyPath | None = None
    """Folder that the paths in a list are relative to. Default: the folder of the list."""

    max_read_gb: float = MAX_READ_GB
    """Gigabytes of memory that one piece of the data may take: an image file, a member of an archive, an IDX file, a
    list, a row group of Parquet, or what a checkpoint unpacks beyond its size. More is refused before it is read."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        check_read_gb(self.max_read_gb)
        check_minimum("limit", self.limit, 1)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """Model: which model, and which weights."""

    model: str = field(kw_only=False)
    """FILE.py:FACTORY, a function that returns a torch.nn.Module (or a module itself); torchvision:NAME, timm:NAME or
    hf:NAME_OR_FOLDER, with the preprocessing of that library; or a saved program: FILE.pt2 from torch.export, FILE.pt
    from TorchScript."""

    checkpoint: tuple[Path, ...] = ()
    """Weights (.pt, .pth, .safetensors), or a pattern such as 'net/*.pt'. Several checkpoints of one training become
    the steps of one run."""

    step: tuple[int, ...] = ()
    """Step of each checkpoint. Default: the number after step, iter or epoch (in this order) in its file name, else
    0."""

    model_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for the factory. A value is read as a Python literal if it is one, else as text. For a library's model
    without a checkpoint, pretrained=False uses random weights instead of the library's."""

    scores: ScoreKind = "logits"
    """Kind of the model's output. Set it if it ends in a softmax or log-softmax; log-probabilities are stored then. Of
    several labels (--task multi-label) probabilities end in a sigmoid, and log-odds are stored."""

    positive: str | None = None
    """Name of the positive one of two classes, which a single output speaks for, and stage two has figures of. Default:
    the second. A single output is stored as two: 0 and itself."""

    ema: bool = False
    """Use the exponential moving average of the weights that the checkpoint also contains."""

    trust_checkpoint: bool = False
    """Unpickle checkpoints that contain more than weights, such as whole modules. This runs any code they contain, with
    your rights."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        check_steps(self.step)
        if not any(re.search(r"[*?[]", str(file)) for file in self.checkpoint):  # which may stand for several
            check_step_for_each(self.step, len(self.checkpoint))
        for key, value in self.model_args.items():
            if not is_plain(value):
                raise InputError(
                    f"--model-args {key} is {value!r}; expected text, a number, True, False or None, or a list or dict "
                    "(with text as keys) of these, because the predictions record how the model was built"
                )


@dataclass(frozen=True, kw_only=True)
class PreprocessingConfig(Config):
    """Preprocessing: what happens to an image before the model sees it."""

    resize: SideLength | tuple[int, int] | None = None
    """N: resize the shorter side to N; HxW: resize to exactly this size; none: keep the images as they are, all of one
    size. Default: what the library of a torchvision:, timm: or hf: model says, else none."""

    crop: SideLength | None = None
    """Side of the square cut from the centre after the resize, or none. Default: the library's, else none."""

    mean: tuple[float, ...] | None = None
    """Subtracted from x/255: one number, or one per channel. Default: the library's, else 0."""

    std: tuple[float, ...] | None = None
    """Divides x/255 - mean: one number, or one per channel. Default: the library's, else 1."""

    interpolation: Interpolation | None = None
    """Filter of --resize (Pillow's filters, antialiased). Default: the library's, else bilinear."""

    exact_resize: bool = False
    """Interpolate the whole image and then crop, as most training code does. Without it, bilinear interpolation only
    computes the pixels inside the crop, which is faster; a few values differ by one level of 255, almost none by
    two."""

    channels: Channels = "rgb"
    """Channels that the model expects."""

    transform: str | None = None
    """FILE.py:FUNCTION, called with each decoded Pillow image. It returns a Pillow image or a uint8 array, to which the
    other flags are applied, or floats [channels, height, width] that go to the model as they are."""

    exif: Exif = "ignore"
    """Whether to rotate images by their EXIF orientation. Most training loaders ignore it, so that is the default."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        for side in self.resize if isinstance(self.resize, tuple) else (self.resize,):
            check_minimum("resize", side if isinstance(side, int) else None, 1)
        check_minimum("crop", self.crop if isinstance(self.crop, int) else None, 1)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and not all(math.isfinite(value) for value in values):
                raise InputError(f"--{name} is {','.join(map(str, values))}; expected finite numbers")
        if self.std is not None and min(self.std) <= 0:
            raise InputError(f"--std is {','.join(map(str, self.std))}; expected numbers above 0")


@dataclass(frozen=True, kw_only=True)
class OutputConfig(Config):
    """Output: what is stored, and where."""

    out: AnyPath | None = None
    """Folder for the predictions. Default: predictions/DATA-MODEL."""

    thumbnails: int | None = None
    """Also store a JPEG of each image with this longest side, so that stage two needs no source images. Default: 196
    for FILE.py:DATASET, whose images could not be found again, else 0, which stores none."""

    embeddings: bool = False
    """Also store the input of the last linear layer."""

    embedding_layer: str | None = None
    """Store the output of this layer instead, averaged over space or tokens, for example backbone.layer4."""

    preview_bands: tuple[int, ...] = ()
    """Three channels, counted from 0, that a thumbnail shows as red, green and blue when a dataset has more. Default:
    the first three; for 12 or 13 channels, which are taken to be Sentinel-2, 3 2 1."""

    update: bool = False
    """The data has changed: recompute the parts that are no longer valid and keep the others. Labels that changed alone
    are rewritten without running the model."""

    overwrite: bool = False
    """Delete the predictions of these steps and start again."""

    shard_size: int = 4096
    """Rows per part file: the unit of commit, and the most that a killed run loses."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        check_minimum("thumbnails", self.thumbnails, 0)
        check_minimum("shard-size", self.shard_size, 1)
        if len(self.preview_bands) not in (0, 1, 3) or min(self.preview_bands, default=0) < 0:
            raise InputError(f"--preview-bands is {self.preview_bands}; expected one or three numbers from 0")
        check_update(self.update, self.overwrite)


@dataclass(frozen=True, kw_only=True)
class SpeedConfig(Config):
    """Speed: how images are batched, loaded and computed."""

    batch_size: int | None = None
    """Images in one forward pass. Default: 256 on a GPU, else 64, or fewer if they would take more than 1/256 of its
    memory as floats. When memory runs out, the batch is halved and tried again."""

    workers: int = 0
    """Threads that read and decode images, for each device. 0: one per processor, at most 16, shared by the devices."""

    processes: int = 0
    """Load FILE.py:DATASET in this many processes instead of threads: faster if its items are made by much Python code,
    which holds Python's lock. Each process imports the file again."""

    precision: Precision = "fp32"
    """Arithmetic of the forward pass; bf16 and fp16 use autocast. Logits are always stored as float32."""

    compile: bool = False
    """Use torch.compile, with batches of one size. It takes about a minute to start; logits may differ by 1e-4."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        check_minimum("batch-size", self.batch_size, 1)
        check_workers("workers", self.workers)
        check_workers("processes", self.processes)


@dataclass(frozen=True, kw_only=True)
class DeviceConfig(Config):
    """Devices and cluster: where the model runs."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps, or several separated by commas: one process for each, working on whole parts. auto:
    all CUDA devices if there are any, else mps, else cpu."""

    engine: Engine = "local"
    """ray: run whole parts on the actors of a Ray cluster (docs/scale.md), which see the same paths as this machine."""

    ray_address: str | None = None
    """Address of the cluster, or auto. Default: RAY_ADDRESS, else a cluster that runs on this machine, else a new one
    for this command."""

    actors: int | None = None
    """Processes on Ray, each with a copy of the model. Default: as many as fit."""

    gpus_per_actor: float | None = None
    """GPUs for each actor; 0.5 lets two actors share one. Default: 1 if the cluster has GPUs, else 0."""

    cpus_per_actor: int | None = None
    """Threads that decode images, and that run the model if it has no GPU. Default: with a GPU, its share of its
    machine's processors; without GPUs, all of a machine's, at most 16."""

    part: tuple[int, int] | None = None
    """Compute only this share of the parts, such as 1/8 to 8/8, so that several jobs together make one run."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        check_minimum("actors", self.actors, 1)
        check_workers("cpus-per-actor", self.cpus_per_actor, 1)
        check_ray_only(self, "ray_address", "actors", "gpus_per_actor", "cpus_per_actor")
        gpus = self.gpus_per_actor
        if gpus is not None and not (0 <= gpus <= 1 or (gpus > 1 and gpus.is_integer())):
            raise InputError(f"--gpus-per-actor is {gpus:g}; expected a number from 0 to 1, or a whole number")
        if self.engine == "ray" and "," in self.device:
            raise InputError(f"--device is {self.device}; with --engine ray expected one kind: --actors sets how many")
        if self.part is not None and not 1 <= self.part[0] <= self.part[1]:
            raise InputError(f"--part is {self.part[0]}/{self.part[1]}; expected K/N with K from 1 to N")


@dataclass(frozen=True, kw_only=True)
class FailureConfig(Config):
    """Failures: what to do about mistakes, slow images and images that cannot be read."""

    preflight: int = 512
    """Before the long run, check up to this many images (chosen by hash) for silent mistakes, in a minute at most: 256
    where these leave no doubt, and of a short run through a slow model a tenth, or as many as take 2.5 s, at least 64.
    0: no check."""

    strict: bool = False
    """Exit with code 1 when an image could not be read, and with 2, before the long run, when the preflight warns."""

    timeout: float = 60.0
    """Seconds that reading and decoding one image may take; after that it becomes a row with an error."""

    max_failures: int | None = None
    """Stop when more images than this have failed. Default: never; each becomes a row with its error."""

    retry_errors: bool = False
    """Also try the rows with an error again; all others stay as they are."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        check_minimum("preflight", self.preflight, 0)
        check_minimum("max-failures", self.max_failures, 0)
        if not 0 < self.timeout <= MAX_TIMEOUT_SECONDS:
            raise InputError(
                f"--timeout is {self.timeout:g}; expected seconds, more than 0 and at most {MAX_TIMEOUT_SECONDS:,}"
            )


# Dataclasses collect fields from the last base to the first, so the bases stand in reverse: fields come as --help lists
# them, and data and model may be given by position.
@dataclass(frozen=True, kw_only=True)
class InferConfig(
    FailureConfig, DeviceConfig, SpeedConfig, OutputConfig, PreprocessingConfig, ModelConfig, TaskConfig, DataConfig
):
    """Run a classifier over images and save its predictions to Parquet.

    A function that needs one group takes that type: every `InferConfig` is a `PreprocessingConfig`, for example.

    >>> InferConfig("photos/test", "net.py:build", crop=224).crop
    224
    """

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work, alone or together."""
        super().__post_init__()
        if self.task == "multi-label" and self.positive is not None:
            raise InputError("--positive is for two classes of which one applies; with --task multi-label leave it out")
        channels = 1 if self.channels == "gray" else 3
        any_channels = ".py:" in self.data or self.transform is not None  # the user's own code decides
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) not in (1, channels) and not any_channels:
                raise InputError(f"--{name} has {len(values)} numbers; expected 1 or {channels} for {self.channels}")
        if self.part is not None and self.overwrite:
            raise InputError("--overwrite with --part would delete what the other jobs wrote: choose another --out")
