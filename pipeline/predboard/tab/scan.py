"""Finds the folders of runs in a log folder, and imports nothing that takes long. It knows nothing of their content."""

import os
from collections.abc import Iterator
from pathlib import Path

from predboard.log_names import ROWS_FILE

MAX_FOLDERS = 2000
"""Folders at either level of a log folder that are looked into."""


def has_runs(logdir: Path) -> bool:
    """Return whether a log folder has a run whose rows can be shown; quick, because TensorBoard asks often."""
    return any(True for _ in run_folders(logdir, (ROWS_FILE,)))


def run_folders(logdir: Path, files: tuple[str, ...]) -> Iterator[Path]:
    """Yield the folders in a log folder, and in those, that have one of some files; the level above first."""
    level = [logdir]
    for _ in range(2):
        folders: list[Path] = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
            except OSError:  # removed meanwhile, or of another user
                continue
            folders += [folder / name for name in names]
        folders = folders[:MAX_FOLDERS]
        for folder in folders:
            if any((folder / file).is_file() for file in files):
                yield folder
        level = folders
