"""Checks whether a container file is complete, by the sizes that it declares.

FFmpeg reads what is present and says nothing about what is missing. So this module follows the sizes that the container
declares: ISO boxes (ISO/IEC 14496-12), Matroska elements (RFC 8794, RFC 9559), RIFF chunks (AVI), and the trailer of
GIF. Containers that declare no sizes (transport streams, raw streams) cannot be checked.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_ISO_BOXES = frozenset(
    (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof", b"mfra", b"sidx", b"uuid", b"meta")
)

_EBML_HEADER = 0x1A45DFA3
_SEGMENT = 0x18538067
_TRACKS = 0x1654AE6B
_TRACK_ENTRY = 0xAE
_TRACK_NUMBER = 0xD7
_CLUSTER = 0x1F43B675
_BLOCK_GROUP = 0xA0
_BLOCKS = (0xA3, 0xA1)  # SimpleBlock, Block
_MATROSKA_ELEMENTS = frozenset(
    (
        # of a segment: SeekHead, Info, Tracks, Cues, Attachments, Chapters, Tags, Void, CRC-32
        *(0x114D9B74, 0x1549A966, _TRACKS, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, 0xEC, 0xBF),
        # of a cluster: Timestamp, SilentTracks, Position, PrevSize, EncryptedBlock, SimpleBlock
        *(0xE7, 0x5854, 0xA7, 0xAB, 0xAF, 0xA3),
        # of a block group: Block, BlockVirtual, BlockAdditions, BlockDuration, ReferencePriority, ReferenceBlock,
        # ReferenceVirtual, CodecState, DiscardPadding, Slices, ReferenceFrame
        *(0xA1, 0xA2, 0x75A1, 0x9B, 0xFA, 0xFB, 0xFD, 0xA4, 0x75A2, 0x8E, 0xC8),
    )
)


def find_flaw(path: Path) -> str | None:
    """What is wrong, to be read after the file's name, or None if nothing is known to be wrong."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in _ISO_BOXES:
            return _iso(file, size)
        if head[:4] == _EBML_HEADER.to_bytes(4, "big"):
            return _matroska(file, size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return _riff(file, size)
        if head[:4] == b"GIF8":
            return _gif(file, size)
    return None


def _missing(count: int) -> str:
    return f"is cut short ({count} bytes are missing at its end)"


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
                return _missing(8 - len(large))
            length = struct.unpack(">Q", large)[0]
        if length == 0:  # to the end of the file
            break
        if length < 8:
            return f"is damaged near byte {position}"
        if position + length > size:
            return _missing(position + length - size)
        position += length
    return None if has_index else "is cut short (its index, the moov box, is missing)"


def _vint(file: BinaryIO, *, keep_marker: bool = False) -> int | None:
    """An EBML variable-length integer; -1 if all its bits are set (a size that is not known), None if it is none."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    if len(rest) < length - 1:
        return None
    value = int.from_bytes(first + rest, "big")
    if keep_marker:
        return value
    mask = (1 << 7 * length) - 1
    return -1 if value & mask == mask else value & mask


def _matroska(file: BinaryIO, size: int) -> str | None:
    file.seek(4)
    header = _vint(file)
    if header is None or header < 0:
        return "is damaged near byte 4"
    file.seek(header, 1)
    if _vint(file, keep_marker=True) != _SEGMENT or (length := _vint(file)) is None:
        return f"is damaged near byte {file.tell()}"
    position = file.tell()
    end = size if length < 0 else position + length
    return _missing(end - size) if end > size else _segment(file, position, end)


def _segment(file: BinaryIO, position: int, end: int) -> str | None:
    """What is wrong with the elements of a Matroska segment."""
    tracks: frozenset[int] | None = None
    while position < end:
        file.seek(position)
        kind, length = _vint(file, keep_marker=True), _vint(file)
        start = file.tell()
        if length is not None and kind in (_CLUSTER, _BLOCK_GROUP):
            position = start  # the children follow, and are walked like the rest
            continue
        if length is None or length < 0 or kind not in _MATROSKA_ELEMENTS:
            return f"is damaged near byte {position}"
        if start + length > end:
            return _missing(start + length - end)
        if kind == _TRACKS:
            tracks = _track_numbers(file, start, start + length)
        elif kind in _BLOCKS and tracks is not None and _vint(file) not in tracks:
            return f"is damaged near byte {position}"
        position = start + length
    return None


def _track_numbers(file: BinaryIO, position: int, end: int) -> frozenset[int]:
    """The track numbers of a Tracks element; what cannot be followed ends the list."""
    numbers = set()
    while position < end:
        file.seek(position)
        kind, length = _vint(file, keep_marker=True), _vint(file)
        if kind is None or length is None or length < 0:
            break
        start = file.tell()
        if kind == _TRACK_NUMBER:
            numbers.add(int.from_bytes(file.read(length), "big"))
        position = start if kind == _TRACK_ENTRY else start + length
    return frozenset(numbers)


def _riff(file: BinaryIO, size: int) -> str | None:
    position = 0
    while position + 8 <= size:
        file.seek(position)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF":
            break
        if position + 8 + length > size:
            return _missing(position + 8 + length - size)
        position += 8 + length + length % 2
    return None


def _gif(file: BinaryIO, size: int) -> str | None:
    file.seek(max(0, size - 64))
    return None if file.read().rstrip(b"\0").endswith(b";") else "is cut short (the trailer is missing)"
