"""Size and orientation of an image file from its header, before a single pixel is decoded.

A file of a few kilobytes can claim a picture of gigabytes; the claim is checked here first.
Formats: PNG (W3C), JPEG (ITU T.81 with EXIF 2.3), BMP, TIFF 6.0 (and BigTIFF), WebP (RFC 9649), PNM.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_SIZE_OF_TIFF_TYPE = {1: 1, 3: 2, 4: 4, 16: 8}
_TIFF_CODE = {1: "B", 3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Pixels as stored (before orientation), the EXIF orientation (1 to 8), and the format's name."""

    width: int
    height: int
    orientation: int
    format: str


def read_header(path: Path) -> ImageHeader | None:
    """The header of an image file; None where it is of no known format or cut short.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(32)
        file.seek(0)
        try:
            if start.startswith(b"\x89PNG\r\n\x1a\n"):
                return _png(file)
            if start.startswith(b"\xff\xd8"):
                return _jpeg(file)
            if start.startswith(b"BM"):
                return _bmp(start)
            if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                return _tiff(file, 0, "tiff")
            if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
                return _webp(file)
            if len(start) > 2 and start[:1] == b"P" and start[1:2] in b"123456":
                return _pnm(file)
        except (struct.error, ValueError, IndexError):
            return None
    return None


def _png(file: BinaryIO) -> ImageHeader | None:
    file.seek(8)
    width = height = 0
    orientation = 1
    while True:
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IHDR":
            width, height = struct.unpack(">II", file.read(8))
            file.seek(length - 8, 1)
        elif kind == b"eXIf":
            found = _tiff(file, file.tell(), "png")
            orientation = found.orientation if found else 1
            break
        elif kind in (b"IDAT", b"IEND"):
            break
        else:
            file.seek(length, 1)
        file.seek(4, 1)
    return ImageHeader(width, height, orientation, "png") if width else None


def _jpeg(file: BinaryIO) -> ImageHeader | None:
    file.seek(2)
    orientation = 1
    while True:
        marker = file.read(1)
        if not marker:
            return None
        if marker != b"\xff":
            continue
        while marker == b"\xff":
            marker = file.read(1)
        if not marker or marker in (b"\x00", b"\x01") or 0xD0 <= marker[0] <= 0xD9:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        after = file.tell() + length - 2
        if 0xC0 <= marker[0] <= 0xCF and marker[0] not in (0xC4, 0xC8, 0xCC):
            _, height, width = struct.unpack(">BHH", file.read(5))
            return ImageHeader(width, height, orientation, "jpeg")
        if marker == b"\xe1" and file.read(6) == b"Exif\0\0":
            found = _tiff(file, file.tell(), "jpeg")
            orientation = found.orientation if found else 1
        file.seek(after)


def _bmp(start: bytes) -> ImageHeader:
    (header_size,) = struct.unpack_from("<I", start, 14)
    width, height = struct.unpack_from("<HH" if header_size == 12 else "<ii", start, 18)
    return ImageHeader(abs(width), abs(height), 1, "bmp")


def _webp(file: BinaryIO) -> ImageHeader | None:
    file.seek(12)
    width = height = 0
    orientation = 1
    while len(head := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        begin = file.tell()
        if kind == b"VP8X":
            flags = file.read(10)
            width = 1 + int.from_bytes(flags[4:7], "little")
            height = 1 + int.from_bytes(flags[7:10], "little")
        elif kind == b"VP8L" and not width:
            bits = int.from_bytes(file.read(5)[1:], "little")
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif kind == b"VP8 " and not width:
            width, height = struct.unpack("<6xHH", file.read(10))
            width, height = width & 0x3FFF, height & 0x3FFF
        elif kind == b"EXIF":
            skip = 6 if file.read(6) == b"Exif\0\0" else 0
            found = _tiff(file, begin + skip, "webp")
            orientation = found.orientation if found else 1
        file.seek(begin + length + length % 2)
    return ImageHeader(width, height, orientation, "webp") if width else None


def _pnm(file: BinaryIO) -> ImageHeader:
    text = b"\n".join(line.split(b"#", 1)[0] for line in file.read(4096).split(b"\n"))
    _, width, height = text.split(maxsplit=3)[:3]
    return ImageHeader(int(width), int(height), 1, "pnm")


def _tiff(file: BinaryIO, base: int, name: str) -> ImageHeader | None:
    """First image directory of a TIFF, which is also how EXIF is kept inside the other formats."""
    file.seek(base)
    order = {b"II": "<", b"MM": ">"}.get(file.read(2))
    if order is None:
        return None
    (version,) = struct.unpack(order + "H", file.read(2))
    big = version == 43
    (offset,) = struct.unpack(order + ("4xQ" if big else "I"), file.read(12 if big else 4))
    file.seek(base + offset)
    (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
    tags: dict[int, int] = {}
    for _ in range(min(count, 4096)):
        tag, kind, number = struct.unpack(order + ("HHQ" if big else "HHI"), file.read(12 if big else 8))
        value = file.read(8 if big else 4)
        if tag in (256, 257, 274) and number == 1 and kind in _TIFF_CODE:
            (tags[tag],) = struct.unpack(order + _TIFF_CODE[kind], value[: _SIZE_OF_TIFF_TYPE[kind]])
    orientation = tags.get(274, 1)
    if name == "tiff" and not (tags.get(256) and tags.get(257)):
        return None
    return ImageHeader(tags.get(256, 0), tags.get(257, 0), orientation if 1 <= orientation <= 8 else 1, name)
