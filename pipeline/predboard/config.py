"""What a command may be told: frozen dataclasses, checked when built. Knows nothing of how anything works.

Field docstrings are the help texts of the command line (`predboard infer --help`), and the field names its flags.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from predboard.errors import InputError
from predboard.storage.paths import AnyPath, parse_path

Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest"]
Channels = Literal["rgb", "bgr", "gray"]
Precision = Literal["fp32", "bf16", "fp16"]
Exif = Literal["ignore", "apply"]
ScoreKind = Literal["logits", "probabilities", "log_probabilities"]
Engine = Literal["local", "ray"]
Side = int | Literal["none"]

_LONGEST = 1_000_000
"""Seconds; what a system can wait for has a limit."""


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"--{name} is {value}; expected a whole number of at least {least}")


def _for_ray(config: Any, *names: str) -> None:
    for name in names:
        if config.engine != "ray" and getattr(config, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is for --engine ray: add that, or leave it out")


def _places(config: Any, *names: str) -> None:
    """Take URIs that a program gives as text. Raises InputError for one with a password in it, and for one that was
    made a Path, which would be a folder `s3:`.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None:
            place = tuple(map(parse_path, value)) if isinstance(value, tuple) else parse_path(value)
            object.__setattr__(config, name, place)


def _files(config: Any, *names: str) -> None:
    """Raise InputError for a URI where only files of this machine are read or written."""
    for name in names:
        value = getattr(config, name)
        for file in value if isinstance(value, tuple) else (value,):
            if found := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(file or "")):
                flag = "a file" if name == "files" else f"--{name.replace('_', '-')}"
                raise InputError(
                    f"{flag} is {found[1]}://{found[2]}; expected a path on this machine: only images, predictions and "
                    "logs may be in storage (docs/storage.md)"
                )


