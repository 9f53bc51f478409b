"""Still pictures and folders of them, read and written as RGB arrays."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from weights.errors import InputError, OutputError, UsageError

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".heic", ".heif", ".avif",
)  # fmt: skip

# suffix -> Pillow's format and options; JPEG at 4:4:4, so that chroma is not halved on top of quantising
_WRITERS: dict[str, tuple[str, dict[str, int]]] = {
    ".png": ("PNG", {"compress_level": 4}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
}

_ORIENTATION = 0x0112  # the EXIF tag
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L")
_GREY_BITS = (8, 10, 12, 14, 16)
"""Bits of sensors whose pictures are stored in 16."""

_FIRST_COUNTS = ("MPO", "HEIF")
"""Formats in which other pictures than the main one are previews, second views and the rest of a burst."""


@dataclass
class PictureNotes:
    """How pictures are read, and what the user should know about those that were read."""

    bits: int | None = None
    """Of `grey_bits`."""
    several: list[str] = field(default_factory=list)
    """Names of files that hold more than one picture."""

    def sentences(self) -> dict[str, str]:
        """Sentences for the user, by kind."""
        if not self.several:
            return {}
        more = f" and {len(self.several) - 1} more files" if len(self.several) > 1 else ""
        return {"several": f"{self.several[0]}{more}: of several pictures in one file the main one was read."}


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
    if path.suffix.lower() in (".heic", ".heif"):
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path)
            count = getattr(picture, "n_frames", 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a picture that can be read; check the file.") from error
    if count > 1 and picture.format not in _FIRST_COUNTS:
        raise InputError(f"{path} holds {count} pictures; split it into one file for each.")
    return picture


def grey_bits(paths: Sequence[Path]) -> int | None:
    """How many bits the 16-bit grey pictures use, taken together: 8, 10, 12, 14 or 16.

    None if there is no such picture. Raises InputError.
    """
    most: float | None = None
    for path in paths:
        with _open(path) as picture:
            if picture.mode in _SIXTEEN_BIT:
                most = max(most or 0.0, float(_numbers(picture, path).max(initial=0)))
    return None if most is None else next((bits for bits in _GREY_BITS if most < 2**bits), 16)


def _numbers(picture: Image.Image, path: Path) -> NDArray[Any]:
    try:
        return np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is damaged or cut short ({error}); check the file.") from error


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the picture as displayed, without decoding it. InputError if it cannot be read."""
    with _open(path) as picture:
        turned = picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        return (picture.height, picture.width) if turned else (picture.width, picture.height)


def read_image(path: Path, notes: PictureNotes | None = None) -> NDArray[np.uint8]:
    """A picture as displayed: (H, W, 3) uint8 RGB, turned as its EXIF tag says.

    16-bit grey is scaled by the bits in use (from `notes`, or else of this picture) and rounded to 8 bits. Alpha is
    dropped, so that the detectors see what it would hide. A picture that breaks off raises InputError; it is never
    filled up with grey.
    """
    with _open(path) as picture:
        if notes is not None and getattr(picture, "n_frames", 1) > 1 and path.name not in notes.several:
            notes.several.append(path.name)
        try:
            upright = ImageOps.exif_transpose(picture)
            if upright.mode in _SIXTEEN_BIT:
                bits = (notes.bits if notes is not None else None) or grey_bits([path]) or 16
                scaled = np.asarray(upright, dtype=np.float64) * (255 / (2**bits - 1))
                return np.repeat(np.rint(scaled).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
            return cast(NDArray[np.uint8], np.array(upright.convert("RGB"), dtype=np.uint8))
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{path} is damaged or cut short ({error}); check the file.") from error


def writable_suffix(path: Path) -> str:
    """The suffix in lower case. Raises UsageError for a format that cannot be written."""
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
