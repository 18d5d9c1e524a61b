"""Pictures, pixel by pixel: sizes, the picture's own pixels, colours, and words that stay where they belong."""

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from predboard.drawing import canvas as draw
from predboard.drawing.canvas import ReportCard, TileText

# Okabe and Ito's blue and vermillion, which everyone can tell apart.
BLUE, VERMILLION = (0, 114, 178), (213, 94, 0)
GREY = (110, 110, 110)

Pixels = NDArray[np.uint8]

NAMES = {
    "short": "cat",
    "long": "a very long name of a class " * 8,
    "one long word": "W" * 300,
    "Chinese": "非常に長いクラスの名前" * 10,
    "Arabic": "اسم طويل جدا " * 20,
    "Thai": "ชื่อที่ยาวมาก" * 20,
    "emoji": "🐈" * 80,
    "Zalgo": "c\u0301\u0302\u0303\u0304" * 60,
    "lines": "a\nb\tc\r\nd" * 40,
    "empty": "",
}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 200, (height, width, 3), dtype=np.uint8))


def tile(
    picture: Image.Image | None = None, true: str | None = "cat", top: Sequence[tuple[str, float]] = (("cat", 0.9),)
) -> Pixels:
    fitted = None if picture is None else draw.fit_picture(picture)[0]
    return np.asarray(draw.draw_tile(fitted, TileText(true, top, "cat/001.png", 7, 0.1)))


