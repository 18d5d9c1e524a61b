"""Text fits its width, and every letter has a font."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from predboard.drawing.canvas import Canvas
from predboard.drawing.fonts import MIN_SIZE_PX, break_name, choose_font, fit_text, has_glyph, measure_text, wrap_text
from tests.drawing.pixels import NAMES


def test_a_name_too_long_loses_its_middle() -> None:
    fitted, font = fit_text("Herbaceous Vegetation and more", 60, 11, False)
    head, _, tail = fitted.partition("…")
    assert tail
    assert "Herbaceous Vegetation and more".startswith(head)
    assert "Herbaceous Vegetation and more".endswith(tail)
    assert font.getlength(fitted) <= 60
    assert fit_text("cat", 60, 11, False)[0] == "cat"


@pytest.mark.parametrize("name", NAMES)
def test_a_fitted_text_is_no_wider_than_its_room(name: str) -> None:
    for width in (12.0, 60.0, 300.0):
        fitted, font = fit_text(NAMES[name], width, 12, True)
        assert font.getlength(fitted) <= width


def test_latin_greek_cyrillic_and_our_own_symbols_have_glyphs() -> None:
    alphabets = [range(0x20, 0x7F), range(0xA0, 0x180), range(0x3B1, 0x3CA), range(0x400, 0x460)]
    assert all(has_glyph(chr(code)) for alphabet in alphabets for code in alphabet)
    assert all(map(has_glyph, "✓✗→↓−×≥·–…"))
    assert not any(map(has_glyph, "漢字한ไ\U0001f408\ufffe"))


def test_bold_text_is_wider_and_both_fonts_come_with_the_package() -> None:
    assert measure_text("Herbaceous", 12, bold=True) > measure_text("Herbaceous", 12)
    assert choose_font("x", 11).getname() == ("DejaVu Sans", "Book")
    assert choose_font("x", 11, bold=True).getname() == ("DejaVu Sans", "Bold")


def test_a_text_is_broken_between_words_and_made_smaller_before_anything_is_left_out() -> None:
    text = "accuracy on 512 images would be 92.2 % instead of 83.0 % with channels in RGB order"
    for lines in (2, 3):
        broken, size, fits = wrap_text(text, 240, 11, lines)
        assert fits
        assert len(broken) <= lines
        assert " ".join(broken).replace("\N{NO-BREAK SPACE}", " ") == text
        assert all(measure_text(line, size) <= 240 for line in broken)
        assert not any(line.startswith("%") for line in broken)
    broken, size, fits = wrap_text(text, 100, 11, 2)
    assert (len(broken), size, fits) == (2, MIN_SIZE_PX, False)


@pytest.mark.parametrize(
    ("name", "shared", "lines"),
    [
        ("River/River_2325.jpg", 12, ["River/River_2325.jpg"]),
        ("a_long_folder_of_pictures/River_2325.jpg", 31, ["River_2325.jpg"]),
        ("x/patient12345_study1_view2_frontal_resized.png", 9, ["patient12345_study1_vie", "w2_frontal_resized.png"]),
        (f"x/{'q' * 90}_007.png", 2 + 90, ["…_007.png"]),
        (f"x/{'q' * 90}_007_{'w' * 20}.png", 2 + 90, ["…_007_wwwwwwwwww", "wwwwwwwwww.png"]),
    ],
)
def test_of_a_long_name_what_others_share_is_left_out_and_what_differs_stays(
    name: str, shared: int, lines: list[str]
) -> None:
    broken = break_name(name, shared, 126, 10)
    assert "".join(broken) == "".join(lines)
    assert len(broken) == len(lines)
    assert all(measure_text(line, 10) <= 126 for line in broken)


def test_a_line_has_the_pixels_that_pillow_draws() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    texts = ("93.7 %", "✗ wrong", "fi ž", "漢", "")
    corners = ((-9, 30), (40.5, 30.25), (80, -0.5), (200, 30))
    for text, at, anchor, bold in itertools.product(texts, corners, ("ls", "rs", "ms", "mm"), (False, True)):
        canvas, expected = Canvas(90, 60, noise), noise.copy()
        length = canvas.text(at, text, 400, 12, (200, 30, 60), bold, anchor)
        font = choose_font(text, 12, bold)
        ImageDraw.Draw(expected).text(at, text, fill=(200, 30, 60), font=font, anchor=anchor)
        assert canvas.image.tobytes() == expected.tobytes(), (text, at, anchor, bold)
        assert length == font.getlength(text)
