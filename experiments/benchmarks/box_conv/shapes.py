"""Shapes and directions that are timed, and how many bytes each has to move."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Self

import jax.numpy as jnp

from experiments.common.program import UserError

type Direction = Literal["forward", "forward+backward", "forward+dx", "forward+dtheta"]

FULL: tuple[Direction, ...] = ("forward", "forward+backward")
FULL_AND_PARTS: tuple[Direction, ...] = (*FULL, "forward+dx", "forward+dtheta")

DTYPES: Final = ("float32", "bfloat16")
"""The dtypes of images that are timed."""
GPU_SHAPES: Final = ("8,32,64,128,4", "8,16,128,256,4", "8,8,256,512,2")
"""The shapes that are timed on a GPU by default, as `Shape.parse` reads them."""

_MOST_DIGITS = 9


class Shape(NamedTuple):
    """The shape of a box convolution.

    Attributes:
      B: the number of images.
      C: the number of channels.
      H: the height of images.
      W: the width of images.
      F: the number of boxes for each channel.
    """

    B: int
    C: int
    H: int
    W: int
    F: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a shape from text such as `1,32,64,128,4`.

        Raises:
          UserError: the text is not five positive integers.
        """
        sizes = text.split(",")
        if len(sizes) != 5 or not all(map(_is_positive, sizes)):
            raise UserError(
                "--shapes must be B,C,H,W,F, five positive whole numbers such as 1,32,64,128,4; "
                f"got {text!r}"
            )
        return cls(*map(int, sizes))

    def __str__(self) -> str:
        """The text that `parse` reads."""
        return ",".join(map(str, self))

    def moved_bytes(self, dtype: str, direction: Direction) -> int:
        """The number of bytes that have to be read or written, without the few of the boxes.

        Args:
          dtype: the dtype of images and output.
          direction: the direction; gradients of the output are read, those of images are written.
        """
        image = self.B * self.C * self.H * self.W * jnp.dtype(dtype).itemsize
        forward = (1 + self.F) * image
        return (
            forward
            + {
                "forward": 0,
                "forward+backward": forward,
                "forward+dx": forward,
                "forward+dtheta": self.F * image,
            }[direction]
        )


def check_dtypes(dtypes: Sequence[str]) -> None:
    """Checks the dtypes that a program's option `--dtypes` names.

    Raises:
      UserError: one of them is none of `DTYPES`.
    """
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise UserError(f"--dtypes must be of {', '.join(DTYPES)}; got {dtype!r}")


def _is_positive(text: str) -> bool:
    digits = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return digits and int(text) > 0
