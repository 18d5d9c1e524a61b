"""Tiles, pixel by pixel: sizes, the picture's own pixels, colours, and text that stays in its column."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from predboard.drawing import fonts, tiles
from predboard.drawing.tiles import TileText, draw_tile, fit_picture
from predboard.summaries import Pixels
from tests.drawing.pixels import BLUE, GREY, NAMES, VERMILLION, longest_run, noise, where


def tile(
    picture: Image.Image | None = None, true: str | None = "cat", top: Sequence[tuple[str, float]] = (("cat", 0.9),)
) -> Pixels:
    fitted = None if picture is None else fit_picture(picture)[0]
    return np.asarray(draw_tile(fitted, TileText(true, top, "cat/001.png", 7, 0.1)))


def frame(pixels: Pixels, colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Left, top and side of the square frame of a tile."""
    rows, columns = np.nonzero(where(pixels, colour)[:, :213])
    left, top = int(columns.min()), int(rows.min())
    assert columns.max() - left == rows.max() - top, "the frame is no square"
    return left, top, int(columns.max()) - left + 1


def inside(pixels: Pixels, colour: tuple[int, int, int] = BLUE) -> Pixels:
    """What the frame surrounds."""
    left, top, side = frame(pixels, colour)
    assert where(pixels, colour)[top, left : left + side].all()
    within = pixels[top + 4 : top + side - 4, left + 4 : left + side - 4]
    assert within.shape == (196, 196, 3)
    return within


@pytest.mark.parametrize("size", [(28, 28), (1, 1), (500, 375), (1, 4000), (4000, 1), (196, 196), (197, 3)])
def test_a_tile_is_350_by_215_whatever_the_picture(size: tuple[int, int]) -> None:
    made = tile(noise(*size))
    assert made.shape == (215, 350, 3)
    assert made.dtype == np.uint8


@pytest.mark.parametrize(("size", "factor"), [((28, 28), 7), ((64, 64), 3), ((32, 32), 6), ((8, 8), 24), ((20, 9), 9)])
def test_a_small_picture_grows_by_a_whole_factor_with_exactly_its_own_pixels(
    size: tuple[int, int], factor: int
) -> None:
    picture = noise(*size)
    fitted, exact = fit_picture(picture)
    assert exact
    assert fitted.size == (size[0] * factor, size[1] * factor)
    expected = np.asarray(picture).repeat(factor, axis=0).repeat(factor, axis=1)
    within = inside(tile(picture))
    left, top = (196 - fitted.width) // 2, (196 - fitted.height) // 2
    shown = within[top : top + fitted.height, left : left + fitted.width]
    assert np.array_equal(shown, expected)
    around = np.ones(within.shape[:2], bool)
    around[top : top + fitted.height, left : left + fitted.width] = False
    assert (within[around] == 240).all()


