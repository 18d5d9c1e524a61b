"""What makes one doubt that a model was run as it was trained: pure functions on logits, labels and scalings.

Knows no torch, no files and no pictures. Everything here is told from a few hundred images, so whatever needs labels is
tested for significance, and what a sample cannot show is not said.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predboard.metrics.intervals import sign_test, wilson_interval

FALSE_ALARM_RATE = 0.01
"""Chance of a false alarm of all tests of one sample together, if none of what is tried were better."""

MAX_TESTS = 23
"""As many as are made on one sample at most: 15 scalings, 5 usual orders of the classes, a fitted one and 2 sizes."""

MIN_LABELLED = 50
"""Labelled images without which nothing is said that needs labels."""

MIN_ERRORS_EXPLAINED = 0.1
"""Share of the errors that another scaling must explain: a network that is merely weak often gains a little."""

MIN_ERRORS_EXPLAINED_BY_ORDER = 0.25
"""The same for an order of the classes that was fitted: in a broken model some class is often most of another."""

MAX_BLACK_SHARE = 0.05
"""Share of what the model sees that the crop may make black before it is said: a pixel or two are the library's way."""


@dataclass(frozen=True)
class Diagnosis:
    """Something that should be looked at before the long run."""

    name: str
    """One word, for programs."""
    text: str
    """One line: what is the matter, a colon, what to do."""
    warning: bool = True
    """Else a hint: it may well be meant so."""
    again: bool = False
    """Whether stage two finds it in the predictions by itself."""


def percent(share: float) -> str:
    """With one digit after the point.

    >>> percent(0.9152)
    '91.5 %'
    """
    return f"{100 * share:.1f} %"


# --- what the logits alone show ---


def check_finite(logits: NDArray[np.float32]) -> Iterator[Diagnosis]:
    """Rows with NaN or infinity among their logits [rows, classes]."""
    if bad := int((~np.isfinite(logits).all(axis=1)).sum()):
        yield Diagnosis(
            "not_finite",
            f"the logits of {bad:,} of {len(logits):,} images are not finite, and these would fail: see the inputs' "
            "range, and --precision fp32",
        )


def check_normalised(logits: NDArray[np.float32]) -> Iterator[Diagnosis]:
    """Outputs [rows, classes], finite, that a softmax or a sigmoid has been over.

    Logits that by chance are between 0 and 1 and add up to 1 in every row do not occur. Logarithms of probabilities are
    logits too, and nothing is said of them.
    """
    wide = logits.astype(np.float64)
    if not len(wide) or wide.shape[1] < 2 or (wide < 0).any() or (wide > 1.0001).any():
        return
    if (np.abs(wide.sum(axis=1) - 1) < 0.01).all():
        yield Diagnosis(
            "softmax",
            "the outputs are probabilities, not logits, so confidence and loss would be wrong: --scores probabilities, "
            "or leave the softmax out of forward",
        )
    else:
        yield Diagnosis(
            "sigmoid",
            "all outputs are between 0 and 1 and do not add up to 1: a sigmoid over them is for several labels of one "
            "image; confidence and loss would mean nothing here",
        )


def _spread(logits: NDArray[np.float32]) -> float:
    return max(float(logits.std(dtype=np.float64)), 1e-6)


def check_nondeterministic(
    once: NDArray[np.float32],
    again: NDArray[np.float32],
    elsewhere: NDArray[np.float32],
    training: Sequence[str],
    tolerance: float,
) -> Iterator[Diagnosis]:
    """A model that is not in eval mode, by what it does.

    Args:
        once, again: [rows, classes] logits of one batch, computed twice.
        elsewhere: [some, classes] of its first images, in the company of other images.
        training: names of the modules that say they are in train mode.
        tolerance: differences in units of the logits' standard deviation that arithmetic alone can make.
    """
    named = f" ({', '.join(training[:3])}{' …' * (len(training) > 3)} in train mode)" if training else ""
    if not (np.isfinite(once).all() and np.isfinite(again).all() and np.isfinite(elsewhere).all()):
        return
    off = float(np.abs(once - again).max(initial=0)) / _spread(once)
    if off > tolerance:
        changed = float((once.argmax(axis=1) != again.argmax(axis=1)).mean())
        yield Diagnosis(
            "random",
            f"the same images give other logits the second time, {percent(changed)} another class{named}: dropout or "
            "noise is on though eval() was called; see self.training and functional.dropout in the model",
        )
        return
    first = once[: len(elsewhere)]
    off = float(np.abs(first - elsewhere).max(initial=0)) / _spread(once)
    if off > tolerance:
        yield Diagnosis(
            "neighbours",
            f"an image's logits depend on the others in its batch{named}: batch normalisation uses the batch though "
            "eval() was called; see track_running_stats and self.training in the model",
        )