def _is_plain(value: Any) -> bool:
    """Whether a value comes back from JSON as it is, tuples as lists."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


@dataclass(frozen=True)
class InferConfig:
    """Run a classifier over images once and write what it says to Parquet."""

    data: str
    """Images: a folder with one sub-folder for each class, or a flat one; a list (.csv, .tsv, .jsonl, .parquet);
    Parquet with the images inside; .tar shards (WebDataset, {000..012}); a .zip of class folders; an IDX file;
    FILE.py:DATASET, a torch Dataset or a function that returns one."""

    model: str
    """FILE.py:FACTORY, a function that returns a torch.nn.Module (or a module itself); torchvision:NAME, timm:NAME or
    hf:NAME_OR_FOLDER, with that library's preprocessing; or a program: FILE.pt2 of torch.export, FILE.pt of
    TorchScript."""

    image_column: str | None = None
    """Column of a list or of Parquet that holds paths or images; key of a dataset's items. Default: image, path, …"""

    label_column: str | None = None
    """Column or key that holds class names or indices. Default: label, class, target, category, …"""

    key_column: str | None = None
    """Column that names an image for good, where its path does not: what joins runs."""

    image_root: AnyPath | None = None
    """Folder that the paths in a list are relative to. Default: the list's own."""

    classes: Path | None = None
    """Names in the order of the model's outputs, one a line. Labels that are not among them count as none."""

    model_args: Mapping[str, Any] = field(default_factory=dict)
    """key=value pairs for the factory; values are read as Python literals, else as text. For a library's model without
    a checkpoint, pretrained=False takes random weights instead of the library's own."""

    checkpoint: tuple[Path, ...] = ()
    """Weights (.pt, .pth, .safetensors). Several files of one training become several steps of one run."""

    step: tuple[int, ...] = ()
    """Step of each checkpoint. Default: the number after step, else iter, else epoch in its file name, else 0."""

    ema: bool = False
    """Take the exponential moving average of the weights that the checkpoint holds beside them."""

    trust_checkpoint: bool = False
    """Unpickle checkpoints that hold more than weights, such as whole modules. This runs whatever code they hold."""

    out: AnyPath | None = None
    """Folder to write the predictions to. Default: predictions/DATA-MODEL."""

    resize: Side | tuple[int, int] | None = None
    """N: the short side; HxW: exactly this; none: pictures stay as they are and must all have one size. Default: what
    the library of a torchvision:, timm: or hf: model says, else none."""

    crop: Side | None = None
    """Side of the square cut from the centre, after the resize, or none. Default: the library's, else none."""

    mean: tuple[float, ...] | None = None
    """Subtracted from x/255, one number or one for each channel. Default: the library's, else 0."""

    std: tuple[float, ...] | None = None
    """Divides x/255 - mean, one number or one for each channel. Default: the library's, else 1."""

    interpolation: Interpolation | None = None
    """How --resize interpolates (Pillow's filters, antialiased). Default: the library's, else bilinear."""

    exact_resize: bool = False
    """Interpolate the whole picture and then crop, as most training code does. Otherwise bilinear interpolates only
    what the crop keeps, which is faster; a few values differ by one level of 255, hardly any by two."""

    transform: str | None = None
    """FILE.py:FUNCTION, called with each decoded Pillow picture. It returns a Pillow picture or uint8, which the other
    flags then apply to, or floats [channels, height, width] that are ready for the model."""

    channels: Channels = "rgb"
    """What the model takes: three channels, in one order or the other, or one."""

    exif: Exif = "ignore"
    """Whether the EXIF orientation turns the picture. Most training loaders ignore it, so that is the default."""

    batch_size: int | None = None
    """Pictures in one forward pass. Default: 256 on a GPU, else 64; fewer where as floats they would take more than
    1/256 of its memory. Where the memory is not enough, half as many, and so on."""

    workers: int = 0
    """Threads that read and decode, for each device. 0: one for each processor, at most 16, shared by the devices."""

    timeout: float = 60.0
    """Seconds that reading and decoding one image may take; after them it is a row with an error."""

    processes: int = 0
    """Processes that load FILE.py:DATASET instead of threads: faster if its items are made by much Python code, which
    holds Python's lock. Each imports the file anew."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps, or several separated by commas: a process each, that does whole parts. auto: all of
    cuda where there is one, else mps, else cpu."""

    engine: Engine = "local"
    """ray: whole parts on the actors of a Ray cluster (docs/scale.md), which see the same paths as this machine."""

    ray_address: str | None = None
    """Of the cluster, or auto. Default: RAY_ADDRESS, else one that runs here, else one that is started for this."""

    actors: int | None = None
    """Processes on Ray, each with the model. Default: as many as there is room for."""

    gpus_per_actor: float | None = None
    """Default: 1 where the cluster has GPUs, else 0. 0.5: two share one."""

    cpus_per_actor: int | None = None
    """Threads that decode, and the model's where it has no GPU. Default: a GPU's share of its machine's; without GPUs
    all of a machine's, at most 16."""

    max_failures: int | None = None
    """Stop when more rows than this have failed. Default: go on, each is a row with its error."""

    part: tuple[int, int] | None = None
    """K/N, 1/8 to 8/8 for example: only this share of the parts, so that jobs beside each other make one run."""

    precision: Precision = "fp32"
    """Arithmetic of the forward pass; bf16 and fp16 by autocast. Logits are stored as float32 in any case."""

    scores: ScoreKind = "logits"
    """What the model gives. If it ends in a softmax or log-softmax, say so; logarithms of probabilities are stored."""

    compile: bool = False
    """torch.compile the model, for batches of one size. It takes a minute to begin; logits may differ by 1e-4."""

    shard_size: int = 4096
    """Rows in one part file: the unit of commit, and what a killed run loses at most."""

    limit: int | None = None
    """Only N images, chosen evenly over the data by the hash of their keys."""

    embeddings: bool = False
    """Also store the input of the last linear layer."""

    embedding_layer: str | None = None
    """Store the output of this layer instead, its mean over space or tokens: backbone.layer4 for example."""

    thumbnails: int | None = None
    """Also store a JPEG of each picture with this longest side, so that stage two needs no source images. Default: 196
    for FILE.py:DATASET, whose pictures could not be found again, else 0, for none."""

    preview_bands: tuple[int, ...] = ()
    """Three channels, from 0, that a thumbnail shows as red, green and blue where a dataset gives more. Default: the
    first three; of 12 or 13, which are taken for Sentinel-2, 3 2 1."""

    preflight: int = 512
    """Before the long run, look for silent mistakes on this many images, chosen by hash. 0: do not."""

    strict: bool = False
    """Exit with 1 when any image could not be read, and before the long run, with 2, when the preflight warns."""

    update: bool = False
    """Where the data changed: redo the parts that are no longer valid and keep the others."""

    retry_errors: bool = False
    """Also try the rows again that have an error; all others stay as they are."""

    overwrite: bool = False
    """Delete the predictions of these steps and start again."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        _places(self, "out", "image_root")
        _files(self, "classes", "checkpoint")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is None:
                continue
            wanted = 1 if self.channels == "gray" else 3
            own = ".py:" in self.data or self.transform is not None  # may give any number of channels
            if len(values) not in (1, wanted) and not own:
                raise InputError(f"--{name} has {len(values)} numbers; expected 1 or {wanted} for {self.channels}")
            if not all(math.isfinite(v) for v in values):
                raise InputError(f"--{name} is {','.join(map(str, values))}; expected finite numbers")
        if self.std is not None and min(self.std) <= 0:
            raise InputError(f"--std is {','.join(map(str, self.std))}; expected numbers above 0")
        for side in self.resize if isinstance(self.resize, tuple) else (self.resize,):
            if isinstance(side, int):
                _at_least("resize", side, 1)
        for name, value, least in (
            ("crop", None if self.crop == "none" else self.crop, 1),
            ("batch-size", self.batch_size, 1),
            ("workers", self.workers, 0),
            ("processes", self.processes, 0),
            ("shard-size", self.shard_size, 1),
            ("preflight", self.preflight, 0),
            ("limit", self.limit, 1),
            ("thumbnails", self.thumbnails, 0),
            ("actors", self.actors, 1),
            ("cpus-per-actor", self.cpus_per_actor, 1),
            ("max-failures", self.max_failures, 0),
        ):
            if value is not None:
                _at_least(name, value, least)
        _for_ray(self, "ray_address", "actors", "gpus_per_actor", "cpus_per_actor")
        gpus = self.gpus_per_actor
        if gpus is not None and not (0 <= gpus <= 1 or (gpus > 1 and gpus.is_integer())):
            raise InputError(f"--gpus-per-actor is {gpus:g}; expected 0, a part of 1, or whole ones")
        if self.engine == "ray" and "," in self.device:
            raise InputError(f"--device is {self.device}; with --engine ray expected one kind: --actors says how many")
        if not 0 < self.timeout <= _LONGEST:
            raise InputError(f"--timeout is {self.timeout:g}; expected seconds, more than 0 and at most {_LONGEST:,}")
        if len(self.preview_bands) not in (0, 1, 3) or min(self.preview_bands, default=0) < 0:
            raise InputError(f"--preview-bands is {self.preview_bands}; expected one or three numbers from 0")
        for key, value in self.model_args.items():
            if not _is_plain(value):
                raise InputError(
                    f"--model-args {key} is {value!r}; expected text, a number, True, False or None, or a list or dict "
                    "(with text as keys) of these, because the predictions say what the model was made with"
                )
        if self.step and len(self.step) != max(len(self.checkpoint), 1):
            raise InputError(
                f"--step has {len(self.step)} numbers for {len(self.checkpoint)} checkpoints; expected one each"
            )
        if any(step < 0 for step in self.step):
            raise InputError(f"--step is {' '.join(map(str, self.step))}; expected numbers of at least 0")
        if self.part is not None and not 1 <= self.part[0] <= self.part[1]:
            raise InputError(f"--part is {self.part[0]}/{self.part[1]}; expected K/N with K from 1 to N")
        if self.part is not None and self.overwrite:
            raise InputError("--overwrite with --part would delete what other jobs make: name another --out")
        if self.update and self.overwrite:
            raise InputError("--update and --overwrite exclude each other: one keeps what is valid, the other nothing")


@dataclass(frozen=True)
class ImportConfig:
    """Turn predictions that another program saved into a run: .npy, .npz, .pt, .csv, .tsv, .json, .jsonl, .parquet."""

    scores: ScoreKind
    """What the scores are; never guessed. Softmax of logits gives probabilities, and exp of log_probabilities."""

    files: Annotated[tuple[Path, ...], Positional] = ()
    """Files with the scores. Several are one table in this order, or steps where each name or --step has a number."""

    out: AnyPath | None = None
    """Folder to write the predictions to. Default: predictions/NAME of the first file."""

    score_column: str | None = None
    """Array or column of the scores: a list in each row, or a pattern such as prob_* (or A,B,C) for one column of each
    class. Default: logits, probs, scores, predictions, … or logit_*, prob_*, score_*, …"""

    label_column: str | None = None
    """Array or column of the true class, a name or an index. Default: true_label, ground_truth, labels, label, …"""

    image_column: str | None = None
    """Array or column of the image's path. Default: image, path, file, filename, …"""

    key_column: str | None = None
    """Column that names an image for good, where its path does not: what joins runs."""

    labels: Path | None = None
    """Another file with the labels, in the order of the rows or with the images' paths."""

    labels_from_folders: bool = False
    """The label is the folder that the image lies in: the last one that is a class, with --classes."""

    images: str | None = None
    """The images in the order of the rows: a .txt with a path on each line, or whatever `infer --data` takes."""

    image_root: AnyPath | None = None
    """Folder (or .zip or .tar) that the paths are relative to. Default: that of the file that has them."""

    classes: Path | None = None
    """Names in the order of the scores, one a line. Labels that are not among them count as none."""

    model: str = ""
    """Name of what made the scores, for the report. Default: that of the first file."""

    step: tuple[int, ...] = ()
    """One for all files, or one for each. Default: the number after step, else iter, else epoch in its name, else 0."""

    pictures: bool = True
    """Read the pictures where they are found, for their size, brightness, contrast and digest."""

    thumbnails: int = 0
    """Also store a JPEG of each picture with this longest side, so that stage two needs no source images."""

    workers: int = 0
    """Threads that read and decode. 0: one for each processor, at most 16."""

    shard_size: int = 4096
    """Rows in one part file: the unit of commit, and what a killed import loses at most."""

    strict: bool = False
    """Exit with 1 when any row has no usable scores."""

    update: bool = False
    """Where labels, paths or further columns changed: redo the parts that are no longer valid and keep the others."""

    overwrite: bool = False
    """Delete the predictions of these steps and start again."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        _places(self, "out", "image_root")
        _files(self, "files", "labels", "classes")
        _at_least("workers", self.workers, 0)
        _at_least("thumbnails", self.thumbnails, 0)
        _at_least("shard-size", self.shard_size, 1)
        if len(self.step) > 1 and len(self.step) != len(self.files):
            raise InputError(
                f"--step has {len(self.step)} numbers for {len(self.files)} files; expected one, or one each"
            )
        if any(step < 0 for step in self.step):
            raise InputError(f"--step is {' '.join(map(str, self.step))}; expected numbers of at least 0")
        if self.labels is not None and self.labels_from_folders:
            raise InputError("--labels and --labels-from-folders exclude each other: a row has one label")
        if self.thumbnails and not self.pictures:
            raise InputError("--thumbnails needs the pictures, which --no-pictures leaves alone")
        if self.update and self.overwrite:
            raise InputError("--update and --overwrite exclude each other: one keeps what is valid, the other nothing")


@dataclass(frozen=True)
class VisualizeConfig:
    """Draw saved predictions: write all TensorBoard summaries, without the model."""

    predictions: Annotated[tuple[AnyPath, ...], Positional] = ()
    """Folders that `predboard infer` wrote, one for each run."""

    logdir: AnyPath = Path("logs")
    """Folder for TensorBoard; each run gets a sub-folder of its name."""

    panels: tuple[str, ...] = ()
    """Names of panels, separated by commas. Default: all. See --list."""

    list: bool = False
    """Print what panels there are and stop."""

    image_root: AnyPath | None = None
    """Where the source images are now, if they were moved since inference."""

    log_every: int | Literal["all"] | None = None
    """Show every N-th image as well, as a loop over the data would log them; `all` of them, as far as an event file of
    100 MiB has room."""

    cache: Literal["auto", "always", "never"] = "auto"
    """Keep what was read of each part beside the logs, so that the next time reads only new parts. auto: where reading
    takes more than some seconds."""

    engine: Engine = "local"
    """ray: read on a Ray cluster, whose machines see the predictions under the same path (docs/scale.md)."""

    ray_address: str | None = None
    """Of the cluster, or auto. Default: RAY_ADDRESS, else one that runs here, else one that is started for this."""

    workers: int = 0
    """Processes that read, where there is enough to do, and threads that draw. 0: one a processor, at most 16."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        _places(self, "predictions", "logdir", "image_root")
        _at_least("workers", self.workers, 0)
        _for_ray(self, "ray_address")
        if isinstance(self.log_every, int):
            _at_least("log-every", self.log_every, 1)


