"""Fonts by size, weight and script, and text fitted to a width. It knows nothing of pictures.

Text is set in DejaVu Sans, whose two files are part of this package (their licence is beside them): Latin, Greek,
Cyrillic and the symbols that the pictures use, the same pixels on every machine. Scripts that it lacks (Chinese,
Japanese, Korean, …) are set in a font of the system if there is one, and else as boxes.
"""

import bisect
import functools
import re
from pathlib import Path
from typing import Any

from PIL import ImageFont

MIN_SIZE_PX = 9
"""Text is not made smaller than this to fit; its middle is left out instead."""

FITTED_LINES = 4096
"""Lines whose fitted form is remembered: most of them recur, and fitting takes several measurements."""

SET_LINES = 4096
"""Lines of letters that are remembered as set, of some 2 kB each."""

_SYSTEM_FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/System/Library/Fonts/PingFang.ttc",
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf",
    "C:/Windows/Fonts/msyh.ttc",
)
"""Usual places of a font for scripts that DejaVu Sans lacks; the first that exists is used."""


class _Font(ImageFont.FreeTypeFont):
    """A font that remembers what it measured."""

    @functools.lru_cache(SET_LINES)  # noqa: B019  fonts live as long as the process, in `_load`
    def getlength(self, *args: Any, **known: Any) -> float:  # type: ignore[override]  # takes the same, remembered
        return super().getlength(*args, **known)


@functools.cache
def _load(path: Path, size: int) -> ImageFont.FreeTypeFont:
    # Pillow's basic layout is the same everywhere; Raqm is an optional library.
    return _Font(path, size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache  # making the path takes longer than writing a line
def _dejavu(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    return _load(Path(__file__).parent / "font_files" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)


def _glyph(character: str) -> tuple[tuple[int, int], bytes]:
    mask = _dejavu(32).getmask(character)
    return mask.size, bytes(mask)


@functools.lru_cache(FITTED_LINES)
def has_glyph(character: str) -> bool:
    """Return whether DejaVu Sans has a character. One that it lacks is drawn as the font's box, as U+FFFF always is.

    >>> has_glyph("ž"), has_glyph("✓"), has_glyph("漢")
    (True, True, False)
    """
    return _glyph(character) != _glyph("\uffff")


def choose_font(text: str, size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return a font that has the characters of a text, or DejaVu Sans if this machine has none."""
    if not text.isascii() and not all(map(has_glyph, text)):
        system = next((Path(path) for path in _SYSTEM_FONTS if Path(path).exists()), None)
        if system is not None:
            return _load(system, size)
    return _dejavu(size, bold)


@functools.lru_cache(SET_LINES)
def set_line(
    text: str, font: ImageFont.FreeTypeFont, anchor: str, start: tuple[float, float]
) -> tuple[Any, tuple[int, int]]:
    """Set a line of letters: names of classes and shares recur on most tiles.

    Args:
        text: on one line.
        font: of the letters.
        anchor: Pillow's text anchor.
        start: fractions of a pixel at which the anchor is, by which letters differ.

    Returns:
        Pillow's bitmap of the letters, and where its first pixel is from the anchor, in whole pixels.
    """
    return font.getmask2(text, "L", anchor=anchor, start=start)


def measure_text(text: str, size: int, bold: bool = False) -> float:
    """Return the width in pixels of a text on one line."""
    text = " ".join(text.split())
    return float(choose_font(text, size, bold).getlength(text))


@functools.lru_cache(FITTED_LINES)
def fit_text(text: str, width: float, size: int, bold: bool) -> tuple[str, ImageFont.FreeTypeFont]:
    """Make a text at most `width` pixels wide: first in a smaller size, then without its middle.

    Returns:
        The text on one line, and the font to write it in.
    """
    text = " ".join(text.split())
    for smaller in range(size, MIN_SIZE_PX - 1, -1):
        font = choose_font(text, smaller, bold)
        if font.getlength(text) <= width:
            return text, font

    def shorten(characters: int) -> str:
        return f"{text[: (characters + 1) // 2]}…{text[len(text) - characters // 2 :]}"

    fitting = bisect.bisect_right(range(2, len(text)), width, key=lambda n: font.getlength(shorten(n)))
    return shorten(fitting + 1) if fitting else "…", font


def wrap_text(text: str, width: float, size: int, lines: int, bold: bool = False) -> tuple[list[str], int, bool]:
    """Break a text between words into lines at most `width` pixels wide, in a smaller size if that spares one.

    Returns:
        The lines, at most as many as there may be; their size; and whether the last one fits: if not, it has all the
        rest.
    """
    words = re.sub(" (?=%)", "\N{NO-BREAK SPACE}", " ".join(text.split())).split(" ")
    for smaller in range(size, MIN_SIZE_PX - 1, -1):
        broken = [""]
        for word in words:
            longer = f"{broken[-1]} {word}".strip()
            if measure_text(longer, smaller, bold) <= width or len(broken) == lines:
                broken[-1] = longer
            else:
                broken.append(word)
        if all(measure_text(line, smaller, bold) <= width for line in broken):
            return broken, smaller, True
    return broken, smaller, False


def break_name(name: str, shared: int, width: float, size: int) -> list[str]:
    """Break the name of a file into one line or two: of a long one, first its folder goes and then what others share.

    Args:
        name: path of the file.
        shared: characters at its beginning that it has in common with others beside it.
        width: of a line, pixels.
        size: of the letters.
    """
    base = name.rpartition("/")[2]
    for text in (name, base):
        if measure_text(text, size) <= width:
            return [text]
    common = base[: max(shared - len(name) + len(base), 0)]
    for text in (base, f"…{base[len(common) :]}" if len(common) > 1 else base):
        cut = bisect.bisect_right(range(len(text) + 1), width, key=lambda n: measure_text(text[:n], size)) - 1
        if measure_text(text[cut:], size) <= width:
            return [text[:cut], text[cut:]] if cut < len(text) else [text]
    return [text[:cut], text[cut:]]
