"""JPEG and JPEG-LS streams, walked marker by marker to their end.

Why it exists: both have segments for comments and applications, may define tables that nothing uses, and end before the
bytes do. Cameras and workstations write names there, and pixels that pass byte for byte would carry them out.

Rules:
    * Only segments that decoding needs pass, each with the length that its own fields ask for, and before the first
      scan, once each, those of JFIF, Adobe and HP and a comment that names a known encoder and nothing else.
    * The stream is walked through every scan to its end of image. What cannot be walked does not pass.

What it does not do: decode. Numbers in tables and the coded samples themselves are not judged.

Source: ITU-T T.81 annex B (markers), ITU-T T.87 annex C (JPEG-LS).
"""

import re

from fedmed.deid.dicom.quarantine import QuarantineError

ENCODER = re.compile(
    rb"(Created by |Creator: )?(GDCM/)?(OpenJPEG|Kakadu|JasPer|Grok|CharLS|LEAD Technologies|IJG|Accusoft|Aware)"
    rb"(,? Inc\.?)?[ -]*"
    rb"([Vv]ersion )?([vV]?\d{1,2}(\.\d{1,4}){0,3})?\x00*"
)
"""What a comment may say: the name and version of an encoder."""

_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_AFTER_SCAN_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")  # a byte below 0x80 continues the samples
_APPLICATION = {
    0xE0: re.compile(rb"JFIF\x00\x01[\x00-\x02][\x00-\x02].{4}\x00\x00", re.DOTALL),
    0xE8: re.compile(rb"mrfx[\x00-\x05]"),
    0xEE: re.compile(rb"Adobe\x00[\x64\x65][\x00\x40\x80\xc0]\x00[\x00\x40\x80\xc0]\x00[\x00-\x02]"),
}
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_HUFFMAN, _ARITHMETIC, _END, _SCAN, _QUANTISATION, _LINES, _RESTART = 0xC4, 0xCC, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD
_FRAME_LS, _PARAMETERS_LS, _COMMENT = 0xF7, 0xF8, 0xFE


def jpeg_end(stream: bytes) -> int:
    """Return the place after the end of the image in `stream`, which begins with its start.

    Raises:
        QuarantineError: It holds a comment or an application segment, or bytes that decoding does not need, or it
            cannot be walked to an end.
    """
    at, scan, tables, notes = 2, _AFTER_SCAN, set[int](), set[int]()
    scanned = False
    while match := _MARKER.match(stream, at):
        marker, at = match[1][0], match.end()
        if marker == _END and scanned:
            return at
        length = int.from_bytes(stream[at : at + 2], "big")
        if length < 2 or at + length > len(stream):
            break
        content = stream[at + 2 : at + length]
        if marker in _APPLICATION or marker == _COMMENT:
            if scanned or marker in notes or not _APPLICATION.get(marker, ENCODER).fullmatch(content):
                raise QuarantineError("embedded-comment")
            notes.add(marker)
        elif not _fits(marker, content, tables):
            break
        at += length
        if marker == _FRAME_LS:
            scan = _AFTER_SCAN_LS
        elif marker == _SCAN:
            found = scan.search(stream, at)
            if found is None:
                raise QuarantineError("truncated")
            at, scanned = found.start(), True
            tables.clear()
    raise QuarantineError("stray-bytes")


def jpeg_shape(stream: bytes) -> tuple[int, int, int]:
    """Return rows, columns and samples of the image, as the first frame header says (T.81 B.2.2).

    Raises:
        QuarantineError: There is none before the samples begin.
    """
    at = 2
    while match := _MARKER.match(stream, at):
        length = int.from_bytes(stream[match.end() : match.end() + 2], "big")
        content = stream[match.end() + 2 : match.end() + length]
        if match[1][0] in _FRAMES and len(content) >= 6:
            return int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big"), content[5]
        if length < 2 or match[1][0] in {_SCAN, _END}:
            break
        at = match.end() + length
    raise QuarantineError("wrong-size")


def _fits(marker: int, content: bytes, tables: set[int]) -> bool:
    """Tell whether a segment is one that decoding needs, and as long as its fields say.

    `tables` are those that were defined since the last scan: whatever defines one of them again hides the first.
    """
    size = len(content)
    if marker in _FRAMES:
        return size >= 6 and size == 6 + 3 * content[5]
    if marker == _SCAN:
        return size >= 4 and size == 4 + 2 * content[0]
    if marker == _PARAMETERS_LS:
        return size == 11 and content[0] == 1
    if marker in {_HUFFMAN, _QUANTISATION}:
        return _tables_fit(marker, content, tables)
    if marker == _ARITHMETIC:
        return size % 2 == 0 and size <= 16
    return (marker == _RESTART and 2 <= size <= 4) or (marker == _LINES and size == 2)


def _tables_fit(marker: int, content: bytes, tables: set[int]) -> bool:
    at = 0
    while at < len(content):
        kind, place = content[at] >> 4, content[at] & 15
        if kind > 1 or place > 3 or marker << 8 | content[at] in tables:
            return False
        tables.add(marker << 8 | content[at])
        if marker == _QUANTISATION:
            at += 65 + 64 * kind
            continue
        values = content[at + 17 : at + 17 + sum(content[at + 1 : at + 17])]
        if len(set(values)) != len(values):
            return False
        at += 17 + sum(content[at + 1 : at + 17])
    return at == len(content)
