"""Pictures as PNG files of one kind (eight bits each of red, green and blue), without a library for it."""

from __future__ import annotations

import struct
import zlib

SIZE = 64  # pixels of a side
THUMBNAIL = 16

Pixel = tuple[int, ...]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode(rows: list[list[Pixel]]) -> bytes:
    """Rows of pixels as a PNG file."""
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 2, 0, 0, 0)
    # Each row begins with its filter: none.
    raw = b"".join(b"\0" + bytes(value for pixel in row for value in pixel) for row in rows)
    return _SIGNATURE + b"".join(
        [_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(raw, 9)), _chunk(b"IEND", b"")]
    )


def decode(content: bytes) -> list[list[Pixel]]:
    """The rows of pixels of a PNG file that `encode` has made; ValueError for anything else."""
    if not content.startswith(_SIGNATURE):
        raise ValueError("not a PNG file")
    chunks: dict[bytes, bytes] = {}
    place = len(_SIGNATURE)
    while place + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        chunks[kind] = content[place + 8 : place + 8 + length]
        place += length + 12
    try:
        width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
        raw = zlib.decompress(chunks[b"IDAT"])
    except (KeyError, struct.error, zlib.error) as error:
        raise ValueError(f"a broken PNG file: {error!r}") from error
    if rest != [8, 2, 0, 0, 0] or len(raw) != height * (3 * width + 1):
        raise ValueError("a PNG file of another kind")
    lines = [raw[row * (3 * width + 1) + 1 : (row + 1) * (3 * width + 1)] for row in range(height)]
    return [[tuple(line[i : i + 3]) for i in range(0, 3 * width, 3)] for line in lines]


def shrink(rows: list[list[Pixel]], size: int = THUMBNAIL) -> list[list[Pixel]]:
    """A square picture made smaller: each pixel is the mean of those that it stands for."""
    step = len(rows) // size
    return [
        [
            tuple(
                sum(
                    rows[y * step + j][x * step + i][colour]
                    for j in range(step)
                    for i in range(step)
                )
                // step**2
                for colour in range(3)
            )
            for x in range(size)
        ]
        for y in range(size)
    ]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
