"""The shapes that are timed, the directions, and how many bytes each has to move."""

from typing import Literal, NamedTuple, Self

import jax.numpy as jnp

type Direction = Literal["forward", "forward+backward", "forward+dx", "forward+dtheta"]

FULL: tuple[Direction, ...] = ("forward", "forward+backward")
FULL_AND_PARTS: tuple[Direction, ...] = (*FULL, "forward+dx", "forward+dtheta")


class UsageError(Exception):
    """An argument is not allowed; the message says what is."""


class Shape(NamedTuple):
    """Images, channels, rows, columns, and boxes of each channel."""

    B: int
    C: int
    H: int
    W: int
    F: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `B,C,H,W,F`."""
        sizes = text.split(",")
        if len(sizes) != 5 or not all(s.isascii() and s.isdigit() and int(s) for s in sizes):
            raise UsageError(
                "--shapes must be B,C,H,W,F, five positive whole numbers such as 1,32,64,128,4; "
                f"got {text!r}"
            )
        return cls(*map(int, sizes))

    def __str__(self) -> str:
        """The inverse of `parse`."""
        return ",".join(map(str, self))

    def moved_bytes(self, dtype: str, direction: Direction) -> int:
        """Bytes that have to be read or written; those of boxes are too few to count."""
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
