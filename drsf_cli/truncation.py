"""Does a container file end where it says it ends?

FFmpeg reads what is there and stops without a word, so the sizes that the container itself declares are followed:
ISO boxes (ISO/IEC 14496-12), the Matroska segment (RFC 8794, RFC 9559), RIFF chunks (AVI). Containers that declare
no size (transport streams, raw streams) cannot be judged here.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_ISO_BOXES = frozenset(
    (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof", b"mfra", b"sidx", b"uuid", b"meta")
)
_EBML_HEADER = b"\x1a\x45\xdf\xa3"
_MATROSKA_SEGMENT = b"\x18\x53\x80\x67"


def truncated(path: Path) -> str | None:
    """What is missing, in a few words, or None if nothing is known to be missing."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in _ISO_BOXES:
            return _iso(file, size)
        if head[:4] == _EBML_HEADER:
            return _matroska(file, size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return _riff(file, size)
    return None


def _iso(file: BinaryIO, size: int) -> str | None:
    position = 0
    has_index = False
    while position + 8 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind not in _ISO_BOXES and not (8 <= length <= size - position):
            return None  # what follows the last box is not part of the film
        has_index = has_index or kind == b"moov"
        if length == 1:
            large = file.read(8)
            if len(large) < 8:
                return "a box breaks off"
            length = struct.unpack(">Q", large)[0]
        if length == 0:  # to the end of the file
            break
        if length < 8:
            return "a box has no valid size"
        if position + length > size:
            return f"{position + length - size} bytes are missing at its end"
        position += length
    return None if has_index else "its index, the moov box, is missing"


def _vint(file: BinaryIO, *, keep_marker: bool) -> tuple[int, bool] | None:
    """(value, all ones) of an EBML variable-length integer, None at the end of the file."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    if len(rest) < length - 1:
        return None
    value = int.from_bytes(first + rest, "big")
    mask = (1 << 7 * length) - 1
    return (value if keep_marker else value & mask), (value & mask) == mask


def _matroska(file: BinaryIO, size: int) -> str | None:
    file.seek(4)
    header = _vint(file, keep_marker=False)
    if header is None:
        return "its header breaks off"
    file.seek(header[0], 1)
    if file.read(4) != _MATROSKA_SEGMENT:
        return "its segment is missing"
    segment = _vint(file, keep_marker=False)
    if segment is None:
        return "its header breaks off"
    length, unknown = segment
    missing = file.tell() + length - size
    return f"{missing} bytes are missing at its end" if not unknown and missing > 0 else None


def _riff(file: BinaryIO, size: int) -> str | None:
    position = 0
    while position + 8 <= size:
        file.seek(position)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF":
            break
        position += 8 + length + length % 2
        if position - length % 2 > size:
            return f"{position - size} bytes are missing at its end"
    return None
