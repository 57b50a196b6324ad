"""Pictures as text, so that a page needs no other files."""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

_JPEG_QUALITY = 88


def jpeg_uri(picture: NDArray[np.uint8]) -> str:
    """A photograph, `(H, W, 3)` RGB, as a JPEG file in a data URI."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    _, encoded = cv2.imencode(".jpg", picture[..., ::-1], options)
    return _uri("jpeg", encoded.tobytes())


def png_uri(data: bytes) -> str:
    """A PNG file in a data URI."""
    return _uri("png", data)


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