def test_a_digit_of_28_pixels_fills_the_frame() -> None:
    within = inside(tile(noise(28, 28)))
    blocks = within.reshape(28, 7, 28, 7, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert np.array_equal(blocks[:, 0, :, 0], np.asarray(noise(28, 28)))


@pytest.mark.parametrize(
    ("size", "fitted_size"),
    [((500, 375), (196, 147)), ((375, 500), (147, 196)), ((3000, 3000), (196, 196)), ((1000, 1), (196, 1))],
)
def test_a_large_picture_is_reduced_in_its_proportions(size: tuple[int, int], fitted_size: tuple[int, int]) -> None:
    fitted, exact = fit_picture(Image.new("RGB", size, (10, 200, 30)))
    assert not exact
    assert fitted.size == fitted_size
    assert (np.asarray(fitted) == (10, 200, 30)).all()


def test_a_large_picture_is_smoothed_not_sampled() -> None:
    stripes = np.zeros((900, 900, 3), np.uint8)
    stripes[::2], stripes[:, ::2] = 255, 255  # three of four pixels white
    fitted = np.asarray(fit_picture(Image.fromarray(stripes))[0]).astype(int)
    assert np.abs(fitted - 0.75 * 255).max() < 12


def test_a_picture_between_half_and_full_size_is_shown_as_it_is() -> None:
    picture = noise(150, 120)
    fitted, exact = fit_picture(picture)
    assert exact
    assert np.array_equal(np.asarray(fitted), np.asarray(picture))


@given(st.integers(1, 5000), st.integers(1, 5000))
@settings(max_examples=30)
def test_any_picture_fits_and_is_as_large_as_it_can_be(width: int, height: int) -> None:
    fitted, exact = fit_picture(Image.new("RGB", (width, height)))
    assert min(fitted.size) >= 1
    assert max(fitted.size) <= 196
    assert max(fitted.size) > 98 if exact else max(fitted.size) == 196


@pytest.mark.parametrize(
    ("true", "said", "colour"), [("cat", "cat", BLUE), ("cat", "dog", VERMILLION), (None, "cat", GREY)]
)
def test_the_frame_says_by_its_colour_whether_the_model_is_right(
    true: str | None, said: str, colour: tuple[int, int, int]
) -> None:
    made = tile(noise(28, 28), true, [(said, 0.9)])
    assert frame(made, colour)[2] == 204
    for other in {BLUE, VERMILLION, GREY} - {colour}:
        assert not where(made, other)[:, :213].any()


def test_bars_are_as_long_as_the_probabilities_and_the_true_class_is_blue() -> None:
    words = tile(None, "cat", [("dog", 0.5), ("cat", 0.25), ("eel", 0.125)])[:, 213:]
    track = (228, 228, 228)
    full = longest_run(where(words, VERMILLION) | where(words, track))
    assert full > 120
    for colour, share in ((VERMILLION, 0.5), (BLUE, 0.25), (GREY, 0.125)):
        assert longest_run(where(words, colour)) == round(share * full)


def test_a_tiny_probability_is_still_seen_and_none_is_not() -> None:
    for share, expected in ((1e-6, 1), (0.0, 0)):
        words = tile(None, "cat", [("dog", 1.0), ("cat", share)])[:, 213:]
        assert longest_run(where(words, BLUE)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_names_stay_in_their_column(name: str) -> None:
    text = NAMES[name]
    top = [(text, 0.5), (text, 0.3), (text, 0.2)]
    made = np.asarray(draw_tile(None, TileText(text or None, top, f"{text}/{text}.png", 10**15, 1e6)))
    plain = np.asarray(draw_tile(None, TileText("a" if text else None, [("a", 0.5)], "", 0)))
    assert np.array_equal(made[:, :214], plain[:, :214])  # the picture and its frame
    assert (made[:, 347:] == 255).all()
    assert (made[:4, 214:] == 255).all()
    assert (made[-2:, 214:] == 255).all()


@pytest.mark.parametrize("name", NAMES)
def test_names_do_not_run_into_the_numbers(name: str) -> None:
    def row(text: str) -> Pixels:
        return tile(None, "cat", [(text, 0.512)])[75:92, 214:]

    alone = row("")
    ink = np.flatnonzero((alone < 255).any(axis=(0, 2)))
    number = int(ink.min())  # where the percentage begins
    assert np.array_equal(row(NAMES[name])[:, number - 3 :], alone[:, number - 3 :])


def test_a_tile_without_picture_says_so() -> None:
    within = inside(tile(None))
    assert (within != 240).any()
    assert (within[:80] == 240).all()
    assert (within[120:] == 240).all()


def test_a_tile_is_drawn_where_no_font_has_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_SYSTEM_FONTS", ())
    made = tile(None, NAMES["Chinese"], [(NAMES["Chinese"], 1.0)])
    assert (made[:, 347:] == 255).all()


def test_tiles_that_are_drawn_at_once_are_those_that_are_drawn_in_turn() -> None:
    def drawn(i: int) -> bytes:
        top = [(f"class{i * k:04d}", 1 / (i + k)) for k in (1, 2, 3)]
        return draw_tile(None, TileText(f"class{i:04d}", top, f"a/{i * 827:06d}.png", i * 413, i / 7)).tobytes()

    in_turn = [drawn(i % 50) for i in range(400)]
    for cache in (fonts.fit_text, tiles._background):
        cache.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(drawn, (i % 50 for i in range(400)))) == in_turn


def test_drawing_twice_gives_the_same_pixels() -> None:
    assert np.array_equal(tile(noise(28, 28)), tile(noise(28, 28)))