def where(pixels: Pixels, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((pixels == colour).all(axis=2))


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


def longest_run(mask: NDArray[np.bool_]) -> int:
    """The longest row of True in [rows, columns]."""
    best = 0
    for row in mask:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        best = max(best, *(edges[1::2] - edges[::2]).tolist(), 0)
    return best


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
    fitted, exact = draw.fit_picture(picture)
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
    fitted, exact = draw.fit_picture(Image.new("RGB", size, (10, 200, 30)))
    assert not exact
    assert fitted.size == fitted_size
    assert (np.asarray(fitted) == (10, 200, 30)).all()


def test_a_large_picture_is_smoothed_not_sampled() -> None:
    stripes = np.zeros((900, 900, 3), np.uint8)
    stripes[::2], stripes[:, ::2] = 255, 255  # three of four pixels white
    fitted = np.asarray(draw.fit_picture(Image.fromarray(stripes))[0]).astype(int)
    assert np.abs(fitted - 0.75 * 255).max() < 12


def test_a_picture_between_half_and_full_size_is_shown_as_it_is() -> None:
    picture = noise(150, 120)
    fitted, exact = draw.fit_picture(picture)
    assert exact
    assert np.array_equal(np.asarray(fitted), np.asarray(picture))


@given(st.integers(1, 5000), st.integers(1, 5000))
@settings(max_examples=30, deadline=None)
def test_any_picture_fits_and_is_as_large_as_it_can_be(width: int, height: int) -> None:
    fitted, exact = draw.fit_picture(Image.new("RGB", (width, height)))
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
    made = np.asarray(draw.draw_tile(None, TileText(text or None, top, f"{text}/{text}.png", 10**15, 1e6)))
    plain = np.asarray(draw.draw_tile(None, TileText("a" if text else None, [("a", 0.5)], "", 0)))
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
    monkeypatch.setattr(draw, "_WIDE_FONTS", ())
    made = tile(None, NAMES["Chinese"], [(NAMES["Chinese"], 1.0)])
    assert (made[:, 347:] == 255).all()


def test_a_name_too_long_loses_its_middle() -> None:
    fitted, font = draw._fitted("Herbaceous Vegetation and more", 60, 11, False)
    head, _, tail = fitted.partition("…")
    assert tail
    assert "Herbaceous Vegetation and more".startswith(head)
    assert "Herbaceous Vegetation and more".endswith(tail)
    assert font.getlength(fitted) <= 60
    assert draw._fitted("cat", 60, 11, False)[0] == "cat"


# Lines of text are put together from pieces, and every pixel is as Pillow draws the line


BESIDE = 20
"""Pixels around a line on its piece of paper."""


def by_pillow_and_by_us(
    text: str, size: int, bold: bool, anchor: str = "ls", start: tuple[float, float] = (0, 0)
) -> tuple[Pixels, Pixels]:
    font = draw._font(text, size, bold)
    long = math.ceil(font.getlength(text))
    canvas = draw.Canvas(long + 2 * BESIDE, size + 2 * BESIDE)
    paper = canvas.image.copy()
    at = (start[0] + BESIDE + {"ls": 0, "ms": long // 2, "rs": long}[anchor], start[1] + BESIDE + size)
    ImageDraw.Draw(paper).text(at, text, fill=BLUE, font=font, anchor=anchor)
    canvas.text(at, text, 1e9, size, BLUE, bold, anchor)
    return np.asarray(paper), canvas.pixels


@pytest.mark.parametrize("bold", [False, True])
@pytest.mark.parametrize("size", [9, 10, 11, 12, 13, 25])
def test_no_digit_is_drawn_otherwise_for_the_letter_beside_it(size: int, bold: bool) -> None:
    printed = [chr(c) for c in range(33, 127)]
    for digit in "0123456789":
        # Each letter stands between two digits, so all pairs of a letter and a digit are in both of these orders.
        text = digit + digit.join(printed) + digit
        assert len(draw._pieces(text)) > len(printed)
        expected, found = by_pillow_and_by_us(text, size, bold)
        assert np.array_equal(found, expected)


@settings(deadline=None, max_examples=300)
@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126) | st.sampled_from("0123456789. éž−→漢字"), min_size=1),
    st.sampled_from([9, 10, 11, 12, 13, 25]),
    st.booleans(),
    st.sampled_from(["ls", "ms", "rs"]),
    st.sampled_from([(0, 0), (0.5, 0), (0, 0.25), (0.375, 0.875)]),
)
@example("12.3 %", 11, True, "rs", (0, 0))
@example("row 413695", 10, False, "ls", (0, 0))
@example("loss 0.07 nats", 10, False, "ls", (0, 0))
@example("000020.png", 10, False, "ls", (0, 0))
@example("To V.A 12 AVToT1T", 13, True, "rs", (0, 0))  # kerned by 1/64 of a pixel each
@example("12.3 %", 10, True, "rs", (0.5, 0.5))
@example("LjV.V54L", 11, True, "rs", (0.5, 0))  # where 1/64 of a pixel decides how a half is rounded
@example("12.3 %", 10, True, "ms", (0, 0))
@example("漢1字2", 12, False, "rs", (0, 0))
def test_a_line_is_the_same_as_drawn_at_once(
    text: str, size: int, bold: bool, anchor: str, start: tuple[float, float]
) -> None:
    text = " ".join(text.split())
    expected, found = by_pillow_and_by_us(text, size, bold, anchor, start)
    assert np.array_equal(found, expected)
    assert draw._long(text, draw._font(text, size, bold)) == draw._font(text, size, bold).getlength(text)


def test_tiles_that_are_drawn_at_once_are_those_that_are_drawn_in_turn() -> None:
    def drawn(i: int) -> bytes:
        top = [(f"class{i * k:04d}", 1 / (i + k)) for k in (1, 2, 3)]
        return draw.draw_tile(None, TileText(f"class{i:04d}", top, f"a/{i * 827:06d}.png", i * 413, i / 7)).tobytes()

    in_turn = [drawn(i % 50) for i in range(400)]
    for cache in (draw._written, draw._fitted, draw._long, draw._begun):
        cache.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(drawn, (i % 50 for i in range(400)))) == in_turn


# The report card


FULL = ReportCard(
    title="digits · step 3",
    accuracy=(0.75, 0.6, 0.85),
    facts=[(f"fact {i}", str(i)) for i in range(6)],
    worst=[("cat", 0.1, "1 of 10"), ("dog", 0.5, "5 of 10"), ("eel", 0.9, "9 of 10")],
    pairs=[("cat", "dog", "9"), ("dog", "eel", "5"), ("eel", "cat", "1"), ("eel", "dog", "1")],
    warnings=["something is wrong", "and more"],
)
EMPTY = ReportCard("digits · step 3", None, [], [], [], [])


