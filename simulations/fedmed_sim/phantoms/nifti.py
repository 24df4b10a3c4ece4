"""NIfTI images of invented people as converters leave them, with identifiers wherever there is room for one.

Why it exists: whether an image is clean can only be judged on one in which all is known that must go.

Rules:
    * Versions 1 and 2, both byte orders, compressed or not; each with a sidecar as dcm2niix writes it when it is told
      to keep what identifies.
    * Text stands in each field that takes text, in extensions, behind the voxels, in what gzip says of a file, and in
      the sidecar; days stand as numbers in fields that nobody uses.
    * Voxels and geometry are told, because they must stay.

What it does not do: images in two files, or CIFTI.

Source: nifti1.h and nifti2.h of the NIfTI Data Format Working Group; RFC 1952 for gzip.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from fedmed_sim.phantoms.draws import between, chance, day_between, digits, pick
from fedmed_sim.phantoms.people import TODAY, Person
from fedmed_sim.phantoms.pixels import anatomy
from fedmed_sim.phantoms.planted import Secret, SecretKind, Value

BodyPart = Literal["CHEST", "ABDOMEN", "BRAIN"]
Look = Literal["volume", "series", "colour", "slice"]
_TYPES = {"u1": (2, 8), "i2": (4, 16), "f4": (16, 32)}
_RGB = (128, 24)
_COMMENT, _DICOM_CODE = 6, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiForm:
    """How an image is written; `look` is a volume, a series of volumes, or what may be a captured screen."""

    version: Literal[1, 2] = 1
    order: Literal["<", ">"] = "<"
    compressed: bool = True
    look: Look = "volume"
    body_part: BodyPart = "CHEST"


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiPhantom:
    """An image, its sidecar, what must go and what must stay."""

    name: str
    payload: bytes
    sidecar: bytes
    form: NiftiForm
    secrets: tuple[Secret, ...]
    kept: Mapping[str, Value]
    """Keys of the sidecar that must keep their value."""

    voxels: bytes
    """As they lie in the file."""

    affine: npt.NDArray[np.float64]
    """From voxel indices to millimetres, shape (4, 4)."""


class _Planting:
    """Hands out identifiers of one person and remembers what was written where."""

    def __init__(self, rng: Generator, patient: Person) -> None:
        self.rng, self.patient = rng, patient
        self.secrets: list[Secret] = []
        self.day = day_between(rng, patient.birth, TODAY)
        self.clock = f"{between(rng, 0, 23):02d}:{between(rng, 10, 59)}:{between(rng, 10, 59)}.{digits(rng, 6)}"

    def text(self, kind: SecretKind, text: str, where: str) -> str:
        """Return a text that must go."""
        self.secrets.append(Secret(kind=kind, where=where, text=text))
        return text

    def bytes_of(self, text: str, room: int) -> bytes:
        """Return a text in UTF-8 that fits into a field, cut at a character."""
        return text.encode()[:room].decode("utf-8", "ignore").encode().ljust(room, b"\0")

    def number(self, form: str, value: float, where: str) -> float:
        """Return a number whose bytes must go."""
        self.secrets.append(Secret(kind="DATE", where=where, raw=struct.pack(form, value)))
        return value

    def field(self, kind: SecretKind, text: str, room: int, where: str) -> bytes:
        """Return a field of text; what is searched for is what fits into it."""
        data = self.bytes_of(text, room)
        self.text(kind, data.rstrip(b"\0").decode(), where)
        return data


def draw_nifti(rng: Generator, patient: Person, *, name: str, form: NiftiForm | None = None) -> NiftiPhantom:
    """Draw an image of a person.

    Args:
        rng: The generator.
        patient: Whose it is.
        name: The path without a suffix; nothing that identifies.
        form: How it is written.
    """
    form = form or NiftiForm()
    planting = _Planting(rng, patient)
    grid = _voxels(rng, form)
    geometry = _Geometry.draw(rng)
    extensions = _extensions(planting, form)
    head = (_header_1 if form.version == 1 else _header_2)(planting, form, grid, geometry, len(extensions))
    trailing = planting.text("NAME", f"END {patient.name.full} {patient.record}", "behind the voxels").encode()
    payload = head + extensions + grid.voxels + trailing
    sidecar, kept = _sidecar(planting, form)
    if form.compressed:
        payload = _gzip(planting, payload)
    return NiftiPhantom(
        name=f"{name}.nii.gz" if form.compressed else f"{name}.nii",
        payload=payload,
        sidecar=sidecar,
        form=form,
        secrets=tuple(planting.secrets),
        kept=kept,
        voxels=grid.voxels,
        affine=geometry.affine(),
    )


def draw_form(rng: Generator) -> NiftiForm:
    """Draw how an image is written: most are volumes, one in eight a colour image or a single slice."""
    look: Look = pick(rng, ("volume", "volume", "series")) if chance(rng, 0.875) else pick(rng, ("colour", "slice"))
    return NiftiForm(
        version=pick(rng, (1, 2)),
        order=pick(rng, ("<", ">")),
        compressed=chance(rng, 0.7),
        look=look,
        body_part=pick(rng, ("CHEST", "ABDOMEN")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """The voxels: their shape, `datatype` and `bitpix`, and bytes; the first axis runs fastest."""

    shape: tuple[int, ...]
    kind: tuple[int, int]
    voxels: bytes


def _voxels(rng: Generator, form: NiftiForm) -> _Grid:
    slices = 1 if form.look == "slice" else between(rng, 4, 7)
    shape: tuple[int, ...] = (20, 24, slices)
    if form.look == "series":
        shape = (*shape, 3)
    planes = int(np.prod(shape[2:]))
    volume = np.stack([anatomy(rng, 24, 20, peak=2000) for _ in range(planes)])
    if form.look == "colour":
        colours = np.repeat((volume // 8).astype(np.uint8)[..., None], 3, axis=-1)
        return _Grid(shape=shape, kind=_RGB, voxels=colours.tobytes())
    sort = pick(rng, tuple(_TYPES))
    values = volume // 8 if sort == "u1" else volume
    return _Grid(shape=shape, kind=_TYPES[sort], voxels=values.astype(form.order + sort).tobytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Geometry:
    """A rotation as a unit quaternion (its scalar part follows), steps and an origin in millimetres."""

    quaternion: tuple[float, float, float]
    steps: tuple[float, float, float]
    origin: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: Generator) -> "_Geometry":
        turned = rng.uniform(-0.4, 0.4, 3)
        steps, origin = rng.uniform(0.5, 5, 3), rng.uniform(-200, 200, 3)
        return cls(quaternion=_three(turned), steps=_three(steps), origin=_three(origin))

    def affine(self) -> npt.NDArray[np.float64]:
        b, c, d = self.quaternion
        a = float(np.sqrt(1 - b * b - c * c - d * d))
        turn = np.array([
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ])  # fmt: skip
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = turn * np.array(self.steps), self.origin
        return affine


def _three(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(np.float32(one)) for one in values)
    return x, y, z


def _dims(shape: tuple[int, ...], rng: Generator) -> list[int]:
    """Return the eight numbers of `dim`; behind the axes that there are stands what a buffer held."""
    return [len(shape), *shape, *(between(rng, 2, 30_000) for _ in range(7 - len(shape)))]


def _header_1(planting: _Planting, form: NiftiForm, grid: _Grid, geometry: _Geometry, more: int) -> bytes:
    patient, order = planting.patient, form.order
    birth, day = int(f"{patient.birth:%Y%m%d}"), int(f"{planting.day:%Y%m%d}")
    steps = [1.0, *geometry.steps, *([1.5] * (len(grid.shape) - 3))]
    steps += [planting.number(f"{order}f", birth, "pixdim of no axis")] * (8 - len(steps))
    affine = geometry.affine()
    head = struct.pack(f"{order}i", 348)
    head += planting.field("PHONE", patient.phone[-10:], 10, "data_type")
    head += planting.field("NAME", patient.name.roman, 18, "db_name")
    head += struct.pack(f"{order}i", int(planting.number(f"{order}i", birth, "extents")))
    head += struct.pack(f"{order}hcB", 77, b"r", 54)
    head += struct.pack(f"{order}8h", *_dims(grid.shape, planting.rng))
    head += struct.pack(f"{order}3f", *[planting.number(f"{order}f", day, "intent_p without an intent")] * 3)
    head += struct.pack(f"{order}4h", 0, *grid.kind, 0)
    head += struct.pack(f"{order}8f", *steps)
    head += struct.pack(f"{order}3f", 352 + more, 1.0, -1024.0)
    head += struct.pack(f"{order}hBB", 0, 0, 10)
    head += struct.pack(f"{order}4f", 400, -160, 0, planting.number(f"{order}f", day + 8, "toffset"))
    head += struct.pack(f"{order}2i", day, int(planting.number(f"{order}i", day + 16, "glmin")))
    head += planting.field("NAME", f"{patient.name.full} {planting.clock} {patient.identity}", 80, "descrip")
    head += planting.field("RECORD", f"{patient.record}.mat", 24, "aux_file")
    head += struct.pack(f"{order}2h", 1, 1)
    head += struct.pack(f"{order}6f", *geometry.quaternion, *geometry.origin)
    head += struct.pack(f"{order}12f", *affine[:3].ravel())
    head += planting.field("ID", patient.identity, 16, "intent_name")
    return head + b"n+1\0" + (b"\1\0\0\0" if more else bytes(4))


def _header_2(planting: _Planting, form: NiftiForm, grid: _Grid, geometry: _Geometry, more: int) -> bytes:
    patient, order = planting.patient, form.order
    birth, day = int(f"{patient.birth:%Y%m%d}"), int(f"{planting.day:%Y%m%d}")
    steps = [1.0, *geometry.steps, *([1.5] * (len(grid.shape) - 3))]
    steps += [planting.number(f"{order}d", birth, "pixdim of no axis")] * (8 - len(steps))
    affine = geometry.affine()
    head = struct.pack(f"{order}i", 540) + b"n+2\0\r\n\x1a\n"
    head += struct.pack(f"{order}2h", *grid.kind)
    head += struct.pack(f"{order}8q", *_dims(grid.shape, planting.rng))
    head += struct.pack(f"{order}3d", *[planting.number(f"{order}d", day, "intent_p without an intent")] * 3)
    head += struct.pack(f"{order}8d", *steps)
    head += struct.pack(f"{order}q", 544 + more)
    head += struct.pack(f"{order}6d", 1.0, -1024.0, 400, -160, 0, planting.number(f"{order}d", day + 8, "toffset"))
    head += struct.pack(f"{order}2q", 0, 0)
    head += planting.field("NAME", f"{patient.name.full} {planting.clock} {patient.identity}", 80, "descrip")
    head += planting.field("RECORD", f"{patient.record}.mat", 24, "aux_file")
    head += struct.pack(f"{order}2i", 1, 1)
    head += struct.pack(f"{order}6d", *geometry.quaternion, *geometry.origin)
    head += struct.pack(f"{order}12d", *affine[:3].ravel())
    head += struct.pack(f"{order}3i", 0, 10, 0)
    head += planting.field("ID", patient.identity, 16, "intent_name")
    head += b"\x36" + planting.field("PHONE", patient.phone, 15, "unused_str")
    return head + (b"\1\0\0\0" if more else bytes(4))


def _extensions(planting: _Planting, form: NiftiForm) -> bytes:
    """Return a comment and what a converter copied of the DICOM header; each a multiple of 16 bytes."""
    patient = planting.patient
    comment = planting.text("NAME", f"{patient.name.full}, {patient.hospital}", "comment extension").encode()
    address = planting.text("ADDRESS", patient.address.full, "DICOM extension")
    made = b""
    for code, data in ((_COMMENT, comment), (_DICOM_CODE, address.encode("gb18030"))):
        size = (8 + len(data) + 15) // 16 * 16
        made += struct.pack(f"{form.order}2i", size, code) + data.ljust(size - 8, b"\0")
    return made


def _sidecar(planting: _Planting, form: NiftiForm) -> tuple[bytes, dict[str, Value]]:
    """Return a sidecar, and what of it must stay."""
    patient, rng = planting.patient, planting.rng
    told = planting.text
    kept: dict[str, Value] = {
        "Modality": "MR", "Manufacturer": "Siemens", "MagneticFieldStrength": 3, "EchoTime": 0.00226,
        "RepetitionTime": 2.3, "FlipAngle": 8, "SliceThickness": 1.2, "PatientPosition": "HFS",
        "MRAcquisitionType": "3D", "BodyPartExamined": form.body_part, "PhaseEncodingDirection": "j-",
        "ImageOrientationPatientDICOM": (1, 0, 0, 0, 1, 0),
    }  # fmt: skip
    day = planting.day
    telling = {
        "PatientName": told("NAME", patient.name.roman, "sidecar PatientName"),
        "PatientID": told("RECORD", patient.record, "sidecar PatientID"),
        "PatientBirthDate": told("DATE", f"{patient.birth:%Y-%m-%d}", "sidecar PatientBirthDate"),
        "InstitutionName": told("HOSPITAL", patient.hospital, "sidecar InstitutionName"),
        "InstitutionAddress": told("ADDRESS", patient.address.full, "sidecar InstitutionAddress"),
        "StationName": told("DEVICE", f"STA{digits(rng, 6)}", "sidecar StationName"),
        "DeviceSerialNumber": told("DEVICE", digits(rng, 8), "sidecar DeviceSerialNumber"),
        "SeriesInstanceUID": told("UID", f"2.25.{digits(rng, 30)}", "sidecar SeriesInstanceUID"),
        "SeriesDescription": told("NAME", f"t1 {patient.name.full}", "sidecar SeriesDescription"),
        "ProtocolName": told("EMAIL", patient.email, "sidecar ProtocolName"),
        "ImageComments": told("PHONE", patient.phone, "sidecar ImageComments"),
        "AcquisitionTime": told("DATE", planting.clock, "sidecar AcquisitionTime"),
        "AcquisitionDateTime": told("DATE", f"{day:%Y-%m-%d}T{planting.clock}", "sidecar AcquisitionDateTime"),
        "PatientWeight": 71, "SeriesNumber": 4, "SAR": 0.03,
        "Manufacturer2": told("NAME", f"{patient.name.full}!", "sidecar, an unknown key"),
        "global": {"const": {"PatientID": told("RECORD", f"X{patient.record}", "sidecar, nested")}},
        "Units": told("ID", patient.identity, "sidecar, a listed key with another value"),
        "EchoTime1": int(told("DATE", f"{patient.birth:%Y%m%d}", "sidecar, a day as a number")),
        "ImageType": ["ORIGINAL", "PRIMARY", told("NAME", f"{patient.name.roman}^^", "sidecar, a list of words")],
    }  # fmt: skip
    return json.dumps(kept | telling, ensure_ascii=False, indent=1).encode(), kept


def _gzip(planting: _Planting, payload: bytes) -> bytes:
    """Return the file compressed, with its old name, a comment and its time before it (RFC 1952)."""
    patient = planting.patient
    name = planting.text("RECORD", f"{patient.record}_scan.nii", "name in gzip's header").encode("latin-1")
    comment = planting.text("DATE", f"born {patient.birth:%d.%m.%Y}", "comment in gzip's header").encode("latin-1")
    squeezed = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = squeezed.compress(payload) + squeezed.flush()
    head = b"\x1f\x8b\x08" + bytes([0x08 | 0x10]) + struct.pack("<I", 1_600_000_000) + b"\0\3"
    tail = struct.pack("<2I", zlib.crc32(payload), len(payload) & 0xFFFFFFFF)
    return head + name + b"\0" + comment + b"\0" + body + tail
