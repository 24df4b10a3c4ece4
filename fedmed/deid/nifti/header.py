"""The header of a NIfTI-1 or NIfTI-2 image, written anew from the fields that describe voxels and geometry.

Why it exists: 80 characters of description, an auxiliary file's name, a database's name and fields that nobody has
used since Analyze 7.5 are room for a name, an institution or a time.

Rules:
    * Default-deny: the new header is empty but for the fields of `_KEPT`; text, extensions and unused fields are not
      among them. `toffset` is none of them either: some converters put the time of day there.
    * A field that describes an axis or a transform that the image doesn't have is emptied.
    * What doesn't parse exactly, or isn't finite where it must be, is refused.
    * The byte order stays, so that the voxels can stay as they are.

What it does not do: touch voxels (see `images`).

Source: the headers nifti1.h (R. W. Cox, 2007) and nifti2.h (2011) of the NIfTI Data Format Working Group.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedmed.deid.nifti.quarantine import NiftiError

LONGEST_HEADER: Final = 544
MAX_EXTENSION_BYTES: Final = 64 << 20
MAX_VOXEL_BYTES: Final = 4 << 30
"""A file that claims more is refused: what little bytes can claim to expand to is bounded."""

_NIFTI_1 = np.dtype([
    ("sizeof_hdr", "<i4"), ("data_type", "V10"), ("db_name", "V18"), ("extents", "<i4"), ("session_error", "<i2"),
    ("regular", "V1"), ("dim_info", "u1"), ("dim", "<i2", (8,)), ("intent_p", "<f4", (3,)), ("intent_code", "<i2"),
    ("datatype", "<i2"), ("bitpix", "<i2"), ("slice_start", "<i2"), ("pixdim", "<f4", (8,)), ("vox_offset", "<f4"),
    ("scl_slope", "<f4"), ("scl_inter", "<f4"), ("slice_end", "<i2"), ("slice_code", "i1"), ("xyzt_units", "u1"),
    ("cal_max", "<f4"), ("cal_min", "<f4"), ("slice_duration", "<f4"), ("toffset", "<f4"), ("glmax", "<i4"),
    ("glmin", "<i4"), ("descrip", "V80"), ("aux_file", "V24"), ("qform_code", "<i2"), ("sform_code", "<i2"),
    ("quatern", "<f4", (3,)), ("qoffset", "<f4", (3,)), ("srow", "<f4", (3, 4)), ("intent_name", "V16"),
    ("magic", "V4"),
])  # fmt: skip
_NIFTI_2 = np.dtype([
    ("sizeof_hdr", "<i4"), ("magic", "V8"), ("datatype", "<i2"), ("bitpix", "<i2"), ("dim", "<i8", (8,)),
    ("intent_p", "<f8", (3,)), ("pixdim", "<f8", (8,)), ("vox_offset", "<i8"), ("scl_slope", "<f8"),
    ("scl_inter", "<f8"), ("cal_max", "<f8"), ("cal_min", "<f8"), ("slice_duration", "<f8"), ("toffset", "<f8"),
    ("slice_start", "<i8"), ("slice_end", "<i8"), ("descrip", "V80"), ("aux_file", "V24"), ("qform_code", "<i4"),
    ("sform_code", "<i4"), ("quatern", "<f8", (3,)), ("qoffset", "<f8", (3,)), ("srow", "<f8", (3, 4)),
    ("slice_code", "<i4"), ("xyzt_units", "<i4"), ("intent_code", "<i4"), ("intent_name", "V16"), ("dim_info", "u1"),
    ("unused_str", "V15"),
])  # fmt: skip
_MAGIC_1, _MAGIC_2 = b"n+1\0", b"n+2\0\r\n\x1a\n"
_PAIRS = (b"ni1\0", b"ni2\0")
_KEPT: Final = (
    "dim_info", "dim", "intent_p", "intent_code", "datatype", "bitpix", "slice_start", "pixdim", "scl_slope",
    "scl_inter", "slice_end", "slice_code", "xyzt_units", "cal_max", "cal_min", "slice_duration", "qform_code",
    "sform_code", "quatern", "qoffset", "srow",
)  # fmt: skip
_TEXTS: Final = ("data_type", "db_name", "descrip", "aux_file", "intent_name", "unused_str")
_BITS: Final = {
    2: 8, 4: 16, 8: 32, 16: 32, 32: 64, 64: 64, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64, 1536: 128, 1792: 128,
    2048: 256,
}  # fmt: skip
"""Bits per voxel by `datatype`; 1 (single bits) is no format that is written in practice."""
_COLOURS: Final = frozenset({128, 2304})
_MOST_INTENT, _MOST_FORM, _MOST_SLICE_CODE, _MOST_UNITS = 2100, 5, 6, 63

_Record = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanHeader:
    """The new header with the empty extension mark, where the voxels begin and how many bytes they are.

    `flat`: it is a single slice, along whichever axis, or less.
    """

    data: bytes
    offset: int
    voxel_bytes: int
    flat: bool
    texts_emptied: int
    extension_bytes: int


def clean_header(head: bytes) -> CleanHeader:
    """Return the header of an image, written anew.

    Args:
        head: The file's first `LONGEST_HEADER` bytes, or all of it.

    Raises:
        NiftiError: It is none that can be read exactly, or one that is not cleaned.
    """
    form = _form_of(head)
    old = np.frombuffer(head, dtype=form, count=1)[0]
    shape = _shape(old)
    datatype, bits = int(old["datatype"]), int(old["bitpix"])
    if datatype in _COLOURS:
        raise NiftiError("nifti-colour")
    if _BITS.get(datatype) != bits:
        raise NiftiError("nifti-malformed")
    voxel_bytes = math.prod(shape) * bits // 8
    if voxel_bytes > MAX_VOXEL_BYTES:
        raise NiftiError("too-large")
    offset = _offset(old, form)
    start = form.itemsize + 4
    new = np.zeros(1, dtype=form)
    _fill(new[0], old, shape)
    new["vox_offset"] = start
    return CleanHeader(
        data=new.tobytes() + bytes(4),
        offset=offset,
        voxel_bytes=voxel_bytes,
        flat=sum(size > 1 for size in shape[:3]) < 3,
        texts_emptied=sum(any(bytes(old[name])) for name in _TEXTS if name in (form.names or ())),
        extension_bytes=offset - start,
    )


def _form_of(head: bytes) -> np.dtype[np.void]:
    """Return the fields of a header, by its length, its magic and the order of its bytes."""
    if len(head) < 4:
        raise NiftiError("nifti-truncated")
    for size, form, magic, at in ((348, _NIFTI_1, _MAGIC_1, 344), (540, _NIFTI_2, _MAGIC_2, 4)):
        for order in ("little", "big"):
            if head[:4] != size.to_bytes(4, "little" if order == "little" else "big"):
                continue
            if len(head) < size + 4:
                raise NiftiError("nifti-truncated")
            if head[at : at + 4] in _PAIRS:
                raise NiftiError("nifti-pair")
            if head[at : at + len(magic)] != magic:
                raise NiftiError("nifti-malformed")
            return form if order == "little" else form.newbyteorder(">")
    raise NiftiError("nifti-malformed")


def _shape(old: Any) -> tuple[int, ...]:
    axes = int(old["dim"][0])
    if not 1 <= axes <= 7:
        raise NiftiError("nifti-malformed")
    shape = tuple(int(size) for size in old["dim"][1 : axes + 1])
    if min(shape) < 1:
        raise NiftiError("nifti-malformed")
    return shape


def _offset(old: Any, form: np.dtype[np.void]) -> int:
    """Return where the voxels begin: after the header, its extension mark and whatever extensions there are."""
    claimed, start = float(old["vox_offset"]), form.itemsize + 4
    if not math.isfinite(claimed) or claimed != int(claimed) or claimed < start:
        raise NiftiError("nifti-malformed")
    if claimed - start > MAX_EXTENSION_BYTES:
        raise NiftiError("too-large")
    return int(claimed)


def _fill(new: Any, old: Any, shape: tuple[int, ...]) -> None:
    """Copy what is kept, and empty what describes nothing of this image."""
    new["sizeof_hdr"], new["magic"] = old["sizeof_hdr"], old["magic"]
    for name in _KEPT:
        new[name] = old[name]
    axes = len(shape)
    new["dim"][axes + 1 :] = 1
    new["pixdim"][axes + 1 :] = 0
    new["pixdim"][0] = -1 if float(old["pixdim"][0]) < 0 else 1
    _check_codes(new)
    if int(new["intent_code"]) == 0:
        new["intent_p"] = 0
    if int(new["qform_code"]) == 0:
        new["quatern"], new["qoffset"] = 0, 0
    if int(new["sform_code"]) == 0:
        new["srow"] = 0
    for name in ("intent_p", "pixdim", "quatern", "qoffset", "srow"):
        if not np.isfinite(new[name]).all():
            raise NiftiError("nifti-malformed")
    for name in ("scl_slope", "scl_inter", "cal_max", "cal_min", "slice_duration"):
        if not np.isfinite(new[name]):
            new[name] = np.nan if name.startswith("scl") else 0  # a NaN of its own could carry bits
    for name in ("slice_start", "slice_end"):
        if not 0 <= int(new[name]) < max(shape):
            new[name] = 0


def _check_codes(new: Any) -> None:
    codes = (("intent_code", _MOST_INTENT), ("qform_code", _MOST_FORM), ("sform_code", _MOST_FORM),
             ("slice_code", _MOST_SLICE_CODE), ("xyzt_units", _MOST_UNITS))  # fmt: skip
    if any(not 0 <= int(new[name]) <= most for name, most in codes):
        raise NiftiError("nifti-malformed")
