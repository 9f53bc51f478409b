"""Still pictures and folders of them, read and written as RGB arrays."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from weights.errors import InputError, OutputError, UsageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

# suffix -> Pillow's format and options; JPEG at 4:4:4, so that chroma is not halved on top of quantising
_WRITERS: dict[str, tuple[str, dict[str, int]]] = {
    ".png": ("PNG", {"compress_level": 4}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
}

_ORIENTATION = 0x0112  # the EXIF tag
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L")


def is_image(path: Path) -> bool:
    """Whether the name is that of a still picture."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts frame2 before frame10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part.casefold()) for part in parts]


def list_images(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order; hidden files and everything else are passed over."""
    paths = [path for path in folder.iterdir() if is_image(path) and not path.name.startswith(".")]
    return sorted(paths, key=lambda path: natural_key(path.name))


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path)
            count = getattr(picture, "n_frames", 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a picture that can be read; check the file.") from error
    if count > 1:
        raise InputError(f"{path} holds {count} pictures; split it into one file for each.")
    return picture


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the picture as displayed, without decoding it. InputError if it cannot be read."""
    with _open(path) as picture:
        turned = picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        return (picture.height, picture.width) if turned else (picture.width, picture.height)


def read_image(path: Path) -> NDArray[np.uint8]:
    """A picture as displayed: (H, W, 3) uint8 RGB, turned as its EXIF tag says.

    16-bit grey is rounded to 8 bits, alpha is dropped so that nothing hidden under it goes unseen. A picture that
    breaks off is an InputError, never a partly grey one.
    """
    with _open(path) as picture:
        try:
            upright = ImageOps.exif_transpose(picture)
            if upright.mode in _SIXTEEN_BIT:
                grey = np.rint(np.asarray(upright, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return cast(NDArray[np.uint8], np.array(upright.convert("RGB"), dtype=np.uint8))
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{path} is damaged or cut short ({error}); check the file.") from error


def writable_suffix(path: Path) -> str:
    """The suffix, lower case; UsageError for a kind of picture that is not written."""
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise UsageError(f"{path} cannot be written as a picture; name it {', '.join(_WRITERS)}.")
    return suffix


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 RGB by the suffix: PNG lossless, JPEG at quality 95. No metadata is written."""
    kind, options = _WRITERS[writable_suffix(path)]
    try:
        Image.fromarray(image, mode=None).save(path, format=kind, **options)
    except OSError as error:
        raise OutputError(f"{path} could not be written ({error.strerror or error}).") from error
