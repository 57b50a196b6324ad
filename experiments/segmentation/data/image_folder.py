"""Any folder of pictures and label files, with a palette that names the classes."""

from pathlib import Path

from experiments.segmentation.data.paired_images import PairedImages
from experiments.segmentation.data.palette import read_palette
from experiments.segmentation.data.picture_files import LABEL_SUFFIXES, files_by_name
from experiments.segmentation.data.source import FilesDataSet, Size, Split, check_split


class ImageFolder(PairedImages):
    """A folder with `palette.json`, `train/images/`, `train/labels/` and the same for `val`.

    The label file `train/labels/NAME.png` belongs to `train/images/NAME.jpg` (or `.png` and the
    other suffixes of pictures); NAME may begin with folders. The meaning of its pixels is in
    `palette.json`, see `read_palette`.

    Args:
      root: the folder.
      split: `"train"` or `"val"`.
      size: `(H, W)` in pixels; the files may have any sizes.

    Raises:
      DataError: see `PairedImages` and `read_palette`; also when a folder is missing or empty.
      ValueError: `split` or `size` is not allowed.
    """

    def __init__(self, root: str | Path, split: Split, size: Size):
        check_split(split)
        super().__init__(
            files_by_name(Path(root, split, "images"), subfolders=True),
            files_by_name(Path(root, split, "labels"), LABEL_SUFFIXES, subfolders=True),
            read_palette(Path(root, "palette.json")),
            size,
        )


DATA_SET = FilesDataSet(
    ImageFolder, usual_size=None, usual_recipe="plain", note="your own; see the README"
)
