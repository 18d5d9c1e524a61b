"""Other scalings and sizes: which are tried, that a better one is found, and that chance raises no alarm."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from predboard import InferConfig
from predboard.inference import preprocessing_trials
from predboard.inference.preprocessing_trials import Scaling
from predboard.metrics.intervals import sign_test

IMAGENET = Scaling(False, *preprocessing_trials.IMAGENET_MEAN_STD)
PLAIN = Scaling(False, (0.0,) * 3, (1.0,) * 3)
MOMENTS = np.array([0.3, 0.4, 0.5]), np.array([0.1, 0.2, 0.15])


@pytest.mark.parametrize("channels", [1, 3, 13])
@pytest.mark.parametrize("bgr", [False, True])
def test_other_scalings_are_all_different_and_none_is_the_given_one(channels: int, bgr: bool) -> None:
    mean, std = np.linspace(0.3, 0.5, channels), np.linspace(0.1, 0.2, channels)
    for given_mean, given_std in (((0.0,), (1.0,)), ((0.5,), (0.5,)), ((123.0,), (58.0,))):
        given = Scaling(bgr, given_mean * channels, given_std * channels)
        found = preprocessing_trials.candidate_scalings(given, mean, std)
        assert len(set(found.values()) | {given}) == len(found) + 1
        assert all(len(s.mean) == len(s.std) == channels for s in found.values())
        assert any(s.bgr != given.bgr for s in found.values()) == (channels == 3)
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
    given: tuple[int, int], sizes: list[tuple[int, int]], expected: list[preprocessing_trials.Sides]
) -> None:
    assert list(preprocessing_trials.candidate_sizes(given, sizes).values()) == expected


def test_floats_of_unknown_range_are_not_scaled_back() -> None:
    assert list(preprocessing_trials.candidate_scalings(PLAIN, *MOMENTS, unit=False)) == [
        "the images' own mean and std",
        "channels in BGR order",
        "the images' own mean and std and channels in BGR order",
    ]


def test_the_images_own_mean_and_std_follow_the_channels() -> None:
    found = preprocessing_trials.candidate_scalings(PLAIN, *MOMENTS)
    assert found["the images' own mean and std"].mean == (0.3, 0.4, 0.5)
    assert found["the images' own mean and std and channels in BGR order"].mean == (0.5, 0.4, 0.3)
    assert found["ImageNet's mean and inputs to 255 and channels in BGR order"].mean == (0.406, 0.456, 0.485)
    assert found["channels in BGR order"] == Scaling(True, PLAIN.mean, PLAIN.std)


def test_the_flags_of_a_scaling_do_what_it_says() -> None:
    for scaling in preprocessing_trials.candidate_scalings(IMAGENET, *MOMENTS).values():
        flags = scaling.flags(IMAGENET).split()
        given: dict[str, Any] = dict(zip(flags[::2], flags[1::2], strict=True))
        config = InferConfig(
            data="x",
            model="y.py:z",
            channels=given.get("--channels", "rgb"),
            mean=tuple(map(float, given["--mean"].split(","))) if "--mean" in given else IMAGENET.mean,
            std=tuple(map(float, given["--std"].split(","))) if "--std" in given else IMAGENET.std,
        )
        assert (config.channels == "bgr") == scaling.bgr
        assert config.mean == pytest.approx(scaling.mean, rel=1e-3)
        assert config.std == pytest.approx(scaling.std, rel=1e-3)


def trying(
    given: NDArray[np.bool_], ways: dict[str, NDArray[np.bool_]], by_chance: bool = False, quick: bool = False
) -> tuple[list[preprocessing_trials.Trial], dict[str, int]]:
    cost = dict.fromkeys(ways, 0)

    def right(name: str, start: int, stop: int) -> NDArray[np.bool_]:
        assert start == cost[name]
        cost[name] = stop
        return ways[name][start:stop]

    return preprocessing_trials.run_trials(list(ways), given, right, by_chance=by_chance, quick=quick), cost


def test_a_better_alternative_is_found_and_the_others_are_stopped_early() -> None:
    random = np.random.default_rng(0)
    given = random.random(512) < 0.4
    better, worse = given | (random.random(512) < 0.8), given & (random.random(512) < 0.8)
    found, cost = trying(
        given, {"worse": worse, "better": better, "same": given.copy(), "a little": given | (random.random(512) < 0.3)}
    )
    assert cost["better"] == 512
    assert max(cost["worse"], cost["same"], cost["a little"]) <= 128
    best = preprocessing_trials.best_trial(found)
    assert best is not None
    assert (best.name, best.images, best.given, best.right) == ("better", 512, given.sum(), better.sum())
    assert best.p == sign_test(0, int((better & ~given).sum()))


def test_an_alternative_that_explains_no_error_is_stopped_before_the_first_look() -> None:
    given = np.zeros(256, bool)
    some = given.copy()
    some[20::10] = True  # the first within 32 images
    _, cost = trying(given, {"none": given, "some": some})
    assert cost == {"none": 32, "some": 256}
    given[::8] = True  # 28 errors among the first 32: 0.9 ** 28 is 0.052
    assert trying(given, {"none": given})[1] == {"none": 64}


def test_where_the_given_way_is_right_by_chance_the_right_one_stands_out_at_once() -> None:
    random, cost = np.random.default_rng(0), {False: 0, True: 0}
    for by_chance in cost:
        for _ in range(100):
            label = random.integers(0, 10, 256)
            given, other, right = (random.integers(0, 10, 256) == label for _ in range(3))
            right |= random.random(256) < 0.5
            found, costs = trying(given, {"other": other, "right": right}, by_chance)
            best = preprocessing_trials.best_trial(found)
            assert best is not None and best.name == "right"
            cost[by_chance] += costs["other"]
    assert cost[True] < 0.85 * cost[False]


def test_of_a_model_at_chance_one_look_must_do_where_there_is_no_time_for_two() -> None:
    none, right = np.zeros(256, bool), np.arange(256) % 8 == 7
    for quick, looked in ((False, 32), (True, 16)):
        _, cost = trying(none, {"none": none, "right": right}, True, quick)
        assert cost == {"none": looked, "right": 256}
    assert trying(none, {"none": none}, False, True)[1] == {"none": 32}


def test_of_two_about_equally_good_alternatives_the_first_is_taken() -> None:
    given, right = np.arange(400) % 2 == 0, np.ones(400, bool)
    nearly = right.copy()
    nearly[-2:] = False
    for ways, name in (({"first": nearly, "second": right}, "first"), ({"second": right, "first": nearly}, "second")):
        found, _ = trying(given, ways)
        best = preprocessing_trials.best_trial(found)
        assert best is not None and best.name == name


def test_alternatives_that_are_as_good_by_chance_raise_no_alarm() -> None:
    random = np.random.default_rng(1)
    alarms = 0
    for _ in range(300):
        given = random.random(512) < 0.8
        ways = {str(i): np.where(random.random(512) < 0.2, random.random(512) < 0.8, given) for i in range(15)}
        found, _ = trying(given, ways)
        alarms += preprocessing_trials.best_trial(found, 0.0) is not None
    assert alarms <= 6  # at the level of one in a hundred more are expected once in a hundred such tests


def test_nothing_is_tried_where_nothing_could_be_better() -> None:
    right = np.ones(512, bool)
    right[:10] = False
    assert not preprocessing_trials.can_improve(right)  # ten errors fewer are no proof
    right[:20] = False
    assert preprocessing_trials.can_improve(right)
    assert not preprocessing_trials.can_improve(right[:49])
