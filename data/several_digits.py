"""Make the multi-label demo: pictures of none to four handwritten digits, and checkpoints of one training.

It knows nothing of predboard. The digits are those of the other demo; none of a training picture is in a held-out one.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from demo import DIGITS, MEAN, SEED, SIDE, STD, Ints, Pixels, digits_file, make_whole, read_digits, run, split
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

PLACES, CELL = 2, 32
"""Places for digits along a side, and pixels of one: a picture has 64×64."""

HOW_MANY = (0.1, 0.3, 0.3, 0.2, 0.1)
"""Share of the pictures with so many digits, from none to four."""

TRAINED, HELD_OUT = 4_000, 1_000
"""Pictures."""

EPOCHS, BATCH, RATE = 6, 25, 3e-3
SAVED_EPOCHS = (1, 2, 4, 6)

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLASSES = "classes.txt"
"""Classes in the order of the model's outputs."""

SEPARATOR, NOTHING = "|", "nothing"
"""In the list of the pictures: whoever infers must say --label-separator '|' --none nothing."""

Masks = NDArray[np.bool_]


def compose(pictures: Pixels, labels: Ints, rows: Ints, count: int, rng: np.random.Generator) -> tuple[Pixels, Masks]:
    """Pictures [count, 64, 64] of digits from these rows, and which digits each has [count, 10].

    Zero is twelve times as frequent as nine, so that some labels are rare.
    """
    weight = 2.0 ** (-labels[rows] / 2.5)
    side = PLACES * CELL
    composed = rng.integers(0, 24, (count, side, side)).astype(np.uint8)  # a faint noise
    has = np.zeros((count, DIGITS), bool)
    for picture, mask in zip(composed, has, strict=True):
        number = rng.choice(len(HOW_MANY), p=HOW_MANY)
        chosen = rng.choice(rows, number, replace=False, p=weight / weight.sum())
        for row, place in zip(chosen, rng.permutation(PLACES**2), strict=False):
            top, left = np.array(divmod(int(place), PLACES)) * CELL + rng.integers(0, CELL - SIDE + 1, 2)
            cell = picture[top : top + SIDE, left : left + SIDE]
            np.maximum(cell, pictures[row], out=cell)
            mask[labels[row]] = True
    return composed, has


def write(folder: Path, pictures: Pixels, has: Masks) -> None:
    """One PNG for each picture, and the list <folder>.csv of their labels, which are words."""
    folder.mkdir()
    with folder.with_suffix(".csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("image", "labels"))
        for number, picture in enumerate(tqdm(pictures, desc=f"write {folder.name}", unit=" PNG", disable=None)):
            Image.fromarray(picture).save(folder / f"{number:04}.png")
            labels = SEPARATOR.join(WORDS[digit] for digit in np.flatnonzero(has[number])) or NOTHING
            writer.writerow((f"{folder.name}/{number:04}.png", labels))


def train(folder: Path, pictures: Pixels, has: Masks, test: Pixels, test_has: Masks) -> dict[str, float]:
    """Train the CNN and save its weights after some epochs. -> share of held-out pictures that are right, by file."""
    import torch
    from several_digits_cnn import build
    from torch.nn.functional import binary_cross_entropy_with_logits

    def prepared(images: Pixels) -> torch.Tensor:
        return (torch.from_numpy(images).unsqueeze(1).float() / 255 - MEAN) / STD

    folder.mkdir(parents=True)
    torch.manual_seed(SEED)
    network = build()
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    x, y = prepared(pictures), torch.from_numpy(has).float()
    test_x, right_sets = prepared(test), torch.from_numpy(test_has)
    exact = {}
    with tqdm(total=EPOCHS * len(x), desc="train", unit=" pictures", unit_scale=True, disable=None) as bar:
        for epoch in range(1, EPOCHS + 1):
            network.train()
            for batch in torch.randperm(len(x)).split(BATCH):  # type: ignore[no-untyped-call]  # torch's own
                optimizer.zero_grad()
                loss = binary_cross_entropy_with_logits(network(x[batch]), y[batch])
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own
                optimizer.step()
                bar.update(len(batch))
            if epoch not in SAVED_EPOCHS:
                continue
            network.eval()
            with torch.inference_mode():
                predicted = torch.cat([network(part) > 0 for part in test_x.split(250)])  # type: ignore[no-untyped-call]
            file = f"several_digits_epoch{epoch:02}.pt"
            torch.save(network.state_dict(), folder / file)
            exact[file] = (predicted == right_sets).all(1).float().mean().item()
    return exact


def expectation(exact: dict[str, float], nothing: float, trained: int, held_out: int) -> str:
    """What to expect of the demo, as plain text."""
    lines = [
        f"What to expect: pictures whose digits are all right, of {held_out:,}, after training on {trained:,} others"
    ]
    lines += [f"  {file:<27} {share:.1%}" for file, share in exact.items()]
    lines += [f"  {'saying nothing':<27} {nothing:.1%}   what a model gets that predicts no digit"]
    return "\n".join(lines) + "\n"


def make(out: Path) -> str:
    """Make the demo as `make_whole` does. Raises MissingError if the digits are missing too."""
    file = digits_file()

    def fill(folder: Path) -> str:
        pictures, labels = read_digits(file)
        train_rows, test_rows = split(labels)
        rng = np.random.default_rng(SEED)
        trained, has = compose(pictures, labels, train_rows, TRAINED, rng)
        held_out, test_has = compose(pictures, labels, test_rows, HELD_OUT, rng)
        write(folder / "test", held_out, test_has)
        (folder / CLASSES).write_text("\n".join(WORDS) + "\n", encoding="ascii")
        exact = train(folder / "checkpoints", trained, has, held_out, test_has)
        return expectation(exact, float((~test_has.any(1)).mean()), len(trained), len(held_out))

    return make_whole(out, fill)


if __name__ == "__main__":
    what = f"{HELD_OUT:,} pictures of several digits and {len(SAVED_EPOCHS)} checkpoints"
    sys.exit(run(make, "several_digits", what, "half a minute"))