def test_a_card_is_as_large_as_a_tile() -> None:
    for card in (FULL, EMPTY):
        made = draw.draw_report_card(card)
        assert made.shape == (215, 350, 3)
        assert made.dtype == np.uint8


def test_a_card_without_labels_has_no_bar_and_claims_nothing() -> None:
    made = draw.draw_report_card(EMPTY)
    assert not (where(made, BLUE) | where(made, VERMILLION)).any()
    assert (made[26:-1, 132:] == 255).all()  # nothing of classes
    assert (made[-25:] == 255).all()  # no warning
    assert (made[28:52, :120] != 255).any()  # but that there are no labels


def test_the_cards_bar_shows_the_accuracy() -> None:
    bars = draw.draw_report_card(FULL)[60:80, :124]
    right, wrong = longest_run(where(bars, BLUE)), longest_run(where(bars, VERMILLION))
    assert right == round(0.75 * (right + wrong))
    perfect = draw.draw_report_card(ReportCard("x", (1.0, 0.9, 1.0), [], [], [], []))
    assert not where(perfect, VERMILLION).any()


def test_a_card_shows_its_warnings_in_a_band_at_its_foot() -> None:
    with_, without = draw.draw_report_card(FULL), draw.draw_report_card(ReportCard(**{**FULL.__dict__, "warnings": []}))
    assert not where(with_, (255, 255, 255))[-20:].any()
    assert where(without, (255, 255, 255))[-20:].all()
    assert np.array_equal(with_[:-30], without[:-30])


@pytest.mark.parametrize("name", NAMES)
def test_what_a_card_says_stays_in_its_column(name: str) -> None:
    text = NAMES[name]
    card = ReportCard(
        title=text,
        accuracy=FULL.accuracy,
        facts=FULL.facts,
        worst=[(text, 0.1, "12,345 of 1,234,567")] * 3,
        pairs=[(text, text, "1,234,567")] * 4,
        warnings=[text],
    )
    made, plain = draw.draw_report_card(card), draw.draw_report_card(FULL)
    assert np.array_equal(made[26:-30, :128], plain[26:-30, :128])  # the left column
    assert (made[:-25, 346:] == 255).all()
    assert (made[:2] == 255).all()
    band = made[-25:]
    assert (band == band[0, 0]).all(axis=2)[:, [*range(8), *range(343, 350)]].all()


def test_large_facts_stay_in_the_left_column() -> None:
    facts = [("a fact with a long name", "123,456,789,012,345")] * 6
    made = draw.draw_report_card(ReportCard(**{**FULL.__dict__, "facts": facts}))
    assert np.array_equal(made[:, 115:], draw.draw_report_card(FULL)[:, 115:])
    assert (made[80:180, :8] == 255).all()


# The confusion matrix


def cells(pixels: Pixels, n: int) -> list[list[tuple[int, ...]]]:
    """The colour of each cell, read at its upper left corner."""
    side = {1: 46, 2: 46, 3: 46, 30: 28}[n]
    rows, columns = np.nonzero(where(pixels, BLUE))
    top, left = int(rows.min()), int(columns.min())  # the first cell is blue in every test
    return [[tuple(pixels[top + i * side + 1, left + j * side + 1].tolist()) for j in range(n)] for i in range(n)]


@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_perfect_matrix_is_blue_on_its_diagonal_and_pale_elsewhere(n: int) -> None:
    made = draw.draw_confusion_matrix(np.eye(n, dtype=np.int64) * 5, [f"class {i}" for i in range(n)], [5] * n)
    assert cells(made, n) == [[BLUE if i == j else (246, 246, 246) for j in range(n)] for i in range(n)]
    assert not where(made, VERMILLION).any()


