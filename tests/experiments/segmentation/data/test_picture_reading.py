"""Reading pictures as cameras and phones write them: trailers, cuts, orientations, bit depths."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from experiments.segmentation.data.camvid import CamVid
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.exif import orientation
from experiments.segmentation.data.jpeg import reaches_its_end
from experiments.segmentation.data.picture_reading import read_image, read_image_of_pair

READERS = (read_image, read_image_of_pair)
# How each orientation stores the picture that is seen; EXIF 2.32, table 6.
STORED = {
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: np.swapaxes(seen, 0, 1),
    6: lambda seen: np.rot90(seen),
    7: lambda seen: np.swapaxes(seen[::-1, ::-1], 0, 1),
    8: lambda seen: np.rot90(seen, -1),
}
FORMATS = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "progressive JPEG": {"quality": 95, "subsampling": 0, "progressive": True},
    "PNG": {},
    "BMP": {},
    "TIFF": {},
    "compressed TIFF": {"compression": "tiff_adobe_deflate"},
    "WEBP": {"lossless": True},
}


def scene(rng):
    """A picture that looks different when it is turned or mirrored, smooth enough for JPEG."""
    rows, columns = np.mgrid[:48, :64]
    picture = np.stack([rows * 5, columns * 4, (rows + columns) * 2], -1)
    picture[:8, :16] = rng.integers(0, 256, 3)
    return picture.astype(np.uint8)


def encoded(pixels, kind="JPEG", **options):
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.save(file, kind.split()[-1], **FORMATS[kind], **options)
    return file.getvalue()


def exif(value, order=">"):
    """EXIF data with an orientation behind another tag, as cameras write them."""
    mark = b"MM\0*" if order == ">" else b"II*\0"
    entries = [(0x010F, 2, 4, b"Cam\0"), (0x0112, 3, 1, struct.pack(f"{order}HH", value, 0))]
    packed = b"".join(struct.pack(f"{order}HHI", *e[:3]) + e[3] for e in entries)
    start = struct.pack(f"{order}I", 8) + struct.pack(f"{order}H", len(entries))
    return b"Exif\0\0" + mark + start + packed + bytes(4)


def film(rng, size=50_000):
    """The form of an MP4 file; among its bytes is a marker that no JPEG has, 0xFF02."""
    content = bytes(range(256)) + b"\x02" + rng.integers(0, 256, size).astype(np.uint8).tobytes()
    boxes = (b"ftyp" + b"mp42\0\0\0\0isommp42", b"mdat" + content)
    return b"".join(struct.pack(">I", len(box) + 4) + box for box in boxes)


def preview():
    return encoded(np.zeros((16, 16, 3), np.uint8))


@pytest.mark.parametrize("kind", FORMATS)
def test_what_follows_a_picture_does_not_matter(tmp_path, rng, kind):
    picture = scene(rng)
    whole = encoded(picture, kind)
    path = tmp_path / "a"
    # A motion photo, a gain map or second view, Samsung's trailer, padding.
    for trailer in (film(rng), preview(), b"\0\0\x01\n\x0e\0\0\0SEFT", bytes(4096), b"\xff" * 999):
        path.write_bytes(whole + trailer)
        for read in READERS:
            np.testing.assert_allclose(read(path).astype(int), picture.astype(int), atol=12)


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_pictures_are_named(tmp_path, rng, kind):
    whole = encoded(scene(rng), kind)
    path = tmp_path / "cut.jpg"
    cuts = {1, 3, 30, len(whole) - 1, *rng.integers(4, len(whole), 20).tolist()}
    if kind == "PNG":
        cuts |= {len(whole) - 12, len(whole) - 16}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        for read in READERS:
            with pytest.raises(DataError, match=r"cut\.jpg: empty, truncated or not"):
                read(path)


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "PNG"])
def test_truncated_pictures_are_named_though_other_data_follow(tmp_path, rng, kind):
    noise = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
    # The preview in the EXIF data has an end mark of its own.
    options = {} if kind == "PNG" else {"exif": exif(1) + preview()}
    whole = encoded(noise, kind, **options)
    path = tmp_path / "cut.jpg"
    for share in (0.2, 0.5, 0.9):
        for trailer in (b"", film(rng), encoded(noise), bytes(999)):
            path.write_bytes(whole[: int(share * len(whole))] + trailer)
            with pytest.raises(DataError, match=r"cut\.jpg: empty, truncated or not"):
                read_image(path)


def with_late_exif(png):
    """A PNG whose EXIF data stand behind its pixels, as ImageMagick writes them."""
    start = png.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(png[start : start + 4])
    return png[:start] + png[end:-12] + png[start:end] + png[-12:]


@pytest.mark.parametrize("value", STORED)
def test_orientation_is_obeyed_alone_and_refused_in_pairs(tmp_path, rng, value):
    seen = scene(rng)
    stored = STORED[value](seen)
    files = {
        f"{kind} {order}": encoded(stored, kind, exif=exif(value, order))
        for kind in ("JPEG", "progressive JPEG", "PNG", "WEBP")
        for order in "<>"
    }
    files["late PNG"] = with_late_exif(files["PNG >"])
    tags = Image.Exif()
    tags[0x0112] = value
    files["TIFF"] = encoded(stored, "TIFF", exif=tags)
    files["BigTIFF"] = encoded(stored, "TIFF", exif=tags, big_tiff=True)
    path = tmp_path / "turned.jpg"
    for content in files.values():
        path.write_bytes(content)
        np.testing.assert_allclose(read_image(path).astype(int), seen.astype(int), atol=12)
        with pytest.raises(DataError, match=rf"turned\.jpg: has the EXIF orientation {value}, "):
            read_image_of_pair(path)


@pytest.mark.parametrize(
    "content", [exif(1), exif(0), exif(9), exif(6)[:20], b"Exif\0\0MM", b"Exif\0\0" + bytes(40)]
)
def test_exif_data_without_an_orientation_change_nothing(tmp_path, rng, content):
    picture = scene(rng)
    path = tmp_path / "a"
    for kind in ("JPEG", "PNG"):
        path.write_bytes(encoded(picture, kind, exif=content))
        for read in READERS:
            np.testing.assert_allclose(read(path).astype(int), picture.astype(int), atol=12)


def test_a_pair_names_the_file_that_is_turned(tmp_path, rng):
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
    image, label = encoded(scene(rng)), np.zeros((48, 64), np.uint8)
    turned_image, turned_label = (
        encoded(scene(rng), "JPEG", exif=exif(3)),
        encoded(label, "PNG", exif=exif(8)),
    )
    for name, contents in (
        ("a", (turned_image, encoded(label, "PNG"))),
        ("b", (image, turned_label)),
    ):
        (tmp_path / f"train/{name}.jpg").write_bytes(contents[0])
        (tmp_path / f"trainannot/{name}.png").write_bytes(contents[1])
    source = CamVid(tmp_path, "train", (8, 8))
    with pytest.raises(DataError, match=r"train/a\.jpg: has the EXIF orientation 3"):
        source[0]
    for read in (source.__getitem__, source.label, source.original_label):
        with pytest.raises(DataError, match=r"trainannot/b\.png: has the EXIF orientation 8"):
            read(1)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_pictures_of_16_bits(tmp_path, rng, suffix, channels):
    path = tmp_path / "deep.png"

    def write(pixels):
        path.write_bytes(cv2.imencode(suffix, pixels.astype(np.uint16))[1].tobytes())

    full = rng.integers(0, 65536, (12, 16, *channels))
    full[0, 0] = 65535
    black = np.zeros_like(full)
    for pixels in (full, black):
        write(pixels)
        expected = pixels >> 8 if channels else np.repeat(pixels[..., None] >> 8, 3, axis=-1)
        for read in READERS:
            np.testing.assert_array_equal(read(path), expected[..., ::-1])
    for bits in (8, 10, 12, 14):
        pixels = rng.integers(0, 1 << bits, full.shape)
        pixels[3, 3] = (1 << bits) - 1
        write(pixels)
        for read in READERS:
            with pytest.raises(DataError, match=rf"deep\.png: is a 16-bit file .* of {bits} bits"):
                read(path)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".tiff", "float32"), (".tiff", "float64"), (".tiff", "int16"), (".tiff", "int8"),
     (".hdr", "float32"), (".pfm", "float32")],
)  # fmt: skip
def test_pictures_of_numbers_without_a_white_are_named(tmp_path, rng, suffix, dtype):
    path = tmp_path / "measured.png"
    pixels = rng.uniform(0, 100, (12, 16, 3)).astype(dtype)
    path.write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
    for read in READERS:
        with pytest.raises(DataError, match=rf"measured\.png: has pixels of the type {dtype}"):
            read(path)


def test_pictures_of_8_bits_of_all_kinds_become_rgb(tmp_path, rng):
    picture = Image.fromarray(rng.integers(0, 256, (12, 16, 4)).astype(np.uint8), "RGBA")
    path = tmp_path / "a.png"
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
        converted = picture.convert("RGB").convert(mode) if mode != "RGBA" else picture
        converted.save(path)
        for read in READERS:
            np.testing.assert_array_equal(read(path), np.asarray(converted.convert("RGB")))


def test_labels_are_png_whatever_their_name_says(tmp_path, rng):
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
    (tmp_path / "train/a.png").write_bytes(encoded(scene(rng)))
    label = tmp_path / "trainannot/a.png"
    deep = rng.integers(0, 11, (48, 64)).astype(np.uint16)
    for suffix in (".tiff", ".webp", ".bmp"):
        label.write_bytes(
            cv2.imencode(suffix, deep if suffix == ".tiff" else scene(rng))[1].tobytes()
        )
        source = CamVid(tmp_path, "train", (8, 8))
        with pytest.raises(DataError, match=r"a\.png: label is empty, truncated or not a PNG"):
            source[0]


def test_a_pipe_is_named_and_not_waited_for(tmp_path):
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    for read in READERS:
        with pytest.raises(DataError, match=r"pipe\.png: cannot be read \(it is a pipe"):
            read(path)


def test_damaged_headers_end_in_an_answer(rng):
    jpeg, tags = encoded(scene(rng), "JPEG", exif=exif(6)), exif(6)[6:]
    assert reaches_its_end(jpeg)
    assert orientation(tags) == 6
    for _ in range(500):
        for data, look in ((jpeg[:300], reaches_its_end), (tags, orientation)):
            damaged = bytearray(data)
            for index in rng.integers(0, len(data), 3):
                damaged[index] = rng.integers(256)
            assert look(bytes(damaged)) in range(9)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_png_whose_pixels_end_too_early_is_named(tmp_path, rng):
    rows = b"".join(b"\0" + row.tobytes() for row in scene(rng))
    pixels = zlib.compress(rows)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 0))
    path = tmp_path / "short.png"
    for data in (pixels[: len(pixels) // 2], zlib.compress(rows[: len(rows) // 2])):
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b""))
        with pytest.raises(DataError, match=r"short\.png: empty, truncated"):
            read_image(path)
