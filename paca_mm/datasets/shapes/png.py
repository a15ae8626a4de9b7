"""PNG files whose bytes depend on nothing but the pixels.

A compressor's output changes with its version and build (zlib, zlib-ng, ...), so the pixels are
*stored*: deflate blocks of type 0 and only the checksums of zlib. It costs space, not trust.
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_STORED_MAX = 65535  # bytes of one stored block


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """The PNG file of an 8-bit image: (H, W) grey or (H, W, 3) red, green, blue."""
    assert pixels.dtype == np.uint8, pixels.dtype
    assert pixels.ndim == 2 or pixels.shape[2:] == (3,), pixels.shape
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    unfiltered = np.zeros((height, 1), dtype=np.uint8)  # each row starts with its filter: none
    raw = np.concatenate([unfiltered, rows], axis=1).tobytes()
    header = struct.pack('>IIBBBBB', width, height, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    return b''.join(
        (
            b'\x89PNG\r\n\x1a\n',
            _chunk(b'IHDR', header),
            _chunk(b'IDAT', _stored(raw)),
            _chunk(b'IEND', b''),
        )
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))


def _stored(raw: bytes) -> bytes:
    """A zlib stream (RFC 1950) of stored blocks (RFC 1951, 3.2.4)."""
    parts = [b'\x78\x01']
    for start in range(0, len(raw), _STORED_MAX):
        block = raw[start : start + _STORED_MAX]
        last = start + _STORED_MAX >= len(raw)
        parts += [struct.pack('<BHH', last, len(block), len(block) ^ 0xFFFF), block]
    parts.append(struct.pack('>I', zlib.adler32(raw)))
    return b''.join(parts)
