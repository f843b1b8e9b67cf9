"""The site: the contents of every page, so that the client can check each byte."""

import hashlib
import zlib

#: sizes cycle through these, from a snippet to a long article
SIZES = (300, 2_000, 8_000, 30_000)


def body_of(number: int) -> bytes:
    """The text of page `number`, different for each one."""
    line = hashlib.sha256(b"page %d" % number).hexdigest().encode() + b"\n"
    size = SIZES[number % len(SIZES)]
    return (line * (size // len(line) + 1))[:size]


def compressed(number: int) -> bytes:
    """Page `number`, compressed: blocking work, for a thread."""
    return zlib.compress(body_of(number), 9)