@dataclass(frozen=True)
class CompareConfig:
    """Compare two runs image by image: what was fixed, what was broken, and whether that is more than chance."""

    predictions: Annotated[tuple[AnyPath, ...], Positional] = ()
    """Folders that `predboard infer` wrote, the old one first. More than two: all pairs (of more than 12 each with the
    first and with the most accurate); one: its steps."""

    logdir: AnyPath = Path("logs")
    """Folder for TensorBoard; the comparison gets a sub-folder `NEW vs OLD`."""

    step_old: int | None = None
    """Step of the old run. Default: its last; of one run its first."""

    step_new: int | None = None
    """Step of the new run. Default: its last."""

    map_classes: bool = False
    """Take classes of one name for the same, where the lists of classes differ."""

    image_root: AnyPath | None = None
    """Where the source images are now, if they were moved since inference."""

    workers: int = 0
    """Threads that draw. 0: one a processor, at most 16."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        _places(self, "predictions", "logdir", "image_root")
        _at_least("workers", self.workers, 0)


@dataclass(frozen=True)
class GateConfig:
    """Test saved predictions against rules: exit code 0 all pass, 1 one fails, 3 there is too little evidence."""

    predictions: Annotated[AnyPath | None, Positional] = None
    """Folder that `predboard infer` wrote."""

    rules: Path | None = None
    """TOML file with a table [[rule]] for each rule; see docs/gates.md and --suggest."""

    baseline: AnyPath | None = None
    """Folder of the predictions to compare with, for rules with max_drop. May be the same, with --baseline-step."""

    step: int | None = None
    """Step to test. Default: the last."""

    baseline_step: int | None = None
    """Step of the baseline. Default: its last."""

    junit: Path | None = None
    """Also write JUnit XML to this file: a test case for each rule."""

    json: Path | None = None
    """Also write JSON to this file."""

    markdown: Path | None = None
    """Also write Markdown to this file, for a pull request."""

    allow_incomplete: bool = False
    """Test what is there although rows are missing, which otherwise fails."""

    map_classes: bool = False
    """Take classes of one name as the same though the two runs list them in another order or not all of them."""

    suggest: bool = False
    """Print a first file of rules, made from these predictions, and stop."""

    workers: int = 0
    """Processes that read, where there is enough to do. 0: one a processor, at most 16."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        _places(self, "predictions", "baseline")
        _files(self, "rules", "junit", "json", "markdown")
        _at_least("workers", self.workers, 0)
        if self.suggest and self.rules is not None:
            raise InputError("--suggest and --rules exclude each other: one makes rules, the other tests them")
        for name in ("junit", "json", "markdown"):
            if self.suggest and getattr(self, name) is not None:
                raise InputError(f"--suggest and --{name} exclude each other: a report is of rules that are tested")
        if self.baseline is None and (self.baseline_step is not None or self.map_classes):
            flag = "--map-classes" if self.map_classes else "--baseline-step"
            raise InputError(f"{flag} without --baseline: name the predictions to compare with")


@dataclass(frozen=True)
class BoardConfig:
    """Open TensorBoard with limits that show everything `predboard visualize` wrote."""

    logdir: AnyPath = Path("logs")
    """Folder that `predboard visualize` wrote."""

    port: int = 6006
    """Port on this machine."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        _places(self, "logdir")
        if not 1 <= self.port <= 65535:
            raise InputError(f"--port is {self.port}; expected 1 to 65535")


@dataclass(frozen=True)
class InspectConfig:
    """Say what a folder of predictions holds, and whether it is whole."""

    predictions: Annotated[AnyPath | None, Positional] = None
    """Folder that `predboard infer` wrote."""

    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        _places(self, "predictions")
