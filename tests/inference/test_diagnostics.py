"""What makes one doubt: statistics against SciPy, and what is said of good, weak, broken and wrongly named models."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from predboard import InferConfig
from predboard.inference import diagnostics
from predboard.inference.diagnostics import Diagnosis, Scaling
from predboard.metrics.intervals import sign_test
from scipy.optimize import linear_sum_assignment

IMAGENET = Scaling(False, *diagnostics.IMAGENET_MEAN_STD)
PLAIN = Scaling(False, (0.0,) * 3, (1.0,) * 3)
MOMENTS = np.array([0.3, 0.4, 0.5]), np.array([0.1, 0.2, 0.15])


def names_of(found: Sequence[Diagnosis] | Any) -> list[str]:
    return [doubt.name for doubt in found]


def model(
    classes: int, rows: int, accuracy: float, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64], np.random.Generator]:
    """Predicted and label [rows] of a model that is right that often and else says anything."""
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, rows)
    said = np.where(random.random(rows) < accuracy, label, random.integers(0, classes, rows))
    return said, label, random


# The statistics


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(1, 4), st.randoms(use_true_random=False))
def test_an_assignment_is_as_good_as_scipys(n: int, largest: int, random: Any) -> None:
    gain = np.array([[random.randint(-1, largest) for _ in range(n)] for _ in range(n)], np.int64).reshape(n, n)
    column = diagnostics.assign(gain)
    assert sorted(column.tolist()) == list(range(n))
    best = gain[linear_sum_assignment(gain, maximize=True)].sum() if n else 0
    assert gain[np.arange(n), column].sum() == best


def test_an_assignment_of_a_thousand_classes_takes_no_time() -> None:
    random = np.random.default_rng(0)
    gain = random.integers(0, 10**6, (1000, 1000))
    began = time.process_time()
    column = diagnostics.assign(gain)
    assert time.process_time() - began < 10  # it takes 0.3 s
    assert gain[np.arange(1000), column].sum() == gain[linear_sum_assignment(gain, maximize=True)].sum()


def test_a_fitted_order_moves_no_more_than_it_must() -> None:
    predicted, label = np.array([0, 0, 1, 5, 5, 5]), np.array([1, 1, 0, 5, 5, 7])
    assert diagnostics.fit_order(predicted, label, 9).tolist() == [1, 0, 2, 3, 4, 5, 6, 7, 8]


# What the logits show


def test_logits_that_are_not_finite_are_counted() -> None:
    logits = np.zeros((6, 3), np.float32)
    assert not list(diagnostics.check_finite(logits))
    logits[2, 1], logits[4, 0] = np.nan, -np.inf
    (doubt,) = diagnostics.check_finite(logits)
    assert doubt.text.startswith("the logits of 2 of 6 images are not finite")


def test_a_softmax_over_the_outputs_is_noticed_and_logits_are_not_taken_for_one() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    (doubt,) = diagnostics.check_normalised(p)
    assert doubt.name == "softmax"
    assert "--scores probabilities" in doubt.text
    assert names_of(diagnostics.check_normalised(p.astype(np.float16).astype(np.float32))) == ["softmax"]
    assert names_of(diagnostics.check_normalised((1 / (1 + np.exp(-logits))).astype(np.float32))) == ["sigmoid"]
    one_row_off = p.copy()
    one_row_off[3] = logits[3]
    for fine in (logits, np.log(p), p * 3, one_row_off, np.ones((4, 1), np.float32)):
        assert not list(diagnostics.check_normalised(fine))


def test_a_model_that_is_not_in_eval_mode_is_noticed_by_what_it_does() -> None:
    random = np.random.default_rng(0)
    once = random.normal(size=(16, 4)).astype(np.float32)
    jitter = (1e-5 * random.normal(size=once.shape)).astype(np.float32)
    steady = list(diagnostics.check_nondeterministic(once, once + jitter, once[:4] + jitter[:4], ("bn",), 1e-3))
    assert steady == []  # a flag that has no effect is no doubt
    noisy = once + random.normal(size=once.shape).astype(np.float32)
    (doubt,) = diagnostics.check_nondeterministic(once, noisy, once[:4], ("drop",), 1e-3)
    assert doubt.name == "random"
    assert "(drop in train mode)" in doubt.text
    (doubt,) = diagnostics.check_nondeterministic(once, once, noisy[:4], (), 1e-3)
    assert (doubt.name, "in train mode" in doubt.text) == ("neighbours", False)
    assert names_of(diagnostics.check_nondeterministic(once * 100, once * 100 + 0.01, once[:4] * 100, (), 1e-3)) == []


# What labels show


@pytest.mark.parametrize(("accuracy", "expected"), [(0.0, ["chance"]), (0.05, ["chance"]), (0.3, []), (0.95, [])])
def test_accuracy_near_chance(accuracy: float, expected: list[str]) -> None:
    predicted, label, _ = model(10, 400, accuracy)
    found = list(diagnostics.check_chance(predicted, label, 10))
    assert names_of(found) == expected
    assert all(doubt.again for doubt in found)
    assert not list(diagnostics.check_chance(predicted[:49], label[:49], 10))  # too few to tell
    assert not list(diagnostics.check_chance(predicted, np.zeros(400, np.int64), 10))  # nothing to confuse


def test_chance_is_the_share_of_the_most_frequent_class() -> None:
    label = np.repeat([0, 1], [360, 40])
    assert names_of(diagnostics.check_chance(np.zeros(400, np.int64), label, 2)) == ["chance"]
    assert not list(diagnostics.check_chance(label, label, 2))


def test_one_class_that_gets_most_predictions() -> None:
    predicted, label, random = model(5, 300, 0.9)
    most = np.where(random.random(300) < 0.8, 3, predicted)
    (doubt,) = diagnostics.check_dominant_class(most, label, 5, "abcde")
    assert " one class, d:" in doubt.text
    assert not list(diagnostics.check_dominant_class(predicted, label, 5, "abcde"))
    assert not list(
        diagnostics.check_dominant_class(np.where(label == 3, 3, predicted), np.full(300, 3), 5, "abcde")
    )  # they all are
    unknown = np.full(300, -1)
    assert not list(diagnostics.check_dominant_class(most, unknown, 5, "abcde"))  # there may be so many of them
    (doubt,) = diagnostics.check_dominant_class(np.full(300, 3), unknown, 5, "abcde")
    assert not doubt.again


# Other scalings


@pytest.mark.parametrize("channels", [1, 3, 13])
@pytest.mark.parametrize("turned", [False, True])
def test_other_scalings_are_all_different_and_none_is_the_given_one(channels: int, turned: bool) -> None:
    mean, std = np.linspace(0.3, 0.5, channels), np.linspace(0.1, 0.2, channels)
    for given_mean, given_std in (((0.0,), (1.0,)), ((0.5,), (0.5,)), ((123.0,), (58.0,))):
        given = Scaling(turned, given_mean * channels, given_std * channels)
        found = diagnostics.candidate_scalings(given, mean, std)
        assert len(set(found.values()) | {given}) == len(found) + 1
        assert all(len(s.mean) == len(s.std) == channels for s in found.values())
        assert any(s.turned != given.turned for s in found.values()) == (channels == 3)
        assert ("mean and std over 255" in found) == (given_mean == (123.0,))
    assert len(found) <= 15  # which TESTS counts on


@pytest.mark.parametrize(
    ("given", "sizes", "expected"),
    [
        ((224, 224), [(64, 64)] * 3, [(None, None)]),
        ((64, 64), [(64, 64)] * 3, [(224, 224)]),
        ((32, 32), [(64, 48)], [(None, None), (224, 224)]),
        ((32, 32), [(640, 480), (500, 375)], [(256, 224)]),
        ((48, 64), [(64, 48)], [(224, 224)]),
        ((64, 64), [], []),
    ],
)
def test_other_sizes_are_the_pictures_own_and_the_usual_one(
    given: tuple[int, int], sizes: list[tuple[int, int]], expected: list[diagnostics.Sides]
) -> None:
    assert list(diagnostics.candidate_sizes(given, sizes).values()) == expected


def test_what_is_unknown_is_not_scaled_back() -> None:
    assert list(diagnostics.candidate_scalings(PLAIN, *MOMENTS, unit=False)) == [
        "the images' own mean and std",
        "channels in BGR order",
        "the images' own mean and std and channels in BGR order",
    ]


def test_the_images_own_mean_and_std_follow_the_channels() -> None:
    found = diagnostics.candidate_scalings(PLAIN, *MOMENTS)
    assert found["the images' own mean and std"].mean == (0.3, 0.4, 0.5)
    assert found["the images' own mean and std and channels in BGR order"].mean == (0.5, 0.4, 0.3)
    assert found["ImageNet's mean and inputs to 255 and channels in BGR order"].mean == (0.406, 0.456, 0.485)
    assert found["channels in BGR order"] == Scaling(True, PLAIN.mean, PLAIN.std)


def test_the_flags_of_a_scaling_do_what_it_says() -> None:
    for scaling in diagnostics.candidate_scalings(IMAGENET, *MOMENTS).values():
        flags = scaling.flags(IMAGENET).split()
        said: dict[str, Any] = dict(zip(flags[::2], flags[1::2], strict=True))
        config = InferConfig(
            data="x",
            model="y.py:z",
            channels=said.get("--channels", "rgb"),
            mean=tuple(map(float, said["--mean"].split(","))) if "--mean" in said else IMAGENET.mean,
            std=tuple(map(float, said["--std"].split(","))) if "--std" in said else IMAGENET.std,
        )
        assert (config.channels == "bgr") == scaling.turned
        assert config.mean == pytest.approx(scaling.mean, rel=1e-3)
        assert config.std == pytest.approx(scaling.std, rel=1e-3)


def trying(
    given: NDArray[np.bool_], ways: dict[str, NDArray[np.bool_]]
) -> tuple[list[diagnostics.Trial], dict[str, int]]:
    cost = dict.fromkeys(ways, 0)

    def right(name: str, start: int, stop: int) -> NDArray[np.bool_]:
        assert start == cost[name]
        cost[name] = stop
        return ways[name][start:stop]

    return diagnostics.run_trials(list(ways), given, right), cost


def test_a_way_that_is_better_is_found_and_the_others_are_given_up_early() -> None:
    random = np.random.default_rng(0)
    given = random.random(512) < 0.4
    better, worse = given | (random.random(512) < 0.8), given & (random.random(512) < 0.8)
    found, cost = trying(
        given, {"worse": worse, "better": better, "same": given.copy(), "a little": given | (random.random(512) < 0.3)}
    )
    assert cost["better"] == 512
    assert max(cost["worse"], cost["same"], cost["a little"]) <= 128
    best = diagnostics.best_trial(found, diagnostics.MIN_ERRORS_EXPLAINED)
    assert best is not None
    assert (best.name, best.images, best.given, best.right) == ("better", 512, given.sum(), better.sum())
    assert best.p == sign_test(0, int((better & ~given).sum()))


def test_of_two_that_are_about_as_good_the_likelier_is_named() -> None:
    given, right = np.arange(400) % 2 == 0, np.ones(400, bool)
    nearly = right.copy()
    nearly[-2:] = False
    for ways, name in (({"first": nearly, "second": right}, "first"), ({"second": right, "first": nearly}, "second")):
        found, _ = trying(given, ways)
        best = diagnostics.best_trial(found, diagnostics.MIN_ERRORS_EXPLAINED)
        assert best is not None and best.name == name


def test_ways_that_are_as_good_by_chance_raise_no_alarm() -> None:
    random = np.random.default_rng(1)
    alarms = 0
    for _ in range(300):
        given = random.random(512) < 0.8
        ways = {str(i): np.where(random.random(512) < 0.2, random.random(512) < 0.8, given) for i in range(15)}
        found, _ = trying(given, ways)
        alarms += diagnostics.best_trial(found, 0.0) is not None
    assert alarms <= 6  # at the level of one in a hundred more are expected once in a hundred such tests


def test_nothing_is_tried_where_nothing_could_be_better() -> None:
    right = np.ones(512, bool)
    right[:10] = False
    assert not diagnostics.can_improve(right)  # ten errors fewer are no proof
    right[:20] = False
    assert diagnostics.can_improve(right)
    assert not diagnostics.can_improve(right[:49])


# Classes in another order


def order_found(
    predicted: NDArray[np.int64], label: NDArray[np.int64], names: Sequence[str], known: float = 0.0
) -> Any:
    return diagnostics.diagnose_order(predicted, label, names, known)


@pytest.mark.parametrize(("classes", "accuracy"), [(3, 0.9), (10, 0.9), (10, 0.4), (100, 0.7)])
def test_an_order_that_was_mixed_up_is_found(classes: int, accuracy: float) -> None:
    said, label, random = model(classes, 512, accuracy)
    order = random.permutation(classes) if classes > 3 else np.array([1, 0, 2])  # output -> class
    place = np.argsort(order)
    doubt, found = order_found(place[said], label, [f"n{i}" for i in range(classes)])
    assert (found == order).mean() > 0.95
    assert (found[place[said]] == label).mean() == pytest.approx((said == label).mean(), abs=0.02)
    assert " with the class names in another order: n" in doubt.text
    assert "--classes FILE" in doubt.text


def test_two_classes_that_changed_places_are_found() -> None:
    said, label, _ = model(10, 512, 0.9)
    swap = np.arange(10)
    swap[[3, 5]] = 5, 3
    doubt, found = order_found(swap[said], label, "abcdefghij")
    assert found.tolist() == swap.tolist()
    assert "another order: d is f, f is d;" in doubt.text.replace("f is d, d is f", "d is f, f is d")
    assert order_found(swap[said], label, "abcdefghij", known=0.95) is None  # something else explains more


def test_numbered_names_in_plain_order_are_recognised_among_a_thousand() -> None:
    numbered = [str(i) for i in range(1000)]
    names = sorted(numbered)  # 0, 1, 10, 100, …
    said, label, _ = model(1000, 512, 0.7)
    by_number = np.array([names.index(name) for name in numbered])  # output -> class
    doubt, found = order_found(np.argsort(by_number)[said], label, names)
    assert found.tolist() == by_number.tolist()
    assert "with the class names in order of their numbers: 0, 1, 2, …;" in doubt.text


@pytest.mark.parametrize(("turn", "words"), [(-1, "labels less one"), (1, "labels plus one")])
def test_labels_off_by_one_are_recognised_among_a_thousand(turn: int, words: str) -> None:
    said, label, _ = model(1000, 512, 0.7)
    doubt, _ = order_found((said + turn) % 1000, label, [f"n{i:04}" for i in range(1000)])
    assert f"with {words}: " in doubt.text


@pytest.mark.parametrize("classes", [3, 10, 100, 1000])
@pytest.mark.parametrize("kind", ["weak", "weaker", "chance", "one class", "blurred"])
def test_a_model_that_is_merely_bad_is_not_said_to_have_its_names_mixed_up(classes: int, kind: str) -> None:
    names = [f"n{i}" for i in range(classes)]
    for seed in range(12):
        said, label, random = model(classes, 512, {"weak": 0.5, "weaker": 0.2}.get(kind, 0.0), seed)
        if kind == "one class":  # which is not the most frequent one
            label = np.where(random.random(512) < 0.6, 0, label)
            said = np.full(512, classes - 1)
        elif kind == "blurred":  # a third of each class goes to the next, most images stay
            said = np.where(random.random(512) < 0.33, (label + 1) % classes, label)
        assert order_found(said, label, names) is None


def test_names_that_sort_alike_give_no_other_orders() -> None:
    assert diagnostics.candidate_orders(["bird", "cat", "dog"]) == {}
    assert list(diagnostics.candidate_orders(["Cat", "bird"])) == ["the class names in order regardless of case"]
    assert [o.tolist() for o in diagnostics.candidate_orders(["c10", "c2"]).values()] == [[1, 0]]
    assert diagnostics.candidate_orders(["a", "a"]) == {}


# What the inputs show


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (0.1, 1.0, []),
        (-0.6, 0.6, []),
        (0.45, 0.25, [False]),
        (-2.1, 0.004, [False]),
        (120, 60, [True]),
        (2, 1, [False]),
    ],
)
def test_inputs_that_are_far_from_the_usual(mean: float, std: float, expected: list[bool]) -> None:
    found = list(diagnostics.check_input_range(np.full(3, mean), np.full(3, std)))
    assert [doubt.warning for doubt in found] == expected
    assert all(": " in doubt.text for doubt in found)


def test_a_crop_is_doubted_where_most_pictures_are_smaller_and_much_is_black() -> None:
    (found,) = diagnostics.check_padding([(64, 64), (64, 64), (300, 300)], 224, resized=False)
    assert found.text == (  # 1 - (2 · 64² + 224²) / (3 · 224²)
        "the crop of 224 is larger than most pictures (64×64), so 61.2 % of what the model sees is black: --resize "
        "first"
    )
    (wide,) = diagnostics.check_padding([(100, 50)], 100, resized=True)
    assert "(50×100), so 50.0 % of what" in wide.text  # height first, as everywhere
    for sizes in ([(64, 64), (300, 300)], [(224, 224)] * 3, [(222, 224)] * 3, []):
        assert not list(diagnostics.check_padding(sizes, 224, resized=False))
