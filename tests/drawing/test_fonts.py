"""Text fits its width, and every letter has a font."""

import pytest

from predboard.drawing.fonts import choose_font, fit_text, has_glyph, measure_text
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