# --- what labels show ---


def check_chance(predicted: NDArray[np.int64], label: NDArray[np.int64], classes: int) -> Iterator[Diagnosis]:
    """Accuracy that is not clearly above that of always naming the most frequent class; both [rows], all labelled."""
    n = len(label)
    counts = np.bincount(label, minlength=classes)
    if n < MIN_LABELLED or np.count_nonzero(counts) < 2:
        return
    hits, most = int((predicted == label).sum()), max(float(counts.max() / n), 1 / classes)
    if wilson_interval(hits, n)[0] <= most:
        yield Diagnosis(
            "chance",
            f"accuracy is {percent(hits / n)}, and always naming the most frequent class gives {percent(most)}: see "
            "the checkpoint, the class names and the preprocessing",
            again=True,
        )


def check_dominant_class(
    predicted: NDArray[np.int64], label: NDArray[np.int64], classes: int, names: Sequence[str]
) -> Iterator[Diagnosis]:
    """One class that gets most predictions, and more than its share; both [rows], label -1 if unknown."""
    n = len(predicted)
    if n < MIN_LABELLED or classes < 3:
        return
    top = int(np.bincount(predicted, minlength=classes).argmax())
    hits, known = int((predicted == top).sum()), label[label >= 0]
    due = float((known == top).mean()) if len(known) >= MIN_LABELLED else 0.4  # without labels, only nearly all is odd
    if wilson_interval(hits, n)[0] > max(0.5, 2 * due):
        yield Diagnosis(
            "favourite",
            f"{percent(hits / n)} of predictions are one class, {names[top]}: see the inputs' range and the checkpoint",
            again=len(known) > 0,
        )


@dataclass(frozen=True)
class Scaling:
    """What becomes of values from 0 to 1 before the model gets them: turned round or not, less mean, over std."""

    turned: bool
    """Channels in the opposite order."""
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def flags(self, given: "Scaling") -> str:
        """What a person would have to say to get this instead of what was given."""
        said = []
        if self.turned != given.turned:
            said.append(f"--channels {'bgr' if self.turned else 'rgb'}")
        if (self.mean, self.std) != (given.mean, given.std):
            said.append(f"--mean {','.join(map(_short, self.mean))} --std {','.join(map(_short, self.std))}")
        return " ".join(said)


def _short(number: float) -> str:
    return f"{number:.4g}"


