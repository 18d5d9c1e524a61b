"""The colours that all pictures share. It knows nothing of what is drawn with them.

Blue means right (or better) and vermillion means wrong (or worse) in every picture: Okabe and Ito's palette, whose
colours stay distinct in all common forms of colour blindness.
"""

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

RIGHT: Colour = (0, 114, 178)
RIGHT_WORD = "blue"
WRONG: Colour = (213, 94, 0)
WRONG_WORD = "vermillion"
"""What texts call the two colours."""
UNKNOWN: Colour = (110, 110, 110)
"""An image without a label, or a difference that may be chance."""

INK: Colour = (25, 25, 25)
FAINT: Colour = (105, 105, 105)
"""Text of lesser importance."""
PAPER: Colour = (255, 255, 255)
TRACK: Colour = (228, 228, 228)
"""The unfilled rest of a bar, and grid lines."""
REFERENCE_LINE: Colour = (170, 170, 170)
EMPTY_CELL: Colour = (246, 246, 246)
EMPTY_FRAME: Colour = (240, 240, 240)
"""The part of a tile's frame that its picture leaves free."""

WARNING_PAPER: Colour = (253, 236, 224)
WARNING_INK: Colour = (150, 60, 0)

RIGHT_BAND: Colour = (191, 220, 236)
"""The band around a curve of accuracy."""
RIGHT_PALE: Colour = (204, 227, 240)
WRONG_PALE: Colour = (250, 223, 204)
"""Intervals behind the points of the reliability diagram."""

CURVE_COLOURS: tuple[Colour, ...] = ((0, 158, 115), (230, 159, 0), (204, 121, 167), (86, 180, 233))
"""Curves that are neither right nor wrong; the rest of the same palette."""


def blend(colour: Colour, strength: float) -> Colour:
    """Mix a colour with white: strength 0 is white, 1 is the colour itself.

    >>> blend((0, 114, 178), 0.5)
    (128, 184, 216)
    """
    red, green, blue = (round(255 + (channel - 255) * strength) for channel in colour)
    return red, green, blue
