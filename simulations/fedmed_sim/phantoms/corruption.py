"""Broken files, in the ways in which files of hospitals are broken.

Why it exists: a tool that fails closed must be seen to do so on files that an
interrupted copy, a full disk or a wrong export leaves behind.

Rules:
    * Each way breaks every file that it is given: a DICOM file is afterwards unreadable, cut short,
      or has two values where one is allowed; a text file cannot be decoded.
    * The broken file still holds identifiers where the sound one did.

What it does not do: malicious files.
"""

import gzip
import io
import struct
from collections.abc import Callable, Mapping

import pydicom
from numpy.random import Generator
from pydicom.uid import DeflatedExplicitVRLittleEndian

from fedmed.errors import UsageError
from fedmed_sim.phantoms.draws import between, pick

_META_LENGTH_AT = 140


def truncated(rng: Generator, payload: bytes) -> bytes:
    """Cut the file inside an element: elements have even lengths, so an odd one never ends on a border."""
    head = _META_LENGTH_AT + 4 + int.from_bytes(payload[_META_LENGTH_AT : _META_LENGTH_AT + 4], "little")
    return payload[: between(rng, head + 40, len(payload) - 16) | 1]


def garbage_header(rng: Generator, payload: bytes) -> bytes:
    """Overwrite the preamble, the prefix and the first elements with random bytes."""
    return b"\xff" + rng.bytes(259) + payload[260:]


def wrong_length(rng: Generator, payload: bytes) -> bytes:  # noqa: ARG001  one shape for all ways
    """Let the patient's name, or the transfer syntax where the name is deflated, reach beyond the end of the file."""
    data = pydicom.dcmread(io.BytesIO(payload))
    syntax = data.file_meta.TransferSyntaxUID
    at = int(getattr(data.get_item("PatientName"), "value_tell", 0))
    if not at:
        raise UsageError("corrupt: expected a DICOM phantom with a patient's name, got none; give another file")
    if syntax == DeflatedExplicitVRLittleEndian:
        at = payload.index(b"\x02\x00\x10\x00UI") + 8
        return payload[: at - 2] + b"\xf0\xff" + payload[at:][:0xFF00]
    if syntax.is_implicit_VR:
        return payload[: at - 4] + b"\xf0\xff\xff\x7f" + payload[at:]
    length = 0xFFF0.to_bytes(2, "little" if syntax.is_little_endian else "big")
    return payload[: at - 2] + length + payload[at:]


def empty(rng: Generator, payload: bytes) -> bytes:  # noqa: ARG001  one shape for all ways
    """Leave nothing: a file that was created and never written."""
    return b""


def zeroed(rng: Generator, payload: bytes) -> bytes:  # noqa: ARG001  one shape for all ways
    """Leave only zero bytes of the same length: a block that the disk never received."""
    return bytes(len(payload))


def wrong_count(rng: Generator, payload: bytes) -> bytes:
    """Give two values to an attribute that takes one: the instance UID, or the number of rows."""
    data = pydicom.dcmread(io.BytesIO(payload))
    if "Rows" in data and pick(rng, (True, False)):
        data["Rows"].value = [data.Rows, data.Rows]
    else:
        data["SOPInstanceUID"].value = [data.SOPInstanceUID, data.SOPInstanceUID]
    file = io.BytesIO()
    pydicom.dcmwrite(file, data)
    return file.getvalue()


def not_dicom(rng: Generator, payload: bytes) -> bytes:
    """Put another file in its place: an error page, a picture, an archive, or the data set without its header."""
    return pick(
        rng,
        (
            b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n",
            b"\x89PNG\r\n\x1a\n" + rng.bytes(600),
            b"PK\x03\x04" + rng.bytes(600),
            b"\xff" + payload[400:],
        ),
    )


def undecodable(rng: Generator, payload: bytes) -> bytes:
    """Insert bytes that neither UTF-8 nor GB18030 knows."""
    at = between(rng, 0, len(payload))
    return payload[:at] + b"\xff\xff\x80\xff" + payload[at:]


def binary(rng: Generator, payload: bytes) -> bytes:
    """Replace all but the end with an archive's bytes: a wrong export."""
    return b"PK\x03\x04\x14\x00\xff\xff\xff" + rng.bytes(400) + b"\0\xff\xff" + payload[-60:]


def broken_json(rng: Generator, payload: bytes) -> bytes:
    """Cut each line of a JSONL file short."""
    lines = payload.decode("utf-8").splitlines()
    return "\n".join(line[: between(rng, 2, len(line) - 2)] for line in lines).encode("utf-8")


def halved(rng: Generator, payload: bytes) -> bytes:
    """Cut an image, or the JSON beside it, somewhere in its first half."""
    return payload[: between(rng, 20, max(21, len(payload) // 2))]


def claims_more(rng: Generator, payload: bytes) -> bytes:  # noqa: ARG001  one shape for all ways
    """Let a NIfTI image claim tens of gigabytes of voxels."""
    packed = payload[:2] == b"\x1f\x8b"
    plain = gzip.decompress(payload) if packed else payload
    order = "<" if plain[0] else ">"
    at, form = (40, "4h") if 348 in struct.unpack("<i", plain[:4]) + struct.unpack(">i", plain[:4]) else (16, "4q")
    dims = struct.pack(f"{order}{form}", 3, 3000, 3000, 3000)
    changed = plain[:at] + dims + plain[at + len(dims) :]
    return gzip.compress(changed, mtime=0) if packed else changed


def no_object(rng: Generator, payload: bytes) -> bytes:  # noqa: ARG001  one shape for all ways
    """Put the JSON into a list."""
    return b"[" + payload + b"]"


Way = Callable[[Generator, bytes], bytes]

DICOM_WAYS: Mapping[str, Way] = {
    "truncated": truncated,
    "garbage-header": garbage_header,
    "wrong-length": wrong_length,
    "empty": empty,
    "zeroed": zeroed,
    "wrong-count": wrong_count,
    "not-dicom": not_dicom,
}
TEXT_WAYS: Mapping[str, Way] = {"undecodable": undecodable, "binary": binary}
NIFTI_WAYS: Mapping[str, Way] = {
    "halved": halved,
    "garbage-header": garbage_header,
    "empty": empty,
    "zeroed": zeroed,
    "claims-more": claims_more,
    "not-nifti": not_dicom,
}
WAYS: Mapping[str, Mapping[str, Way]] = {
    ".dcm": DICOM_WAYS,
    ".csv": TEXT_WAYS,
    ".txt": TEXT_WAYS,
    ".jsonl": {**TEXT_WAYS, "broken-json": broken_json},
    ".nii": NIFTI_WAYS,
    ".gz": NIFTI_WAYS,
    ".json": {"halved": halved, "no-object": no_object, "empty": empty},
}
"""The ways by the suffix of the file."""


def corrupt(rng: Generator, payload: bytes, *, suffix: str, way: str) -> bytes:
    """Return a broken copy of a sound file.

    Args:
        rng: The generator.
        payload: The sound file.
        suffix: A key of `WAYS`.
        way: One of the ways of this suffix.

    Raises:
        UsageError: This suffix has no such way.
    """
    ways = WAYS.get(suffix, {})
    if way not in ways:
        raise UsageError(f"corrupt {suffix}: expected one of {', '.join(ways) or 'nothing'}, got {way}")
    return ways[way](rng, payload)
