"""Define the flags of `predboard import`. It knows nothing of how they work."""

from dataclasses import dataclass, field
from pathlib import Path

from predboard.config.checks import (
    POSITIONAL,
    ImportedKind,
    check_minimum,
    check_read_gb,
    check_steps,
    check_update,
    check_workers,
)
from predboard.config.task import TaskConfig
from predboard.errors import InputError
from predboard.storage.paths import MAX_READ_GB, AnyPath


@dataclass(frozen=True)
class ImportConfig(TaskConfig):
    """Import predictions from another program: .npy, .npz, .pt, .csv, .tsv, .json, .jsonl or .parquet."""

    scores: ImportedKind
    """Kind of the scores; it is never guessed. Probabilities are the softmax of logits, or exp of log_probabilities;
    with --task multi-label the sigmoid of logits. confidence: only the predicted class and its probability are known,
    and what they do not allow is left out."""

    files: tuple[Path, ...] = field(default=(), metadata=POSITIONAL)
    """Files with the scores. Several files are one table, in this order; or several steps if each has a number in its
    name or from --step."""

    out: AnyPath | None = None
    """Folder for the predictions. Default: predictions/NAME of the first file."""

    score_column: str | None = None
    """Array or column with the scores: one list per row, or a pattern such as prob_* (or A,B,C) for one column per
    class; of two classes also one column of numbers. Default: logits, probs, scores, predictions, … or logit_*, prob_*,
    score_*, …"""

    positive: str | None = None
    """Name of the positive one of two classes: the one that a single column of scores speaks for, and that stage two
    has figures of. Default: the class that the column is named after, else the second."""

    predicted_column: str | None = None
    """With --scores confidence, array or column with the predicted class. Default: predicted, prediction, pred, …"""

    label_column: str | None = None
    """Array or column with the true class, a name or an index; none if the rows have no labels. Default: true_label,
    ground_truth, labels, label, … With --task multi-label it has all labels of an image, or is a pattern such as
    'label_*' (or A,B,C) for one column of 0 and 1 for each class."""

    image_column: str | None = None
    """Array or column with the image paths; none if there are none. Default: image, path, file, filename, …"""

    key_column: str | None = None
    """Column with a stable image ID, used to match images across runs. Default: the image's path."""

    labels: Path | None = None
    """Another file with the labels, in the order of the rows or with the image paths."""

    labels_from_folders: bool = False
    """Take the label from the folder that the image is in; with --classes, the innermost folder that is a class."""

    images: str | None = None
    """The images in the order of the rows: a .txt file with a path on each line, or anything `infer --data` takes."""

    image_root: AnyPath | None = None
    """Folder (or .zip or .tar) that the paths are relative to. Default: the folder of the file that contains them."""

    max_read_gb: float = MAX_READ_GB
    """Gigabytes of memory that one file with scores in .npz, .pt or JSON may take, or the other columns of a .parquet.
    More is refused before it is read; .npy, .csv (in UTF-8, without blank rows) and the scores of a .parquet are read
    in pieces."""

    classes: AnyPath | None = None
    """File with the class names in the order of the scores, one per line. Images whose label is not in the list are
    treated as unlabelled; with --task multi-label such labels are refused."""

    model: str = ""
    """Name of the model that produced the scores, for the report. Default: the name of the first file."""

    step: tuple[int, ...] = ()
    """One step for all files, or one for each. Default: the number after step, iter or epoch (in this order) in its
    name, else 0."""

    pictures: bool = True
    """Read the images, where they can be found, for their size, brightness, contrast and digest."""

    thumbnails: int = 0
    """Also store a JPEG of each image with this longest side, so that stage two needs no source images."""

    workers: int = 0
    """Threads that read and decode images. 0: one per processor, at most 16."""

    shard_size: int = 4096
    """Rows per part file: the unit of commit, and the most that a killed import loses."""

    strict: bool = False
    """Exit with code 1 when a row has no usable scores."""

    update: bool = False
    """Labels, paths or other columns have changed: rewrite the parts that are no longer valid and keep the others."""

    overwrite: bool = False
    """Delete the predictions of these steps and start again."""

    def __post_init__(self) -> None:
        """Raise InputError for values that can never work."""
        super().__post_init__()
        check_workers("workers", self.workers)
        if self.positive is not None and self.task != "single-label":
            raise InputError(
                "--positive names one of two classes that exclude each other: leave out --task multi-label"
            )
        check_minimum("thumbnails", self.thumbnails, 0)
        check_minimum("shard-size", self.shard_size, 1)
        check_steps(self.step)
        check_read_gb(self.max_read_gb)
        if len(self.step) > 1 and len(self.step) != len(self.files):
            raise InputError(
                f"--step has {len(self.step)} numbers for {len(self.files)} files; expected one, or one for each"
            )
        if self.task == "multi-label" and self.scores == "confidence":
            raise InputError(
                "--scores is confidence; with --task multi-label expected logits, probabilities or log_probabilities"
            )
        if self.task == "multi-label" and self.labels_from_folders:
            raise InputError("--labels-from-folders gives an image one label, but --task is multi-label: see --labels")
        if self.labels is not None and self.labels_from_folders:
            raise InputError("--labels and --labels-from-folders exclude each other: a row has only one label")
        if self.thumbnails and not self.pictures:
            raise InputError("--thumbnails reads the images, but --no-pictures says not to: leave one of them out")
        check_update(self.update, self.overwrite)
