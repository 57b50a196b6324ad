"""Sizes of images on the command line."""

import re

from experiments.common.program import UserError

MOST_PIXELS = 32760
"""The largest height and width of images, since OpenCV's warps count pixels in 16 bits."""


def parse_size(
    option: str, text: str, multiple: int = 1, example: str = "176x240"
) -> tuple[int, int]:
    """Reads the height and width of images from text such as `176x240`.

    Args:
      option: the name of the option, for messages.
      text: the text.
      multiple: what both have to be a multiple of.
      example: a size for messages.

    Raises:
      UserError: the text is not of this form, or a size is not allowed.
    """
    match = re.fullmatch(r"([0-9]{1,9})[xX]([0-9]{1,9})", text)
    height, width = (0, 0) if match is None else map(int, match.groups())
    if match is None or (multiple == 1 and not height * width):
        raise UserError(f"{option} must be HEIGHTxWIDTH such as {example}; got {text!r}")
    for name, value in (("height", height), ("width", width)):
        if value < 1 or value % multiple:
            raise UserError(
                f"{option}: the {name} must be a positive multiple of {multiple}; got {value}"
            )
        if value > MOST_PIXELS:
            raise UserError(f"{option}: the {name} must be at most {MOST_PIXELS}; got {value}")
    return height, width