IMAGENET_MEAN_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def candidate_scalings(
    given: Scaling, mean: NDArray[np.float64], std: NDArray[np.float64], unit: bool = True
) -> dict[str, Scaling]:
    """Other things that training code is known to do, by their names, the likeliest first; none is what was given.

    Args:
        given: what is done.
        mean, std: [channels] over the sample, before the scaling.
        unit: whether values were from 0 to 1 before it. If not, nothing is known of what was done to them.
    """
    channels = len(mean)

    def of(m: Sequence[float], s: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        wide = np.ones(channels)
        return tuple((np.asarray(m) * wide).tolist()), tuple((np.asarray(s) * wide).tolist())

    kinds = {"": of(given.mean, given.std)}
    if unit:
        if max(*given.mean, *given.std) > 1.5:
            kinds["mean and std over 255"] = of(np.divide(given.mean, 255).tolist(), np.divide(given.std, 255).tolist())
        if channels == 3:
            kinds["ImageNet's mean and std"] = of(*IMAGENET_MEAN_STD)
        kinds["no mean and std"] = of([0], [1])
        kinds["inputs from -1 to 1"] = of([0.5], [0.5])
        kinds["inputs from 0 to 255"] = of([0], [1 / 255])
        if channels == 3:
            kinds["ImageNet's mean and inputs to 255"] = of(IMAGENET_MEAN_STD[0], [1 / 255])
    kinds["the images' own mean and std"] = of(mean.round(4).tolist(), np.maximum(std, 1e-3).round(4).tolist())
    found: dict[str, Scaling] = {}
    for turned in (given.turned, not given.turned) if channels == 3 else (given.turned,):
        order = "" if turned == given.turned else f"channels in {'BGR' if turned else 'RGB'} order"
        for kind, (m, s) in kinds.items():
            if kind == "the images' own mean and std" and turned != given.turned:
                m, s = m[::-1], s[::-1]
            if kind == "ImageNet's mean and inputs to 255" and turned:  # as Caffe's models have it
                m = m[::-1]
            scaling = Scaling(turned, m, s)
            name = " and ".join(filter(None, (kind, order)))
            if name and scaling not in (Scaling(given.turned, *kinds[""]), *found.values()):
                found[name] = scaling
    return {name: found[name] for name in sorted(found, key=lambda name: " and channels" in name)}


@dataclass(frozen=True)
class Trial:
    """How another way fared beside the given one, over the images it was tried on."""

    name: str
    images: int
    given: int
    """Of these, right as it is."""
    right: int
    """Of these, right the other way."""
    p: float
    """Of `sign_test`; 1 where it was given up early."""

    @property
    def explains(self) -> float:
        """Share of the errors that go away, all in all."""
        return (self.right - self.given) / max(self.images - self.given, 1)


def compare_accuracy(name: str, given: NDArray[np.bool_], other: NDArray[np.bool_], whole: bool = True) -> Trial:
    """Two ways over the same images, [rows] whether right."""
    lost, won = int((given & ~other).sum()), int((other & ~given).sum())
    return Trial(name, len(given), int(given.sum()), int(other.sum()), sign_test(lost, won) if whole else 1.0)


def run_trials(
    names: Sequence[str], given: NDArray[np.bool_], right: Callable[[str, int, int], NDArray[np.bool_]]
) -> list[Trial]:
    """Try other ways on a growing part of the sample, giving each up as soon as it is not better than the best so far.

    Giving up early makes no false alarm likelier, and a way that is no better costs an eighth of the sample.

    Args:
        names: of the ways.
        given: [rows] whether right as it is.
        right: name, start, stop -> [stop - start] whether right that way.
    """
    n, found, leader = len(given), [], given
    for name in names:
        other = np.zeros(0, bool)
        for stop in (max(n // 8, min(n, 32)), n // 4, n // 2, n):
            if stop > len(other):
                other = np.concatenate([other, right(name, len(other), stop)])
                lead = int(other.sum()) - int(leader[: len(other)].sum())
                if lead < 0 or (lead == 0 and len(other) > n // 8):
                    break
        whole = len(other) == n
        found.append(compare_accuracy(name, given[: len(other)], other, whole))
        if whole and other.sum() > leader.sum():
            leader = other
    return found


def best_trial(found: Sequence[Trial], least: float) -> Trial | None:
    """The way that is significantly better, the likeliest of those that are about as good as the best of them.

    Args:
        found: in the order of their likelihood.
        least: share of the errors it must explain.
    """
    good = [t for t in found if t.p * MAX_TESTS < FALSE_ALARM_RATE and t.explains >= least]
    top = max((t.right for t in good), default=0)
    return next((t for t in good if t.right >= top - 0.01 * t.images), None)


def can_improve(right: NDArray[np.bool_]) -> bool:
    """Whether another way could be significantly better at all: [rows] whether right, all labelled."""
    errors = int((~right).sum())
    return len(right) >= MIN_LABELLED and sign_test(0, errors) * MAX_TESTS < FALSE_ALARM_RATE


# --- pictures of another size ---

USUAL_SIDE_PIXELS = 224
"""Side of the pictures that most networks for photographs are trained on, cut from a short side of 256."""

Sides = tuple[int | None, int | None]
"""Resize and crop; None for neither."""


def candidate_sizes(given: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> dict[str, Sides]:
    """Other sizes that training code is known to use, by their names; none is what was given.

    Args:
        given: height and width of what the model gets.
        sizes: width and height of each picture of the sample before anything was done to it.
    """
    found: dict[str, Sides] = {}
    alike = set(sizes)
    if len(alike) == 1 and (size := next(iter(alike))) != given[::-1]:
        found[f"pictures of the size that they have, {size[1]}×{size[0]}"] = None, None
    if sizes and given != (USUAL_SIDE_PIXELS, USUAL_SIDE_PIXELS):
        small = max(min(size) for size in sizes) < USUAL_SIDE_PIXELS
        sides = (USUAL_SIDE_PIXELS, USUAL_SIDE_PIXELS) if small else (256, USUAL_SIDE_PIXELS)
        found[f"pictures of {USUAL_SIDE_PIXELS}×{USUAL_SIDE_PIXELS}"] = sides
    return found


def diagnose_size(t: Trial, sides: Sides) -> Diagnosis:
    """What to say of another size that is better."""
    flags = " ".join(f"--{name} {side or 'none'}" for name, side in zip(("resize", "crop"), sides, strict=True))
    return Diagnosis("size", f"{_would_be(t)} with {t.name}: {flags}, if the model was trained so")


# --- classes in another order ---


def assign(gain: NDArray[np.int64]) -> NDArray[np.int64]:
    """The column of each row, each column once, with the largest sum of gains [n, n] -> [n].

    Shortest augmenting paths with potentials (Kuhn 1955; Jonker and Volgenant 1987; Crouse 2016): O(n³), exact on whole
    numbers.

    >>> assign(np.array([[3, 2, 0], [3, 0, 0], [0, 0, 1]])).tolist()
    [1, 0, 2]
    """
    n = len(gain)
    cost = (gain.max(initial=0) - gain).astype(np.int64)
    u, v = np.zeros(n, np.int64), np.zeros(n, np.int64)
    column, row_of = np.full(n, -1), np.full(n, -1)
    far = np.iinfo(np.int64).max
    for start in range(n):
        shortest, through = np.full(n, far), np.full(n, -1)
        open_ = np.ones(n, bool)  # columns that no shortest path is known to
        rows, row, length = [start], start, 0
        while True:
            path = length + cost[row] - u[row] - v
            nearer = open_ & (path < shortest)
            shortest[nearer], through[nearer] = path[nearer], row
            length = int(shortest[open_].min())
            nearest = np.flatnonzero(open_ & (shortest == length))
            free = nearest[row_of[nearest] < 0]
            at = int(free[0] if len(free) else nearest[0])
            open_[at] = False
            if len(free):
                break
            row = int(row_of[at])
            rows.append(row)
        u[start] += length
        on_path = np.array(rows[1:], int)
        u[on_path] += length - shortest[column[on_path]]
        v[~open_] -= length - shortest[~open_]
        while True:
            row = int(through[at])
            row_of[at], at, column[row] = row, int(column[row]), at
            if row == start:
                break
    return column


def fit_order(predicted: NDArray[np.int64], label: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The class that each output would stand for, each once, if most images were to be right. -> [classes].

    Of equally good ones the one that moves fewest.
    """
    seen = np.union1d(predicted, label)  # the others stay where they are
    counts = np.zeros((len(seen), len(seen)), np.int64)  # [output, class]
    np.add.at(counts, (np.searchsorted(seen, predicted), np.searchsorted(seen, label)), 1)
    order = np.arange(classes)
    order[seen] = seen[assign(counts * (len(seen) + 1) + np.eye(len(seen), dtype=np.int64))]
    return order


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"([0-9]+)", name) if part]


def candidate_orders(names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Orders that other programs give the same names: output -> class, [classes], none of which leaves all in place."""
    place = {name: i for i, name in enumerate(names)}
    if len(place) < len(names):
        return {}
    orders = {
        "the class names in plain alphabetical order": sorted(names),
        "the class names in order of their numbers": sorted(names, key=_natural),
        "the class names in order regardless of case": sorted(names, key=lambda name: (name.casefold(), name)),
    }
    found: dict[str, NDArray[np.int64]] = {}
    for words, order in orders.items():
        if order != list(names) and all(order != [names[c] for c in known.tolist()] for known in found.values()):
            found[words] = np.array([place[name] for name in order])
    return found


OFF_BY_ONE = {
    "labels less one": (-1, "they may count from 1, where the model's outputs count from 0"),
    "labels plus one": (1, "the model's first output may stand for no class"),
}
"""How the classes turn, and why."""


def diagnose_order(
    predicted: NDArray[np.int64], label: NDArray[np.int64], names: Sequence[str], known: float = 0.0
) -> tuple[Diagnosis, NDArray[np.int64]] | None:
    """A doubt about the order of the classes, and the order that fits: output -> class, [classes].

    The usual other orders are tried as they are. A free one is fitted on each half of the images and counted on the
    other half, so that many classes and few images do not make one up; it must also beat always naming the most
    frequent class, because one that only moves a favourite there explains nothing.

    Args:
        predicted, label: [rows], all labelled, in an order that has nothing to do with them.
        names: of the classes.
        known: accuracy that another explanation would give; this one must give more.
    """
    n, classes = len(label), len(names)
    if n < MIN_LABELLED:
        return None
    given = predicted == label
    orders = candidate_orders(names)
    if classes > 2:
        orders |= {words: np.roll(np.arange(classes), turn) for words, (turn, _) in OFF_BY_ONE.items()}
    beaten = max(float(np.bincount(label, minlength=classes).max() / n), known)  # by the most frequent class alone
    usual = best_trial(
        [compare_accuracy(w, given, order[predicted] == label) for w, order in orders.items()], MIN_ERRORS_EXPLAINED
    )
    if usual is not None and wilson_interval(usual.right, n)[0] > beaten:
        order = orders[usual.name]
        if usual.name in OFF_BY_ONE:
            return _order_doubt(usual, usual.name, OFF_BY_ONE[usual.name][1]), order
        return _order_doubt(usual, usual.name, f"{', '.join(names[c] for c in order[:3].tolist())}, …{_FILE}"), order

    half = np.arange(n) % 2 == 0
    crossed = np.empty(n, np.int64)
    for one in (half, ~half):
        crossed[~one] = fit_order(predicted[one], label[one], classes)[predicted[~one]]
    free = compare_accuracy("the class names in another order", given, crossed == label)
    if best_trial([free], MIN_ERRORS_EXPLAINED_BY_ORDER) is None or wilson_interval(free.right, n)[0] <= beaten:
        return None
    order = fit_order(predicted, label, classes)
    fits = order[predicted] == label
    support = np.bincount(predicted[fits], minlength=classes)  # images that speak for it, by output
    moved = [int(j) for j in np.argsort(-support, kind="stable") if order[j] != j and support[j]]
    shown = ", ".join(f"{names[j]} is {names[order[j]]}" for j in moved[:4])
    more = f" and {len(moved) - 4} more" if len(moved) > 4 else ""
    return _order_doubt(free, free.name, f"{shown}{more}{_FILE}"), order


_FILE = "; --classes FILE names the outputs in their order"


def _order_doubt(t: Trial, words: str, remedy: str) -> Diagnosis:
    return Diagnosis("order", f"{_would_be(t)} with {words}: {remedy}")


def diagnose_scaling(t: Trial, remedy: str) -> Diagnosis:
    """What to say of another scaling that is better."""
    return Diagnosis("scaling", f"{_would_be(t)} with {t.name}: {remedy}, if the model was trained so")


def _would_be(t: Trial) -> str:
    return f"accuracy of {t.images} images would be {percent(t.right / t.images)}, not {percent(t.given / t.images)},"


# --- what the inputs alone show ---


def check_input_range(mean: NDArray[np.float64], std: NDArray[np.float64]) -> Iterator[Diagnosis]:
    """Inputs whose mean and standard deviation [channels], as the model gets them, are far from 0 and 1."""
    m, s = float(np.abs(mean).max()), float(std.mean())
    if m > 20 or s > 20:
        yield Diagnosis(
            "range",
            f"the model gets inputs of mean {_list(mean)} and standard deviation {_list(std)}: --mean and --std are of "
            "x/255, so from 0 to 1, and one of them may be meant for 0 to 255",
        )
    elif m > 1.5 or not 0.4 < s < 2.5:
        yield Diagnosis(
            "range",
            f"the model gets inputs of mean {_list(mean)} and standard deviation {_list(std)}, where training code "
            "mostly has about 0 and 1: see --mean and --std",
            warning=False,
        )


def check_padding(sizes: Sequence[tuple[int, int]], crop: int, resized: bool) -> Iterator[Diagnosis]:
    """A crop that is larger than most pictures, which are padded with black.

    Args:
        sizes: width and height of each picture before the crop.
        crop: side of the square.
        resized: whether there is a resize before it.
    """
    smaller = [size for size in sizes if min(size) < crop]
    black = 1 - sum(min(w, crop) * min(h, crop) for w, h in sizes) / max(len(sizes) * crop**2, 1)
    if 2 * len(smaller) > len(sizes) and black > MAX_BLACK_SHARE:
        ((width, height), _), *_ = Counter(smaller).most_common(1)
        remedy = f"a --resize of at least {crop}" if resized else "--resize first"
        yield Diagnosis(
            "padding",
            f"the crop of {crop} is larger than most pictures ({height}×{width}), so {percent(black)} of what the "
            f"model sees is black: {remedy}",
        )


def diagnose_recipe(differences: Sequence[str], source: str, own_weights: bool) -> Diagnosis:
    """Pictures that are not prepared as the model's library does it; with the library's own weights a mistake."""
    return Diagnosis(
        "library",
        f"pictures are not prepared as {source} says: {', '.join(differences)}; leave the flags out if the model was "
        "trained so",
        warning=own_weights,
    )


def _list(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{v:.3g}" for v in values[:3]) + (" …" if len(values) > 3 else "")
