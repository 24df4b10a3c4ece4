"""Comments inside compressed frames.

Why it exists: JPEG and JPEG 2000 streams have comment and application segments of their own. A camera or workstation
writes names there, and pixels that pass byte for byte would carry them out.

Rules:
    * Only the segments that decoding needs, and comments that name a known encoder and nothing else, pass.
    * A header that cannot be walked does not pass.

What it does not do: look at the compressed samples, or at streams other than JPEG, JPEG-LS and JPEG 2000.
"""

import re
import struct
from collections.abc import Iterable

from fedmed.deid.dicom.quarantine import QuarantineError

_JPEG, _JPEG_2000 = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"
_ENCODER = re.compile(
    rb"(Created by |Creator: )?(GDCM/)?(OpenJPEG|Kakadu|JasPer|LEAD Technologies|IJG|Accusoft|Aware)(,? Inc\.?)?[ -]*"
    rb"([Vv]ersion )?[vV]?[0-9.]{0,12}\x00*"
)
_APPLICATION = {0xE0: b"JFIF\0", 0xE8: b"mrfx", 0xEE: b"Adobe"}
_START_OF_SCAN, _COMMENT = 0xDA, 0xFE
_START_OF_TILE, _COMMENT_2000 = 0x90, 0x64


def refuse_comments(fragments: Iterable[bytes]) -> None:
    """Refuse frames that carry a comment of unknown content.

    Args:
        fragments: The fragments of encapsulated pixel data. One that starts no stream continues another.

    Raises:
        QuarantineError: A stream holds a comment or an application segment, or its header does not parse.
    """
    for fragment in fragments:
        if fragment.startswith(_JPEG):
            _walk(fragment, end=_START_OF_SCAN)
        elif fragment.startswith(_JPEG_2000):
            _walk(fragment, end=_START_OF_TILE)


def _walk(stream: bytes, *, end: int) -> None:
    at = 2
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == end:
            return
        (length,) = struct.unpack_from(">H", stream, at + 2)
        if length < 2 or not _harmless(marker, stream[at + 4 : at + 2 + length], jpeg=end == _START_OF_SCAN):
            break
        at += 2 + length
    raise QuarantineError("embedded-comment")


def _harmless(marker: int, content: bytes, *, jpeg: bool) -> bool:
    if not jpeg:
        return marker != _COMMENT_2000 or _ENCODER.fullmatch(content[2:]) is not None
    if marker == _COMMENT:
        return _ENCODER.fullmatch(content) is not None
    if 0xE0 <= marker <= 0xEF:
        start = _APPLICATION.get(marker)
        return start is not None and content.startswith(start) and len(content) <= 16
    return True