def test_a_cell_is_as_strong_as_the_root_of_its_share_of_the_true_class() -> None:
    counts = np.array([[100, 0, 0], [25, 75, 0], [1, 99, 0]])
    found = cells(draw.draw_confusion_matrix(counts, ["a", "b", "c"], [100, 100, 100]), 3)

    def mixed(colour: tuple[int, int, int], share: float) -> tuple[int, ...]:
        return tuple(round(255 + (channel - 255) * share**0.5) for channel in colour)

    assert found == [
        [BLUE, (246, 246, 246), (246, 246, 246)],
        [mixed(VERMILLION, 0.25), mixed(BLUE, 0.75), (246, 246, 246)],
        [mixed(VERMILLION, 0.01), mixed(VERMILLION, 0.99), (246, 246, 246)],
    ]


def test_of_several_classes_together_right_and_wrong_are_not_claimed() -> None:
    counts = np.array([[9, 0, 0], [0, 9, 0], [300, 0, 300]])
    for others in (True, False):
        found = cells(draw.draw_confusion_matrix(counts, ["a", "b", "7 others"], [9, 9, 600], others), 3)
        assert found[1][1] == BLUE
        red, green, blue = found[2][0]
        assert red > green > blue  # vermillion
        red, green, blue = found[2][2]
        assert red == green == blue if others else red < green < blue


def test_a_row_without_images_is_drawn() -> None:
    made = draw.draw_confusion_matrix(np.array([[3, 0], [0, 0]]), ["a", "b"], [3, 0])
    assert cells(made, 2)[1] == [(246, 246, 246)] * 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2, 30])
def test_labels_of_a_matrix_stay_outside_its_cells_and_inside_the_picture(n: int, name: str) -> None:
    made = draw.draw_confusion_matrix(np.eye(n, dtype=np.int64) * 10**6, [NAMES[name]] * n, [10**6] * n)
    assert max(made.shape) <= 150 + 50 + 50 + 46 * min(n, 12) + 28 * max(n - 12, 0) + 100
    rows, columns = np.nonzero(where(made, BLUE))
    top, left = int(rows.min()), int(columns.min())
    assert (made[top:, left - 6 : left] == 255).all()  # between the labels and the cells
    assert (made[top - 4 : top, left:-50] == 255).all()
    for edge in (made[:2], made[-2:], made[:, -2:]):
        assert (edge == 255).all()


def test_every_cell_has_its_number_in_ink_that_can_be_read() -> None:
    counts = np.array([[100, 0], [3, 97]])
    made = draw.draw_confusion_matrix(counts, ["a", "b"], [100, 100])
    rows, columns = np.nonzero(where(made, BLUE))
    top, left = int(rows.min()), int(columns.min())
    for i in range(2):
        for j in range(2):
            cell = made[top + 46 * i : top + 46 * i + 45, left + 46 * j : left + 46 * j + 45].astype(int)
            luma = cell @ [0.299, 0.587, 0.114]
            contrast = np.abs(luma - luma[0, 0]).max()
            assert (contrast > 80) == (counts[i, j] > 0)


def test_drawing_twice_gives_the_same_pixels() -> None:
    assert np.array_equal(draw.draw_report_card(FULL), draw.draw_report_card(FULL))
    assert np.array_equal(tile(noise(28, 28)), tile(noise(28, 28)))


# graphs

TICKS = draw.Axis("share", [(0, "0 %"), (0.5, "50 %"), (1, "100 %")])
PLOT = (slice(25, 174), slice(128, 313))
"""Where a graph's curves are."""


def straight(y0: float, y1: float, name: str = "cat", colour: draw.Colour = BLUE) -> draw.Curve:
    return draw.Curve(np.array([0.0, 1.0]), np.array([y0, y1]), name, "0.1234", colour)


def near(pixels: Pixels, colour: tuple[int, int, int], within: int = 60) -> NDArray[np.bool_]:
    return np.asarray((np.abs(pixels.astype(int) - colour) < within).all(axis=2))


def test_a_curve_is_where_its_points_are() -> None:
    pixels = draw.draw_curves("area", TICKS, TICKS, [straight(0.25, 0.75), straight(1, 1, colour=VERMILLION)])
    assert pixels.shape == (215, 350, 3)
    blue = near(pixels, BLUE)
    for x in (0.1, 0.5, 0.9):
        (rows,) = np.nonzero(blue[:, round(128 + 184 * x)])
        assert rows.mean() == pytest.approx(25 + 148 * (1 - (0.25 + 0.5 * x)), abs=1)
    (rows,) = np.nonzero(near(pixels, VERMILLION)[:, 220])
    assert rows.mean() == pytest.approx(25, abs=1)


def test_what_is_beyond_the_axis_is_cut() -> None:
    pixels = draw.draw_curves("area", TICKS, TICKS, [straight(-3, 7)])
    assert not near(pixels, BLUE)[:22].any()
    assert not near(pixels, BLUE)[177:].any()


@pytest.mark.parametrize("name", NAMES)
def test_names_of_curves_stay_beside_the_plot(name: str) -> None:
    bare = draw.draw_curves("area", TICKS, TICKS, [straight(0.5, 0.5, "") for _ in range(7)])
    pixels = draw.draw_curves("area", TICKS, TICKS, [straight(0.5, 0.5, NAMES[name]) for _ in range(7)])
    assert (pixels[:, 118:] == bare[:, 118:]).all()
    assert (pixels[:, :3] == 255).all()


@given(st.lists(st.floats(0, 100), max_size=6))
@example([50.0] * 6)
@example([100.0, 100.0, 0.0])
def test_labels_are_apart_in_their_order_and_where_they_should_be_if_there_is_room(wanted: list[float]) -> None:
    found = draw._apart(wanted, 15, 0, 100)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [found[i] for i in order]
    assert all(b - a >= 15 - 1e-9 for a, b in itertools.pairwise(places))
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in places)
    if all(wanted[b] - wanted[a] >= 15 for a, b in itertools.pairwise(order)):
        assert found == pytest.approx(wanted)


# reliability


def calibrated(rows: Sequence[int] = (10, 1000), accuracy: float = 0.5) -> list[draw.ReliabilityBin]:
    return [
        draw.ReliabilityBin(0.2 + 0.4 * i, 0.4 + 0.4 * i, 0.3 + 0.4 * i, accuracy, 0.4, 0.6, n)
        for i, n in enumerate(rows)
    ]


def test_too_sure_is_vermillion_and_not_sure_enough_is_blue() -> None:
    pixels = draw.draw_reliability(calibrated(), [("ECE", "4.0 %")], "over-confident")
    assert pixels.shape == (215, 350, 3)
    blue, vermillion = near(pixels[:150], BLUE), near(pixels[:150], VERMILLION)
    for found, confidence in ((blue, 0.3), (vermillion, 0.7)):
        (rows, columns) = np.nonzero(found)
        assert columns.mean() == pytest.approx(36 + 156 * confidence, abs=1.5)
        ends = sorted(25 + 122 * (1 - y) for y in (confidence, 0.5))
        assert (rows.min(), rows.max()) == pytest.approx(ends, abs=4)


def test_counts_are_drawn_as_square_roots() -> None:
    pixels = draw.draw_reliability(calibrated((250, 1000)), [], "")
    grey = near(pixels[150:190, 36:192], GREY, 20)
    heights = grey.sum(axis=0)
    assert heights[round(156 * 0.3)] == pytest.approx(10, abs=1)
    assert heights[round(156 * 0.7)] == pytest.approx(20, abs=1)


@pytest.mark.parametrize("name", NAMES)
def test_figures_beside_a_reliability_diagram_stay_there(name: str) -> None:
    bare = draw.draw_reliability(calibrated(), [], "")
    pixels = draw.draw_reliability(calibrated(), [(NAMES[name], "100 %")] * 8, NAMES[name])
    assert (pixels[:, :210] == bare[:, :210]).all()
    assert (pixels[:, 347:] == 255).all()


def test_both_ends_of_a_range_have_room_beside_the_intervals() -> None:
    # Where the middle of a name is left out, names that differ there look the same.
    def picture(name: str) -> bytes:
        return draw.draw_intervals("t", [draw.IntervalLine(name, 0.5, 0.4, 0.6, "9")], 0.7).tobytes()

    assert picture("brightness 0.0586 to 0.0611") != picture("brightness 0.1586 to 0.0611")
    assert picture("brightness 0.0586 to 0.0611 and more of it") == picture(
        "brightness 0.0586 to 0.0999 and more of it"
    )
